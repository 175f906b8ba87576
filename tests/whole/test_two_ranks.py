"""Two processes are one: losses, gradients and parameters of the whole batch, whatever each of them holds of it."""

from __future__ import annotations

import datetime
import json
import math
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy_realm import QUERIES, ToyCorpus, gradients, masked_batch, networks, pair_batch, realm_of

from realm.methods.ict import InverseCloze
from realm.methods.realm import RealmPretraining
from realm.training import parallel
from realm.training.loop import Hooks, Schedule, train
from realm.training.metrics import Metrics, read_metrics
from realm.training.optim import BertAdam, parameter_groups
from realm.types import Loss

pytestmark = pytest.mark.slow

SHARES = ((0, 3), (3, 4))
"""Queries of each rank in REALM: unequal on purpose, with masks of one and of several word pieces."""


def _work(rank: int, job: Callable[[int, Path], Mapping[str, Tensor]], folder: Path) -> None:
    """What a spawned process does; its end is told through files."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'meet'}",
            rank=rank,
            world_size=2,
            timeout=datetime.timedelta(seconds=30),
        )
        found = job(rank, folder)
        save_file({name: value.contiguous() for name, value in found.items()}, folder / f"rank-{rank}.safetensors")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise


def two(job: Callable[[int, Path], Mapping[str, Tensor]], folder: Path) -> list[dict[str, Tensor]]:
    """Run a job on two ranks; what each of them found."""
    context = torch.multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(rank, job, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(90)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    errors = "\n".join(path.read_text() for path in sorted(folder.glob("error-*")))
    assert [process.exitcode for process in processes] == [0, 0], errors or "a rank hung"
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in range(2)]


def agree(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


# ---------------------------------------------------------------- gradients


def ict(folder: Path, rows: tuple[int, ...], **settings: Any) -> tuple[InverseCloze, Loss]:
    method = InverseCloze(networks(folder / "bert")[0], **settings)
    return method, method.loss(pair_batch(tiny.tiny_tokenizer(), rows))


def ict_on_a_rank(rank: int, folder: Path) -> Mapping[str, Tensor]:
    rows = ((0, 1, 2), (3, 4, 5))[rank]
    found: dict[str, Tensor] = {}
    for name, chunk in (("whole", None), ("chunks", 12)):
        method, loss = ict(folder, rows, gather=parallel.gather, chunk_tokens=chunk)
        loss.total.backward()
        parallel.average_gradients([p for p in method.encoder.parameters() if p.requires_grad])
        found[f"{name}/loss"] = loss.total.detach() / 2
        encoder: Any = method.encoder
        found |= {f"{name}/{n}": g for n, g in gradients(encoder).items()}
    return found


def realm_part(folder: Path, level: str, part: slice) -> tuple[RealmPretraining, Loss]:
    tokenizer = tiny.tiny_tokenizer()
    method = realm_of(*networks(folder / "bert"), ToyCorpus(tokenizer), marginal=level)
    return method, method.loss(masked_batch(tokenizer, QUERIES[part]))


def realm_gradients(method: RealmPretraining) -> dict[str, Tensor]:
    parts: dict[str, Any] = {"encoder": method.encoder, "reader": method.reader}
    return {f"{part}/{name}": g for part, module in parts.items() for name, g in gradients(module).items()}


def realm_on_a_rank(rank: int, folder: Path) -> Mapping[str, Tensor]:
    found: dict[str, Tensor] = {}
    for level in ("sequence", "token"):
        method, loss = realm_part(folder, level, slice(*SHARES[rank]))
        assert loss.weight is not None
        (loss.total * loss.weight).backward()
        learning = [p for module in (method.encoder, method.reader) for p in module.parameters() if p.requires_grad]
        parallel.average_gradients(learning, float(loss.weight))
        found[f"{level}/loss"] = loss.total.detach() * loss.weight
        found[f"{level}/weight"] = loss.weight.float()
        found |= {f"{level}/{name}": g for name, g in realm_gradients(method).items()}
    return found


# ---------------------------------------------------------------- the loop


class Shares:
    """Each rank's part of one batch; a query of one rank is broken in one step."""

    def __init__(self, part: slice, bad_step: int | None) -> None:
        self.part, self.bad_step = part, bad_step

    def batch(self, step: int) -> Any:
        return step == self.bad_step, masked_batch(tiny.tiny_tokenizer(), QUERIES[self.part])


class Breaking:
    """REALM, with a loss that is not a number where the batch says so."""

    def __init__(self, method: RealmPretraining) -> None:
        self.method = method
        self.parameter_groups, self.modules = method.parameter_groups, method.modules

    def loss(self, batch: Any) -> Loss:
        bad, inner = batch
        found = self.method.loss(inner)
        assert found.per_example is not None
        if not bad:
            return found
        return found._replace(total=found.total * math.nan, per_example=found.per_example * math.nan)


def loop(folder: Path, out: Path, part: slice, bad_step: int | None, shift: float, hooks: Hooks) -> dict[str, Tensor]:
    tokenizer = tiny.tiny_tokenizer()
    encoder, reader = networks(folder / "bert")
    with torch.no_grad():  # the ranks begin apart: they must begin with rank 0's parameters
        encoder.query_tower.projection.bias.add_(shift)
    method = Breaking(realm_of(encoder, reader, ToyCorpus(tokenizer), marginal="token"))
    roles = method.parameter_groups()
    optimizer = BertAdam(parameter_groups(roles, dict.fromkeys(roles, 1e-3), 0.01), lr=0.0, eps=1e-3)
    schedule = Schedule(num_steps=4, warmup_steps=1, log_every=1, checkpoint_every=2, accumulation=2)
    try:
        with Metrics(out) as metrics:
            train(
                method,
                Shares(part, bad_step),
                optimizer,
                schedule,
                stage="realm",
                folder=out,
                metrics=metrics,
                hooks=hooks,
            )
    except KeyboardInterrupt:
        pass
    modules: dict[str, Any] = {"encoder": encoder, "reader": reader}
    return {f"{part}/{n}": p.detach().clone() for part, m in modules.items() for n, p in m.named_parameters()}


def loop_on_a_rank(rank: int, folder: Path) -> Mapping[str, Tensor]:
    """Rank 1 gets a bad batch in step 2, and a signal, which rank 0 doesn't, in step 3."""
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return rank == 1 and len(asked) == 3

    hooks = Hooks(should_stop=stop, describe=lambda batch, bad_B: [f"rank {rank}"] * int(bad_B.sum()))
    return loop(folder, folder / "run", slice(*SHARES[rank]), 3 if rank == 1 else None, float(rank), hooks)


# ---------------------------------------------------------------- both at once


def everything_on_a_rank(rank: int, folder: Path) -> Mapping[str, Tensor]:
    """One start of two processes for all tests: it is what takes the time."""
    return {
        **{f"ict/{n}": v for n, v in ict_on_a_rank(rank, folder).items()},
        **{f"realm/{n}": v for n, v in realm_on_a_rank(rank, folder).items()},
        **{f"loop/{n}": v for n, v in loop_on_a_rank(rank, folder).items()},
        "anywhere": torch.tensor([parallel.anywhere(rank == 1), parallel.anywhere(False)]),
        "together": torch.tensor([int(line) for line in parallel.together([str(rank), str(rank + 5)])]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    tiny.tiny_bert(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Tensor]]:
    return two(everything_on_a_rank, folder)


def under(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in found.items() if n.startswith(prefix)}


@pytest.mark.parametrize("name", ["whole", "chunks"])
def test_the_cloze_task_sees_the_global_batch(folder: Path, ranks: list[dict[str, Tensor]], name: str) -> None:
    method, loss = ict(folder, (0, 1, 2, 3, 4, 5))
    loss.total.backward()
    halves = [under(rank, f"ict/{name}/") for rank in ranks]
    assert float(sum(half.pop("loss") for half in halves)) == pytest.approx(float(loss.total.detach()), rel=1e-4)
    encoder: Any = method.encoder
    for half in halves:
        agree(half, gradients(encoder))
    alone = float(ict(folder, (0, 1, 2))[1].total.detach())
    assert abs(alone - float(loss.total.detach())) > 1e-2, "three passages are another task than six"


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_realm_is_the_mean_over_the_global_batch(folder: Path, ranks: list[dict[str, Tensor]], level: str) -> None:
    method, loss = realm_part(folder, level, slice(None))
    loss.total.backward()
    halves = [under(rank, f"realm/{level}/") for rank in ranks]
    total, weight = (float(sum(half.pop(name) for half in halves)) for name in ("loss", "weight"))
    assert total / weight == pytest.approx(float(loss.total.detach()), rel=1e-4)
    assert weight == float(loss.weight or 0) == (4 if level == "sequence" else 5)
    for half in halves:
        agree(half, realm_gradients(method))


def test_what_one_rank_knows_all_know(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        assert rank["anywhere"].tolist() == [True, False]
        assert rank["together"].tolist() == [0, 5, 1, 6]


def test_the_loop_keeps_the_ranks_together(folder: Path, tmp_path: Path, ranks: list[dict[str, Tensor]]) -> None:
    agree(under(ranks[1], "loop/"), under(ranks[0], "loop/"))
    events = read_metrics(folder / "run" / "metrics.jsonl")
    assert [(e["kind"], e["step"]) for e in events] == [("train", 1), ("non-finite", 2), ("train", 3)]
    assert events[1]["queries"] == ["rank 1"], "what rank 1 saw is told by rank 0"
    assert sorted(p.name for p in (folder / "run" / "checkpoints").iterdir()) == ["step-000002", "step-000003"]
    assert json.loads((folder / "run" / "checkpoints" / "step-000003" / "loop.json").read_text())["step"] == 3

    count = iter(range(9))
    one = loop(folder, tmp_path / "one", slice(None), 3, 0.0, Hooks(should_stop=lambda: next(count) == 2))
    agree(under(ranks[0], "loop/"), one)

"""The loop: its order, what it leaves behind, what it does with a bad step, and that it can go on after any step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from realm.errors import TrainingError
from realm.training.loop import MAX_BAD_STEPS, Hooks, Schedule, train
from realm.training.metrics import Metrics, read_metrics
from realm.training.optim import BertAdam, parameter_groups
from realm.training.state import latest_checkpoint, list_checkpoints, read_facts, restore
from realm.types import Loss


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(3, 2), nn.Dropout(dropout)
        with torch.no_grad():
            self.layer.weight.copy_(torch.arange(6.0).reshape(2, 3) / 6 - 0.4)
            self.layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.layer(x))
        return out

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"net": list(self.parameters())}

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        save_file(self.state_dict(), folder / "net.safetensors")


class Toy:
    """A method: squared error, mean over rows."""

    def __init__(self, net: Net, *, weighted: bool = True, stale: Net | None = None) -> None:
        self.net, self.weighted, self.stale = net, weighted, stale
        self.modes: list[tuple[bool, bool | None]] = []

    def loss(self, batch: Tensor) -> Loss:
        self.modes.append((self.net.training, None if self.stale is None else self.stale.training))
        error_B = (self.net(batch[:, :3]) - batch[:, 3:]).square().sum(-1)
        total = error_B.mean()
        weight = torch.tensor(len(batch)) if self.weighted else None
        return Loss(total, {"loss": total.detach()}, error_B.detach(), weight)

    def parameter_groups(self) -> Mapping[str, list[nn.Parameter]]:
        return self.net.parameter_groups()

    def modules(self) -> Mapping[str, Any]:
        return {"net": self.net} if self.stale is None else {"net": self.net, "stale": self.stale}


class Rows:
    """Batches of `sizes` rows in turn, cut from one stream of numbers."""

    def __init__(self, *sizes: int, bad: Mapping[int, float] | None = None) -> None:
        self.sizes, self.bad = sizes, dict(bad or {})

    def batch(self, step: int) -> Tensor:
        whole, part = divmod(step, len(self.sizes))
        first = whole * sum(self.sizes) + sum(self.sizes[:part])
        rows = [torch.randn(5, generator=torch.Generator().manual_seed(first + i)) for i in range(self.sizes[part])]
        batch = torch.stack(rows)
        if step in self.bad:
            batch[-1, 3] = self.bad[step]
        return batch


class Run(NamedTuple):
    method: Toy
    optimizer: BertAdam
    events: list[dict[str, Any]]
    folder: Path


SCHEDULE = Schedule(num_steps=6, warmup_steps=2, clip_norm=100.0, log_every=2, checkpoint_every=4, keep_checkpoints=9)


def optimizer_of(method: Toy) -> BertAdam:
    return BertAdam(parameter_groups(method.parameter_groups(), {"net": 0.01}, 0.01), lr=0.0)


def go(
    folder: Path,
    batches: Rows | None = None,
    *,
    method: Toy | None = None,
    optimizer: BertAdam | None = None,
    hooks: Hooks | None = None,
    start_step: int = 0,
    **changed: Any,
) -> Run:
    method = method or Toy(Net())
    optimizer = optimizer or optimizer_of(method)
    with Metrics(folder) as metrics:
        train(
            method,
            batches or Rows(4),
            optimizer,
            replace(SCHEDULE, **changed),
            stage="toy",
            folder=folder,
            metrics=metrics,
            hooks=hooks,
            start_step=start_step,
        )
    return Run(method, optimizer, read_metrics(folder / "metrics.jsonl"), folder)


def steps_of(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder / "checkpoints")]


# ---------------------------------------------------------------- what a step is


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (1, 1, 2)])
def test_parts_of_a_step_are_the_whole_batch(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    whole = go(tmp_path / "whole", Rows(4))
    parts = go(tmp_path / "parts", Rows(*sizes), accumulation=len(sizes))
    torch.testing.assert_close(parts.method.net.layer.weight, whole.method.net.layer.weight, rtol=1e-5, atol=1e-7)
    norms = [[e["gradient_norm"] for e in run.events] for run in (whole, parts)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_without_weights_the_parts_count_alike(tmp_path: Path) -> None:
    runs = [
        go(tmp_path / str(weighted), Rows(3, 1), accumulation=2, method=Toy(Net(), weighted=weighted), num_steps=1)
        for weighted in (True, False)
    ]
    norms = [run.events[-1]["gradient_norm"] for run in runs]
    assert abs(norms[0] - norms[1]) > 1e-3
    net = Net()
    rows = Rows(3, 1)
    mean = sum(Toy(net).loss(rows.batch(i)).total for i in range(2)) / 2
    assert isinstance(mean, Tensor)
    mean.backward()
    wanted = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None))
    assert norms[1] == pytest.approx(wanted, rel=1e-5)


def test_the_gradient_is_clipped_before_the_step(tmp_path: Path) -> None:
    net = Net()
    Toy(net).loss(Rows(4).batch(0)).total.backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    run = go(tmp_path, num_steps=1, warmup_steps=1, clip_norm=norm / 10)
    assert run.events[-1]["gradient_norm"] == pytest.approx(norm, rel=1e-5), "the norm before clipping is what is told"
    moment = run.optimizer.state[run.method.net.layer.weight]["exp_avg"]
    torch.testing.assert_close(moment, gradients[0] / 10 * 0.1, rtol=1e-4, atol=1e-8)


def test_the_rate_follows_the_schedule(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(BertAdam):
        def step(self, closure: Any = None) -> None:
            seen.append(self.param_groups[0]["lr"])
            super().step(closure)

    method = Toy(Net())
    groups = parameter_groups(method.parameter_groups(), {"net": 0.01}, 0.0)
    run = go(tmp_path, method=method, optimizer=Watched(groups, lr=0.0))
    assert seen == pytest.approx([0.005, 0.01, 0.01, 0.0075, 0.005, 0.0025])
    assert [e["learning_rate_multiplier"] for e in run.events] == pytest.approx([1, 0.75, 0.25])


def test_only_what_learns_is_in_training_mode(tmp_path: Path) -> None:
    net, stale = Net(), Net().eval()
    for parameter in stale.parameters():
        parameter.requires_grad_(False)
    run = go(tmp_path, method=Toy(net, stale=stale))
    assert set(run.method.modes) == {(True, False)}
    assert not net.training


# ---------------------------------------------------------------- what it tells and leaves behind


def test_checkpoints_at_the_start_in_between_and_at_the_end(tmp_path: Path) -> None:
    saved: list[str] = []
    hooks = Hooks(checkpoint_facts=lambda: {"index_step": 7}, after_checkpoint=lambda path: saved.append(path.name))
    run = go(tmp_path, hooks=hooks)
    assert steps_of(tmp_path) == [0, 4, 6]
    assert saved == ["step-000000", "step-000004", "step-000006"]
    facts = read_facts(tmp_path / "checkpoints" / "step-000004")
    assert (facts["step"], facts["index_step"]) == (4, 7)
    first = load_file(tmp_path / "checkpoints" / "step-000000" / "net" / "net.safetensors")
    assert torch.equal(first["layer.weight"], Net().layer.weight), "before any training"
    last = load_file(tmp_path / "checkpoints" / "step-000006" / "net" / "net.safetensors")
    assert torch.equal(last["layer.weight"], run.method.net.layer.weight)


def test_a_stage_of_no_steps_leaves_its_start(tmp_path: Path) -> None:
    go(tmp_path, num_steps=0)
    assert steps_of(tmp_path) == [0]


def test_a_log_line_is_the_mean_since_the_last(tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    every = go(tmp_path / "every", log_every=1, hooks=Hooks(before_step=lambda step: {"age": step}))
    run = go(tmp_path / "some", log_every=4, hooks=Hooks(on_event=seen.append, before_step=lambda step: {"age": step}))
    assert [e["step"] for e in run.events] == [4, 6]
    assert [e["age"] for e in run.events] == [1.5, 4.5]
    losses = [e["loss"] for e in every.events]
    assert [e["loss"] for e in run.events] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 2])
    assert [dict(e) for e in seen] == run.events


def test_metrics_go_back_to_a_step(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        for stage, step in (("ict", 5), ("realm", 2), ("realm", 4), ("realm", 6)):
            metrics.write({"stage": stage, "kind": "train", "step": step, "loss": math.nan})
        with open(metrics.path, "a") as stream:
            stream.write('{"stage": "realm", "st')  # killed here
        metrics.rewind("realm", 4)
        found = read_metrics(metrics.path)
        assert [(e["stage"], e["step"]) for e in found] == [("ict", 5), ("realm", 2), ("realm", 4)]
        assert found[0]["loss"] is None
        metrics.write({"stage": "realm", "kind": "train", "step": 6})
    assert len(read_metrics(metrics.path)) == 4
    assert read_metrics(tmp_path / "none.jsonl") == []


# ---------------------------------------------------------------- bad steps


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_left_out_and_told(tmp_path: Path, value: float) -> None:
    hooks = Hooks(describe=lambda batch, bad_B: [f"row {i} of {len(batch)}" for i in bad_B.nonzero()[:, 0].tolist()])
    before: list[Tensor] = []

    def note(step: int) -> Mapping[str, float]:
        before.append(method.net.layer.weight.detach().clone())
        return {}

    method = Toy(Net())
    run = go(
        tmp_path, Rows(4, bad={2: value}), method=method, hooks=replace(hooks, before_step=note), checkpoint_every=3
    )
    bad = [e for e in run.events if e["kind"] == "non-finite"]
    assert bad == [{"stage": "toy", "kind": "non-finite", "step": 3, "queries": ["row 3 of 4"]}]
    assert torch.equal(before[2], before[3])
    assert not torch.equal(before[3], before[4])
    assert float(run.optimizer.state[method.net.layer.weight]["step"]) == 5
    assert torch.isfinite(method.net.layer.weight).all()
    assert steps_of(tmp_path) == [0, 3, 6], "a bad step is still a step that can be resumed after"


def test_one_bad_part_leaves_the_whole_step_out(tmp_path: Path) -> None:
    run = go(tmp_path, Rows(2, 2, bad={1: math.nan}), accumulation=2, num_steps=1)
    assert torch.equal(run.method.net.layer.weight, Net().layer.weight)
    assert not run.optimizer.state
    assert [e["kind"] for e in run.events] == ["non-finite"]


def test_a_gradient_that_is_not_finite_is_a_bad_step(tmp_path: Path) -> None:
    class Steep(Toy):
        def loss(self, batch: Tensor) -> Loss:
            found = super().loss(batch)
            slope = (self.net.layer.bias.sum() * 0).abs().sqrt()  # 0, with an infinite slope
            return found._replace(total=found.total + slope)

    run = go(tmp_path / "silent", method=Steep(Net()), num_steps=2)
    assert torch.equal(run.method.net.layer.weight, Net().layer.weight)
    assert [(e["kind"], e["queries"]) for e in run.events] == [("non-finite", [])] * 2
    # Each loss is finite, so nobody knows which example it was: all are named.
    hooks = Hooks(describe=lambda batch, bad_B: [f"row {i} of {len(batch)}" for i in bad_B.nonzero()[:, 0].tolist()])
    run = go(tmp_path / "told", Rows(2), method=Steep(Net()), num_steps=1, hooks=hooks)
    assert [e["queries"] for e in run.events] == [["row 0 of 2", "row 1 of 2"]]


def test_the_last_step_is_saved_even_when_it_is_bad(tmp_path: Path) -> None:
    go(tmp_path, Rows(4, bad={5: math.nan}))
    assert steps_of(tmp_path) == [0, 4, 6]


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    bad = dict.fromkeys(range(MAX_BAD_STEPS - 1), math.nan)
    run = go(tmp_path / "few", Rows(4, bad=bad), num_steps=MAX_BAD_STEPS)
    assert sum(e["kind"] == "non-finite" for e in run.events) == MAX_BAD_STEPS - 1
    scattered = {step: math.nan for step in range(3 * MAX_BAD_STEPS) if step % MAX_BAD_STEPS}
    go(tmp_path / "scattered", Rows(4, bad=scattered), num_steps=3 * MAX_BAD_STEPS)
    with pytest.raises(
        TrainingError, match=r"10 steps in a row up to step 10.*lower the learning rate.*metrics\.jsonl"
    ):
        go(tmp_path / "many", Rows(4, bad=dict.fromkeys(range(99), math.nan)), num_steps=99)


# ---------------------------------------------------------------- stopping and going on


def test_a_stop_finishes_the_step_and_saves_it(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, hooks=Hooks(should_stop=stop))
    assert steps_of(tmp_path) == [0, 3]


def test_a_stop_is_heard_in_a_bad_step(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, Rows(4, bad={0: math.nan}), hooks=Hooks(should_stop=lambda: True))
    assert steps_of(tmp_path) == [0, 1]


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    torch.manual_seed(11)
    batches = Rows(2, 3, bad={4: math.nan})
    whole = go(tmp_path / "whole", batches, method=Toy(Net(0.5)), accumulation=2, log_every=1)
    torch.manual_seed(11)
    count = iter(range(99))
    with pytest.raises(KeyboardInterrupt):
        go(
            tmp_path / "cut",
            batches,
            method=Toy(Net(0.5)),
            accumulation=2,
            log_every=1,
            hooks=Hooks(should_stop=lambda: next(count) + 1 == stop_after),
        )
    folder = latest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert folder is not None
    method = Toy(Net(0.5))
    method.net.load_state_dict(load_file(folder / "net" / "net.safetensors"))
    optimizer = optimizer_of(method)
    torch.manual_seed(999)  # whatever happened meanwhile
    start = int(restore(folder, optimizer)["step"])
    assert start == stop_after
    settings: dict[str, Any] = {"accumulation": 2, "log_every": 1, "start_step": start}
    resumed = go(tmp_path / "cut", batches, method=method, optimizer=optimizer, **settings)
    for name, value in whole.method.net.state_dict().items():
        assert torch.equal(resumed.method.net.state_dict()[name], value)
    for p, q in zip(whole.method.net.parameters(), method.net.parameters(), strict=True):
        for name, value in whole.optimizer.state[p].items():
            assert torch.equal(optimizer.state[q][name], value)
    without_times = [
        [{k: v for k, v in e.items() if "seconds" not in k} for e in run.events] for run in (whole, resumed)
    ]
    assert without_times[0] == without_times[1]
    # Dropout was on, and drew what a run without it would not have needed.
    plain = go(tmp_path / "plain", batches, accumulation=2)
    assert not torch.equal(plain.method.net.layer.weight, whole.method.net.layer.weight)

"""What a refresh costs: embedding to disk against a bare loop, and a trainer with and without a refresher beside it.

1. `embed` (read the mapped token ids, batch, encode, write shards, manifest) against a bare loop that encodes the same
   passages, sorted by length and batched before the clock starts, and keeps nothing. One thread each.
2. A trainer of one thread, stepping while a refresher of one thread embeds, against the same trainer while the
   refresher idles: wall time, which needs a core for each, and CPU time, which shows what the refresher does to the
   trainer's caches and memory even where neighbours take turns on the cores.
3. The time in which the asynchronous pair did its steps and embedded the snapshot, against the time that one process
   takes for the same steps and the same snapshot in turn (sync), with two threads and with one.
4. With --run, a pre-training run that keeps two indexes and their encoders: recall of its older index while it is
   refreshed to the newest parameters, by the work done, in several orders (see `benchmarks.suites.partial`).
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace, _ArgumentGroup
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from benchmarks.core.bench import Bench
from benchmarks.core.record import Row
from benchmarks.core.timing import Contestant
from realm.search.embed import BATCH_TOKENS, embed, length_batches
from realm.search.jobs import Job
from realm.search.refresh import Refresh, open_refresh
from realm.types import Tokens

VOCABULARY, MAX_TOKENS = 30522, 256
QUICK = {"passages": 40, "repeats": 1, "layers": 1, "width": 64, "sentences": 100}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--passages", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3, help="of the trainer's part")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--run", type=Path, help="a pre-training run, for recall by work done")
    parser.add_argument("--sentences", type=int, default=1000, help="of that run's probe, to ask with and to judge by")


def run(bench: Bench, options: Namespace) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        MappedSource.make(folder / "snapshot", options.passages)
        source = MappedSource(folder / "snapshot")
        trainer = Trainer(options.layers, options.width)
        throughput(bench, trainer.encoder, source, folder / "index")
        trainer.encoder.train()
        job = Job(
            folder=str(folder / "run"),
            snapshot=str(folder / "snapshot"),
            opener="benchmarks.suites.refresh:open_bert",  # by which another process imports it
            options={"layers": options.layers, "width": options.width},
        )

        def sync() -> None:
            embed(trainer.encoder, source, folder / "sync", max_tokens=MAX_TOKENS)

        beside(bench, job, trainer, options, sync)
    if options.run is None:
        bench.absent("recall by work done", "needs a pre-training run: --run RUN")
    else:
        from benchmarks.suites.partial import by_work

        by_work(bench, options.run, options.sentences)


class BertEncoder(nn.Module):
    """A BERT body with random weights, mean pooling and a projection to 128."""

    dim = 128

    def __init__(self, layers: int, width: int) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(width // 64, 1) if width < 384 else 12,
            intermediate_size=4 * width,
        )
        self.body = BertModel(config, add_pooling_layer=False)
        self.project = nn.Linear(width, self.dim)

    @property
    def device(self) -> torch.device:
        return self.project.weight.device

    def encode_passages(self, tokens: Tokens) -> Tensor:
        hidden = self.body(tokens.ids, attention_mask=tokens.mask.long(), token_type_ids=tokens.types).last_hidden_state
        return self.project((hidden * tokens.mask[..., None]).sum(1) / tokens.lengths[:, None])

    encode_queries = encode_passages


class MappedSource:
    """Token ids in one memory-mapped array with offsets, as a snapshot keeps them."""

    def __init__(self, folder: Path) -> None:
        self._ids = np.load(folder / "ids.npy", mmap_mode="r")
        self._offsets = np.load(folder / "offsets.npy")
        self.fingerprint = f"benchmark {len(self)}"

    @staticmethod
    def make(folder: Path, passages: int) -> None:
        draw = np.random.default_rng(0)
        # Like encyclopedia summaries: mean about 110 word pieces, one in twenty cut at the limit.
        lengths = np.clip(draw.lognormal(4.5, 0.65, passages), 8, MAX_TOKENS).astype(np.int64)
        folder.mkdir()
        np.save(folder / "ids.npy", draw.integers(1, VOCABULARY, int(lengths.sum()), dtype=np.int32))
        np.save(folder / "offsets.npy", np.concatenate([[0], lengths.cumsum()]))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        return np.minimum(np.diff(self._offsets), max_tokens).astype(np.int32)

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        lengths = np.minimum(self._offsets[rows + 1] - self._offsets[rows], max_tokens)
        ids = torch.zeros((len(rows), int(lengths.max())), dtype=torch.long)
        for i, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
            first = self._offsets[row]
            ids[i, :length] = torch.from_numpy(self._ids[first : first + length].astype(np.int64))
        return Tokens(ids, torch.zeros_like(ids), torch.from_numpy(lengths))


def open_bert(parameters: Path, snapshot: Path, layers: int, width: int) -> tuple[BertEncoder, MappedSource, int]:
    encoder = BertEncoder(layers, width).eval()
    load_model(encoder, parameters / "model.safetensors")
    return encoder, MappedSource(snapshot), MAX_TOKENS


def save(encoder: BertEncoder) -> Callable[[Path], object]:
    return lambda folder: save_model(encoder, str(folder / "model.safetensors"))


class Trainer:
    """Steps of forward, backward and AdamW on 16 x 128 tokens."""

    def __init__(self, layers: int, width: int) -> None:
        self.encoder = BertEncoder(layers, width).train()
        self._optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=1e-5)
        ids = torch.randint(1, VOCABULARY, (16, 128))
        self._batch = Tokens(ids, torch.zeros_like(ids), torch.full((16,), 128))

    def step(self) -> None:
        self._optimizer.zero_grad()
        self.encoder.encode_passages(self._batch).square().mean().backward()
        self._optimizer.step()


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def throughput(bench: Bench, encoder: BertEncoder, source: MappedSource, folder: Path) -> None:
    lengths = source.passage_lengths(MAX_TOKENS)
    batches = [source.passages(torch.from_numpy(b), MAX_TOKENS) for b in length_batches(lengths, BATCH_TOKENS)]
    encoder.eval()
    number = count()

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                encoder.encode_passages(batch)

    def own() -> None:
        embed(encoder, source, folder, max_tokens=MAX_TOKENS, facts={"encoder": str(next(number))})

    contestants = [
        Contestant(who="realm", role="realm", run=own, items=len(source)),
        Contestant(who="a bare loop over sorted batches", role="limit", run=bare, items=len(source)),
    ]
    bench.contest("embed to disk, one thread", contestants, unit="passages")


def step_until(trainer: Trainer, done: Callable[[], bool]) -> int:
    steps = 0
    while not done() or not steps:
        trainer.step()
        steps += 1
    return steps


def idle_refresher(refresh: Refresh, trainer: Trainer) -> None:
    """Let the process start, and the first embedding warm everything up."""
    refresh.publish(1, save(trainer.encoder))
    refresh.wait(300)


def beside(bench: Bench, job: Job, trainer: Trainer, options: Namespace, sync: Callable[[], object]) -> None:
    refresh = open_refresh("async", job)
    torch.set_num_threads(1)
    busy, alone, in_turn = [], [], {2: [], 1: []}
    bench.say("a trainer beside a refresher")
    try:
        idle_refresher(refresh, trainer)
        for number in range(options.repeats):
            refresh.publish(number + 2, save(trainer.encoder))
            steps = 0

            def until_fresh() -> None:
                nonlocal steps
                steps = step_until(trainer, lambda: refresh.poll() is not None)

            both = timed(until_fresh)
            busy.append([part / steps for part in both])
            spent = timed(lambda steps=steps: [trainer.step() for _ in range(steps)])
            alone.append([part / steps for part in spent])
            for threads, found in in_turn.items():
                torch.set_num_threads(threads)
                spent = timed(lambda steps=steps: ([trainer.step() for _ in range(steps)], sync()))
                found.append(spent[0] / steps)
            torch.set_num_threads(1)
    finally:
        refresh.close()

    def add(work: str, who: str, role: str, seconds: list[float]) -> None:
        bench.add(Row(work=work, who=who, role=role, seconds=tuple(seconds), unit="steps"))

    for number, clock in enumerate(("wall", "CPU")):
        work = f"training beside a refresher, {clock} time"
        add(work, "realm", "realm", [one[number] for one in busy])
        add(work, "the same steps alone", "limit", [one[number] for one in alone])
    work = "steps and a refresh"
    add(work, "realm", "realm", [one[0] for one in busy])
    for threads, found in in_turn.items():
        add(work, f"in turn (sync), {threads} thread{'s' if threads > 1 else ''}", "variant", found)

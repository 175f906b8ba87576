"""What a refresh costs: embedding against a bare loop, and a trainer with and without a refresher beside it.

    python benchmarks/bench_refresh.py [--passages 4000] [--rounds 3] [--layers 2] [--width 128]

1. Throughput of `embed` (read the mapped token ids, batch, encode, write shards, manifest) against a bare loop that
   encodes the same passages, sorted by length and batched before the clock starts, and keeps nothing.
2. A trainer of one thread, stepping while a refresher of one thread embeds, against the same trainer while the
   refresher idles. Wall time needs a core for each; CPU time shows what the refresher does to the trainer's caches
   and memory even where neighbours take turns on the cores.
3. Both on two cores: the time in which the asynchronous pair did S steps and embedded the snapshot, against the time
   that one process takes for the same S steps and the same snapshot in turn (sync), with two threads and with one.

Each comparison is repeated in turn, in one run; best and median are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import realm
from realm.search.embed import BATCH_TOKENS, embed, length_batches
from realm.search.refresh import Refresh, open_refresh
from realm.search.refresher import Job
from realm.types import Tokens

VOCABULARY, MAX_TOKENS = 30522, 256


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


def report(name: str, ratios: list[float], wanted: str) -> None:
    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"  RATIO {name}: best {max(ratios):.3f}, median {statistics.median(ratios):.3f} ({shown}); wanted: {wanted}")


def throughput(encoder: BertEncoder, source: MappedSource, folder: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    lengths = source.passage_lengths(MAX_TOKENS)
    batches = [source.passages(torch.from_numpy(b), MAX_TOKENS) for b in length_batches(lengths, BATCH_TOKENS)]
    encoder.eval()

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                encoder.encode_passages(batch)

    walls, cpus = [], []
    bare()
    for number in range(rounds):
        bare_wall, bare_cpu = timed(bare)
        facts = {"encoder": str(number)}
        own_wall, own_cpu = timed(
            lambda facts=facts: embed(encoder, source, folder, max_tokens=MAX_TOKENS, facts=facts)
        )
        walls.append(bare_wall / own_wall)
        cpus.append(bare_cpu / own_cpu)
        print(f"  bare {len(source) / bare_wall:6.0f} passages/s, embed {len(source) / own_wall:6.0f} passages/s")
    report("embed : bare, wall time", walls, "at least 0.90")
    report("embed : bare, CPU time ", cpus, "at least 0.90")


def step_until(trainer: Trainer, done: Callable[[], bool]) -> int:
    count = 0
    while not done():
        trainer.step()
        count += 1
    return count


def idle_refresher(refresh: Refresh, trainer: Trainer) -> None:
    """Let the process start, and the first embedding warm everything up."""
    refresh.publish(1, save(trainer.encoder))
    refresh.wait(300)


def beside(job: Job, trainer: Trainer, rounds: int, passages: int, sync: Callable[[], object]) -> None:
    refresh = open_refresh("async", job)
    torch.set_num_threads(1)
    walls, cpus, work = [], [], {2: [], 1: []}
    try:
        idle_refresher(refresh, trainer)
        for number in range(rounds):
            refresh.publish(number + 2, save(trainer.encoder))
            torch.set_num_threads(1)
            spent = [0.0, 0.0]
            busy_steps = 0

            def busy(spent: list[float] = spent) -> None:
                nonlocal busy_steps
                busy_steps = step_until(trainer, lambda: refresh.poll() is not None)

            spent[:] = timed(busy)
            steps = busy_steps
            alone = timed(lambda steps=steps: [trainer.step() for _ in range(steps)])
            walls.append(alone[0] / spent[0])
            cpus.append(alone[1] / spent[1])
            print(f"  {steps} steps and {passages} passages in {spent[0]:.1f} s; the steps alone {alone[0]:.1f} s")
            for threads in work:
                torch.set_num_threads(threads)
                in_turn = timed(lambda steps=steps: ([trainer.step() for _ in range(steps)], sync()))[0]
                work[threads].append(in_turn / spent[0])
                print(f"    the same in turn, {threads} thread(s): {in_turn:.1f} s")
    finally:
        refresh.close()
    print("2. trainer beside a refresher")
    report("speed of the trainer, with : without, wall time", walls, "at least 0.95")
    report("speed of the trainer, with : without, CPU time ", cpus, "at least 0.95")
    print("3. total work on two cores")
    report("async (1 + 1 threads) : sync with 2 threads", work[2], "at least 1.00")
    report("async (1 + 1 threads) : sync with 1 thread ", work[1], "no limit; 2.00 is two whole cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--passages", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, realm {realm.__version__}; "
        f"{json.dumps(vars(options))}"
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        MappedSource.make(folder / "snapshot", options.passages)
        source = MappedSource(folder / "snapshot")
        trainer = Trainer(options.layers, options.width)
        print("1. embed against a bare length-sorted loop, one thread each")
        throughput(trainer.encoder, source, folder / "index", options.rounds)
        trainer.encoder.train()
        job = Job(
            folder=str(folder / "run"),
            snapshot=str(folder / "snapshot"),
            opener="bench_refresh:open_bert",  # this script, by the name under which another process imports it
            options={"layers": options.layers, "width": options.width},
        )

        def sync() -> None:
            embed(trainer.encoder, source, folder / "sync", max_tokens=MAX_TOKENS)

        beside(job, trainer, options.rounds, options.passages, sync)


if __name__ == "__main__":
    main()

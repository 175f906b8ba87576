"""Rates on one GPU: a training step, embedding, and refreshing beside training on the same device.

    python benchmarks/gpu/04_throughput.py OUT          # GPU machine, about six minutes
    python benchmarks/gpu/04_throughput.py OUT --try    # anywhere: small shapes, to see that it runs

1. The rate of a bf16 matrix product, and a step of the joint reader at BERT-base size, 64 x 8 pairs of 384 word
   pieces, forward and backward, as a share of it. Counted are the products of the layers and of the vocabulary head
   (backward twice forward); the copy head's, which run in float32, are work that is not counted.
2. Embedding with BERT-base and 288 word pieces: passages a second, in float32 and in bf16, by tokens a batch, and the
   hours that 13.35 million passages take.
3. The same training step alone, with embedding on a stream of its own in a thread, and with a refresher in a process
   of its own: seconds a step and passages a second of each.

Weights and texts are random: no model is fetched. Writes OUT/throughput.json after every part.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import common
from common import say

PASSAGES = 13_353_718
"""Of the paper's Wikipedia."""


def synchronize(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: Any, size: int, bf16: bool) -> dict[str, float]:
    """Operations a second of a square product of random matrices: mean and best of ten after three."""
    import torch

    kind = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    seconds = [clock(device, lambda: left @ right) for _ in range(13)][3:]
    work = 2.0 * size**3
    return {"size": size, "mean": work * len(seconds) / sum(seconds), "best": work / min(seconds)}


def clock(device: Any, run: Callable[[], object]) -> float:
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


class Step:
    """Forward, backward and update of the joint reader over B queries with K candidates of L word pieces together."""

    def __init__(self, args: argparse.Namespace, device: Any) -> None:
        import torch
        from random_bert import random_reader, random_tokens

        from realm.training.optim import BertAdam
        from realm.types import Target

        self.args, self.device = args, device
        self.reader = random_reader(args.layers, args.hidden, args.length).to(device).train()
        self.optimizer = BertAdam(self.reader.parameters(), lr=1e-5)
        query_length = args.length // 6
        self.query = random_tokens(args.batch, query_length, device)
        self.body = random_tokens(args.batch * args.candidates, args.length - query_length - 1, device)
        positions = torch.arange(2, 2 + args.targets, device=device).repeat(args.batch, 1)
        wanted, there = self.query.ids.gather(1, positions), torch.ones_like(positions, dtype=torch.bool)
        self.target = Target(ids=wanted, positions=positions, mask=there)

    def __call__(self) -> None:
        import torch

        half = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with half:
            logp = self.reader.log_prob(self.query, self.body, self.target, self.args.candidates)
        (-logp.mean()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def flops(self) -> float:
        from realm.workflows.estimating.shapes import Shape

        args = self.args
        pairs = args.batch * args.candidates
        layers = Shape(args.layers, args.hidden, 4 * args.hidden).flops(args.length) * pairs * args.length
        head = 6.0 * pairs * args.targets * args.hidden * (args.hidden + 30522)
        return layers + head


def step_rate(args: argparse.Namespace, device: Any, matrix: float) -> tuple[dict[str, Any], Step]:
    """Of the largest batch that fits, from `args.batch` down by halves."""
    import torch

    while True:
        try:
            step = Step(args, device)
            seconds = [clock(device, step) for _ in range(args.steps + 2)][2:]
            break
        except torch.OutOfMemoryError:
            step = None  # type: ignore[assignment]
            torch.cuda.empty_cache()
            if args.batch == 1:
                raise
            args.batch //= 2
            say(f"out of memory: batch {args.batch}")
    middle = statistics.median(seconds)
    return {
        "B x K x L": [args.batch, args.candidates, args.length],
        "seconds": seconds,
        "tokens_per_second": args.batch * args.candidates * args.length / middle,
        "flops_per_second": step.flops() / middle,
        "share_of_matrix_rate": step.flops() / middle / matrix,
    }, step


def embed_rate(args: argparse.Namespace, device: Any) -> list[dict[str, Any]]:
    """By type and tokens a batch; on an accelerator the library takes 65,536."""
    from random_bert import InBfloat16, RandomPassages, random_encoder

    from realm.search.embed import embed_rows

    encoder = random_encoder(args.layers, args.hidden).to(device).eval()
    found = []
    for bf16 in (False, True):
        for tokens in args.batch_tokens:
            count = args.passages if bf16 else max(1, args.passages // 4)
            source = RandomPassages(count, args.passage_length)
            chosen: Any = InBfloat16(encoder) if bf16 else encoder

            def run(chosen: Any = chosen, source: Any = source, tokens: int = tokens) -> object:
                return embed_rows(chosen, source, max_tokens=args.passage_length, batch_tokens=tokens)

            encoder.token_budget = tokens
            clock(device, run)
            rate = count / clock(device, run)
            found.append({"bf16": bf16, "batch_tokens": tokens, "passages_per_second": rate,
                          "hours_for_wikipedia": PASSAGES / rate / 3600})  # fmt: skip
    return found


def steps_until(step: Step, device: Any, done: Callable[[], bool], least: int) -> float:
    """Median seconds of a step while something else goes on."""
    seconds: list[float] = []
    while len(seconds) < least or not done():
        seconds.append(clock(device, step) if device.type == "cpu" else own_clock(step))
    return statistics.median(seconds)


def own_clock(step: Step) -> float:
    """Waits for this thread's stream alone: a device-wide wait would wait for the other's work, too."""
    import torch

    stream = torch.cuda.current_stream()
    stream.synchronize()
    started = time.perf_counter()
    step()
    stream.synchronize()
    return time.perf_counter() - started


def beside_stream(args: argparse.Namespace, device: Any, step: Step) -> dict[str, float]:
    """Embedding in a thread with a stream of its own."""
    import torch
    from random_bert import InBfloat16, RandomPassages, random_encoder

    from realm.search.embed import embed_rows

    encoder = random_encoder(args.layers, args.hidden).to(device).eval()
    chosen: Any = InBfloat16(encoder) if device.type == "cuda" else encoder
    tokens = args.batch_tokens[-1]
    encoder.token_budget = tokens
    source = RandomPassages(args.beside, args.passage_length)

    def work() -> None:
        context = torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()
        with context:
            embed_rows(chosen, source, max_tokens=args.passage_length, batch_tokens=tokens)

    alone = clock(device, work)
    thread = threading.Thread(target=work)
    started = time.perf_counter()
    thread.start()
    ended: list[float] = []

    def done() -> bool:
        if not thread.is_alive() and not ended:
            ended.append(time.perf_counter())
        return not thread.is_alive()

    seconds = steps_until(step, device, done, 2)
    thread.join()
    elapsed = (ended[0] if ended else time.perf_counter()) - started
    return {"step_seconds": seconds, "passages_per_second": args.beside / elapsed,
            "passages_per_second_alone": args.beside / alone}  # fmt: skip


def beside_process(args: argparse.Namespace, device: Any, step: Step) -> dict[str, float]:
    """A refresher in a process of its own; the first round, in which it starts, does not count."""
    from random_bert import random_encoder, saver

    from realm.search.jobs import Job
    from realm.search.refresh import open_refresh

    encoder = random_encoder(args.layers, args.hidden).eval()
    save = saver(encoder, {"layers": args.layers, "hidden": args.hidden})
    with tempfile.TemporaryDirectory() as folder:
        options = {"passages": args.beside, "length": args.passage_length, "device": str(device),
                   "bf16": device.type == "cuda"}  # fmt: skip
        job = Job(folder=folder, snapshot=folder, opener="random_bert:open_random", options=options,
                  batch_tokens=args.batch_tokens[-1])  # fmt: skip
        refresh = open_refresh("async", job)
        try:
            refresh.publish(1, save)
            refresh.wait(args.patience)
            started = time.perf_counter()
            refresh.publish(2, save)
            seconds = steps_until(step, device, lambda: refresh.poll() is not None, 1)
            beside = time.perf_counter() - started
            started = time.perf_counter()
            refresh.publish(3, save)
            refresh.wait(args.patience)
            alone = time.perf_counter() - started
        finally:
            refresh.close()
    return {"step_seconds": seconds, "passages_per_second": args.beside / beside,
            "passages_per_second_alone": args.beside / alone}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    shapes = {"layers": 12, "hidden": 768, "batch": 64, "candidates": 8, "length": 384, "targets": 3, "steps": 8,
              "passage-length": 288, "passages": 40_000, "beside": 40_000, "matrix": 8192}  # fmt: skip
    for name, value in shapes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[4096, 65536, 262144])
    parser.add_argument("--patience", type=float, default=180.0)
    parser.add_argument("--try", dest="tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        small = {"layers": 1, "hidden": 64, "batch": 2, "candidates": 2, "length": 48, "steps": 2, "passage_length": 32,
                 "passages": 64, "beside": 256, "matrix": 256, "batch_tokens": [512, 1024]}  # fmt: skip
        vars(args).update(small)
        common.without_optional()
    import torch

    from realm.workflows.parts import choose_device

    device = choose_device("auto")
    torch.manual_seed(0)
    began = common.Deadline(9)
    result: dict[str, Any] = {"shapes": {k: v for k, v in vars(args).items() if k != "out"}}

    def keep(name: str, value: Any) -> None:
        result[name] = value
        result["machine"] = common.machine()
        result["seconds"] = round(540 - began.left, 1)
        common.write_json(args.out / "throughput.json", result)
        say(f"{name}: {value}")

    rate = matrix_rate(device, args.matrix, device.type == "cuda")
    keep("matrix", rate)
    figures, step = step_rate(args, device, rate["mean"])
    keep("step", figures)
    keep("embed", embed_rate(args, device))
    for name, beside in (("stream", beside_stream), ("process", beside_process)):
        alone = steps_until(step, device, lambda: True, args.steps)
        figures = beside(args, device, step)
        figures |= {"step_seconds_alone": alone, "slow_down": figures["step_seconds"] / alone}
        keep(f"refresh_in_{name}", figures)


if __name__ == "__main__":
    sys.exit(main())

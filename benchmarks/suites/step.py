"""Training steps: ICT, REALM and fine-tuning, forward and backward, beside the Hugging Face port and the machine.

Made text, random weights of MiniLM's width. Every round does the same batch again; the optimizer is left out, as both
sides have AdamW's. --peer is the Python of an environment with transformers 4.40.2: the port then gets the very same
tokens (see peers/hf_steps.py). Limits: the machine's matrix products over the operations that the real tokens need
(padding is not counted), and a plain `transformers` encoder, forward and backward, in even batches without padding.

A REALM step's share of search, fetching and host work is told with 10,000 and 1,000,000 passages (random vectors). A
fine-tuning step has one question, as in the release.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace, _ArgumentGroup
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.core import limits
from benchmarks.core.bench import Bench
from benchmarks.core.outside import HF_REALM, Outside, outside
from benchmarks.core.timing import Contestant
from benchmarks.suites.stepping import Steps, Work
from realm.training.memory import kept_memory

PEER = "Hugging Face REALM"
QUICK = {
    "layers": 1, "hidden": 32, "batch": 2, "candidates": 3, "tokens": 48, "documents": 60, "early": 10,
    "pairs": 4, "rows": [100, 300],
}  # fmt: skip


def arguments(parser: _ArgumentGroup) -> None:
    whole = (("layers", 3), ("hidden", 384), ("batch", 8), ("candidates", 8), ("tokens", 128), ("documents", 6000))
    for name, value in (*whole, ("pairs", 32), ("early", 5000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000], help="of the index")


def run(bench: Bench, options: Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, kept_memory():  # as the training loop does
        steps = Steps(Path(folder), options)
        if options.peer is None:
            bench.absent(PEER, HF_REALM)
        with outside(options.peer, "hf_steps.py", steps.for_the_port()) as port:
            if port is not None:
                bench.record.versions["transformers of the port"] = port.versions["transformers"]
            contest(bench, "ICT step", steps.ict(), steps, port, {"step": "ict"})
            for rows in options.rows:
                if not bench.fits(f"a REALM step over {rows:,} passages", 12.0 * rows * steps.encoder.dim):
                    continue
                work = steps.realm(rows)
                told = {"size": rows, "of": "passages"}
                contest(bench, "REALM step", work, steps, port, {"step": "realm", "rows": rows}, **told)
            contest(bench, "fine-tuning step", steps.tune(), steps, port, {"step": "tune"})


def contest(
    bench: Bench, name: str, work: Work, steps: Steps, port: Outside | None, asked: dict[str, Any], **told: Any
) -> None:
    contestants = [Contestant(who="realm", role="realm", run=work.run, facts=work.facts())]
    if port is not None:
        contestants.append(Contestant(who=PEER, run=partial(port.seconds, asked), peak=lambda: port.peak_bytes))
    contestants += [bench.products(work.flops), plain(steps, work.flops, quick=bench.quick)]
    bench.contest(name, contestants, **told)


def plain(steps: Steps, flops: float, *, quick: bool) -> Contestant:
    """The time that a plain encoder takes for so many operations, forward and backward."""
    backbone, config, length = steps.encoder.query_tower.backbone, steps.shape, steps.options.tokens
    size = max(1, 4096 // length) if not quick else 1
    ids = torch.randint(1000, config.vocab_size, (size, length))

    def run() -> None:
        backbone(input_ids=ids).last_hidden_state.sum().backward()
        backbone.zero_grad(set_to_none=True)

    own = 3 * limits.layer_flops(torch.full((size,), length), **steps.layer_sizes)
    return Contestant(who="plain transformers, even batches", role="limit", run=run, scale=flops / own)

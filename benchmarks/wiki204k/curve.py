"""Retrieval against the steps of fine-tuning, from several starts: what a start is worth, and how long it lasts.

    python -m benchmarks.wiki204k.curve KB OUT --learn train.jsonl --test nq=nq_open.test.jsonl [--test ...]
        --start orqa=ict-only-s{seed} --start realm=ict-realm-s{seed} [--seeds 0,1,2] [--steps 0,50,100,200,400]

The early loss alone teaches (64 questions a step against 300 passages each; one of them is read, by one layer, because
a run needs a reader), passages stay frozen. Judged on the questions that the knowledge base can answer. OUT/NAME-sSEED
are ordinary runs of `realm finetune`, OUT/curve.json has every rank; what is there is not made again. Intervals are
95%, by bootstrap over seeds and questions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm import files
from realm.errors import RealmError, UsageError
from realm.evaluation.patterns import PatternMatcher
from realm.evaluation.retrieval import string_rank
from realm.evaluation.seeds import Bootstrap
from realm.knowledge.snapshot import Snapshot
from realm.models.encoders import DenseEncoder
from realm.recipes.finetuning import build_finetuning
from realm.search.exact import ExactIndex
from realm.training.questions import question_tokens
from realm.types import Question
from realm.workflows.comparing.legs import open_tests
from realm.workflows.finetuning.finetune import finetune
from realm.workflows.finetuning.start import find_start
from realm.workflows.judging.answers import open_method
from realm.workflows.reporting import Silent
from realm.workflows.run import FINETUNING, Run
from realm.workflows.store import open_knowledge_base

DEPTH, AT_ONCE, KS = 20, 64, (1, 5, 20)
SETTINGS = (
    "qa.batch_size=64", "qa.read_batch=1", "qa.num_passages=1", "qa.num_early=300", "qa.labelled=none",
    "qa.learning_rate=5e-4", "qa.token_weight_learning_rate=1e-3", "reader.layers=1", "reader.max_tokens=128",
    "dev.size=1", "loop.log_every=20", "loop.tensorboard=false",
)  # fmt: skip


def ranks(encoder: DenseEncoder, index: ExactIndex, snapshot: Snapshot, asked: list[Question]) -> list[int]:
    """Of each question the rank from 0 of the first passage that holds an answer; DEPTH where none of DEPTH does."""
    matcher, found = PatternMatcher(), []
    for first in range(0, len(asked), AT_ONCE):
        part = asked[first : first + AT_ONCE]
        with torch.inference_mode():
            query = encoder.encode_queries(question_tokens(snapshot, [question.text for question in part], 64))
        for question, row_K in zip(part, index.search(query, DEPTH).rows.tolist(), strict=True):
            rank = string_rank(question, (snapshot.text(row) for row in row_K if row >= 0), matcher)
            found.append(rank if 0 <= rank < DEPTH else DEPTH)
    return found


def learn(kb: Path, out: Path, start: str, args: argparse.Namespace, seed: int, steps: list[int]) -> Path:
    """The run of one start and seed, made or gone on with; every judged step has its checkpoint."""
    every = int(np.gcd.reduce([step for step in steps if step]))
    settings = [*SETTINGS, f"qa.steps={max(steps)}", f"loop.seed={seed}", f"loop.checkpoint_every={every}"]
    config = build_finetuning("small", [*settings, f"loop.keep_checkpoints={max(steps) // every + 1}", *args.set])
    finetune(start.replace("{seed}", str(seed)), kb, out, config, questions=args.learn, dev=args.dev)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--learn", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True, help="of which one question is asked, to spare the rest")
    parser.add_argument("--test", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--start", action="append", required=True, metavar="NAME=RUN")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", default="0,50,100,200,400")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    steps = sorted({int(step) for step in args.steps.split(",")})
    try:
        if len(steps) < 2 or steps[0] != 0:
            raise UsageError(f"found --steps {args.steps}: expected 0 and at least one more")
        tests = open_tests({name: Path(path) for name, path in (test.split("=", 1) for test in args.test)})
        starts = dict(start.split("=", 1) for start in args.start)
        place = args.out / "curve.json"
        known: dict[str, Any] = files.read_json(place)["ranks"] if place.exists() else {}
        for seed in map(int, args.seeds.split(",")):
            for name, start in starts.items():
                if all(f"{name}-s{seed}/{step}/{test.name}" in known for step in steps for test in tests):
                    continue
                run = learn(args.kb, args.out / f"{name}-s{seed}", start, args, seed, steps)
                version = Run(run, FINETUNING).facts()["parents"]["knowledge_base_version"]
                kb = open_knowledge_base(args.kb).at(version)
                _, snapshot = open_method(run, kb, torch.device("cpu"), Silent())
                index = ExactIndex.open(run / "index" / "step-000000")
                for step in steps:
                    trained = run / "checkpoints" / f"step-{step:06d}" / "encoder"
                    folder = trained if step else find_start(start.replace("{seed}", str(seed))).encoder
                    encoder = DenseEncoder.from_pretrained(folder).eval()
                    for test in tests:
                        asked = [q for q in test.questions if test.in_kb is None or q.id in test.in_kb]
                        known[f"{name}-s{seed}/{step}/{test.name}"] = ranks(encoder, index, snapshot, asked)
                    files.write_json(place, {"format": "realm fine-tuning curve", "depth": DEPTH, "ranks": known})
        for line in table(known, list(starts), steps, [test.name for test in tests]):
            print(line, flush=True)
    except RealmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def table(known: dict[str, list[int]], starts: list[str], steps: list[int], tests: list[str]) -> list[str]:
    """Recall in % as Markdown; each start beside the first of them, paired by seed and question."""
    lines = ["| set | start | recall@ | " + " | ".join(f"{step} steps" for step in steps) + " |"]
    lines.append("|---" * (3 + len(steps)) + "|")
    for test in tests:
        size = len(next(rank for key, rank in known.items() if key.endswith(f"/{test}")))
        bootstrap = Bootstrap([str(number) for number in range(size)])
        for k in KS:
            base: dict[int, np.ndarray] = {}
            for name in starts:
                cells = []
                for step in steps:
                    found = [np.array(known[key]) < k for key in sorted(known) if _is(key, name, step, test)]
                    hit_SP = 100.0 * np.stack(found)
                    cell = f"{hit_SP.mean():.1f}"
                    if (first := base.setdefault(step, hit_SP)) is not hit_SP and first.shape == hit_SP.shape:
                        change = bootstrap.interval(hit_SP - first)
                        assert change is not None
                        cell += f" ({change.difference:+.1f}: {change.low:+.1f} to {change.high:+.1f})"
                    cells.append(cell)
                lines.append(f"| {test} | {name} | {k} | " + " | ".join(cells) + " |")
    return lines


def _is(key: str, name: str, step: int, test: str) -> bool:
    run, at, of = key.split("/")
    return run.rpartition("-s")[0] == name and at == str(step) and of == test


if __name__ == "__main__":
    sys.exit(main())

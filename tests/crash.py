"""Kills a service with SIGKILL at random moments, again and again, and looks each time at what is left.

    python tests/crash.py --rounds 200 --seed 0

A round: a process works (`crash_work`) on what the round before left and is killed; another opens the store and
compares it with what was acknowledged (`crash_check`). A kill is aimed at any moment, at the first 50 ms of an edit, at
the first 30 ms of a commit, at an ingest, a sync, an embedding, a compaction, or at the start. Ends with 1 and leaves
the store where it lies when something was wrong.

Processes are forked from this one, which has imported everything and opened nothing, so that a round takes seconds.
A killed process loses no page that it wrote: what a power cut does is not tried here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import lancedb  # noqa: F401  # so that it is imported once
import tiny
import torch
from crash_check import look
from crash_work import Log, Places, State, Worker
from toy_realm import networks
from toy_service import CONFIG

from realm.answering.ask import Realm
from realm.workflows.store import create_or_open

AIMS = {
    "ready": (0.21, 3.0, 1),
    "edit": (0.2, 0.05, 12),
    "commit": (0.25, 0.03, 12),
    "ingest": (0.08, 0.3, 2),
    "sync": (0.08, 0.3, 2),
    "embed": (0.06, 0.2, 2),
    "compact": (0.06, 0.2, 1),
    "tidy": (0.03, 0.1, 1),
    "reclaim": (0.03, 0.2, 1),
    "open": (0.02, 0.3, 1),
}
"""Event -> share of the rounds, seconds within which the kill comes, and after which of them at most."""
EDITS = ("add", "update", "delete", "restore")
PATIENCE = 60.0


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """A child that runs `work` with the writing end of a pipe; its id, and the reading end."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside lancedb's idle thread, which it starts anew in the child
        child = os.fork()
        if child:
            os.close(writing)
            return child, reading
        code = 1
        try:
            os.close(reading)
            work(writing)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def result_of(work: Callable[[], Any]) -> Any:
    """What a child gives, as JSON. RuntimeError when it gives nothing."""

    def tell(writing: int) -> None:
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)

    child, reading = fork(tell)
    with os.fdopen(reading) as pipe:
        value = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the process that looks ended with status {status}")
    return json.loads(value)


def kill_at(child: int, events: int, aim: str, nth: int, delay: float) -> None:
    """Wait for the nth event that is aimed at and a little more, and kill."""
    began, seen, left = time.monotonic(), b"", nth
    done = 0
    while left and time.monotonic() - began < PATIENCE:
        if not select.select([events], [], [], 1.0)[0]:
            continue
        part = os.read(events, 65536)
        if not part:
            break  # it ended by itself
        seen += part
        lines = seen.split(b"\n")[:-1]
        left -= sum(line.decode() in (EDITS if aim == "edit" else (aim,)) for line in lines[done:])
        left, done = max(left, 0), len(lines)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(events)


@dataclass
class Rounds:
    """Rounds of work, kill and look on one store."""

    places: Places
    model: Realm
    seed: int
    state: State = field(default_factory=dict)
    known: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def one(self, number: int) -> tuple[str, list[str]]:
        """A round; a line about it, and what was wrong."""
        draw = random.Random(f"{self.seed} {number}")
        aim = draw.choices(list(AIMS), [share for share, _, _ in AIMS.values()])[0]
        _, within, most = AIMS[aim]
        nth, delay = draw.randint(1, most), draw.uniform(0, within)
        self.places.log.unlink(missing_ok=True)

        def work(events: int) -> None:
            log, first = Log(self.places.log, events), number * 10_000 + 1
            Worker(self.model, self.places, log, self.state, self.known, first, self.seed + number).run()

        kill_at(*fork(work), aim, nth, delay)
        began = time.monotonic()
        found = result_of(lambda: look(self.model, self.places, self.state, number))
        took = time.monotonic() - began
        self.state = found["state"]
        for version, after in found["known"]:
            for name, edition in after.items():
                if edition is not None:
                    self.known[name] = [*self.known.get(name, [])[-3:], (version, edition)]
        self.counts["acknowledged"] += found["acknowledged"]
        for lane, kind in found["under_way"].items():
            self.counts[f"{kind} was under way"] += 1
            self.counts[f"{kind} was under way, and something of it is there"] += lane in found["came"]
        line = (
            f"{number + 1:4d}  killed {1000 * delay:4.0f} ms after {aim} {nth}, {found['acknowledged']} acknowledged, "
            f"under way {' '.join(sorted(found['under_way'].values())) or '-'}; version {found['version']}, "
            f"{found['passages']} passages, looked at in {took:.1f} s"
        )
        return line, found["problems"]

    def summary(self, rounds: int, seconds: float) -> str:
        files = [file for file in self.places.kb.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e6
        edits = self.counts.pop("acknowledged")
        lines = [f"{rounds} rounds in {seconds:.0f} s, {edits} acknowledged edits, none lost"]
        lines += [f"{count:6d}  {name}" for name, count in sorted(self.counts.items()) if count]
        return "\n".join([*lines, f"the store: {len(files):,} files, {size:.1f} MB"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="realm-crash-"))
    bert = tiny.tiny_bert(folder / "bert")
    model = Realm(*networks(bert), CONFIG)
    places = Places(folder / "kb", folder / "documents", folder / "log")

    def lay() -> None:
        create_or_open(places.kb, passages="sentences", max_tokens=40, tokenizer=str(bert))

    result_of(lay)
    rounds, began = Rounds(places, model, options.seed), time.monotonic()
    for number in range(options.rounds):
        try:
            line, problems = rounds.one(number)
        except RuntimeError as error:
            line, problems = f"{number + 1:4d}", [str(error)]
        print(line, flush=True)
        if problems:
            print("\n".join([*problems, f"the store lies at {places.kb}, what was acknowledged in {places.log}"]))
            return 1
    print(rounds.summary(options.rounds, time.monotonic() - began))
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

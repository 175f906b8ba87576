"""One leg with one seed: train, judge, tidy up. `runs` starts this in a process of its own."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realm.errors import RealmError
from realm.workflows import parts
from realm.workflows.pretraining.pretrain import pretrain
from realm.workflows.reporting import ProgressCall, Silent
from realm.workflows.run import Run
from realm.workflows.store import open_knowledge_base

from .judging import judge_run, prune
from .legs import config_of
from .probe import CommonProbe


class Lines:
    """A reporter for a log file: stages, notes, and refreshes."""

    @contextmanager
    def stage(self, title: str, unit: str = "") -> Iterator[ProgressCall]:
        self.note(title)
        yield lambda done, total: None

    def event(self, event: Mapping[str, Any]) -> None:
        if event["kind"] in ("refresh", "evaluation"):
            figures = {name: value for name, value in event.items() if name.startswith(("recall", "retrieval_utility"))}
            self.note(f"step {event['step']}: {figures}")

    def note(self, text: str) -> None:
        print(text, flush=True)


def run_leg(
    kb: Path,
    out: Path,
    leg: str,
    seed: int,
    settings: Sequence[str] = (),
    *,
    points: int = 8,
    keep: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train, or go on; judge every checkpoint on the common probe; keep the last ones. The content of judged.json."""
    config = config_of(leg, seed, settings, points)
    run = Run(out / f"{leg}-s{seed}")
    text = parts.prepare_text(open_knowledge_base(kb), config.encoder.model, config.data, Silent())
    common = CommonProbe(out, text, config)
    pretrain(kb, run.path, config, reporter=Lines(), should_stop=should_stop)
    judged = judge_run(run, common, leg=leg, complete=True)
    if not keep:
        prune(run)
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("leg")
    parser.add_argument("seed", type=int)
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        judged = run_leg(
            args.kb, args.out, args.leg, args.seed, args.settings,
            points=args.points, keep=args.keep, should_stop=stop.is_set,
        )  # fmt: skip
        print(f"recall@5 {judged['points'][-1]['recall@5']:.3f}", flush=True)
    except RealmError as error:
        print(f"error: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Named legs over one knowledge base, each a run folder OUT/LEG-sSEED, judged on one probe a seed.

    python -m benchmarks.learning.runs KB OUT --legs ict-realm,ict-only,realm-only --seeds 0,1,2
        [--set realm.steps=2000 ict-only:ict.steps=6000] [--jobs 2] [--points 8] [--keep]

A leg and seed is a process on one core; what it says goes to OUT/logs. Finished ones are skipped, interrupted ones go
on. --points: checkpoints of the longer stage, each judged for the curves and then, without --keep, all but the last
removed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from realm.config import PretrainConfig, to_json
from realm.errors import MismatchError, RealmError
from realm.files import read_json

from .design import design_legs
from .legs import LEGS, config_of


def finished(folder: Path, config: PretrainConfig) -> bool:
    """Whether a leg is trained and judged. MismatchError when that was done with other settings."""
    if not (folder / "judged.json").exists() or not read_json(folder / "judged.json")["complete"]:
        return False
    if read_json(folder / "config.json") != to_json(config):
        raise MismatchError(f"{folder} was finished with other settings: give the same ones, or another OUT")
    return True


class Starter:
    """Starts legs as processes, and passes an interruption on to them."""

    def __init__(self, kb: Path, out: Path, options: Sequence[str]) -> None:
        self.kb, self.out, self.options = kb, out, options
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def __call__(self, leg: str, seed: int) -> int:
        name = f"{leg}-s{seed}"
        if self.stopped.is_set():
            return 130
        log = self.out / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.learning.one", str(self.kb), str(self.out), leg, str(seed)]
        started = time.time()
        print(f"{name}: begun, see {log}", flush=True)
        with open(log, "ab") as stream:
            process = subprocess.Popen(
                [*command, *self.options],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,  # a Ctrl-C is ours to pass on, once
            )
        self.running.add(process)
        code = process.wait()
        self.running.discard(process)
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        print(f"{name}: {'done' if not code else f'FAILED ({code})'} after {time.time() - started:.0f} s"
              f"{': ' + last[0] if last else ''}", flush=True)  # fmt: skip
        return code

    def stop(self) -> None:
        """The running ones save and end; the others don't begin."""
        self.stopped.set()
        for process in list(self.running):
            process.terminate()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--legs", default="ict-realm,ict-only,realm-only", help=f"of {', '.join(LEGS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", dest="settings", nargs="*", action="extend", default=[], metavar="[LEG:]NAME=VALUE")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints that were judged")
    args = parser.parse_args()
    named = {"design": [*design_legs()]}
    legs, seeds = (
        [leg for name in args.legs.split(",") for leg in named.get(name, [name])],
        [int(seed) for seed in args.seeds.split(",")],
    )
    try:
        pairs = [(leg, seed) for seed in seeds for leg in legs]
        todo = []
        for leg, seed in pairs:
            if finished(args.out / f"{leg}-s{seed}", config_of(leg, seed, args.settings, args.points)):
                print(f"{leg}-s{seed}: finished before", flush=True)
            else:
                todo.append((leg, seed))
    except RealmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options = ["--points", str(args.points), *(["--keep"] if args.keep else []), "--set", *args.settings]
    starter = Starter(args.kb, args.out, options)
    signal.signal(signal.SIGTERM, _interrupt)
    with ThreadPoolExecutor(max(1, args.jobs)) as pool:
        futures = [pool.submit(starter, leg, seed) for leg, seed in todo]
        try:
            codes = [future.result() for future in futures]
        except KeyboardInterrupt:
            starter.stop()
            codes = [future.result() for future in futures]
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())

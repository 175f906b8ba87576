"""The driver of the benchmarks.

    python -m benchmarks list
    python -m benchmarks NAME [--quick] [--out FOLDER] [--profiles FOLDER] [--peer PYTHON] [its own options]
    python -m benchmarks all [the same but its own options]    each in a process of its own
    python -m benchmarks report FOLDER [--out FILE]          the records of FOLDER as docs/performance.md

Each prints a table with ratios (above 1: realm is faster), the machine and what else kept it busy, versions and sizes,
and with --out writes FOLDER/NAME.json. --quick: seconds, sizes that say nothing about speed; for trying it out.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from rich.console import Console

from benchmarks import catalog


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    if name in ("-h", "--help"):
        console.print(__doc__)
        return 0
    if name == "list":
        for suite, module in catalog.SUITES.items():
            console.print(f"{suite:10s} {catalog.about(module)}")
        return 0
    if name == "report":
        from benchmarks.report import command

        return command(rest, console)
    if name == "all":
        return run_all(rest, console)
    if name not in catalog.SUITES:
        named = ", ".join(["list", "all", "report", *catalog.SUITES])
        print(f"found no benchmark {name!r}: expected one of {named}", file=sys.stderr)
        return 2
    module = catalog.open_suite(name)
    told = run_suite if hasattr(module, "run") else run_script
    return told(name, module, rest, console)


def common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="seconds, at sizes that say nothing about speed")
    parser.add_argument("--out", type=Path, help="folder for NAME.json")
    parser.add_argument("--profiles", type=Path, help="folder for a trace and stacks of each of realm's contests")
    parser.add_argument("--rounds", type=int, help="at most so many of each contest; 15 if not given")
    parser.add_argument("--peer", help="the Python of an environment with transformers 4.40.2, which has REALM's port")
    parser.add_argument("--budget", type=float, help="seconds for each contestant of a contest; 4 if not given")
    parser.add_argument(
        "--threads", type=int, help="of everybody; if not given, as many as there are cores, and one with --quick"
    )


def run_suite(name: str, module: ModuleType, rest: list[str], console: Console) -> int:
    parser = argparse.ArgumentParser(
        f"python -m benchmarks {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common(parser)
    own = parser.add_argument_group("its own")
    module.arguments(own)
    if "--quick" in rest:
        parser.set_defaults(**module.QUICK)
    options = parser.parse_args(rest)
    from benchmarks.core import machine

    threads = options.threads or (1 if options.quick else machine.cores())
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS"):
        os.environ[variable] = str(threads)  # before the libraries are imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch

    from benchmarks.core.bench import Bench
    from benchmarks.core.table import show

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    taken = {action.dest: getattr(options, action.dest) for action in own._group_actions}
    bench = Bench(
        name,
        command=shlex.join(["python", "-m", "benchmarks", name, *_without_places(rest)]),
        sizes={
            "threads": threads,
            **{key: _plain(value) for key, value in taken.items() if value is not None and key != "peer"},
        },
        quick=options.quick,
        rounds=options.rounds or (3 if options.quick else 15),
        budget=options.budget or (0.05 if options.quick else 4.0),
        profiles=options.profiles,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    options.threads = threads
    module.run(bench, options)
    record = bench.finish()
    show(record, console)
    if options.out is not None:
        console.print(f"wrote {record.write(options.out)}")
    return 0


def run_script(name: str, module: ModuleType, rest: list[str], console: Console) -> int:
    """Start a script; keep what it printed, and what it wrote if it knows --json FILE."""
    from benchmarks.core.bench import Bench

    parser = argparse.ArgumentParser(f"python -m benchmarks {name}", add_help=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    options, passed = parser.parse_known_args(rest)
    source = Path(str(module.__file__)).read_text("utf-8")
    passed += ["--quick"] if options.quick and '"--quick"' in source else []
    command = shlex.join(["python", "-m", "benchmarks", name, *_without_places(rest)])
    bench = Bench(name, command=command, sizes={}, quick=True)
    bench.record.quick = options.quick
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        passed += ["--json", str(told)] if '"--json"' in source and "--json" not in passed else []
        script = subprocess.Popen(
            [sys.executable, "-m", str(module.__name__), *passed], stdout=subprocess.PIPE, text=True
        )
        assert script.stdout is not None
        for line in script.stdout:
            console.print(line.rstrip("\n"))
            lines.append(line)
        code = script.wait()
        if told.exists():
            bench.record.told = json.loads(told.read_text("utf-8"))
    bench.record.printed = "".join(lines)
    if options.out is not None and "--help" not in rest and "-h" not in rest:
        if code:
            bench.note(f"it ended with {code}")
        console.print(f"wrote {bench.finish().write(options.out)}")
    return code


def run_all(rest: list[str], console: Console) -> int:
    """Every suite with its own settings. Scripts need files of their own, and are named."""
    failed = []
    for name in catalog.SUITES:
        if not hasattr(catalog.open_suite(name), "run"):
            console.print(f"{name}: a script; see python -m benchmarks {name} --help")
            continue
        code = subprocess.run([sys.executable, "-m", "benchmarks", name, *rest], check=False).returncode
        failed += [name] if code else []
    if failed:
        print(f"found {len(failed)} that failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _plain(value: object) -> object:
    return value.name if isinstance(value, Path) else value


def _without_places(rest: list[str]) -> list[str]:
    """The command without where its results went, and other places by their last name alone."""
    kept, skip = [], False
    for word in rest:
        if skip or word in ("--out", "--profiles"):
            skip = not skip
        elif not word.startswith(("--out=", "--profiles=")):
            kept.append(Path(word).name if word.startswith("/") else word)
    return kept


if __name__ == "__main__":
    sys.exit(main())

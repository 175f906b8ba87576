"""A world of invented towns small enough to train on in seconds, and the command line run on it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from tiny import tiny_bert

from realm.cli import main

RIVERS = ("Arn", "Belt", "Corr", "Dove", "Esk", "Fal", "Glen", "Hull")
PAINTERS = (
    "Anna Weir",
    "Bruno Falk",
    "Clara Moss",
    "David Stern",
    "Emil Hart",
    "Freya Lund",
    "Georg Vance",
    "Hanna Reed",
)
TOWNS = tuple(
    f"{start}{end}" for start in ("Alm", "Bor", "Cal", "Dun") for end in ("by", "ham", "ford", "wick", "ton", "stad")
)

MODEL = {
    "encoder.layers": "1",
    "encoder.dim": "16",
    "reader.layers": "1",
    "data.max_passage_tokens": "100",
    "data.spans_pipeline": "pattern",
    "data.held_out_fraction": "0.3",
    "ict.steps": "3",
    "ict.batch_size": "8",
    "realm.steps": "6",
    "realm.batch_size": "4",
    "realm.num_candidates": "4",
    "refresh.mode": "sync",
    "refresh.every_steps": "2",
    "loop.log_every": "1",
    "loop.checkpoint_every": "2",
    "loop.threads": "1",
    "loop.tensorboard": "false",
    "probe.size": "20",
}
"""Settings of the story's training; tests put others in their place."""


def documents() -> list[dict[str, str]]:
    """One a town: its river and its painter, and a year."""
    found = []
    for i, town in enumerate(TOWNS):
        river, painter = RIVERS[i % len(RIVERS)], PAINTERS[(i * 3 + i // 8) % len(PAINTERS)]
        text = (
            f"The town of {town} lies on the river {river}. It was founded in {1200 + 7 * i}. "
            f"The bridge of {town} was painted by {painter} in {1800 + 5 * i}."
        )
        source = "north" if i % 2 else "south"
        found.append({"id": town.lower(), "title": town, "text": text, "source": source})
    return found


def write_documents(path: Path, rows: Sequence[dict[str, str]] | None = None) -> Path:
    """The documents as jsonl."""
    lines = [json.dumps(row) for row in (documents() if rows is None else rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_model(folder: Path) -> Path:
    """A random BERT that knows the words of the story."""
    return tiny_bert(folder, [row["title"] + " " + row["text"] for row in documents()])


def settings(model: Path, /, **changed: str) -> list[str]:
    """``name=value`` arguments; a double underscore in a name of `changed` is a dot."""
    values = {"model": str(model), **MODEL, **{name.replace("__", "."): value for name, value in changed.items()}}
    return [f"{name}={value}" for name, value in values.items()]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def realm(*arguments: str | Path) -> Done:
    """A command, in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    code = 0
    sys.argv = ["realm", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


def result(*arguments: str | Path) -> Any:
    """What a command prints with ``--json``: it must succeed, and print nothing but JSON."""
    done = realm(*arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def error(*arguments: str | Path) -> tuple[int, str]:
    """The exit code and the one line of a command that must fail, and print nothing else."""
    done = realm(*arguments)
    assert done.code != 0, done.out
    lines = [line for line in done.err.splitlines() if not line.startswith("✓ ")]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("realm: ")
    assert "defect" not in lines[0]
    assert not done.out
    return done.code, lines[0]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A command in another process, to be interrupted."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", "from realm.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

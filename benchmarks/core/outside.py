"""A peer in a process of its own, with the Python of its own environment; it waits while others are measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "peers"
HF_REALM = 'needs --peer, the Python of an environment with it: pip install transformers==4.40.2 torch "numpy<2"'
"""Why the Hugging Face port of REALM, which later releases don't have, does not take part."""


class Outside:
    """A script of benchmarks/peers: it reads one JSON object a line and writes one a line; the first says what to
    make, and its answer tells versions."""

    def __init__(self, python: str, script: str, facts: dict[str, Any]) -> None:
        self.script = script
        self.process = subprocess.Popen(
            [python, "-W", "ignore", str(FOLDER / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self.say(facts)
        self.peak_bytes: int | None = None

    def say(self, message: dict[str, Any]) -> dict[str, Any]:
        """RuntimeError: the script ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.script} ended with {self.process.wait()}: expected an answer; see what it wrote")
        told: dict[str, Any] = json.loads(line)
        return told

    def seconds(self, message: dict[str, Any]) -> float:
        """Of a piece of work, measured there; its peak memory is kept."""
        told = self.say(message)
        self.peak_bytes = told.get("peak_bytes")
        return float(told["seconds"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def outside(python: str | None, script: str, facts: dict[str, Any]) -> Iterator[Outside | None]:
    """The peer's process, ended at the end; None without a Python for it."""
    if python is None:
        yield None
        return
    peer = Outside(python, script, facts)
    try:
        yield peer
    finally:
        peer.close()

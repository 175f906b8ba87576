"""The run folder: one training, everything it was made from and everything it made.

RUN/
  run.json             format, versions, git commit, seed, command line, parents' fingerprints
  config.json          the whole resolved configuration
  metrics.jsonl        one object an event; TensorBoard events beside it
  probe.json           the held-out masked sentences
  start/               the trained model that it goes on from, if any
  warm-start/          checkpoints of the inverse cloze task
  checkpoints/         checkpoints of REALM
  index/step-000500/   vectors by the parameters of that step
  evaluations/         report.json of the warm start and of the result
  report.html          the page
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from realm import __version__, files
from realm.config import PretrainConfig, from_json, to_json
from realm.errors import ArtefactError, MismatchError, RealmError
from realm.settings_finetune import FinetuneConfig

FORMAT = "realm run"
VERSION = 1
FINETUNING = "realm fine-tuning run"
MADE = "made-questions.jsonl"
"""The questions of a run that had none given, made from its knowledge base."""
PLACES = ("knowledge_base", "corpus", "model", "questions", "dev", "licence")
"""Parents that say where a text lay, and what a card says of it; the others say what it was."""


class Run:
    """Paths and identity of a run folder."""

    def __init__(self, path: Path, format: str = FORMAT) -> None:
        """format: of a run of pre-training, or `FINETUNING`; the other kind is refused."""
        self.path = Path(path)
        self.format = format
        self.warm_start = self.path / "warm-start"
        self.checkpoints = self.path / "checkpoints"
        self.index = self.path / "index"
        self.evaluations = self.path / "evaluations"
        self.start = self.path / "start"
        self.probe = self.path / "probe.json"
        self.report = self.path / "report.html"

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").exists()

    def check_place(self) -> None:
        """ArtefactError when the folder holds something else, which must not be written over."""
        if self.exists or not self.path.exists():
            return
        # A run that was killed while it was made has at most its settings and the questions made for it, and files
        # that nothing reads.
        early = ("config.json", MADE, f"{MADE}.about.json")
        if any(file.name not in early and not file.name.startswith(".") for file in self.path.iterdir()):
            raise ArtefactError(f"{self.path} is not empty and is no run: give another --out")

    def create_or_resume(self, config: PretrainConfig | FinetuneConfig, parents: dict[str, Any]) -> bool:
        """Write run.json and config.json, or check that they are the same. True when the run existed.

        A text is told by its fingerprint, so one that was moved is the same; its new place is written down.
        MismatchError names the first setting or parent that differs.
        """
        settings = to_json(config)
        if self.exists:
            facts = self.check(config, parents)
            before = facts["parents"]
            if any(before.get(name) != parents.get(name) for name in PLACES):
                files.write_json(self.path / "run.json", {**facts, "parents": {**before, **parents}})
            return True
        self.check_place()
        self.path.mkdir(parents=True, exist_ok=True)
        files.write_json(self.path / "config.json", settings)
        files.write_json(
            self.path / "run.json",
            {
                "format": self.format,
                "format_version": VERSION,
                "realm_version": __version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "seed": config.loop.seed,
                "git_commit": _git_commit(),
                "python": platform.python_version(),
                "machine": platform.machine(),
                "libraries": {name: _version(name) for name in ("torch", "transformers", "lancedb", "numpy")},
                "parents": parents,
            },
        )
        return False

    def check(self, config: PretrainConfig | FinetuneConfig, parents: dict[str, Any]) -> dict[str, Any]:
        """What run.json says. MismatchError names the first setting or parent that differs."""
        facts = self.facts()
        before = facts["parents"]
        for name, found in parents.items():
            if name not in PLACES and name in before and before[name] != found:
                raise MismatchError(
                    f"{self.path} was begun with {name} {before[name]}: found {found}; "
                    "give the same one, or another --out"
                )
        # Through the class, so that a setting which came later has its default on both sides.
        old_settings = to_json(from_json(type(config), files.read_json(self.path / "config.json")))
        for name, old, new in _differences(old_settings, to_json(config), ""):
            raise MismatchError(
                f"{self.path} was begun with {name}={old}: found {name}={new}; "
                "leave the setting as it was, or give another --out"
            )
        return facts

    def has_report(self, name: str) -> bool:
        return (self.evaluations / name / "report.json").exists()

    def facts(self) -> dict[str, Any]:
        """run.json, checked. ArtefactError when this is no run."""
        facts = files.read_json(self.path / "run.json")
        if facts.get("format") != self.format or facts.get("format_version") != VERSION:
            raise ArtefactError(
                f"{self.path} holds {facts.get('format')} {facts.get('format_version')}: "
                f"expected a {self.format} of version {VERSION}"
            )
        return dict(facts)

    def config(self) -> PretrainConfig:
        return from_json(PretrainConfig, files.read_json(self.path / "config.json"))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the run against a second trainer."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RealmError(
                f"{self.path} is being trained by another process: wait for it, or give another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()


def _differences(before: Any, after: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from _differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield name, before, after


def _version(name: str) -> str | None:
    """None for a library that is not installed: a machine that only trains needs no store."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the library's own checkout, None when it is an installed copy."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None

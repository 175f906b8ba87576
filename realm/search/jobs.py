"""What a refresher has to do and where everything lies: its job, parameters that were published, indexes.

Legend of the folders: see `realm.search.refresher`.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from realm.errors import UsageError
from realm.files import MANIFEST, fingerprint, read_json, sha256_of
from realm.types import Encoder, PassageSource

PUBLISHED = "publish.json"
"""In a folder of parameters: the step and the time of publication."""
PRIORITIES = "priorities.safetensors"
"""Beside it: which rows to embed first, as `realm.search.priorities` writes it."""


@dataclass(frozen=True)
class Job:
    """What there is to refresh, in JSON values."""

    folder: str
    """The run: parameters and indexes lie below it."""
    snapshot: str
    """Given to `opener` as a path."""
    opener: str
    """"module:function": (parameters: Path, snapshot: Path, **options) -> (encoder, source, max_tokens)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """More arguments for `opener`, such as a device."""
    dtype: str = "float32"
    batch_tokens: int | None = None
    """Padded tokens of a batch, by the device when None."""
    bf16: bool = False
    """Compute the products in bfloat16."""
    rows_per_shard: int = 16384
    threads: int = 1
    """Of the refresher's process. Beside a trainer of one thread on two cores: 1."""
    nice: int = 0
    """Added to the refresher's niceness: above 0 it leaves a shared core to the trainer."""
    partial: float | None = None
    """Embed by priority, and publish a partial index after each such share of the work (`realm.search.partial`)."""
    workers: int = 0
    """On the machines of a Ray cluster, each of `threads`; 0: the refresher's own process embeds."""
    gpus: float = 0.0
    """Of each such worker."""

    @property
    def parameters(self) -> Path:
        return Path(self.folder) / "refresh" / "parameters"

    @property
    def indexes(self) -> Path:
        return Path(self.folder) / "index"

    @property
    def heartbeat(self) -> Path:
        return Path(self.folder) / "refresh" / "heartbeat.json"

    @property
    def log(self) -> Path:
        return Path(self.folder) / "refresh" / "refresher.log"

    @property
    def events(self) -> Path:
        return Path(self.folder) / "refresh" / "events.log"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@runtime_checkable
class Fingerprinted(Protocol):
    """An encoder that can name its parameters, so that an index is bound to it however it was saved."""

    def fingerprint(self) -> str: ...


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def steps(folder: Path, marker: str) -> Iterator[tuple[int, Path]]:
    """(step, folder) of the finished folders, oldest first; `marker` is the file that a finished one has."""
    found = []
    for path in folder.glob("step-*"):
        number = path.name.removeprefix("step-")
        if number.isdecimal() and (path / marker).exists():
            found.append((int(number), path))
    yield from sorted(found)


def partials(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(step, part, folder) of the finished partial indexes, oldest first."""
    found = []
    for path in folder.glob("step-*.part-*"):
        step, _, part = path.name.removeprefix("step-").partition(".part-")
        if step.isdecimal() and part.isdecimal() and (path / MANIFEST).exists():
            found.append((int(step), int(part), path))
    yield from sorted(found)


def resolve(reference: str) -> Callable[..., tuple[Encoder, PassageSource, int]]:
    """The function behind "module:function". UsageError where there is none."""
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"refresh can't import {reference!r} ({error}): expected 'module:function'") from error
    if not callable(found):
        raise UsageError(f"{reference!r} is no function: expected one that returns (encoder, source, max_tokens)")
    return found  # type: ignore[no-any-return]


def place_of(job: Job, parameters: Path) -> Path:
    """Where the index of a folder of parameters comes to lie; what other steps left unfinished is removed."""
    name = step_name(read_json(parameters / PUBLISHED)["step"])
    job.indexes.mkdir(parents=True, exist_ok=True)
    for unfinished in job.indexes.glob(".step-*.partial-*"):
        if not unfinished.name.startswith(f".{name}.partial-"):
            shutil.rmtree(unfinished, ignore_errors=True)
    return job.indexes / name


def open_job(job: Job, parameters: Path) -> tuple[Encoder, PassageSource, int, dict[str, Any]]:
    """The encoder, what it embeds, the tokens of a passage, and the facts of the index that comes of it."""
    import torch

    published = read_json(parameters / PUBLISHED)
    # Opening an encoder may draw random numbers (initialisation), which must not disturb a trainer's own.
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(devices=devices):
        encoder, source, max_tokens = resolve(job.opener)(parameters, Path(job.snapshot), **job.options)
    saved = fingerprint_parameters(parameters)
    name = encoder.fingerprint() if isinstance(encoder, Fingerprinted) else saved
    facts = {"step": published["step"], "published": published["time"], "encoder": name, "parameters": saved}
    return encoder, source, max_tokens, facts


def fingerprint_parameters(folder: Path) -> str:
    """Of all files that `save` wrote: "parameters" in an index's manifest, and "encoder" if that has no name itself."""
    beside = (PUBLISHED, PRIORITIES)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in beside)
    return fingerprint(*(part for p in files for part in (str(p.relative_to(folder)), sha256_of(p))))

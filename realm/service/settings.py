"""Settings of the service; see `realm.config` for what all settings have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from realm.knowledge.table.writing import BATCH_CHARACTERS, BATCH_DOCUMENTS
from realm.settings import Range, check

__all__ = ["BatchingConfig", "CacheConfig", "LimitsConfig", "ServiceConfig"]

_Count = Annotated[int, Range(low=1)]
_Seconds = Annotated[float, Range(low=0.0, open_low=True)]


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What one request may ask for, and how many may ask at once. Beyond it a request is refused with the reason."""

    body_bytes: Annotated[int, Range(low=1024, high=BATCH_CHARACTERS)] = 8_388_608
    """Bytes of a request's body. What it brings goes in by one commit, and so much a commit may hold."""
    documents: Annotated[int, Range(low=1, high=BATCH_DOCUMENTS)] = 1000
    """Documents that one request may bring; the same holds for them."""
    questions: _Count = 256
    """Questions that one request may ask."""
    question_characters: _Count = 2000
    """Characters of a question or a query."""
    passages: _Count = 100
    """The largest k."""
    page: _Count = 200
    """Documents, or changes of one, that a page of a list may hold."""
    history_characters: _Count = 1_000_000
    """Characters of text that a page of changes holds at most, beside its newest one's."""
    seconds: _Seconds = 30.0
    """From a request's arrival to its answer, its body's arrival included."""
    in_flight: _Count = 64
    """Requests at once; probes are not counted."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """How questions that come at the same time are answered together."""

    window_ms: Annotated[float, Range(low=0.0)] = 3.0
    """How long questions wait for one more where several came lately, in milliseconds; five times that at most."""
    size: _Count = 32
    """Questions that are answered together at most."""
    side_by_side: bool = True
    """Let each core read a part of a batch, where a fine-tuned model answers; else all cores share every product."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Answers that are kept for the next who asks the same of the same version. 0 of either keeps none."""

    entries: Annotated[int, Range(low=0)] = 1000
    """Answers."""
    bytes: Annotated[int, Range(low=0)] = 67_108_864
    """Of all of them, with the passages that they rest on."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Everything that `realm serve` can be told."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What a request may ask for."""
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    """Answering together."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Answers that were given before."""
    early_exit: Annotated[float, Range(low=0.5, high=1.0, open_high=True)] | None = None
    """Where a request does not say it: the share of the probability after which a fine-tuned model reads no further."""
    origins: tuple[str, ...] | None = None
    """Web pages of other origins that may write, as ``https://wiki.example.org``; of its own alone when none."""

    def __post_init__(self) -> None:
        check(self)

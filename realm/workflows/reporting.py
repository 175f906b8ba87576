"""How long work tells what it is doing. The library calls; the command line draws; the default is silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

ProgressCall = Callable[[int, int | None], None]


class Reporter(Protocol):
    """Something that shows stages, their progress and training events."""

    def stage(self, title: str, unit: str = "") -> AbstractContextManager[ProgressCall]:
        """A piece of work with a bar: the block calls progress(done, total), and what goes on calls it at once, with
        what was done before, so that this is not taken for its pace."""
        ...

    def event(self, event: Mapping[str, Any]) -> None:
        """A line of ``metrics.jsonl`` as it is written."""
        ...

    def note(self, text: str) -> None:
        """One line worth reading."""
        ...


class Silent:
    """The reporter of library use and of ``--json``."""

    @contextmanager
    def stage(self, title: str, unit: str = "") -> Iterator[ProgressCall]:
        yield lambda done, total: None

    def event(self, event: Mapping[str, Any]) -> None:
        return None

    def note(self, text: str) -> None:
        return None

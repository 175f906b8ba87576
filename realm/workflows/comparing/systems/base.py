"""What a comparison needs of a system."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from realm.settings_finetune import FinetuneConfig
from realm.workflows.judging.evaluate import AnswerMany, Search
from realm.workflows.reporting import Reporter
from realm.workflows.workbench import Stop


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One system with one seed, as asked for: the same text, questions and settings as every other."""

    folder: Path
    """Everything of the leg lies here; it is left out when it is whole."""
    knowledge_base: Path
    questions: Path
    dev: Path | None
    config: FinetuneConfig
    """With the leg's own seed."""
    start: str | None
    """What `--start SYSTEM=` says; see `finetuning.start.find_start`."""
    reporter: Reporter
    should_stop: Stop | None


class Opened(NamedTuple):
    """A system that is ready to be asked."""

    answer: AnswerMany | None
    """None where nothing answers yet, and the search alone is judged."""
    search: Search | None
    """None where it retrieves nothing."""
    k: int
    """Passages it reads, unless the comparison says how many."""


class System(Protocol):
    """A system of a comparison; its docstring's first line says what it is."""

    @property
    def title(self) -> str:
        """In tables."""
        ...

    @property
    def seeded(self) -> bool:
        """Whether it comes out otherwise with another seed; one that doesn't is run once."""
        ...

    def find_start(self, name: str, starts: dict[str, str]) -> str | None:
        """What the leg starts from, of what the caller gave by system. UsageError when there is nothing to start
        from."""
        ...

    def train(self, leg: Leg) -> None:
        """Make the leg's folder whole, or go on where it was stopped; nothing to do when it is. KeyboardInterrupt after
        `leg.should_stop`, with everything saved; MismatchError when the folder was begun as another leg."""
        ...

    def fingerprint(self, leg: Leg) -> str:
        """Of everything that its answers depend on, once it is trained: a report of another one is made again."""
        ...

    def open(self, leg: Leg) -> AbstractContextManager[Opened]:
        """The trained leg, ready to be asked."""
        ...

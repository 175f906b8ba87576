"""Settings of making questions from a corpus; see `realm.config` for what all settings have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from realm.errors import UsageError
from realm.settings import Range, check

__all__ = ["CorpusQuestionsConfig"]

_Count = Annotated[int, Range(low=1)]
_Natural = Annotated[int, Range(low=0)]


@dataclass(frozen=True, kw_only=True)
class CorpusQuestionsConfig:
    """Which questions are made of which passages."""

    count: _Count = 5000
    """Questions; fewer where the corpus gives no more."""
    per_passage: _Count = 4
    """Questions of a passage at most, spread over its sentences."""
    pipeline: str = "en_core_web_sm"
    """The spaCy pipeline that finds names and parses, or ``pattern``: then the wh-word stands in the answer's place."""
    answers: Literal["names", "phrases"] = "phrases"
    """What is asked for: names, dates and numbers, or noun phrases, too."""
    min_words: _Count = 5
    """Words of the shortest question."""
    max_words: _Count = 22
    """Words of the longest question."""
    min_content: _Natural = 3
    """Words of a question that say something: no wh-word, no "of", no "was"."""
    max_answer_words: _Count = 8
    """Words of the longest answer."""
    top: _Natural = 20
    """Keep the questions whose passage is among so many first hits of the model; 0 keeps all."""
    min_f1: Annotated[float, Range(low=0.0, high=1.0)] = 0.5
    """With a model that answers: keep those that it answers as well as this (F1 of words); 0 keeps all."""
    seed: _Natural = 0
    """Of the order in which passages are taken."""

    def __post_init__(self) -> None:
        check(self)
        if self.max_words < self.min_words:
            raise UsageError(
                f"found max_words={self.max_words} with min_words={self.min_words}: no question is both; raise the "
                "first or lower the second"
            )

"""The options of reading documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from realm.errors import UsageError


@dataclass(frozen=True)
class Options:
    """What can be said about a source besides its format."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """Our name to the record's: {"text": "abstract", "date": "published"}."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """For every document that does not say it itself: {"source": "handbook", "lang": "ko"}."""
    encoding: str = "utf-8"
    """Of text files, lines and tables. What can't be decoded is reported, never replaced."""
    quote: str | None = '"'
    """The quote of CSV and TSV; None when fields are never quoted."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a CSV or TSV that has no header line."""
    unit: Literal["paragraph", "article"] = "paragraph"
    """SQuAD: what becomes a document."""
    drop_lists: bool = True
    """WikiExtractor: leave out "List of", "Index of", "Outline of" and disambiguation pages."""
    raw: bool = False
    """Markdown and HTML: keep the markup as text."""
    split: str | None = None
    """Hugging Face dataset: one split; None takes all."""
    config: str | None = None
    """Hugging Face dataset: its configuration."""

    def __post_init__(self) -> None:
        try:
            lines = "\n".encode(self.encoding)
        except LookupError:
            raise UsageError(
                f"found encoding={self.encoding!r}: expected one Python knows, as utf-8 or euc-kr"
            ) from None
        if lines != b"\n":
            raise UsageError(
                f"found encoding={self.encoding!r}: expected one that holds ASCII; convert the file to UTF-8"
            )
        if self.unit not in ("paragraph", "article"):
            raise UsageError(f"found unit={self.unit!r}: expected paragraph or article")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """From keyword arguments. UsageError for a name that is no option."""
        names = [entry.name for entry in fields(cls)]
        for name in values:
            if name not in names:
                raise UsageError(f"found option {name!r}: expected one of {', '.join(names)}")
        return cls(**values)

"""Options of verbs that search: what the passages keep to besides `--where`."""

from __future__ import annotations

from datetime import date as Date
from datetime import datetime
from typing import Annotated

import typer

ALLOW = Annotated[list[str] | None, typer.Option("--allow", metavar="ID", help="Only this document. May be repeated.")]
DENY = Annotated[list[str] | None, typer.Option("--deny", metavar="ID", help="Not this document. May be repeated.")]
SOURCE = Annotated[
    list[str] | None, typer.Option("--source", metavar="NAME", help="Only from this source. May be repeated.")
]
_DAY = ["%Y-%m-%d"]
SINCE = Annotated[
    datetime | None, typer.Option(formats=_DAY, metavar="DAY", help="Only documents dated this day or later.")
]
UNTIL = Annotated[
    datetime | None, typer.Option(formats=_DAY, metavar="DAY", help="Only documents dated this day or earlier.")
]
MAX_PER_DOCUMENT = Annotated[int | None, typer.Option(min=1, help="At most so many passages of a document.")]
MAX_PER_SOURCE = Annotated[int | None, typer.Option(min=1, help="At most so many passages of a source.")]
MMR = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Maximal marginal relevance: 1 is the plain order, less puts what repeats further back."
    ),
]
HALF_LIFE = Annotated[
    float | None,
    typer.Option("--half-life", metavar="DAYS", help="Newest wins: a passage counts half for so many days of age."),
]
APPROXIMATE = Annotated[
    bool, typer.Option("--approximate", help="Search by the index that `realm docs index` made; exactly by default.")
]


def day(given: datetime | None) -> Date | None:
    """The day that an option names."""
    return None if given is None else given.date()

"""Options of verbs that search: what the passages keep to besides `--where`."""

from __future__ import annotations

from typing import Annotated

import typer

ALLOW = Annotated[list[str] | None, typer.Option("--allow", metavar="ID", help="Only this document. May be repeated.")]
DENY = Annotated[list[str] | None, typer.Option("--deny", metavar="ID", help="Not this document. May be repeated.")]
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

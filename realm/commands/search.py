"""``realm search``: passages, without an answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from realm.commands.constraints import (
    ALLOW,
    APPROXIMATE,
    DENY,
    HALF_LIFE,
    MAX_PER_DOCUMENT,
    MAX_PER_SOURCE,
    MMR,
    SINCE,
    SOURCE,
    UNTIL,
    day,
)
from realm.commands.docs import AS_OF, JSON, KB, WHERE, print_json, short


def search(
    query: str,
    kb: KB,
    model: Annotated[Path | None, typer.Option("--model", help="A run; without one, BM25.")] = None,
    k: Annotated[int, typer.Option(min=1)] = 5,
    where: WHERE = None,
    as_of: AS_OF = None,
    allow: ALLOW = None,
    deny: DENY = None,
    source: SOURCE = None,
    since: SINCE = None,
    until: UNTIL = None,
    max_per_document: MAX_PER_DOCUMENT = None,
    max_per_source: MAX_PER_SOURCE = None,
    mmr: MMR = None,
    half_life: HALF_LIFE = None,
    approximate: APPROXIMATE = False,
    as_json: JSON = False,
) -> None:
    """Find passages: by meaning with a model, by words without."""
    from realm.answering.constraints import constraints_of
    from realm.console import Terminal
    from realm.workflows.ask import search_passages

    constraints = constraints_of(
        allow=allow,
        deny=deny,
        sources=source,
        since=day(since),
        until=day(until),
        max_per_document=max_per_document,
        max_per_source=max_per_source,
        mmr=mmr,
        half_life_days=half_life,
        approximate=approximate,
    )
    found = search_passages(
        query,
        kb,
        model=model,
        k=k,
        where=where,
        as_of=as_of,
        constraints=constraints,
        reporter=Terminal(quiet=as_json),
    )
    if as_json:
        print_json(found)
        return
    for hit in found:
        factor = "" if hit["recency"] is None else f"  recency ×{math.exp(hit['recency']):.2g}"
        typer.echo(f"{hit['score']:8.3f}  {hit['title']}  [{hit['id']}]{factor}\n          {short(hit['text'], 200)}")
    if not found:
        typer.echo("nothing found")

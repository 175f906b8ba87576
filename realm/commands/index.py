"""``realm index``: a compressed index that reaches a recall."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from realm.commands.docs import JSON, folder_place, print_json


def index(
    place: Annotated[
        Path, typer.Argument(metavar="INDEX|RUN", help="An exact index, or a run, whose newest is taken.")
    ],
    recall: Annotated[float, typer.Option(help="Share of the best passages that a search must find.")] = 0.95,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder of its own, with the vectors in it; without it, the codes alone in the index's folder.",
            callback=folder_place,
        ),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Questions to measure with, a file; stored vectors, moved a little, if none.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Compress a run's vectors to a recall.

    Several kinds are built and measured on held-out queries; the fastest is taken. It tells of each: the recall, the
    effort (lists looked at, or how broadly a graph is walked) and the ratio (candidates a hit) that it takes, the time
    of a query alone and of one of 64, and bytes a passage. For a knowledge base's own vectors: realm docs index.
    """
    from realm.console import Terminal, table
    from realm.workflows.compressing import compress

    result = compress(place, recall=recall, out=out, queries=queries, reporter=Terminal(quiet=as_json))
    if as_json:
        print_json(result)
        return
    if result["tried"]:
        columns = ["kind", "recall", "effort", "ratio", "a query", "one of 64", "bytes", "built in"]
        exact = ["exact", "1.000", "", "", *_times(result["exact_microseconds"]), f"{result['vector_bytes_a_row']}", ""]
        title = f"{result['rows']:,} vectors of {result['dim']}, recall {recall:g} wanted"
        table(title, columns, [exact, *(_row(one) for one in result["tried"])])
    typer.echo(f"{result['path']}: {_chosen(result)}")


def _row(tried: Mapping[str, Any]) -> list[str]:
    size, built = f"{tried['bytes_a_row']:g}", f"{tried['build_seconds']:.1f} s"
    if "because" in tried:
        return [tried["kind"], "not reached", "", "", "", "", size, built]
    effort, ratio = f"{tried['effort']}", f"{tried['ratio']:g}"
    return [
        *(tried["kind"], f"{tried['measured_recall']:.3f}", effort, ratio),
        *(*_times(tried["microseconds"]), size, built),
    ]


def _times(microseconds: Mapping[str, float]) -> list[str]:
    return [f"{value:,.0f} µs" for value in microseconds.values()]


def _chosen(result: Mapping[str, Any]) -> str:
    if result["kind"] == "exact":
        return f"exact search ({result.get('because', 'nothing that was tried is faster')})"
    single = next(iter(result["microseconds"]))
    times = result["exact_microseconds"][single] / result["microseconds"][single]
    return (
        f"{result['kind']}, recall {result['measured_recall']:.3f} of held-out queries, "
        f"{result['bytes_a_row']:g} bytes a passage in memory, {times:.1f} times as fast as exact search"
    )

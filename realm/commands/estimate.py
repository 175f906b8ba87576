"""``realm estimate``: disk, memory and time before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realm.commands.docs import JSON, print_json
from realm.errors import UsageError


def estimate(
    passages: Annotated[int | None, typer.Option(min=1, help="How many passages.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings, e.g. realm.steps=500.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="The settings to start from.")] = "small",
    encoder: Annotated[str | None, typer.Option(help="The model to start from; same as model=NAME.")] = None,
    index: Annotated[
        str, typer.Option(help="exact, bf16, int8, ivf-pq, ivf-rabitq, ivf-sq, hnsw-sq, hnsw or lance.")
    ] = "exact",
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            help="Hardware by name, computed beside this machine: h200, a100-80g, cpu-16, ... May be repeated."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Machines, or devices of that hardware, that share it.")] = 1,
    from_kb: Annotated[Path | None, typer.Option(help="Take the lengths of passages from this knowledge base.")] = None,
    sample: Annotated[
        str | None, typer.Option(help="Take the lengths of passages from these documents; the first are read.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="For 13.35M, 100M and 1B passages, as Markdown, instead.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Disk, memory and time, before any work, here and elsewhere.

    Measured on this machine in some seconds; what --hardware names is computed from published rates.
    """
    from realm.recipes import build
    from realm.workflows.estimating.estimate import estimate as work

    if table:
        from realm.workflows.estimating.scale import scale

        typer.echo(scale())
        return
    if passages is None:
        raise UsageError("found no --passages: expected their number, or --table")
    config = build(recipe, [*([f"model={encoder}"] if encoder else []), *(settings or [])])
    text = _text(from_kb, sample, config)
    result = work(passages, config, text=text, index=index, hardware=hardware or [], workers=workers)
    if as_json:
        print_json(result)
        return
    from realm.console import table as show

    columns, rows = result["columns"], result["rows"]
    show(f"{passages:,} passages, lengths {result['assumed']['lengths']}", columns, rows, text=(0, len(columns) - 1))
    for name, told in result["hardware"].items():
        typer.echo(f"{name}, computed and not measured: {told['source']}; shares {told['shares']['source']}")


def _text(from_kb: Path | None, sample: str | None, config: Any) -> Any:
    """Documents like those to come; None where none are given."""
    if from_kb is not None and sample is not None:
        raise UsageError("found --from-kb and --sample: expected one of them")
    if from_kb is None and sample is None:
        return None
    from realm.knowledge.text.passages import SentenceSplitter
    from realm.workflows.estimating import texts
    from realm.workflows.estimating.shapes import local_shape

    place = local_shape(config.encoder.model)[1]
    tokenizer = texts.tokenizer_at(place, None if from_kb is None else from_kb / "tokenizer")
    if from_kb is not None:
        return texts.of_knowledge_base(from_kb, tokenizer)
    return texts.of_file(str(sample), SentenceSplitter(tokenizer, config.data.max_passage_tokens))

"""``realm finetune``: the verb that learns from questions and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realm.cli_docs import JSON, print_json
from realm.errors import UsageError


def finetune(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN] [NAME=VALUE]...", help="A run to go on with, or settings.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The start: a run, its warm-start (ORQA), a model, or any encoder by name."),
    ] = None,
    kb: Annotated[Path | None, typer.Option("--kb", help="The knowledge base; with RUN, where it lies now.")] = None,
    qa: Annotated[Path | None, typer.Option("--qa", help="Questions with their answers.")] = None,
    dev: Annotated[
        Path | None, typer.Option("--dev", help="Questions that choose the best checkpoint; else some of --qa.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; an existing one goes on.")] = None,
    recipe: Annotated[str, typer.Option(help="The settings to start from: small or orqa.")] = "small",
    licence: Annotated[str, typer.Option(help="What the model card says of the licence.")] = "",
    as_json: JSON = False,
) -> None:
    """Fine-tune retriever and reader on questions and answers."""
    from realm.console import Terminal, finish_step_on_interrupt
    from realm.workflows.finetune import finetune as work
    from realm.workflows.finetune import resume

    given = settings or []
    terminal = Terminal(quiet=as_json)
    with finish_step_on_interrupt(terminal) as should_stop:
        if given and "=" not in given[0]:
            if out or model or qa or dev or given[1:]:
                raise UsageError("a run goes on with its own settings: give RUN alone, or all options for a new run")
            result = resume(Path(given[0]), kb=kb, reporter=terminal, should_stop=should_stop)
        else:
            if model is None or kb is None or qa is None or out is None:
                raise UsageError(
                    "found no --model, --kb, --qa or --out: expected all four for a new run, or RUN alone to go on"
                )
            from realm.recipes.finetuning import build_finetuning

            result = work(
                model,
                kb,
                out,
                build_finetuning(recipe, given),
                questions=qa,
                dev=dev,
                licence=licence,
                reporter=terminal,
                should_stop=should_stop,
            )
    print_json(result) if as_json else _print_curve(result)


def _print_curve(result: dict[str, Any]) -> None:
    from realm.console import table

    curve = result["curve"]
    names = [name for name in curve[-1] if name not in ("step", "questions", "seconds")]
    rows = [[f"{point['step']:,}", *(f"{point[name]:.1%}" for name in names)] for point in curve]
    table(f"{curve[-1].get('questions', 0):,} dev questions", ["step", *names], rows)
    typer.echo(f"the best, of step {result['best_step']:,}: {result['model']}")

"""``realm questions``: questions made from a knowledge base, for a person to read and mend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realm.commands.docs import JSON, file_place, print_json


def questions(
    kb: Annotated[Path, typer.Option("--kb", help="The knowledge base.")],
    out: Annotated[
        Path, typer.Option(help="The questions file; FILE.about.json says what made it.", callback=file_place)
    ],
    model: Annotated[
        str,
        typer.Option("--model", help="What checks them: a run, a fine-tuned model, or any start of realm finetune."),
    ] = "vital-small",
    number: Annotated[int | None, typer.Option("-n", "--number", min=1, help="Questions; same as count=N.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings, e.g. answers=names top=5.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Print so many of them.")] = 10,
    as_json: JSON = False,
) -> None:
    """Make questions from a knowledge base's own names and dates.

    And phrases; each with its answer and the passage it comes from.
    """
    from realm.config import override
    from realm.console import Terminal, finish_step_on_interrupt
    from realm.settings_corpus import CorpusQuestionsConfig
    from realm.workflows.questions.make import make_questions, read_made

    given = [*(settings or []), *([f"count={number}"] if number else [])]
    terminal = Terminal(quiet=as_json)
    with finish_step_on_interrupt(terminal) as should_stop:
        config = override(CorpusQuestionsConfig(), given)
        told = make_questions(model, kb, out, config, reporter=terminal, should_stop=should_stop)
    if as_json:
        print_json(told)
        return
    typer.echo(f"{told['questions']:,} questions: {out}")
    for made in read_made(out, show):
        typer.echo(f"  {made['question']}  {made['answers'][0]}")

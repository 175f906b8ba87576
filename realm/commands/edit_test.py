"""``realm edit-test``: edit documents, ask again, and tell how often the answer follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realm.commands.docs import JSON, KB, folder_place, print_json


def edit_test(
    model: Annotated[Path, typer.Option("--model", help="What `realm finetune` wrote.")],
    kb: KB,
    qa: Annotated[Path, typer.Option("--qa", help="Questions with their answers.")],
    out: Annotated[
        Path, typer.Option(help="The report's folder; one that was stopped goes on.", callback=folder_place)
    ],
    edits: Annotated[int, typer.Option(min=1, help="So many facts.")] = 500,
    seed: Annotated[int, typer.Option(help="Which facts, and what takes the answers' places.")] = 0,
    k: Annotated[int, typer.Option(min=1, help="Passages to read.")] = 5,
    only: Annotated[
        str, typer.Option(help="right (facts answered rightly before), held (wrongly, though read) or both.")
    ] = "both",
    tagger: Annotated[
        str, typer.Option(help="Finds the types of answers: a spaCy pipeline, or pattern.")
    ] = "en_core_web_sm",
    raw: Annotated[bool, typer.Option("--raw", help="As the model was before it was calibrated.")] = False,
    show: Annotated[int, typer.Option(min=0, help="Print so many edits.")] = 3,
    as_json: JSON = False,
) -> None:
    """Edit documents in a copy and ask again: does it follow?

    Answers are replaced and asked for before and after, without training.
    """
    from realm.console import Terminal, table
    from realm.evaluation.edit_verdicts import table_rows, tell
    from realm.workflows.editing.edit_test import edit_test as work
    from realm.workflows.editing.edit_test import read_edits

    report = work(
        model,
        kb,
        qa,
        out,
        edits=edits,
        seed=seed,
        k=k,
        only=only,
        tagger=tagger,
        raw=raw,
        reporter=Terminal(quiet=as_json),
    )
    if as_json:
        print_json(report)
        return
    columns, rows = table_rows(report["figures"])
    table(f"{report['figures']['all']['edits']:,} edits: {out}", columns, rows)
    for edit in read_edits(out)[:show]:
        typer.echo(f"\n{tell(edit)}")

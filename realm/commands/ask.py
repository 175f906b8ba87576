"""``realm ask``: one question or a file of them, from a knowledge base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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
from realm.commands.docs import AS_OF, BF16, DEFAULT_MODEL, JSON, KB, MODEL, WHERE, print_json
from realm.errors import UsageError


def ask(
    kb: KB,
    model: MODEL = DEFAULT_MODEL,
    question: Annotated[
        str | None,
        typer.Argument(
            help='A sentence with a blank ("Guernica was painted by [MASK]."), or, of a fine-tuned model, a question.'
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="Many: a line each (.txt), lines of JSON with question, or any file of questions."),
    ] = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="Passages to read; as in fine-tuning by default, else 5.")
    ] = None,
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
    aggregate: Annotated[
        str | None,
        typer.Option(help="marginal: an answer's probability over all its places; best-span: of the best one."),
    ] = None,
    conflict_ratio: Annotated[
        float | None,
        typer.Option(help="Passages disagree where another answer has this share of the mass of the one given."),
    ] = None,
    early_exit: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            metavar="SHARE",
            help="Of a fine-tuned model: read no further once this share of the probability is read, as 0.99.",
        ),
    ] = None,
    bf16: BF16 = None,
    batch: Annotated[int, typer.Option(min=1, help="With --questions: so many at a time.")] = 64,
    as_json: JSON = False,
) -> None:
    """Answer a question, or fill a blank, with the evidence.

    It shows what the answer rests on, and which passages disagree.
    """
    from realm.answering.conflicts import ConflictRule
    from realm.answering.constraints import constraints_of
    from realm.answering.early import EarlyExit
    from realm.console import Terminal, print_answer
    from realm.workflows.ask import ask_question, ask_questions
    from realm.workflows.values import answer_json

    if (question is None) == (questions is None):
        raise UsageError("found no question, or one and --questions: expected a question, or a file of them")
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
    rule = None if conflict_ratio is None else ConflictRule(ratio=conflict_ratio)
    common: dict[str, Any] = {"model": model, "k": k, "where": where, "as_of": as_of, "aggregate": aggregate}
    common |= {"conflicts": rule, "constraints": constraints, "bf16": bf16}
    common |= {"early_exit": None if early_exit is None else EarlyExit(early_exit), "reporter": Terminal(quiet=as_json)}
    if question is not None:
        answer = ask_question(question, kb, **common)
        print_json(answer_json(answer)) if as_json else print_answer(answer)
        return
    assert questions is not None
    for asked, answer in ask_questions(questions, kb, batch=batch, **common):
        if as_json:  # a line each, as they come
            typer.echo(json.dumps({"id": asked.id, **answer_json(answer)}, ensure_ascii=False, allow_nan=False))
        else:
            print_answer(answer)

"""``realm compare`` and ``realm ablate``: systems, and parts of one, side by side on the same questions and budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from realm.commands.docs import JSON, folder_place, print_json
from realm.errors import UsageError

TEST = Annotated[list[str], typer.Option("--test", metavar="NAME=FILE", help="Questions to judge on. May be repeated.")]
SEEDS = Annotated[str, typer.Option(help="Seeds, with commas.")]
LIMIT = Annotated[int, typer.Option(min=0, help="Of each test set so many questions, spread evenly; 0 for all.")]


def compare(
    kb: Annotated[Path, typer.Option("--kb", help="The knowledge base.")],
    train: Annotated[Path, typer.Option("--train", help="Questions that every system learns from.")],
    test: TEST,
    out: Annotated[Path, typer.Option(help="Where everything goes; the same folder goes on.", callback=folder_place)],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings of every fine-tuning.")
    ] = None,
    systems: Annotated[str, typer.Option(help="Names, with commas.")] = "closed-book,bm25,orqa,realm",
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--start", metavar="SYSTEM=MODEL", help="What a system starts from; {seed} is the seed. May be repeated."
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run", metavar="NAME=RUN", help="A fine-tuning run from elsewhere, judged as it is; {seed} as above."
        ),
    ] = None,
    seeds: SEEDS = "0",
    dev: Annotated[
        Path | None, typer.Option("--dev", help="Questions that choose the best checkpoints; else some of --train.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="The settings to start from: small, base or orqa.")] = "small",
    k: Annotated[int | None, typer.Option(min=1, help="Passages to read; as in training by default.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Passages that recall is judged over.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Questions that are asked together.")] = 16,
    limit: LIMIT = 0,
    as_json: JSON = False,
) -> None:
    """Train and judge systems alike, with paired differences.

    Closed book, BM25 and a reader, ORQA, REALM: the same text, questions, budget and judge; intervals over seeds.
    """
    from realm.console import Terminal, finish_step_on_interrupt
    from realm.recipes.finetuning import build_finetuning
    from realm.workflows.comparing.compare import compare_systems
    from realm.workflows.comparing.legs import Judging
    from realm.workflows.comparing.tables import as_text

    terminal = Terminal(quiet=as_json)
    with finish_step_on_interrupt(terminal) as should_stop:
        result = compare_systems(
            kb,
            train,
            {name: Path(path) for name, path in pairs("--test", test).items()},
            [name.strip() for name in systems.split(",") if name.strip()],
            out,
            build_finetuning(recipe, settings or []),
            starts=pairs("--start", start or []),
            runs=pairs("--run", run or []),
            seeds=numbers(seeds),
            dev=dev,
            judging=Judging(k=k, depth=depth, batch_size=batch),
            limit=limit,
            reporter=terminal,
            should_stop=should_stop,
        )
    print_json(result) if as_json else typer.echo(as_text(result))


def ablate(
    kb: Annotated[Path, typer.Option("--kb", help="The knowledge base: pre-trained on, and searched.")],
    train: Annotated[Path, typer.Option("--train", help="Questions that every row is fine-tuned on.")],
    test: TEST,
    out: Annotated[Path, typer.Option(help="Where everything goes; the same folder goes on.", callback=folder_place)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...", help="Settings of both trainings; pretrain:NAME=VALUE or finetune:... of one."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of pre-training; qa.steps are fine-tuning's.")] = None,
    seeds: SEEDS = "0",
    rows: Annotated[str, typer.Option(help="Rows of the table, with commas; all by default.")] = "",
    dev: Annotated[
        Path | None, typer.Option("--dev", help="Questions that choose the best checkpoints; else some of --train.")
    ] = None,
    limit: LIMIT = 0,
    as_json: JSON = False,
) -> None:
    """The paper's table 2 at your budget, published and measured.

    What each part of REALM is worth (Guu et al. 2020).
    """
    from realm.console import Terminal, finish_step_on_interrupt
    from realm.recipes.ablation import build_ablation
    from realm.workflows.comparing.ablate import ROWS
    from realm.workflows.comparing.ablate import ablate as work
    from realm.workflows.comparing.ablate_tables import as_text

    terminal = Terminal(quiet=as_json)
    pretraining, finetuning = build_ablation(settings or [], steps)
    with finish_step_on_interrupt(terminal) as should_stop:
        result = work(
            kb,
            train,
            {name: Path(path) for name, path in pairs("--test", test).items()},
            out,
            pretraining,
            finetuning,
            seeds=numbers(seeds),
            rows=[name.strip() for name in rows.split(",") if name.strip()] or list(ROWS),
            dev=dev,
            limit=limit,
            reporter=terminal,
            should_stop=should_stop,
        )
    print_json(result) if as_json else typer.echo(as_text(result))


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` of an option that may be repeated."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise UsageError(f"found {option} {text!r}: expected NAME=VALUE")
        if name.strip() in found:
            raise UsageError(f"found {option} {name.strip()}=... twice: expected each name once")
        found[name.strip()] = value.strip()
    return found


def numbers(text: str) -> list[int]:
    """Seeds with commas between them."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"found seeds {text!r}: expected whole numbers with commas, such as 0,1,2") from None

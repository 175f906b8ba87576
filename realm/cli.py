"""The command line: parse, call one function, show what it returns.

Heavy imports stand inside the commands, so that ``realm --help`` answers at once. Exit codes: 0 done, 1 the
work failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from realm.addresses import as_given
from realm.commands.ask import ask
from realm.commands.compare import ablate, compare
from realm.commands.docs import JSON, KB, docs, file_place, folder_place, print_json
from realm.commands.edit_test import edit_test
from realm.commands.estimate import estimate
from realm.commands.index import index
from realm.commands.mcp import mcp
from realm.commands.qa import calibrate, evaluate, finetune
from realm.commands.questions import questions
from realm.commands.search import search
from realm.commands.serve import serve
from realm.errors import RealmError, UsageError
from realm.files import disk_is_full, place_refused

ORDER = (
    *("ingest", "docs", "pretrain", "finetune", "questions", "ask", "search", "index", "serve", "mcp"),
    *("evaluate", "calibrate", "compare", "ablate", "edit-test", "show", "export", "estimate", "demo"),
)
"""The verbs as a user meets them."""


class Verbs(TyperGroup):
    """The command line's verbs, listed in `ORDER`; those that it doesn't name come last."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = list(self.commands)
        return [*(name for name in ORDER if name in names), *(name for name in names if name not in ORDER)]


app = typer.Typer(
    cls=Verbs,
    help="Learn to retrieve and to read together, from raw text; answer with evidence; follow every edit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(docs, name="docs")
app.command()(ask)
app.command()(search)
app.command()(index)
app.command()(finetune)
app.command()(evaluate)
app.command()(calibrate)
app.command()(questions)
app.command()(compare)
app.command()(ablate)
app.command("edit-test")(edit_test)
app.command()(estimate)
app.command()(serve)
app.command()(mcp)
INTERRUPTED = 130
"""Exit code of an interrupt, as shells have it: 128 + SIGINT."""

SETTINGS = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings, e.g. realm.steps=500.")
]


@app.command()
def demo(
    settings: SETTINGS = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train here (some minutes) instead of opening a trained model.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Train on a slice, in under 90 seconds.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where everything goes; the same folder goes on.", callback=folder_place)
    ] = None,
    kb: Annotated[
        Path | None, typer.Option("--kb", help="Your own knowledge base instead of the vital articles.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """The whole story on real text: fill blanks, edit, ask again.

    With a model that was trained before; --from-scratch trains one here.
    """
    from realm.console import Terminal, finish_step_on_interrupt, print_part
    from realm.workflows.demo import run_demo

    terminal = Terminal(quiet=as_json)
    with finish_step_on_interrupt(terminal) as should_stop:
        result = run_demo(
            out or Path("realm-demo-quick" if quick else "realm-demo"),
            quick=quick,
            from_scratch=from_scratch,
            kb=kb,
            settings=settings or [],
            reporter=terminal,
            should_stop=should_stop,
            show=None if as_json else print_part,
        )
    if as_json:
        print_json(result)


@app.command()
def ingest(
    sources: Annotated[list[str], typer.Argument(help="Folders, files, or the names of data sets.")],
    kb: KB,
    format: Annotated[str | None, typer.Option(help="The format, where it can't be told from the file.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="How to read: fields.text=abstract, split=train, ... May be repeated."),
    ] = None,
    on_error: Annotated[str, typer.Option(help="What a malformed record does: skip or refuse.")] = "skip",
    passages: Annotated[
        str, typer.Option(help="sentences (whole sentences, packed) or words (100 words, as DPR).")
    ] = "sentences",
    max_tokens: Annotated[int, typer.Option(help="Word pieces of a passage, title and specials counted.")] = 288,
    tokenizer: Annotated[
        str, typer.Option(help="Counts the word pieces: a catalogue name, a folder or a hub id.")
    ] = "all-MiniLM-L6-v2",
    sync: Annotated[
        bool,
        typer.Option(
            "--sync", help="Keep in step: also delete what vanished; files that did not change aren't parsed."
        ),
    ] = False,
    allow_empty: Annotated[
        bool,
        typer.Option("--allow-empty", help="With --sync: a source that is missing or empty deletes its documents."),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Read documents into a knowledge base; again, only what changed.

    Any supported format; what is malformed is counted and told.
    """
    from realm.console import Terminal
    from realm.workflows.ingest import ingest_sources

    result = ingest_sources(
        sources,
        kb,
        format=format,
        options=option or [],
        on_error=on_error,
        passages=passages,
        max_tokens=max_tokens,
        tokenizer=tokenizer,
        keep_in_step=sync,
        allow_empty=allow_empty,
        reporter=Terminal(quiet=as_json),
    )
    if as_json:
        print_json(result)
    else:
        gone = f"{result['deleted']:,} deleted, " if sync else ""
        by_hand = f" ({result['edited']:,} edited here and left so)" if result.get("edited") else ""
        typer.echo(
            f"{as_given(kb)}: {result['added']:,} added, {result['updated']:,} updated, {gone}"
            f"{result['unchanged']:,} unchanged{by_hand}, {result['skipped']:,} records skipped; now "
            f"{result['documents']:,} documents in {result['passages']:,} passages, version {result['version']}"
        )
        for problem in result["problems"]:
            typer.echo(f"  {problem}", err=True)


@app.command()
def pretrain(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN] [NAME=VALUE]...", help="A run to go on with, or settings.")
    ] = None,
    kb: Annotated[
        Path | None, typer.Option("--kb", help="The knowledge base that is searched (Z); with RUN, where it lies now.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; an existing one goes on.", callback=folder_place)
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Another knowledge base to mask (X); Z itself by default.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="The settings to start from.")] = "small",
    as_json: JSON = False,
) -> None:
    """Train a retriever and a reader together, from raw text alone.

    Retrieval-augmented pre-training: REALM, Guu et al. 2020. Under torchrun several processes train one model.
    """
    from realm.console import Terminal, finish_step_on_interrupt, print_comparison
    from realm.training.launch import joined
    from realm.workflows.pretraining.pretrain import pretrain as work
    from realm.workflows.pretraining.pretrain import resume

    given = settings or []
    with joined() as ranks:
        terminal = Terminal(quiet=as_json or not ranks.first)
        with finish_step_on_interrupt(terminal, passed_on=ranks.size > 1) as should_stop:
            common: dict[str, Any] = {"reporter": terminal, "should_stop": should_stop, "ranks": ranks}
            if given and "=" not in given[0]:
                if out or corpus or given[1:]:
                    raise UsageError(
                        "a run goes on with its own settings: give RUN alone, or --kb and --out for a new run"
                    )
                result = resume(Path(given[0]), kb=kb, **common)
            else:
                if kb is None or out is None:
                    raise UsageError("found no --kb or no --out: expected both for a new run, or RUN alone to go on")
                from realm.recipes import build

                result = work(kb, out, build(recipe, given), corpus=corpus, **common)
    if ranks.first:
        print_json(result) if as_json else print_comparison(result)


@app.command()
def show(
    path: Path,
    examples: Annotated[
        bool,
        typer.Option("--examples", help="Of a run: a page of held-out sentences, their passages before and after."),
    ] = False,
    kb: Annotated[
        Path | None, typer.Option("--kb", help="With --examples: where the run's knowledge base lies now.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Say what an artefact is, and what it was made from.

    A knowledge base, snapshot, run, checkpoint, index, model, report.
    """
    if examples:
        _show_examples(path, kb, as_json)
        return
    if kb is not None:
        raise UsageError("found --kb without --examples: an artefact is described from its own folder alone")
    from realm.workflows.showing.show import describe

    facts = describe(path)
    if as_json:
        print_json(facts)
    else:
        from realm.console import print_facts

        print_facts(facts)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run of pre-training or fine-tuning.")],
    out: Annotated[
        Path,
        typer.Option(help="A new folder; or a file NAME.safetensors, packed small (int8, bf16).", callback=file_place),
    ],
    licence: Annotated[str, typer.Option(help="For the model card.")] = "",
    data: Annotated[str, typer.Option(help="For the model card: what it learnt from.")] = "",
    base: Annotated[
        str | None,
        typer.Option(help="Packed: leave out what training left of this model or encoder, which others have by name."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Write what a run learnt as a model to give away.

    A folder, or one small file; with a model card.
    """
    from realm.workflows.export import export as work
    from realm.workflows.showing.artefacts import size_text

    result = work(run, out, licence=licence, data=data, base=base)
    print_json(result) if as_json else typer.echo(f"{result['path']}: {size_text(result['bytes'])}")


# ---------------------------------------------------------------- showing


def _show_examples(path: Path, kb: Path | None, as_json: bool) -> None:
    from realm.console import Terminal
    from realm.workflows.pretraining.examples import collect_examples, summary, write_page

    result = collect_examples(path, kb=kb, reporter=Terminal(quiet=as_json))
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{summary(result)}\nthe page: {write_page(result)}")


def main() -> None:
    """Entry point: errors of ours become one line and an exit code; ``--debug`` shows the trace."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or os.environ.get("REALM_DEBUG") == "1"
    try:
        code = app([a for a in arguments if a != "--debug"], standalone_mode=False)
        if code == INTERRUPTED:  # newer versions of typer turn the interrupt into a return value
            raise KeyboardInterrupt
    except RealmError as error:
        if debug:
            raise
        typer.echo(f"realm: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except ModuleNotFoundError as error:
        if debug or str(error.name).startswith("realm"):
            raise
        typer.echo(f"realm: the library {error.name!r} is not installed: run pip install realm-lm again", err=True)
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            _usage(error)
        if debug:
            raise
        if disk_is_full(error):
            typer.echo(
                f"realm: the disk is full ({' '.join(str(error).split())}): free some space and run the same command "
                "again; nothing finished was lost",
                err=True,
            )
            sys.exit(1)
        if place_refused(error):
            found = f"{getattr(error, 'filename', None)} ({getattr(error, 'strerror', error)})"
            typer.echo(f"realm: can't use {found}: expected a place to read and write; give another", err=True)
            sys.exit(1)
        typer.echo(
            f"realm: {type(error).__name__}: {' '.join(str(error).split())} "
            "(this is a defect; --debug shows the trace)",
            err=True,
        )
        sys.exit(1)


def _interrupted() -> NoReturn:
    typer.echo("realm: interrupted; the same command goes on from the last checkpoint", err=True)
    sys.exit(INTERRUPTED)


def _usage(error: Any) -> None:
    if type(error).__name__ == "Abort":
        _interrupted()
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if message:  # no arguments at all: the message is the whole help
        typer.echo(message if type(error).__name__ == "NoArgsIsHelpError" else f"realm: {message}", err=True)
    sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()

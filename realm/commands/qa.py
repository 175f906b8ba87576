"""``realm finetune`` and ``realm evaluate``: the verbs of questions with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realm.commands.docs import JSON, folder_place, print_json
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
    from_corpus: Annotated[
        bool,
        typer.Option("--from-corpus", help="No labels: make the questions from the knowledge base; corpus.count=N."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; an existing one goes on.", callback=folder_place)
    ] = None,
    recipe: Annotated[str, typer.Option(help="The settings to start from: small, base or orqa.")] = "small",
    licence: Annotated[str, typer.Option(help="What the model card says of the licence.")] = "",
    as_json: JSON = False,
) -> None:
    """Fine-tune retriever and reader on questions and answers."""
    from realm.console import Terminal, finish_step_on_interrupt
    from realm.training.launch import joined
    from realm.workflows.finetuning.finetune import finetune as work
    from realm.workflows.finetuning.finetune import resume

    given = settings or []
    with joined() as ranks:
        terminal = Terminal(quiet=as_json or not ranks.first)
        with finish_step_on_interrupt(terminal, passed_on=ranks.size > 1) as should_stop:
            watched: dict[str, Any] = {"reporter": terminal, "should_stop": should_stop, "ranks": ranks}
            if given and "=" not in given[0]:
                if out or model or qa or dev or from_corpus or given[1:]:
                    raise UsageError(
                        "a run goes on with its own settings: give RUN alone, or all options for a new run"
                    )
                result = resume(Path(given[0]), kb=kb, **watched)
            else:
                if model is None or kb is None or (qa is None and not from_corpus) or out is None:
                    asked = {"--model": model, "--kb": kb, "--qa": qa or from_corpus or None, "--out": out}
                    missing = ", ".join(name for name, value in asked.items() if value is None)
                    raise UsageError(
                        f"found no {missing}: expected --model, --kb, --qa and --out for a new run (--from-corpus for "
                        "--qa, where there are no questions), or RUN alone to go on"
                    )
                from realm.recipes.finetuning import build_finetuning

                own, of_corpus = corpus_settings(given)
                config = build_finetuning(recipe, own)
                common: dict[str, Any] = {"dev": dev, "licence": licence, **watched}
                if from_corpus:
                    from realm.config import override
                    from realm.settings_corpus import CorpusQuestionsConfig
                    from realm.workflows.finetuning.from_corpus import finetune_from_corpus

                    if qa is not None:
                        raise UsageError("found --qa and --from-corpus: expected one of them; leave one out")
                    made = override(CorpusQuestionsConfig(), of_corpus)
                    result = finetune_from_corpus(model, kb, out, config, made, **common)
                else:
                    if of_corpus:
                        raise UsageError(f"found corpus.{of_corpus[0]} without --from-corpus: expected both or neither")
                    assert qa is not None
                    result = work(model, kb, out, config, questions=qa, **common)
    if ranks.first:
        print_json(result) if as_json else _print_curve(result)


def corpus_settings(given: list[str]) -> tuple[list[str], list[str]]:
    """The settings of fine-tuning, and those of making questions without their ``corpus.`` before."""
    mine = [setting for setting in given if setting.startswith("corpus.")]
    return [setting for setting in given if setting not in mine], [setting.removeprefix("corpus.") for setting in mine]


def evaluate(
    model: Annotated[
        Path | None, typer.Option("--model", help="A run or a model; with --suite and without one, BM25.")
    ] = None,
    kb: Annotated[
        Path | None, typer.Option("--kb", help="The knowledge base. Default, without --suite: that of the run.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Questions: nq, webq, trec, squad, trivia or entity with --benchmark, or a file."),
    ] = None,
    benchmark: Annotated[Path | None, typer.Option(help="The folder of the standing benchmark.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --suite: the report's folder.", callback=folder_place)] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Passages to read; as in training by default.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Passages that recall is judged over.")] = 100,
    limit: Annotated[int, typer.Option(min=0, help="So many questions, spread evenly; 0 for all.")] = 0,
    as_json: JSON = False,
) -> None:
    """Judge a model on questions, or a run on its held-out probe.

    Questions with known answers are named by --suite; without it, a run of pre-training is judged.
    """
    from realm.console import Terminal, print_comparison, table

    terminal = Terminal(quiet=as_json)
    if suite is None:
        from realm.workflows.pretraining.pretrain import evaluate_run

        if model is None:
            raise UsageError("found no --model: expected a run to judge on its probe, or --suite with questions")
        result = evaluate_run(model, kb=kb, reporter=terminal)
        print_json(result) if as_json else print_comparison(result)
        return
    if kb is None or out is None:
        raise UsageError("found --suite without --kb or --out: expected the knowledge base and a folder for the report")
    from realm.workflows.judging.answers import judge_answers

    report = judge_answers(
        suite, kb, out, model=model, benchmark=benchmark, k=k, depth=depth, limit=limit, reporter=terminal
    )
    if as_json:
        print_json(report)
    else:
        figures = report["figures"]
        rows = [[name, *(f"{part[name]:.4g}" if name in part else "–" for part in figures.values())]
                for name in figures["all"]]  # fmt: skip
        table(f"{suite}: {out}", ["", *figures], rows)


def calibrate(
    model: Annotated[Path, typer.Option("--model", help="What `realm finetune` wrote.")],
    kb: Annotated[Path, typer.Option("--kb", help="The knowledge base.")],
    suite: Annotated[str, typer.Option(help="Questions it did not learn from, as for evaluate --suite.")],
    benchmark: Annotated[Path | None, typer.Option(help="The folder of the standing benchmark.")] = None,
    unanswerable: Annotated[
        list[Path] | None,
        typer.Option(help="A file whose questions without an answer are asked, too. May be repeated."),
    ] = None,
    remove_passages: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Ask this share again, the passages that answer it passed over."),
    ] = 0.0,
    accuracy: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Abstain where fewer answers than this share are right.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, help="Answer this share of the questions.")
    ] = None,
    abstain_ratio: Annotated[
        float,
        typer.Option(
            min=1.0, help="Abstain from unanswerable questions at least so many times as often as from others."
        ),
    ] = 1.0,
    k: Annotated[int | None, typer.Option(min=1, help="Passages to read; as in training by default.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="So many questions, spread evenly; 0 for all.")] = 0,
    as_json: JSON = False,
) -> None:
    """Make a model's confidence mean something; let it abstain.

    One half of the questions is fitted on, the other judges the fit.
    """
    from realm.console import Terminal, table
    from realm.workflows.judging.calibrate import calibrate_answers

    terminal = Terminal(quiet=as_json)
    result = calibrate_answers(
        model,
        suite,
        kb,
        unanswerable=unanswerable or (),
        remove_passages=remove_passages,
        accuracy=accuracy,
        coverage=coverage,
        abstain_ratio=abstain_ratio,
        benchmark=benchmark,
        k=k,
        limit=limit,
        reporter=terminal,
    )
    if as_json:
        print_json(result)
        return
    before, after = result["before"], result["after"]
    rows = [[name, f"{before[name]:.3f}" if name in before else "–", f"{value:.3f}"] for name, value in after.items()]
    table(f"{result['questions']['judged']:,} questions that nothing was fitted on", ["", "before", "after"], rows)
    typer.echo(f"the plots: {result['page']}")


def _print_curve(result: dict[str, Any]) -> None:
    from realm.console import table

    curve = result["curve"]
    names = [name for name in curve[-1] if name not in ("step", "questions", "seconds")]
    rows = [[f"{point['step']:,}", *(f"{point[name]:.1%}" for name in names)] for point in curve]
    table(f"{curve[-1].get('questions', 0):,} dev questions", ["step", *names], rows)
    typer.echo(f"the best, of step {result['best_step']:,}: {result['model']}")

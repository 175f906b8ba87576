"""Raw text in, a retriever and a reader that learnt together out (Guu et al. 2020, section 3).

    snapshot and salient spans -> encoder -> inverse cloze task -> index -> REALM with refresh -> evaluation

Each stage leaves an artefact in the run folder and is skipped when it is there, so the same command goes on from
wherever it was stopped.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from realm.addresses import address_or_path, as_given
from realm.config import PretrainConfig
from realm.errors import ArtefactError, UsageError
from realm.training.launch import one_process
from realm.training.metrics import Metrics
from realm.training.ranks import Ranks
from realm.training.state import read_facts
from realm.workflows import parts
from realm.workflows.parts import Text
from realm.workflows.pretraining.comparison import bm25_report, compare, evaluate_index, evaluate_model, save_report
from realm.workflows.pretraining.stages import pretrain_jointly, warm_start
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.run import Run
from realm.workflows.store import open_knowledge_base
from realm.workflows.workbench import Stop, Workbench, threads

BM25_PASSAGES = 200_000
"""Beyond so many the comparison leaves BM25 out: it holds the whole corpus in memory, which training does not."""


def pretrain(
    kb_path: Path,
    out: Path,
    config: PretrainConfig,
    *,
    corpus: Path | None = None,
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Pre-train on a knowledge base; with `corpus`, mask the text of another one (X and Z differ).

    ranks: of `joined`, for several processes that train together: all call this with the same arguments, rank 0 writes.

    Returns the before/after comparison. MismatchError when `out` was begun with other settings or other text;
    ArtefactError when `out` holds something else; DataError when there is nothing to learn from; KeyboardInterrupt
    after `should_stop`, with everything saved.
    """
    reporter = reporter or Silent()
    ranks = ranks or one_process("pre-training by a call without `ranks` (realm.training.launch.joined)")
    run = Run(out)
    with run.alone() if ranks.first else nullcontext(), threads(config.loop.threads):
        corpus = corpus or (Path(config.data.corpus) if config.data.corpus else None)
        with ranks.rank_0_first("the run's text and its folder"):
            searched, masked = _begin(run, Path(kb_path), corpus, config, reporter, ranks)
        pretrain_texts(run, config, searched, masked, reporter, should_stop, ranks)
        return ranks.tell(lambda: compare(run))


def _begin(
    run: Run, kb_path: Path, corpus: Path | None, config: PretrainConfig, reporter: Reporter, ranks: Ranks
) -> tuple[Text, Text]:
    """What is searched and what is masked; the run folder, made or found to be the same one."""
    if not ranks.first and not run.exists:
        raise ArtefactError(
            f"no run {run.path} here, where rank 0 made it: expected a folder that all machines share as --out"
        )
    run.check_place()
    begun = run.facts()["parents"] if run.exists else {}

    def text(place: Path, version: int | None) -> Text:
        kb = open_knowledge_base(place)
        if version is not None:  # later edits don't change what a run stands on
            kb = kb.at(version)
        return parts.prepare_text(kb, config.encoder.model, config.data, reporter)

    searched = masked = text(kb_path, begun.get("knowledge_base_version"))
    if corpus is not None:
        masked = text(corpus, begun.get("corpus_version"))
    # Looked at before anything is written: a run folder that was begun with a wrong start could not go on.
    kept = (run.start / "config.json").exists()
    start = (
        None if config.start is None else run.start if kept else parts.find_start(config, searched.snapshot.tokenizer)
    )
    parents = {
        "knowledge_base": address_or_path(kb_path),
        "knowledge_base_version": searched.snapshot.version,
        "snapshot": searched.snapshot.fingerprint,
        "corpus": address_or_path(corpus) if corpus else None,
        "corpus_version": masked.snapshot.version if corpus else None,
        "corpus_snapshot": masked.snapshot.fingerprint,
        "corpus_spans": masked.spans.fingerprint,
        "start": parts.start_fingerprint(start) if start else None,
    }
    if not ranks.first:
        run.check(config, parents)
        return searched, masked
    run.create_or_resume(config, parents)
    if start is not None and not kept:
        parts.keep_start(start, run.start)
    return searched, masked


def pretrain_texts(
    run: Run,
    config: PretrainConfig,
    searched: Text,
    masked: Text,
    reporter: Reporter,
    should_stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> None:
    """The stages of a run over snapshots that are there already, as on a machine that has no knowledge base."""
    ranks = ranks or one_process("pre-training without `ranks`")
    with Metrics(run.path, tensorboard=config.loop.tensorboard) as metrics:
        bench = Workbench(run, config, searched, masked, metrics, reporter, should_stop, ranks)
        if len(searched.snapshot) > BM25_PASSAGES:
            reporter.note(f"no BM25 beside: more than {BM25_PASSAGES:,} passages")
        elif ranks.first and not run.has_report("bm25"):
            with reporter.stage("BM25 on the probe"):
                save_report(run, "bm25", bm25_report(bench.probe, searched, masked, config))
        warm = warm_start(bench)
        if not bench.has_report("warm-start"):
            _evaluate(bench, "warm-start", warm)
        if config.realm.steps:
            final = pretrain_jointly(bench, warm)
            if not bench.has_report("realm"):
                _evaluate(bench, "realm", final)


def resume(
    out: Path,
    *,
    kb: Path | None = None,
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Go on with a run by its folder alone, in as many processes as there are now.

    kb: where the knowledge base lies now, if it was moved. ranks: see `pretrain`.
    """
    run = Run(out)
    parents = run.facts()["parents"]
    corpus = Path(parents["corpus"]) if parents["corpus"] else None
    kb_path, config = kb or Path(parents["knowledge_base"]), run.config()
    return pretrain(kb_path, out, config, corpus=corpus, reporter=reporter, should_stop=should_stop, ranks=ranks)


def evaluate_run(path: Path, *, kb: Path | None = None, reporter: Reporter | None = None) -> dict[str, Any]:
    """The comparison of a run; what is missing of it is computed.

    kb: where its knowledge base lies now, if it was moved. UsageError when that is another one.
    """
    run = Run(path)
    parents = run.facts()["parents"]
    if kb is not None and not parts.has_snapshot(kb, parents["snapshot"]):
        raise UsageError(
            f"{path} was trained on {parents['knowledge_base']}: its probe can't be judged on {as_given(kb)}; "
            "leave --kb out"
        )
    last = "realm" if run.config().realm.steps else "warm-start"
    return compare(run) if run.has_report(last) else resume(path, kb=kb, reporter=reporter)


def _evaluate(bench: Workbench, name: str, checkpoint: Path) -> None:
    """Embed with a checkpoint's parameters, all ranks together, and let rank 0 judge it on the probe."""
    trained = name == "realm"
    encoder = bench.encoder(checkpoint, training=False)
    step = int(read_facts(checkpoint)["step"]) if trained else 0
    folder = bench.embed(encoder, step)
    method = bench.method(encoder, bench.reader(checkpoint if trained else None).eval(), folder)
    if not trained:
        bench.calibrate_null(method)
    if not bench.ranks.first:
        return
    with bench.reporter.stage(f"evaluate {name}", "parts") as progress:
        index = bench.open_index(folder)
        report = evaluate_index(encoder, index, bench.probe, bench.searched, bench.masked, bench.config)
        report |= evaluate_model(method, bench.probe, bench.masked, bench.config, progress)
    save_report(bench.run, name, report)
    bench.event({"stage": "realm", "kind": "evaluation", "step": step, "name": name, **report["figures"]})

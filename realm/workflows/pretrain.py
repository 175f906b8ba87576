"""Raw text in, a retriever and a reader that learnt together out (Guu et al. 2020, section 3).

    snapshot and salient spans -> encoder -> inverse cloze task -> index -> REALM with refresh -> evaluation

Each stage leaves an artefact in the run folder and is skipped when it is there, so the same command goes on from
wherever it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from realm import files
from realm.config import IctConfig, PretrainConfig, RealmConfig
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.methods.ict import InverseCloze
from realm.methods.realm import RealmPretraining
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.search.embed import embed
from realm.search.exact import ExactIndex
from realm.search.refresh import open_refresh
from realm.search.refresher import Job
from realm.training import parallel
from realm.training.batches import InverseCloze as InverseClozeBatches
from realm.training.batches import MaskedSentences
from realm.training.loop import Hooks, Schedule, train
from realm.training.metrics import Metrics
from realm.training.optim import BertAdam, bert_warmup_steps, parameter_groups
from realm.training.probe import Probe, held_out_rows
from realm.training.state import latest_checkpoint, list_checkpoints, read_facts, restore
from realm.workflows import parts
from realm.workflows.comparison import (
    bm25_report,
    compare,
    evaluate_index,
    evaluate_model,
    live_recall,
    read_report,
    save_report,
)
from realm.workflows.parts import Text
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.run import Run
from realm.workflows.store import open_knowledge_base

Stop = Callable[[], bool]


def pretrain(
    kb_path: Path,
    out: Path,
    config: PretrainConfig,
    *,
    corpus: Path | None = None,
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
) -> dict[str, Any]:
    """Pre-train on a knowledge base; with `corpus`, mask the text of another one (X and Z differ).

    Returns the before/after comparison. MismatchError when `out` was begun with other settings or other text;
    DataError when there is nothing to learn from; KeyboardInterrupt after `should_stop`, with everything saved.
    """
    reporter = reporter or Silent()
    run = Run(out)
    with run.alone(), _threads(config.loop.threads):
        parallel.start(config.loop.device)
        kb = open_knowledge_base(kb_path)
        if run.exists:  # later edits don't change what a run stands on
            kb = kb.at(int(run.facts()["parents"]["knowledge_base_version"]))
        searched = parts.prepare_text(kb, config.encoder.model, config.data, reporter)
        corpus = corpus or (Path(config.data.corpus) if config.data.corpus else None)
        masked = searched
        if corpus is not None:
            masked = parts.prepare_text(open_knowledge_base(corpus), config.encoder.model, config.data, reporter)
        parents = {
            "knowledge_base": str(Path(kb_path).absolute()),
            "knowledge_base_version": kb.version,
            "snapshot": searched.snapshot.fingerprint,
            "corpus": str(corpus.absolute()) if corpus else None,
            "corpus_snapshot": masked.snapshot.fingerprint,
        }
        run.create_or_resume(config, parents)
        return _Pretraining(run, config, searched, masked, reporter, should_stop).work()


def resume(out: Path, *, reporter: Reporter | None = None, should_stop: Stop | None = None) -> dict[str, Any]:
    """Go on with a run by its folder alone."""
    run = Run(out)
    facts = run.facts()
    corpus = facts["parents"].get("corpus")
    return pretrain(
        Path(facts["parents"]["knowledge_base"]),
        out,
        run.config(),
        corpus=Path(corpus) if corpus else None,
        reporter=reporter,
        should_stop=should_stop,
    )


class _Pretraining:
    """The stages of one run."""

    def __init__(
        self,
        run: Run,
        config: PretrainConfig,
        searched: Text,
        masked: Text,
        reporter: Reporter,
        should_stop: Stop | None,
    ) -> None:
        self.run, self.config, self.reporter, self.should_stop = run, config, reporter, should_stop
        self.searched, self.masked = searched, masked
        self.device = parts.choose_device(config.loop.device)
        self.same_corpus = searched.snapshot.fingerprint == masked.snapshot.fingerprint
        data = config.data
        self.held_out = held_out_rows(masked.snapshot, data.held_out_fraction, config.loop.seed)
        self.probe = self._probe()
        self.step = 0

    def work(self) -> dict[str, Any]:
        with Metrics(self.run.path, tensorboard=self.config.loop.tensorboard) as metrics:
            self.metrics = metrics
            warm = self.warm_start()
            if not (self.run.evaluations / "bm25" / "report.json").exists():
                with self.reporter.stage("BM25 on the probe"):
                    save_report(self.run, "bm25", bm25_report(self.probe, self.searched, self.masked, self.config))
            if not (self.run.evaluations / "warm-start" / "report.json").exists():
                self._evaluate("warm-start", warm)
            if self.config.realm.steps:
                final = self.realm(warm)
                if not (self.run.evaluations / "realm" / "report.json").exists():
                    self._evaluate("realm", final)
        return compare(self.run)

    # ------------------------------------------------------------ the inverse cloze task

    def warm_start(self) -> Path:
        """Train the retriever with the inverse cloze task; the folder of its last checkpoint."""
        config, snapshot = self.config, self.searched.snapshot
        found = latest_checkpoint(self.run.warm_start / "checkpoints")
        start = int(read_facts(found)["step"]) if found else 0
        if found and start >= config.ict.steps:
            return found
        with self.reporter.stage("load the encoder") if found is None else nullcontext():
            encoder = (
                DenseEncoder.from_pretrained(found / "encoder", dropout=config.encoder.dropout)
                if found
                else parts.build_encoder(config.encoder, snapshot, config.data.max_passage_tokens, config.loop.seed)
            ).to(self.device)
        method = InverseCloze(encoder, gather=parallel.gather, rank=parallel.rank())
        steps = config.ict.steps
        optimizer = self._optimizer(
            method.parameter_groups(),
            _retriever_rates(config.ict),
        )
        if found:
            restore(found, optimizer)
            self.metrics.rewind("ict", start)
        batches: Any = None
        if steps:
            batches = InverseClozeBatches(
                snapshot,
                batch_size=config.ict.batch_size,
                max_query_tokens=config.data.max_query_tokens,
                max_passage_tokens=config.data.max_passage_tokens,
                removal_probability=config.ict.removal_probability,
                seed=config.loop.seed,
                rank=parallel.rank(),
                world_size=parallel.world_size(),
            )
        with self.reporter.stage("warm start: inverse cloze task", "steps") as progress:
            train(
                method,
                batches,
                optimizer,
                self._schedule(steps),
                stage="ict",
                folder=self.run.warm_start,
                metrics=self.metrics,
                start_step=start,
                autocast=self._autocast,
                hooks=Hooks(on_event=self._events(progress), should_stop=self.should_stop),
            )
        last = latest_checkpoint(self.run.warm_start / "checkpoints")
        assert last is not None
        return last

    # ------------------------------------------------------------ REALM

    def realm(self, warm: Path) -> Path:
        """Train retriever and reader together; the folder of the last checkpoint."""
        config, snapshot = self.config, self.searched.snapshot
        found = latest_checkpoint(self.run.checkpoints)
        facts = read_facts(found) if found else {}
        start = int(facts.get("step", 0))
        if found and start >= config.realm.steps:
            return found
        encoder = DenseEncoder.from_pretrained((found or warm) / "encoder", dropout=config.encoder.dropout).to(
            self.device
        )
        reader = self._reader(found)
        index_folder = self.run.index / f"step-{int(facts.get('index_step', 0)):06d}"
        if not (index_folder / files.MANIFEST).exists():
            index_folder = self._embed(encoder, 0)
        method = self._method(encoder, reader, index_folder)
        if found is None:
            self._calibrate_null(method)
        rates = config.realm
        optimizer = self._optimizer(
            method.parameter_groups(),
            {**_retriever_rates(rates), "reader": rates.reader_learning_rate, "head": rates.head_learning_rate},
        )
        if found:
            restore(found, optimizer)
            self.metrics.rewind("realm", start)
        with self.reporter.stage("find what can be masked", "passages") as progress:
            batches = MaskedSentences(
                self.masked.snapshot,
                self.masked.spans,
                strategy=config.data.masking,
                batch_size=config.realm.batch_size,
                max_query_tokens=config.data.max_query_tokens,
                max_targets=config.data.max_targets,
                seed=config.loop.seed,
                exclude=config.data.exclude,
                duplicates=config.data.exclude_duplicates,
                held_out=self.held_out,
                rank=parallel.rank(),
                world_size=parallel.world_size(),
                same_corpus=self.same_corpus,
                progress=progress,
            )
        refresh = open_refresh(
            config.refresh.mode,
            Job(
                folder=str(self.run.path),
                snapshot=str(snapshot.path),
                opener="realm.workflows.parts:open_for_refresh",
                options={
                    "max_tokens": config.data.max_passage_tokens,
                    "device": config.refresh.device or str(self.device),
                },
                threads=config.refresh.threads,
            ),
            since=start,
            current=int(facts.get("index_step", 0)),
            in_use=self._indexes_in_use,
            on_event=self._refresher_event,
        )
        state = _IndexState(step=int(facts.get("index_step", 0)), since=time.time())

        def before_step(step: int) -> Mapping[str, float]:
            self.step = step
            if step and step % config.refresh.every_steps == 0:
                refresh.publish(step, encoder.save_pretrained)
            fresh = refresh.poll()
            if fresh is not None:
                index = ExactIndex.open(fresh.folder, snapshot=snapshot.fingerprint)
                event = live_recall(encoder, index, self.probe, self.searched, self.masked, config, before=method.index)
                method.index = index
                state.step, state.since = fresh.step, fresh.published_at
                self._event({"stage": "realm", "kind": "refresh", "step": step, "index_step": fresh.step, **event})
            return {"index_age_steps": float(step - state.step), "index_age_seconds": time.time() - state.since}

        with self.reporter.stage("REALM pre-training", "steps") as progress:
            try:
                train(
                    method,
                    batches,
                    optimizer,
                    self._schedule(config.realm.steps),
                    stage="realm",
                    folder=self.run.path,
                    metrics=self.metrics,
                    start_step=start,
                    autocast=self._autocast,
                    hooks=Hooks(
                        before_step=before_step,
                        checkpoint_facts=lambda: {"index_step": state.step},
                        on_event=self._events(progress),
                        describe=self._describe,
                        should_stop=self.should_stop,
                    ),
                )
            finally:
                refresh.close()
        last = latest_checkpoint(self.run.checkpoints)
        assert last is not None
        return last

    # ------------------------------------------------------------ pieces

    def _probe(self) -> Probe:
        config = self.config
        if self.run.probe.exists():
            probe = Probe.load(self.run.probe)
            probe.check(self.masked.snapshot)
            return probe
        probe = Probe.build(
            self.masked.snapshot,
            self.masked.spans,
            rows=self.held_out,
            size=config.probe.size,
            seed=config.loop.seed,
            max_query_tokens=config.data.max_query_tokens,
            max_targets=config.data.max_targets,
            same_corpus=self.same_corpus,
        )
        probe.save(self.run.probe)
        return probe

    def _reader(self, checkpoint: Path | None) -> ClozeReader:
        if checkpoint:
            return ClozeReader.from_pretrained(checkpoint / "reader").to(self.device)
        reader = parts.build_reader(self.config.reader, self.config.data, self.searched.snapshot, self.config.loop.seed)
        return reader.to(self.device)

    def _method(self, encoder: DenseEncoder, reader: ClozeReader, index: Path) -> RealmPretraining:
        config, snapshot = self.config, self.searched.snapshot
        return RealmPretraining(
            encoder,
            reader,
            snapshot,
            ExactIndex.open(index, snapshot=snapshot.fingerprint),
            num_candidates=config.realm.num_candidates,
            marginal=config.realm.marginal,
            null_passage=config.realm.null_passage,
            over_retrieve=config.realm.over_retrieve,
            max_passage_tokens=config.data.max_passage_tokens,
            max_reader_tokens=config.data.max_passage_tokens - 2,
            reader_title=config.reader.with_title,
        )

    def _calibrate_null(self, method: RealmPretraining) -> None:
        if self.config.encoder.null_bias == "learned" and self.config.realm.null_passage:
            method.calibrate_null(next(self.probe.batches(self.masked.snapshot, 64, exclude=self.config.data.exclude)))

    def _embed(self, encoder: DenseEncoder, step: int) -> Path:
        with self.reporter.stage(f"embed the passages (step {step})", "passages") as progress:
            return embed(
                encoder,
                self.searched.snapshot,
                self.run.index / f"step-{step:06d}",
                max_tokens=self.config.data.max_passage_tokens,
                progress=progress,
                facts=parts.index_facts(encoder, step),
            )

    def _evaluate(self, name: str, checkpoint: Path) -> None:
        """Embed with a checkpoint's parameters and judge it on the probe."""
        encoder = DenseEncoder.from_pretrained(checkpoint / "encoder").to(self.device).eval()
        step = int(read_facts(checkpoint)["step"]) if name == "realm" else 0
        folder = self._embed(encoder, step)
        index = ExactIndex.open(folder, snapshot=self.searched.snapshot.fingerprint)
        reader = self._reader(checkpoint if name == "realm" else None).eval()
        method = self._method(encoder, reader, folder)
        if name != "realm":
            self._calibrate_null(method)
        with self.reporter.stage(f"evaluate {name}", "sentences") as progress:
            report = evaluate_index(encoder, index, self.probe, self.searched, self.masked, self.config)
            report |= evaluate_model(method, self.probe, self.masked, self.config, progress)
        save_report(self.run, name, report)
        self._event({"stage": "realm", "kind": "evaluation", "step": step, "name": name, **report["figures"]})

    def _optimizer(self, roles: Mapping[str, Any], rates: Mapping[str, float]) -> BertAdam:
        optim = self.config.optim
        groups = parameter_groups(roles, rates, optim.weight_decay)
        return BertAdam(groups, lr=0.0, betas=optim.betas, eps=optim.eps, bias_correction=optim.bias_correction)

    def _schedule(self, steps: int) -> Schedule:
        config = self.config
        return Schedule(
            num_steps=steps,
            warmup_steps=bert_warmup_steps(steps) if config.optim.warmup == "bert" else int(config.optim.warmup),
            accumulation=config.realm.accumulation,
            clip_norm=config.optim.clip,
            log_every=config.loop.log_every,
            checkpoint_every=config.loop.checkpoint_every,
            keep_checkpoints=config.loop.keep_checkpoints,
        )

    def _autocast(self) -> Any:
        if parts.choose_bf16(self.config.loop.bf16, self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _event(self, event: dict[str, Any]) -> None:
        if parallel.rank() == 0:
            self.metrics.write(event)
            self.reporter.event(event)

    def _indexes_in_use(self) -> list[Path]:
        """What a checkpoint would resume with."""
        steps = {int(read_facts(folder)["index_step"]) for folder in list_checkpoints(self.run.checkpoints)}
        return [self.run.index / f"step-{step:06d}" for step in {0, *steps}]

    def _refresher_event(self, line: str) -> None:
        self.reporter.note(line)
        self._event({"stage": "realm", "kind": "refresher", "step": self.step, "message": line})

    def _events(self, progress: Callable[[int, int | None], None]) -> Callable[[Mapping[str, Any]], None]:
        def on_event(event: Mapping[str, Any]) -> None:
            self.reporter.event(event)
            if event["kind"] == "train":
                progress(int(event["step"]), int(event["num_steps"]))

        return on_event

    def _describe(self, batch: Any, bad_B: torch.Tensor) -> list[str]:
        decode = self.masked.snapshot.tokenizer.decode
        ids = batch.query.ids[bad_B.cpu()]
        lengths = batch.query.lengths[bad_B.cpu()]
        return [str(decode(row[:length].tolist())) for row, length in zip(ids, lengths.tolist(), strict=True)]


def _retriever_rates(stage: IctConfig | RealmConfig) -> dict[str, float]:
    return {
        "retriever": stage.learning_rate,
        "projection": stage.projection_learning_rate or stage.learning_rate,
        "token_weights": stage.token_weight_learning_rate or stage.learning_rate,
    }


@dataclass
class _IndexState:
    step: int
    since: float


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """CPU threads of the trainer; restored afterwards, because a library's caller has its own idea."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluate_run(path: Path, *, kb: Path | None = None, reporter: Reporter | None = None) -> dict[str, Any]:
    """The comparison of a finished run; what is missing of it is computed."""
    run = Run(path)
    facts = run.facts()
    if kb is not None and str(Path(kb).absolute()) != facts["parents"]["knowledge_base"]:
        raise UsageError(
            f"{path} was trained on {facts['parents']['knowledge_base']}: its probe can't be judged on {kb}"
        )
    if not (run.evaluations / "realm" / "report.json").exists():
        return resume(path, reporter=reporter)
    read_report(run, "realm")
    return compare(run)


__all__ = ["KnowledgeBase", "evaluate_run", "pretrain", "resume"]

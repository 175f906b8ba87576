"""Questions and answers in, a retriever and a reader that answer out (Lee et al. 2019; Guu et al. 2020, section 4).

    start -> snapshot -> index -> training, judged at every checkpoint on dev questions -> the best one as a model

The run folder has the shape of pre-training's (see `realm.workflows.run`), and:

  evaluations/step-000100.json   figures on the dev questions at each checkpoint
  model/                         the best checkpoint (see `realm.answering.answerer`)
  result.json                    what `finetune` returns, when all is done

The same command goes on from wherever it was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from realm import files
from realm.addresses import address_or_path
from realm.config import from_json
from realm.errors import ArtefactError, DataError, UsageError
from realm.evaluation.answers import NORMALIZERS
from realm.knowledge.questions.files import read_questions
from realm.knowledge.snapshot import Snapshot
from realm.methods.open_qa import OpenQA
from realm.models.span import SpanReader
from realm.settings_finetune import FinetuneConfig
from realm.training.launch import one_process
from realm.training.loop import Hooks, Schedule, train
from realm.training.metrics import Metrics
from realm.training.optim import BertAdam, bert_warmup_steps, parameter_groups
from realm.training.questions import QuestionBatches
from realm.training.ranks import Ranks
from realm.training.state import latest_checkpoint, read_facts, restore
from realm.types import Question
from realm.workflows import parts
from realm.workflows.finetuning import start as starts
from realm.workflows.finetuning.judge import Judge
from realm.workflows.finetuning.retriever import Side, open_side
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.run import FINETUNING, Run
from realm.workflows.store import open_knowledge_base
from realm.workflows.workbench import Stop, threads

STAGE = "qa"
RESULT = "result.json"


def finetune(
    model: str,
    kb_path: Path,
    out: Path,
    config: FinetuneConfig,
    *,
    questions: Path,
    dev: Path | None = None,
    licence: str = "",
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Fine-tune into the run folder `out`, or go on with the run that is there.

    model: see `finetuning.start.find_start`. questions, dev: files that `read_questions` reads; without `dev`, a share
    of `questions` judges. licence: what the model card says of it. ranks: of `joined`, for several processes that train
    together: all call this with the same arguments, rank 0 writes and judges.

    Returns the curve on the dev questions, the best step and where the model lies. MismatchError when `out` was begun
    with other settings, text or questions; DataError when no question can be learnt from; KeyboardInterrupt after
    `should_stop`, with everything saved.
    """
    reporter = reporter or Silent()
    ranks = ranks or one_process("fine-tuning by a call without `ranks` (realm.training.launch.joined)")
    start = starts.find_start(model)
    config = starts.settle(config, start)
    if config.qa.batch_size % ranks.size or (config.qa.read_batch or 0) % ranks.size:
        raise UsageError(
            f"found qa.batch_size={config.qa.batch_size}, qa.read_batch={config.qa.read_batch} with {ranks.size} "
            "processes: expected multiples of their number"
        )
    run = Run(out, FINETUNING)
    with run.alone() if ranks.first else nullcontext(), threads(config.loop.threads):
        with ranks.rank_0_first("the run's text and its folder"):
            if not ranks.first and not run.exists:
                raise ArtefactError(
                    f"no run {run.path} here, where rank 0 made it: expected a folder that all machines share as --out"
                )
            run.check_place()
            kb = open_knowledge_base(kb_path)
            if run.exists:  # later edits don't change what a run stands on
                kb = kb.at(run.facts()["parents"]["knowledge_base_version"])
            snapshot = parts.prepare_snapshot(kb, starts.tokenizer_of(start), reporter)
            train_set, dev_set = split(
                read_questions(questions), read_questions(dev) if dev else None, config.questions.held_out_fraction
            )
            parents = {
                "licence": licence,
                "knowledge_base": address_or_path(kb_path),
                "knowledge_base_version": snapshot.version,
                "snapshot": snapshot.fingerprint,
                "model": model if not Path(model).exists() else str(Path(model).absolute()),
                "model_fingerprint": start.fingerprint,
                "start": start.kind,
                "questions": str(Path(questions).absolute()),
                "questions_fingerprint": _fingerprint(train_set),
                "dev": str(Path(dev).absolute()) if dev else None,
                "dev_fingerprint": _fingerprint(dev_set),
            }
            if ranks.first:
                if not run.exists and _reads_again(model, config.loop.seed, _fingerprint(train_set)):
                    reporter.note(
                        f"{model} was trained with loop.seed={config.loop.seed} on these questions: they come in the "
                        "same order again, which teaches them by heart; give another loop.seed"
                    )
                run.create_or_resume(config, parents)
            else:
                run.check(config, parents)
        done = ranks.tell(lambda: _finished(run))
        if done is not None:
            return done
        with Metrics(run.path, tensorboard=config.loop.tensorboard) as metrics:
            desk = _Desk(run, config, start, snapshot, metrics, reporter, should_stop, licence, ranks)
            result = desk.work(train_set, dev_set)
        if ranks.first:
            files.write_json(run.path / RESULT, result)
        return result


def resume(
    out: Path,
    *,
    kb: Path | None = None,
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Go on with a run by its folder alone. kb: where the knowledge base lies now, if it was moved. ranks: see
    `finetune`."""
    run = Run(out, FINETUNING)
    parents = run.facts()["parents"]
    config = from_json(FinetuneConfig, files.read_json(run.path / "config.json"))
    return finetune(
        parents["model"],
        kb or Path(parents["knowledge_base"]),
        out,
        config,
        questions=Path(parents["questions"]),
        dev=Path(parents["dev"]) if parents["dev"] else None,
        licence=parents.get("licence", ""),
        reporter=reporter,
        should_stop=should_stop,
        ranks=ranks,
    )


def _reads_again(model: str, seed: int, questions_fingerprint: str) -> bool:
    """Whether the start is a run of fine-tuning that read the same questions in the same order."""
    place = Path(model).expanduser()
    try:
        facts, settings = (files.read_json(place / name) for name in ("run.json", "config.json"))
    except ArtefactError:
        return False
    same = facts.get("parents", {}).get("questions_fingerprint") == questions_fingerprint
    return bool(same and settings.get("loop", {}).get("seed") == seed)


def _finished(run: Run) -> dict[str, Any] | None:
    """What a run that has nothing left to do came to; None where a step, or the model, is missing."""
    newest = latest_checkpoint(run.checkpoints)
    if newest is None or not (run.path / RESULT).exists() or not (run.path / "model" / files.MANIFEST).exists():
        return None
    result: dict[str, Any] = files.read_json(run.path / RESULT)
    places = {"run": str(run.path), "model": str(run.path / "model")}  # it may have been moved
    return {**result, **places} if int(read_facts(newest)["step"]) == result["steps"] else None


def split(
    questions: Sequence[Question], dev: Sequence[Question] | None, held_out: float
) -> tuple[list[Question], list[Question]]:
    """Questions to learn from and to judge on. Without a dev set, those judge whose id's hash says so: the same ones
    whatever else the file holds. A question that stands in the dev set, too, is not learnt from."""
    if dev is None:
        chosen = [int(files.fingerprint(question.id), 16) / 16**16 < held_out for question in questions]
        dev = [question for question, judges in zip(questions, chosen, strict=True) if judges]
        if not dev and held_out:
            raise DataError(
                f"found {len(questions)} questions: too few to hold out {held_out:.0%} of them for choosing the best "
                "checkpoint; give --dev, or questions.held_out_fraction=0 to take the last one"
            )
    texts = {question.text.strip().casefold() for question in dev}
    return [q for q in questions if q.text.strip().casefold() not in texts], list(dev)


def _fingerprint(questions: Sequence[Question]) -> str:
    return files.fingerprint(*(f"{q.id}\0{q.text}\0{q.answers}\0{q.answerable}" for q in questions))


class _Desk:
    """One fine-tuning: its parts, its judge and its best model."""

    def __init__(
        self,
        run: Run,
        config: FinetuneConfig,
        start: starts.Start,
        snapshot: Snapshot,
        metrics: Metrics,
        reporter: Reporter,
        should_stop: Stop | None,
        licence: str,
        ranks: Ranks,
    ) -> None:
        self.run, self.config, self.start, self.snapshot = run, config, start, snapshot
        self.metrics, self.reporter, self.should_stop, self.licence = metrics, reporter, should_stop, licence
        self.ranks = ranks
        self.device = parts.choose_device(config.loop.device, ranks)
        self.normalize = NORMALIZERS[config.questions.convention]

    def work(self, train_set: Sequence[Question], dev_set: Sequence[Question]) -> dict[str, Any]:
        config, checkpoints = self.config, self.run.checkpoints
        with self.reporter.stage("look for the answers", "passages") as progress:
            batches = QuestionBatches(
                self.snapshot,
                train_set,
                batch_size=config.qa.batch_size,
                max_query_tokens=config.questions.max_query_tokens,
                match=config.questions.match,
                normalize=self.normalize,
                drop_unmatched=config.questions.drop_unmatched,
                substituted=config.qa.substituted,
                most_pieces=config.reader.max_width,
                seed=config.loop.seed,
                rank=self.ranks.rank,
                world_size=self.ranks.size,
                progress=progress,
            )
        outdated = batches.statistics()["labels_outdated"]
        if outdated and config.qa.labelled != "none":
            self.reporter.note(f"{outdated:,} labels name passages whose text has changed since: they are not used")
        per_epoch = len(batches) / (config.qa.batch_size * config.qa.accumulation)
        steps = config.qa.steps or max(1, math.ceil(config.qa.epochs * per_epoch))
        self.steps = steps

        name = self.ranks.tell(lambda: newest.name if (newest := latest_checkpoint(checkpoints)) else None)
        found = checkpoints / name if name else None
        begin = int(read_facts(found)["step"]) if found else 0
        side = open_side(self.run, config, self.start, found, self.snapshot, self.device, self.reporter, self.ranks)
        with self.reporter.stage("load the reader"):
            reader = starts.open_reader(found, config, self.snapshot, self.device)
        method = self._method(side, reader)
        judge = Judge(
            self.run, config, method, {**side.parts(), "reader": reader}, self.snapshot, dev_set, self.reporter
        )
        judge.about = {"questions": batches.statistics(), "steps": steps, "licence": self.licence}
        optimizer = self._optimizer(method)
        if found:
            restore(found, optimizer)
        if found and self.ranks.first:
            judge.forget(begin)
            anew = not (self.run.evaluations / f"{found.name}.json").exists()
            self.metrics.rewind(STAGE, begin, lambda event: anew and event["kind"] == "dev" and event["step"] == begin)
            self._tell(judge, found)  # a run that was killed in between has its checkpoint, but not what it is worth
        self.ranks.wait("the judgement of the newest checkpoint")
        if begin < steps:
            self._train(method, side, batches, optimizer, judge, begin)
        return self.ranks.tell(judge.result)

    def _tell(self, judge: Judge, checkpoint: Path) -> None:
        event = judge(checkpoint)
        if event is not None:
            event = {"stage": STAGE, "kind": "dev", **event}
            self.metrics.write(event)
            self.reporter.event(event)

    # ------------------------------------------------------------ parts

    def _method(self, side: Side, reader: SpanReader) -> OpenQA:
        config = self.config
        return OpenQA(
            side.retriever,
            reader,
            self.snapshot,
            normalize=self.normalize,
            num_passages=config.qa.num_passages,
            read_batch=config.qa.read_batch and config.qa.read_batch // self.ranks.size,
            num_early=0 if config.qa.retriever == "bm25" else config.qa.num_early,
            early_weight=config.qa.early_weight,
            level=config.qa.level,
            labelled=config.qa.labelled,
            aggregate=config.qa.aggregate,
            max_query_tokens=config.questions.max_query_tokens,
            max_reader_tokens=config.reader.max_tokens - 3,
            reader_title=config.reader.with_title,
        )

    def _optimizer(self, method: OpenQA) -> BertAdam:
        qa, optim = self.config.qa, self.config.optim
        rates = {
            "retriever": qa.learning_rate,
            "projection": qa.projection_learning_rate or qa.learning_rate,
            "token_weights": qa.token_weight_learning_rate or qa.learning_rate,
            "reader": qa.reader_learning_rate,
            "head": qa.head_learning_rate,
        }
        groups = parameter_groups(method.parameter_groups(), rates, optim.weight_decay)
        return BertAdam(groups, lr=0.0, betas=optim.betas, eps=optim.eps, bias_correction=optim.bias_correction)

    # ------------------------------------------------------------ training

    def _train(
        self, method: OpenQA, side: Side, batches: QuestionBatches, optimizer: BertAdam, judge: Judge, begin: int
    ) -> None:
        config = self.config
        side.begin(begin)
        bf16 = parts.choose_bf16(config.loop.bf16, self.device)
        schedule = Schedule(
            num_steps=self.steps,
            warmup_steps=bert_warmup_steps(self.steps) if config.optim.warmup == "bert" else int(config.optim.warmup),
            accumulation=config.qa.accumulation,
            clip_norm=config.optim.clip,
            log_every=config.loop.log_every,
            checkpoint_every=config.loop.checkpoint_every,
            keep_checkpoints=config.loop.keep_checkpoints,
        )
        try:
            with self.reporter.stage("fine-tuning", "steps") as progress:
                progress(begin, self.steps)

                def on_event(event: Mapping[str, Any]) -> None:
                    self.reporter.event(event)
                    if event["kind"] == "train":
                        progress(int(event["step"]), int(event["num_steps"]))

                def before_step(step: int) -> Mapping[str, float]:
                    self.ranks.at = f"step {step} of fine-tuning"
                    return side.before_step(step)

                train(
                    method,
                    batches,
                    optimizer,
                    schedule,
                    stage=STAGE,
                    folder=self.run.path,
                    metrics=self.metrics,
                    start_step=begin,
                    autocast=lambda: torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext(),
                    hooks=Hooks(
                        before_step=before_step,
                        checkpoint_facts=lambda: {**side.facts(), "snapshot": self.snapshot.fingerprint},
                        after_checkpoint=lambda checkpoint: self._tell(judge, checkpoint),
                        on_event=on_event,
                        describe=lambda batch, bad_B: [
                            batches.questions[n].text for n in batch.numbers[bad_B.cpu().numpy()].tolist()
                        ],
                        should_stop=self.should_stop,
                        meet=lambda: self.ranks.wait("the checkpoint and its judgement"),
                    ),
                )
        finally:
            side.end()

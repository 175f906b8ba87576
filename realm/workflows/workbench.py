"""What the stages of a pre-training run share: its texts, its probe, its device, and how parts are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from realm.config import IctConfig, PretrainConfig, RealmConfig
from realm.errors import DataError
from realm.files import MANIFEST, read_json
from realm.methods.proposing import ByWords, Proposer
from realm.methods.realm import RealmPretraining
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.models.late import open_reader
from realm.search.exact import ExactIndex
from realm.training import parallel
from realm.training.batches import MaskedSentences
from realm.training.loop import Schedule
from realm.training.metrics import Metrics
from realm.training.optim import BertAdam, bert_warmup_steps, parameter_groups
from realm.training.probe import Probe, held_out_rows, with_copies
from realm.training.ranks import Ranks
from realm.training.rarity import SpansByRarity
from realm.training.state import latest_checkpoint
from realm.types import Spans, TrainableEncoder, TwoBatches
from realm.workflows import parts
from realm.workflows.parts import Text
from realm.workflows.refreshing import embed_by_workers
from realm.workflows.reporting import ProgressCall, Reporter
from realm.workflows.run import Run

Stop = Callable[[], bool]


class Workbench:
    """One run's surroundings. Stages take it and add their own parts."""

    def __init__(
        self,
        run: Run,
        config: PretrainConfig,
        searched: Text,
        masked: Text,
        metrics: Metrics,
        reporter: Reporter,
        should_stop: Stop | None,
        ranks: Ranks | None = None,
    ) -> None:
        """searched: Z. masked: X, the same object where there is one corpus. ranks: that work on the run together."""
        self.run, self.config, self.searched, self.masked = run, config, searched, masked
        self.metrics, self.reporter, self.should_stop = metrics, reporter, should_stop
        self.ranks = ranks or Ranks()
        self.device = parts.choose_device(config.loop.device, self.ranks)
        self.same_corpus = searched.snapshot.fingerprint == masked.snapshot.fingerprint
        self.held_out = held_out_rows(masked.snapshot, config.data.held_out_fraction, config.loop.seed)
        with self.ranks.rank_0_first("the probe"):
            self.probe = self._probe()

    def _probe(self) -> Probe:
        if self.run.probe.exists():
            probe = Probe.load(self.run.probe)
            probe.check(self.masked.snapshot)
            return probe
        probe = Probe.build(
            self.masked.snapshot,
            self.masked.spans,
            rows=self.held_out,
            size=self.config.probe.size,
            seed=self.config.loop.seed,
            max_query_tokens=self.config.data.max_query_tokens,
            max_targets=self.config.data.max_targets,
            same_corpus=self.same_corpus,
        )
        probe.save(self.run.probe)
        return probe

    @cached_property
    def sentences(self) -> MaskedSentences:
        """The masked sentences of REALM's training."""
        config, snapshot = self.config, self.masked.snapshot

        def over(spans: Spans) -> MaskedSentences:
            return MaskedSentences(
                snapshot,
                spans,
                strategy=config.data.masking,
                batch_size=config.realm.batch_size,
                max_query_tokens=config.data.max_query_tokens,
                max_targets=config.data.max_targets,
                seed=config.loop.seed,
                exclude=config.data.exclude,
                duplicates=config.data.exclude_duplicates,
                held_out=with_copies(snapshot, self.held_out),
                rank=parallel.rank(),
                world_size=parallel.world_size(),
                same_corpus=self.same_corpus,
                curriculum_steps=config.data.curriculum_steps,
                progress=progress,
            )

        with self.reporter.stage("find what can be masked", "passages") as progress:
            low, high = config.data.min_span_documents, config.data.max_span_documents
            if low == 1 and high is None:
                return over(self.masked.spans)
            try:
                return over(SpansByRarity(self.masked.spans, snapshot, low, high))
            except DataError:
                found = f"{low} to {high or 'any number of'} documents"
                self.reporter.note(f"no span stands in {found}: all spans are masked")
                return over(self.masked.spans)

    # ------------------------------------------------------------ parts

    @property
    def start(self) -> Path | None:
        """The trained model that this run goes on from, as the run keeps it."""
        return self.run.start if self.config.start is not None else None

    def encoder(self, checkpoint: Path | None, *, training: bool = True) -> DenseEncoder:
        """The encoder of a checkpoint, or the one that the run starts with."""
        config = self.config
        if checkpoint is None and self.start is not None:
            torch.manual_seed(config.loop.seed)  # as where one is built: what comes after may draw, too
            checkpoint = self.start
        if checkpoint is None:
            found = parts.build_encoder(
                config.encoder, self.searched.snapshot, config.data.max_passage_tokens, config.loop.seed
            )
        else:
            found = DenseEncoder.from_pretrained(
                checkpoint / "encoder",
                dropout=config.encoder.dropout,
                backbone_dropout=config.encoder.backbone_dropout,
                freeze_word_embeddings=config.encoder.freeze_word_embeddings,
                learn_temperature=config.encoder.learn_temperature,
                learn_null_bias=config.encoder.null_bias == "learned",
            )
        return found.to(self.device).train(training)

    def reader(self, checkpoint: Path | None) -> ClozeReader:
        """The reader of a checkpoint, or the one that the run starts with."""
        if checkpoint is None and self.start is not None:
            torch.manual_seed(self.config.loop.seed + 1)
            checkpoint = self.start
        if checkpoint is not None:
            return open_reader(checkpoint / "reader", **parts.reader_settings(self.config.reader, self.config.data)).to(
                self.device
            )
        snapshot, config = self.searched.snapshot, self.config
        return parts.build_reader(config.reader, config.data, snapshot, config.loop.seed).to(self.device)

    def method(
        self,
        encoder: DenseEncoder,
        reader: ClozeReader,
        index: Path,
        index_encoder: TrainableEncoder | None = None,
    ) -> RealmPretraining:
        """REALM over the searched snapshot with an index that was embedded for it."""
        config, snapshot = self.config, self.searched.snapshot
        return RealmPretraining(
            encoder,
            reader,
            snapshot,
            self._proposer(encoder, index, index_encoder),
            marginal=config.realm.marginal,
            objective=config.realm.objective,
            distillation_temperature=config.realm.distillation_temperature,
            null_passage=config.realm.null_passage,
            max_passage_tokens=config.data.max_passage_tokens,
            max_reader_tokens=config.data.max_passage_tokens - 2,
            reader_title=config.reader.with_title,
        )

    def _proposer(self, encoder: DenseEncoder, index: Path, index_encoder: TrainableEncoder | None) -> Proposer:
        config, snapshot = self.config, self.searched.snapshot
        lexical = None
        if config.realm.lexical:
            with self.reporter.stage("index the words"):
                lexical = ByWords(parts.build_bm25(snapshot), snapshot.tokenizer)
        return Proposer(
            encoder,
            snapshot,
            self.open_index(index),
            index_encoder,
            num_passages=config.realm.num_candidates - int(config.realm.null_passage),
            max_passage_tokens=config.data.max_passage_tokens,
            over_retrieve=config.realm.over_retrieve,
            explore=config.realm.explore,
            explore_depth=config.realm.explore_depth,
            lexical=lexical,
            num_lexical=config.realm.lexical,
        )

    def calibrate_null(self, method: RealmPretraining) -> None:
        """Start the null passage's level, where the recipe learns it and no model brings it, from the first batch."""
        if self.start is not None and parts.learnt_null(self.start):
            return
        if self.config.encoder.null_bias == "learned" and self.config.realm.null_passage:
            training = method.encoder.training
            method.encoder.train(False)  # a level that is measured once should not hang on one draw of dropout
            method.calibrate_null(replace(self.sentences.batch(0), seeds=None), parallel.total)
            method.encoder.train(training)

    def open_index(self, folder: Path) -> ExactIndex:
        index = ExactIndex.open(folder, snapshot=self.searched.snapshot.fingerprint)
        # On an accelerator the vectors lie beside the parameters: search is one matrix product there.
        return index if self.device.type == "cpu" else ExactIndex.open(folder, device=self.device)

    def embed(self, encoder: DenseEncoder, step: int) -> Path:
        """The index of `step`, made unless it is there and by this encoder: one of other parameters is replaced."""
        folder, facts = self.run.index / f"step-{step:06d}", parts.index_facts(encoder, step)

        def there() -> bool:
            place = folder / MANIFEST
            return place.exists() and read_json(place).get("encoder") == facts["encoder"]

        if self.ranks.tell(there):
            return folder
        if self.config.refresh.mode == "ray":
            with self.ranks.rank_0_first("the index"):
                if not there():
                    self._embed_by_workers(encoder, step)
            return folder
        return parts.embed_into(
            encoder,
            self.searched.snapshot,
            folder,
            step,
            max_tokens=self.config.data.max_passage_tokens,
            bf16=self.config.loop.bf16,
            device=self.device,
            reporter=self.reporter,
            ranks=self.ranks,
        )

    def _embed_by_workers(self, encoder: DenseEncoder, step: int) -> None:
        with self.reporter.stage(f"embed the passages (step {step}) on the cluster", "passages") as progress:
            embed_by_workers(
                self.run,
                encoder,
                self.searched.snapshot,
                self.config.refresh,
                self.config.loop,
                device=self.device,
                max_tokens=self.config.data.max_passage_tokens,
                step=step,
                on_event=self.reporter.note,
                progress=progress,
            )

    # ------------------------------------------------------------ training

    def latest_checkpoint(self, checkpoints: Path) -> Path | None:
        """The newest one, as rank 0 sees it."""

        def name() -> str | None:
            found = latest_checkpoint(checkpoints)
            return found.name if found else None

        told = self.ranks.tell(name)
        return checkpoints / told if told else None

    def at(self, step: int, of: str) -> dict[str, float]:
        """Say where this rank is; for a hook before each step."""
        self.ranks.at = f"step {step} of {of}"
        return {}

    def meet(self) -> None:
        """Wait for all ranks after a checkpoint."""
        self.ranks.wait("the checkpoint")

    def has_report(self, name: str) -> bool:
        """Whether the run was evaluated, as rank 0 sees it."""
        return self.ranks.tell(lambda: self.run.has_report(name))

    def optimizer(self, roles: Mapping[str, Any], rates: Mapping[str, float]) -> BertAdam:
        optim = self.config.optim
        groups = parameter_groups(roles, rates, optim.weight_decay)
        return BertAdam(groups, lr=0.0, betas=optim.betas, eps=optim.eps, bias_correction=optim.bias_correction)

    def schedule(self, steps: int, accumulation: int = 1) -> Schedule:
        config = self.config
        return Schedule(
            num_steps=steps,
            warmup_steps=bert_warmup_steps(steps) if config.optim.warmup == "bert" else int(config.optim.warmup),
            accumulation=accumulation,
            clip_norm=config.optim.clip,
            log_every=config.loop.log_every,
            checkpoint_every=config.loop.checkpoint_every,
            keep_checkpoints=config.loop.keep_checkpoints,
        )

    def autocast(self) -> Any:
        if parts.choose_bf16(self.config.loop.bf16, self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    # ------------------------------------------------------------ telling

    def rewind(self, stage: str, step: int, again: Callable[[dict[str, Any]], bool] = lambda event: False) -> None:
        """Forget the events that will happen again: see `Metrics.rewind`."""
        if self.ranks.first:
            self.metrics.rewind(stage, step, again)

    def event(self, event: dict[str, Any]) -> None:
        """Into metrics.jsonl and to the reporter."""
        if self.ranks.first:
            self.metrics.write(event)
            self.reporter.event(event)

    def follow(self, progress: ProgressCall) -> Callable[[Mapping[str, Any]], None]:
        """Moves a bar along with the loop's events."""

        def on_event(event: Mapping[str, Any]) -> None:
            self.reporter.event(event)
            if event["kind"] == "train":
                progress(int(event["step"]), int(event["num_steps"]))

        return on_event

    def describe(self, batch: Any, bad_B: torch.Tensor) -> list[str]:
        """The masked sentences at Bool[B] as text."""
        batch = batch.first if isinstance(batch, TwoBatches) else batch
        decode = self.masked.snapshot.tokenizer.decode
        bad_B = bad_B.cpu()
        rows = zip(batch.query.ids[bad_B], batch.query.lengths[bad_B].tolist(), strict=True)
        return [str(decode(ids[:length].tolist())) for ids, length in rows]


def retriever_rates(stage: IctConfig | RealmConfig) -> dict[str, float]:
    """Peak learning rates of the encoder's roles."""
    return {
        "retriever": stage.learning_rate,
        "projection": stage.projection_learning_rate or stage.learning_rate,
        "token_weights": stage.token_weight_learning_rate or stage.learning_rate,
    }


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """CPU threads of the trainer; restored afterwards, because a library's caller has its own idea."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""The retriever's side of fine-tuning: what it is made of, what a checkpoint keeps of it, how its index follows.

`qa.retriever` chooses: networks over an index of vectors, frozen or refreshed, with or without BM25 beside them, or
BM25 alone, of which nothing learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from realm import files
from realm.answering.answerer import Part
from realm.knowledge.snapshot import Snapshot
from realm.methods.fused import FusedRetriever
from realm.methods.proposing import stale_copy
from realm.methods.retrievers import DenseRetriever, QuestionRetriever, WordRetriever
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.settings_finetune import FinetuneConfig
from realm.training.ranks import Ranks
from realm.training.state import read_facts
from realm.workflows import parts
from realm.workflows.finetuning import start as starts
from realm.workflows.refreshing import Refreshing, open_refreshing
from realm.workflows.reporting import Reporter
from realm.workflows.run import Run


class Side(Protocol):
    """A retriever in training."""

    @property
    def retriever(self) -> QuestionRetriever: ...

    def parts(self) -> Mapping[str, Part]:
        """What a model folder keeps of it, by name."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What a checkpoint's ``loop.json`` keeps of it."""
        ...

    def begin(self, step: int) -> None:
        """Training begins at `step`."""
        ...

    def before_step(self, step: int) -> Mapping[str, float]:
        """Between two steps; figures to log."""
        ...

    def end(self) -> None: ...


def open_side(
    run: Run,
    config: FinetuneConfig,
    start: starts.Start,
    found: Path | None,
    snapshot: Snapshot,
    device: torch.device,
    reporter: Reporter,
    ranks: Ranks | None = None,
) -> Side:
    """The side that the settings name, as the checkpoint `found` has it or as the start gives it."""
    if config.qa.retriever == "bm25":
        return WordSide(config, snapshot, reporter)
    return DenseSide(run, config, start, found, snapshot, device, reporter, ranks)


class WordSide:
    """BM25: the postings lie beside the snapshot, and nothing changes."""

    def __init__(self, config: FinetuneConfig, snapshot: Snapshot, reporter: Reporter) -> None:
        self.retriever = WordRetriever(parts.open_postings(snapshot, reporter), temperature=config.qa.bm25_temperature)

    def parts(self) -> Mapping[str, Part]:
        return {}

    def facts(self) -> Mapping[str, Any]:
        return {}

    def begin(self, step: int) -> None:
        pass

    def before_step(self, step: int) -> Mapping[str, float]:
        return {}

    def end(self) -> None:
        pass


class DenseSide:
    """An encoder, its index, and the refresher where passages are refreshed."""

    def __init__(
        self,
        run: Run,
        config: FinetuneConfig,
        start: starts.Start,
        found: Path | None,
        snapshot: Snapshot,
        device: torch.device,
        reporter: Reporter,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.run, self.config, self.snapshot, self.device, self.reporter = run, config, snapshot, device, reporter
        self.begun_with = read_facts(found) if found else {}
        self.refreshing: Refreshing | None = None
        with reporter.stage("load the retriever"):
            self.encoder = starts.open_encoder(start, found, config, snapshot, device)
        stale = None
        if config.qa.documents == "refreshed":
            saved = DenseEncoder.from_pretrained(found / "index_encoder").to(device) if found else self.encoder
            stale = stale_copy(saved)
        self.dense = DenseRetriever(
            self.encoder,
            snapshot,
            self._index(stale or self.encoder, int(self.begun_with.get("index_step", 0))),
            index_encoder=stale,
            documents=config.qa.documents,
            max_passage_tokens=config.questions.max_passage_tokens,
        )
        self.retriever: QuestionRetriever = self.dense
        if config.qa.retriever == "fused":
            words = parts.open_postings(snapshot, reporter)
            self.retriever = FusedRetriever(self.dense, words, temperature=config.qa.bm25_temperature)

    def parts(self) -> Mapping[str, Part]:
        return {"encoder": self.encoder}

    def facts(self) -> Mapping[str, Any]:
        return {"index_step": 0} if self.refreshing is None else self.refreshing.facts()

    def begin(self, step: int) -> None:
        if self.config.qa.documents == "refreshed":
            self.refreshing = open_refreshing(
                self.run,
                self.encoder,
                self.snapshot,
                self.config.refresh,
                self.config.loop,
                device=self.device,
                max_tokens=self.config.questions.max_passage_tokens,
                begin=step,
                facts=self.begun_with,
                on_event=self.reporter.note,
                ranks=self.ranks,
            )

    def before_step(self, step: int) -> Mapping[str, float]:
        """Publish when it is time, swap when an index came back; how old the index is."""
        if self.refreshing is None:
            return {}
        swap = self.refreshing.before_step(step)
        if swap is not None:
            self.dense.swap(self._index(swap.encoder, swap.step), swap.encoder)
        return self.refreshing.age(step)

    def end(self) -> None:
        if self.refreshing is not None:
            self.refreshing.close()

    def _index(self, encoder: Any, step: int) -> ExactIndex:
        """The index of `step`: there already, or embedded now. Frozen passages give the same vectors at any time."""
        folder = self.run.index / f"step-{step:06d}"
        if not self.ranks.tell((folder / files.MANIFEST).exists):
            parts.embed_into(
                encoder,
                self.snapshot,
                folder,
                step,
                max_tokens=self.config.questions.max_passage_tokens,
                bf16=self.config.loop.bf16,
                device=self.device,
                reporter=self.reporter,
                ranks=self.ranks,
            )
        return ExactIndex.open(folder, snapshot=self.snapshot.fingerprint, device=self.device)

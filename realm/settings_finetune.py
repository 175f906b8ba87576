"""Settings of fine-tuning on questions and answers; see `realm.config` for what all settings have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from realm.config import Below1, Count, EncoderConfig, LoopConfig, Natural, OptimConfig, Positive, RefreshConfig
from realm.errors import UsageError
from realm.settings import Range, check

__all__ = ["DevConfig", "FinetuneConfig", "QaConfig", "QuestionsConfig", "SpanReaderConfig"]


@dataclass(frozen=True, kw_only=True)
class SpanReaderConfig:
    """The reader: which span of a passage is the answer."""

    model: str | None = None
    """A name of the catalogue, a folder, or a hub id; when none, the reader that pre-training left where it reads query
    and passage together, else the network that the start was made from."""
    layers: Natural | None = None
    """Keep only the first so many layers; all of them when none."""
    span_size: Count = 256
    """Hidden layer over the first and the last word piece of a span."""
    max_width: Count = 10
    """Longest answer, in word pieces."""
    max_tokens: Annotated[int, Range(low=32)] = 320
    """Longest input: question and passage, specials counted; the passage is cut to it."""
    with_title: bool = False
    """Read the title too; the paper's reader sees the body alone."""
    freeze_word_embeddings: bool = False
    """Leave the token embedding matrix as it was loaded."""
    freeze_layers: Natural = 0
    """Leave the embeddings and so many first layers as they were loaded: a third of their cost."""
    dropout: Below1 | None = None
    """Inside the network while training; the checkpoint's own when none."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """Which questions are learnt from, and what counts as their answer."""

    max_query_tokens: Annotated[int, Range(low=8)] = 64
    """Longest question, [CLS] and [SEP] counted; longer ones are cut."""
    max_passage_tokens: Annotated[int, Range(low=16)] = 288
    """Longest passage input of the encoder; a run that is started from brings its own."""
    match: Literal["pieces", "normalised"] = "pieces"
    """Where an answer stands: at every occurrence of its word pieces (the release), or of its normalised words."""
    convention: Literal["orqa", "squad"] = "orqa"
    """Normalisation of exact match, and of what counts as the same answer."""
    drop_unmatched: bool = True
    """Leave out questions whose answers stand nowhere in the knowledge base; they would teach nothing."""
    held_out_fraction: Annotated[float, Range(low=0.0, high=0.5)] = 0.1
    """Share of the questions that judge instead of teach, where no --dev is given; chosen by their ids."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class QaConfig:
    """Fine-tuning of retriever and reader (Lee et al. 2019; Guu et al. 2020, section 4.3)."""

    steps: Count | None = None
    """When none, `epochs` times the questions."""
    epochs: Positive = 2.0
    """Passes over the questions, where `steps` is none."""
    batch_size: Count = 1
    """Questions of a part of a step, over all processes (the release: 1; REALM++: more is better)."""
    accumulation: Count = 1
    """Parts of a step."""
    retriever: Literal["dense", "fused", "bm25"] = "dense"
    """What finds the passages: the start's networks; these and BM25, their scores added (Karpukhin et al. 2020); or
    BM25 with nothing to learn and no early loss (the baseline of Lee et al. 2019)."""
    bm25_temperature: Positive = 1.0
    """BM25's scores are divided by it before they are added to others."""
    num_passages: Count = 5
    """Passages read for each question."""
    read_batch: Count | None = None
    """So many of the questions of a part are read; all when none. The early loss, which costs little, is of all."""
    num_early: Natural = 5000
    """Passages of the early loss, as many as there are; 0 leaves the loss out."""
    early_weight: Annotated[float, Range(low=0.0)] = 1.0
    """Of the early loss beside the reader's."""
    level: Literal["joint", "passage"] = "joint"
    """joint: one softmax over all spans of all passages, the retrieval score added (the release). passage: p(z|x) times
    p(span|z,x), each normalised."""
    labelled: Literal["none", "early", "both"] = "none"
    """Use the passages that the questions name as holding an answer: as further ones of the early loss, or of both."""
    substituted: Below1 = 0.0
    """At most this share of the questions is read with another question's answer in the place of their own, in every
    passage's text: the reader learns to say what stands there, which edited documents need (Longpre et al. 2021)."""
    documents: Literal["frozen", "refreshed"] = "frozen"
    """Passages stay as the start embedded them, or are embedded by live parameters, and again every
    `refresh.every_steps`; then lower `num_early`, which is embedded in every step."""
    aggregate: Literal["marginal", "best-span"] = "marginal"
    """An answer's probability: of all its spans in all passages, or of the best one."""
    learning_rate: Positive = 1e-5
    """Peak, for the retriever."""
    projection_learning_rate: Positive | None = None
    """Peak, for the retriever's projection and its norm; `learning_rate` when none."""
    token_weight_learning_rate: Positive | None = None
    """Peak, for the token weights of weighted-mean; `learning_rate` when none."""
    reader_learning_rate: Positive = 1e-5
    """Peak, for the pretrained part of the reader."""
    head_learning_rate: Positive = 1e-5
    """Peak, for the span network, which starts from nothing."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DevConfig:
    """How the best checkpoint is chosen: exact match at every checkpoint."""

    size: Count = 1000
    """Questions, the first of the set in the order of their ids' hashes; all where there are fewer."""
    num_passages: Count | None = None
    """Passages read for each; as in training when none."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that `realm finetune` can be told. Numbers default to the release's; recipes fit them to a machine."""

    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {"steps": ("qa.steps",), "batch_size": ("qa.batch_size",)}
    """Short names."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The embedder, where the start is a plain encoder; a trained one brings its own."""
    reader: SpanReaderConfig = field(default_factory=SpanReaderConfig)
    """The reader."""
    questions: QuestionsConfig = field(default_factory=QuestionsConfig)
    """The questions."""
    qa: QaConfig = field(default_factory=QaConfig)
    """The training."""
    dev: DevConfig = field(default_factory=DevConfig)
    """The choice of the best checkpoint."""
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    """Re-embedding, for qa.documents=refreshed."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The loop."""

    def __post_init__(self) -> None:
        check(self)
        if self.reader.max_tokens <= self.questions.max_query_tokens + 2:
            raise UsageError(
                f"found reader.max_tokens={self.reader.max_tokens} with questions.max_query_tokens="
                f"{self.questions.max_query_tokens}: a long question leaves no room for a passage; raise the first or "
                "lower the second"
            )
        for name in ("drift", "partial"):
            if getattr(self.refresh, name) is not None:
                raise UsageError(
                    f"found refresh.{name}={getattr(self.refresh, name):g}: expected none; it rests on what steps of "
                    "pre-training show of the index, fine-tuning refreshes every refresh.every_steps"
                )

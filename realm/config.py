"""Settings: frozen dataclasses, to JSON and back, overridden by ``name=value``.

Building a configuration touches nothing: no file, no network, no library. Recipes build one, the command line
overrides it, a run writes it down; constructors further in take plain arguments. Names carry their units:
``steps`` are optimizer steps, ``tokens`` are word pieces, specials counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from realm.errors import UsageError
from realm.settings import Range, check, explain, from_json, override, to_json

__all__ = [
    "DataConfig",
    "EncoderConfig",
    "IctConfig",
    "LoopConfig",
    "OptimConfig",
    "PretrainConfig",
    "ProbeConfig",
    "ReaderConfig",
    "RealmConfig",
    "RefreshConfig",
    "explain",
    "from_json",
    "override",
    "to_json",
]

Count = Annotated[int, Range(low=1)]
Natural = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(low=0.0, open_low=True)]
Share = Annotated[float, Range(low=0.0, high=1.0)]
Below1 = Annotated[float, Range(low=0.0, high=1.0, open_high=True)]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The embedder: text to a vector of `dim` numbers."""

    model: str = "all-MiniLM-L6-v2"
    """A name of the catalogue, a folder, or a hub id."""
    layers: Natural | None = None
    """Keep only the first so many layers; all of them when none. With 0 and a mean, the embeddings of the word pieces
    without their positions: a bag, whose cost hardly counts."""
    pooling: Literal["cls", "cls-tanh", "mean", "weighted-mean"] | None = None
    """How token vectors become one; none follows the checkpoint. cls-tanh is BERT's pooler."""
    dim: Count | None = 128
    """Size of the vector that is searched (the paper: 128); the network's own, without a projection, when none."""
    normalize: Literal["layernorm", "l2", "none"] = "layernorm"
    """What is applied to the projected vector; the released code uses a LayerNorm."""
    temperature: Positive = 1.0
    """The inner product is divided by this before the softmax over passages."""
    learn_temperature: bool = False
    """Train the temperature, too."""
    null_bias: Literal["none", "learned"] = "none"
    """A figure added to the null passage's score: none (the paper), or learned, from where all candidates are equal."""
    tied: bool = True
    """One set of weights for queries and passages, as the released code; two when false, as the paper writes it."""
    segments: bool | None = None
    """Title and body get segment ids 0 and 1; none follows the checkpoint (sentence encoders saw only zeros)."""
    freeze_word_embeddings: bool = False
    """Leave the token embedding matrix as it was loaded: cheaper steps, no drift of rare words."""
    init: Literal["pca", "random"] = "pca"
    """Where the projection starts: the principal components of the passages, or at random."""
    whiten: Share = 0.0
    """How far `init=pca` evens out the components: each is divided by its standard deviation to this power."""
    frequency_a: Positive = 1e-3
    """For weighted-mean: a token starts with the weight a / (a + its share of the corpus) (Arora et al. 2017)."""
    dropout: Below1 = 0.1
    """On the final vector while training."""
    backbone_dropout: Below1 | None = None
    """Inside the network while training; the checkpoint's own when none."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """The reader: log p(y | z, x) of masked word pieces under each passage."""

    model: str = "all-MiniLM-L6-v2"
    """A name of the catalogue, a folder, or a hub id; its tokenizer must be the encoder's."""
    layers: Natural | None = None
    """Keep only the first so many layers; all of them when none, and with 0 the embedding layer alone."""
    interaction: Literal["joint", "late"] = "joint"
    """joint: query and passage go through the network together, as in the paper. late: the query goes alone and points
    at the passage's word pieces (copying is all a passage can do); tens of times cheaper a candidate."""
    copy_head: bool = True
    """Mix the vocabulary's distribution with copying from the passage: retrieval gets a signal from the start."""
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
        if self.interaction == "late" and not self.copy_head:
            raise UsageError("found reader.interaction=late with reader.copy_head=false: a late reader only copies")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is masked, and what may be retrieved for it."""

    corpus: str | None = None
    """A knowledge base to mask (X) other than the one that is searched (Z); Z itself when none."""
    max_query_tokens: Annotated[int, Range(low=8)] = 64
    """Longest masked sentence, [CLS] and [SEP] counted."""
    max_passage_tokens: Annotated[int, Range(low=16)] = 288
    """Longest passage input of the encoder, title, [CLS] and both [SEP] counted (the paper: 288)."""
    max_targets: Count = 10
    """Masked word pieces of a sentence that are predicted; further ones stay masked and unpredicted."""
    masking: Literal["salient", "random-token", "random-span"] = "salient"
    """Salient spans (REALM), single pieces (BERT), or spans of words (SpanBERT)."""
    spans_pipeline: str = "en_core_web_sm"
    """The spaCy pipeline that names entities, for `masking=salient`."""
    min_span_documents: Count = 1
    """Mask in training only spans that so many documents hold; 2 leaves out what no other document can tell."""
    max_span_documents: Count | None = None
    """Mask in training only spans that at most so many documents hold: what all hold is found by accident."""
    curriculum_steps: Natural = 0
    """Over so many first steps of REALM the longest sentence that is masked grows from 16 word pieces to all."""
    exclude: Literal["none", "passage", "document"] = "passage"
    """What a sentence may not retrieve: nothing left out, its own passage, or any passage of its document."""
    exclude_duplicates: bool = True
    """Leave out passages that say the same as the sentence's own one, too."""
    held_out_fraction: Annotated[float, Range(low=0.0, high=0.5)] = 0.05
    """Share of documents whose sentences are never trained on; the probe is drawn from them."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class IctConfig:
    """The retriever's warm start: the inverse cloze task (Lee et al. 2019)."""

    steps: Natural = 100_000
    """0 leaves the warm start out."""
    batch_size: Annotated[int, Range(low=2)] = 4096
    """Pairs of a step over all processes; the other pairs of the batch are the wrong answers."""
    chunk_tokens: Count = 16_384
    """Word pieces in memory at a time; the batch is as large as `batch_size` all the same (GradCache)."""
    learning_rate: Positive = 1e-4
    """Peak."""
    projection_learning_rate: Positive | None = None
    """Peak, for the projection and its norm; `learning_rate` when none."""
    token_weight_learning_rate: Positive | None = None
    """Peak, for the token weights of weighted-mean; `learning_rate` when none."""
    pairs: Literal["sentence", "crop"] = "sentence"
    """What stands for a query: a sentence of the passage (ICT), or a random crop of it, to be matched with another crop
    (Contriever, Izacard et al. 2021)."""
    removal_probability: Share = 0.9
    """How often the sentence is taken out of its passage; for `pairs=sentence`."""
    crop_shares: tuple[Share, Share] = (0.05, 0.5)
    """Shortest and longest crop, as shares of the passage; for `pairs=crop`."""

    def __post_init__(self) -> None:
        check(self)
        if self.crop_shares[0] > self.crop_shares[1]:
            low, high = self.crop_shares
            raise UsageError(f"found ict.crop_shares={low},{high}: expected the smaller share first")


@dataclass(frozen=True, kw_only=True)
class RealmConfig:
    """Joint training of retriever and reader (Guu et al. 2020, section 3)."""

    steps: Natural = 200_000
    """0 leaves it out: the result is the warm start."""
    batch_size: Count = 512
    """Masked sentences of a part of a step, over all processes."""
    accumulation: Count = 1
    """Parts of a step: the gradient is the mean over accumulation * batch_size sentences."""
    num_candidates: Annotated[int, Range(low=2)] = 8
    """Passages read for each sentence, the null passage counted."""
    marginal: Literal["sequence", "token"] = "sequence"
    """Multiply a passage's tokens, then sum passages (the paper), or sum passages for each token (its code)."""
    objective: Literal["marginal", "emdr2", "perplexity-distillation", "leave-one-out"] = "marginal"
    """What teaches the retriever: the marginal likelihood (REALM), EMDR2 (Sachan et al. 2021), or the reader's
    judgement distilled (Atlas, Izacard et al. 2022): how well it does with a passage, or how badly without."""
    distillation_temperature: Positive = 1.0
    """What the two distilling objectives divide log probabilities by before the softmax that they teach."""
    null_passage: bool = True
    """Whether the empty passage is candidate 0."""
    over_retrieve: Count = 1
    """Fetch so many times the candidates and keep the best by live parameters; 1 trusts the index."""
    explore: Natural = 0
    """So many of the candidates are drawn at random from the first `explore_depth` of the index instead of its top."""
    explore_depth: Count = 200
    """How far down the index `explore` draws."""
    lexical: Natural = 0
    """So many of the candidates are BM25's for the words that are not masked; REALM itself has none."""
    ict_weight: Annotated[float, Range(low=0.0)] = 0.0
    """Weight of the warm start's loss, kept up beside REALM's; 0 ends it with the warm start, as in the paper."""
    ict_batch_size: Annotated[int, Range(low=2)] = 256
    """Pairs of that loss in a part of a step, over all processes."""
    learning_rate: Positive = 3e-5
    """Peak, for the retriever."""
    projection_learning_rate: Positive | None = None
    """Peak, for the retriever's projection and its norm; `learning_rate` when none."""
    token_weight_learning_rate: Positive | None = None
    """Peak, for the token weights of weighted-mean; `learning_rate` when none."""
    reader_learning_rate: Positive = 3e-5
    """Peak, for the pretrained part of the reader."""
    head_learning_rate: Positive = 3e-5
    """Peak, for the parts of the reader that start from nothing."""

    def __post_init__(self) -> None:
        check(self)
        passages = self.num_candidates - int(self.null_passage)
        if self.explore + self.lexical >= passages:
            names = [name for name in ("explore", "lexical") if getattr(self, name)]
            found = " and ".join(f"realm.{name}={getattr(self, name)}" for name in names)
            raise UsageError(
                f"found {found} of {passages} retrieved passages: expected at most {passages - 1}, so that one is the "
                f"index's best; raise realm.num_candidates or lower {' or '.join(f'realm.{name}' for name in names)}"
            )
        if self.explore and self.explore_depth < passages:
            raise UsageError(
                f"found realm.explore_depth={self.explore_depth}: expected at least {passages}, the passages "
                "retrieved; there is nothing further down to draw from"
            )
        if self.marginal == "token" and self.objective in ("perplexity-distillation", "leave-one-out"):
            raise UsageError(
                f"found realm.objective={self.objective} with realm.marginal=token: expected sequence, because it "
                "judges a passage by the whole masked span"
            )


@dataclass(frozen=True, kw_only=True)
class RefreshConfig:
    """Re-embedding the passages with newer parameters while training goes on."""

    mode: Literal["async", "ray", "sync", "off"] = "async"
    """In a process of its own, by workers on a Ray cluster, between two steps (deterministic), or never."""
    every_steps: Count = 500
    """Parameters are published so often (the paper: about 500); with `drift`, the longest wait."""
    drift: Annotated[float, Range(low=0.0, high=1.0, open_low=True)] | None = None
    """Publish as soon as live parameters put this share of the better half of the index's proposals into the worse half
    (`top_drift` in the metrics); none keeps to `every_steps`."""
    min_steps: Count = 1
    """With `drift`: the shortest wait between two publications."""
    partial: Annotated[float, Range(low=0.0, high=1.0, open_low=True, open_high=True)] | None = None
    """With mode=async: embed first what recent queries were proposed, and take an index into use after each such share
    of the work, what is not embedded yet carried over from the one before; none waits for the whole. Of several
    processes the first one's queries count."""
    threads: Count = 1
    """CPU threads of the refresher, or of each worker."""
    workers: Count = 1
    """With mode=ray: how many, each with an accelerator of its own where the device is one."""
    device: str | None = None
    """Where it embeds ("cuda:1"); the trainer's device when none."""
    bf16: bool | None = None
    """Embed in bfloat16; none follows loop.bf16. On a CPU that has it (avx512_bf16, AMX) nearly twice as fast."""

    def __post_init__(self) -> None:
        check(self)
        if self.drift is not None and self.min_steps > self.every_steps:
            raise UsageError(
                f"found refresh.min_steps={self.min_steps} with refresh.every_steps={self.every_steps}: the shortest "
                "wait can't be longer than the longest; lower the first or raise the second"
            )
        if self.partial is not None and self.mode != "async":
            raise UsageError(
                f"found refresh.partial={self.partial:g} with refresh.mode={self.mode}: expected async, where training "
                "goes on while one process embeds; leave out refresh.partial"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """BERT's optimizer."""

    warmup: Literal["bert"] | Natural = "bert"
    """Steps of linear warm-up; "bert" is min(10,000, max(100, steps / 10)), at most half of the run."""
    weight_decay: Annotated[float, Range(low=0.0)] = 0.01
    """Decoupled; not on biases and norms."""
    clip: Positive = 1.0
    """Largest global norm of the gradient."""
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: Positive = 1e-6
    """Added to the root of the second moment."""
    bias_correction: bool = False
    """Adam's correction of the first steps, which BERT leaves out."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The training loop."""

    seed: Natural = 0
    """Decides masking, order, initial weights and dropout."""
    log_every: Count = 10
    """Steps between two events in metrics.jsonl."""
    checkpoint_every: Count = 500
    """Steps between two checkpoints; what an interruption may cost."""
    keep_checkpoints: Count = 2
    """The newest so many stay."""
    threads: Count | None = None
    """CPU threads of the trainer; what torch chooses when none."""
    device: str = "auto"
    """A torch device; "auto" takes the first accelerator there is, else the CPU."""
    bf16: Literal["auto"] | bool = "auto"
    """bfloat16 arithmetic; "auto" where the device has it in hardware."""
    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl, when the library is installed."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Held-out masked sentences on which retrieval is judged."""

    size: Count = 1000
    """Sentences."""
    ks: tuple[Count, ...] = (1, 5, 20)
    """Recall is reported at these numbers of passages."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that `realm pretrain` can be told. Numbers default to the paper's; recipes fit them to a machine."""

    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {"model": ("encoder.model", "reader.model")}
    """Short names that set several settings at once."""

    start: str | None = None
    """A trained model to go on from: one of the catalogue, a model folder or a run; none starts from `encoder.model`
    and `reader.model`."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The embedder."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """The reader."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is masked."""
    ict: IctConfig = field(default_factory=IctConfig)
    """The warm start."""
    realm: RealmConfig = field(default_factory=RealmConfig)
    """Joint training."""
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    """Re-embedding."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The loop."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """The probe."""

    def __post_init__(self) -> None:
        check(self)

"""The vocabulary: what the rooms of the house hand to each other.

Legend for shapes: B queries, K candidates, N rows, L tokens, T target tokens, E excluded rows, D vector size.
A *row* is a passage's position in a snapshot, the only name for a passage inside the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date as Date
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from realm.files import fingerprint

NO_ROW = -1
"""In `Hits.rows`: there is no such hit. Among candidates, at index 0: the null passage."""

# ---------------------------------------------------------------- what people write and read


@dataclass(frozen=True, slots=True)
class Document:
    """What a user adds, edits and deletes."""

    id: str
    title: str
    text: str
    source: str | None = None
    date: Date | None = None
    lang: str | None = None
    url: str | None = None
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Anything else worth filtering by; keys become columns that `where` can name."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document: whole sentences up to a budget of word pieces (the paper's "block")."""

    document_id: str
    number: int
    """Position in the document, from 0."""
    title: str
    text: str
    start: int
    """`text` is the document's text[start:end], in characters."""
    end: int
    sentences: tuple[tuple[int, int], ...]
    """(start, end) of each sentence, in characters of `text`, in order, not overlapping."""

    @property
    def text_hash(self) -> str:
        """Fingerprint of what an encoder sees, so that equal hashes may share a vector."""
        return fingerprint(self.title, self.text)

    @property
    def id(self) -> str:
        """Stable: it changes exactly when the document, the number or the text does."""
        return f"{self.document_id}#{self.number}:{self.text_hash[:8]}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what is accepted as its answer."""

    id: str
    text: str
    answers: tuple[str, ...]
    """Any of them is right; none where nothing is known or where the question has no answer."""
    patterns: bool = False
    """Whether `answers` are regular expressions (CuratedTREC)."""
    gold: tuple[str, ...] = ()
    """Ids of documents or passages that hold an answer, where the set names them."""
    silver: tuple[str, ...] = ()
    """Weak labels: ids a search proposed that hold an answer's text; for training only."""
    answerable: bool = True
    """False: the set says that nothing in its documents answers it."""
    date: Date | None = None
    lang: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an answer rests on."""

    passage: Passage
    document_version: int | None
    """Version of the knowledge base in which the document got its present text."""
    score: float
    """f(x, z), the retrieval score."""
    prior: float
    """p(z|x) over the candidates, null passage included."""
    posterior: float
    """p(z|x, y) for the answer y."""
    retrieval_utility: float
    """RU: log p(y|z,x) - log p(y|null,x) (Guu et al. 2020, eq. 2)."""
    span: tuple[int, int] | None
    """Where the answer stands in `passage.text`, in characters; None where it does not."""
    source: str | None = None
    date: Date | None = None
    url: str | None = None
    recency: float | None = None
    """log r(z) of a recency prior, which `prior` has besides `score`: 0 for a document without a date; None where no
    such prior acted."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the answers that passages disagree about."""

    text: str
    mass: float
    """Share of the probability, by the model's own p(y|x), that this answer has in the passages that give it."""
    preferred: bool
    """Whether it is the answer given."""
    evidence: tuple[Evidence, ...]
    """The passages whose likeliest answer it is, newest first; those without a date last."""
    reason: str | None = None
    """Why it is the answer given, a key of `answering.conflicts.REASONS`; None of the other sides."""

    @property
    def date(self) -> Date | None:
        """Of its newest passage; None where none has a date."""
        return max((evidence.date for evidence in self.evidence if evidence.date is not None), default=None)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its evidence, best passage first, and the answers that came after it."""

    question: str
    text: str
    confidence: float
    """Share of the probability of all considered answers; calibrated only if the model says so."""
    abstained: bool
    evidence: tuple[Evidence, ...]
    null_prior: float
    """p(null|x): the share of belief that no passage is needed."""
    alternatives: tuple[tuple[str, float], ...] = ()
    """Other answers and their confidence, best first."""
    knowledge_base_version: int | None = None
    conflicts: tuple[Side, ...] = ()
    """Answers of comparable mass that passages disagree about, newest first; empty where they agree."""
    signals: Mapping[str, float] = field(default_factory=dict)
    """What else tells a right answer from a wrong one, by name; a calibration may weigh it."""
    now: datetime | None = None
    """What NOW() in a predicate meant, and ages were counted from; None where nothing hung on it."""
    conflict: str | None = None
    """`conflicts` in words: who disagrees, which side is preferred, and why."""
    unread: float = 0.0
    """After an early exit: by so much at most every p(y|x) differs from that of a whole reading."""


# ---------------------------------------------------------------- what the program computes with


@dataclass(frozen=True)
class Tokens:
    """Padded token ids of N texts. Positions at or after `lengths` hold padding."""

    ids: Tensor
    """Long[N, L]"""
    types: Tensor
    """Long[N, L], segment ids."""
    lengths: Tensor
    """Long[N]; at least 1."""

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def mask(self) -> Tensor:
        """Bool[N, L], True where there is a token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    def select(self, index: Tensor) -> Tokens:
        """The texts at `index` (Long[M]), trimmed to the longest of them."""
        lengths = self.lengths[index]
        longest = int(lengths.max()) if len(index) else 0
        return Tokens(self.ids[index, :longest], self.types[index, :longest], lengths)

    def to(self, device: torch.device | str) -> Tokens:
        return Tokens(self.ids.to(device), self.types.to(device), self.lengths.to(device))


@dataclass(frozen=True)
class Target:
    """The masked word pieces of B queries: where they stand in the query's ids and what they were."""

    ids: Tensor
    """Long[B, T]; 0 where `mask` is False."""
    positions: Tensor
    """Long[B, T], index into the query's token ids ([CLS] counted); 0 where `mask` is False."""
    mask: Tensor
    """Bool[B, T]"""

    def to(self, device: torch.device | str) -> Target:
        return Target(self.ids.to(device), self.positions.to(device), self.mask.to(device))


@dataclass(frozen=True)
class MaskedBatch:
    """B masked sentences, ready for a REALM step."""

    query: Tokens
    """[CLS] masked sentence [SEP]"""
    target: Target
    source_rows: Tensor
    """Long[B]: the row the sentence was taken from, NO_ROW when X is not Z."""
    exclude_rows: Tensor
    """Long[B, E]: rows that may not be retrieved (source passage, and more by setting), padded with NO_ROW."""
    seeds: Tensor | None = None
    """Long[B], not negative: an example's own, for what a method draws in training; None where nothing may be drawn."""


@dataclass(frozen=True)
class PairBatch:
    """B (query, passage) pairs where pair i is the only right match of query i: ICT, or labelled data."""

    query: Tokens
    passage: Tokens
    removed: Tensor | None = None
    """Bool[B]: ICT only, whether the sentence was taken out of its passage."""
    copies: Tensor | None = None
    """Bool[B, M]: which other passages of the global batch (M, in the order of the ranks) have the body of a query's
    own, and so are no wrong answers. None where no body comes twice."""


class TwoBatches(NamedTuple):
    """What a step of two objectives at once learns from."""

    first: Any
    second: Any


class Hits(NamedTuple):
    """Search results, best first. NO_ROW and -inf where there are fewer than K."""

    rows: Tensor
    """Long[B, K]"""
    scores: Tensor
    """Float[B, K]"""


class Loss(NamedTuple):
    """What an objective returns: a scalar to differentiate and detached figures to log."""

    total: Tensor
    """Float[]"""
    stats: dict[str, Tensor]
    """Detached scalars by name."""
    per_example: Tensor | None = None
    """Float[B], detached: lets the loop name the examples behind a non-finite step."""
    weight: Tensor | None = None
    """Long[]: how many terms `total` is the mean of, so that parts of a step and ranks weigh as they should; None when
    every part has the same number."""


# ---------------------------------------------------------------- the contracts


@runtime_checkable
class Encoder(Protocol):
    """Text to vectors. Gradients flow when the caller's grad mode is on."""

    @property
    def dim(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def encode_queries(self, tokens: Tokens) -> Tensor:
        """Float[N, D]"""
        ...

    def encode_passages(self, tokens: Tokens) -> Tensor:
        """Float[N, D]"""
        ...


class Trainable(Protocol):
    """What the loop needs of a network: parameters to move, a folder to save to."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Every parameter once, by role, so that each role has its learning rate."""
        ...

    training: bool

    def train(self, mode: bool = True) -> Any: ...

    def save_pretrained(self, folder: Path) -> None: ...


@runtime_checkable
class TrainableEncoder(Encoder, Trainable, Protocol):
    """An encoder that learns."""

    null_bias: nn.Parameter
    """Float[], added to the score of the null passage; 0 where the paper is followed."""


class PassageSource(Protocol):
    """What an embedder needs of a snapshot."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        """Int32[N]: length of each row's encoder input, specials counted, without building it."""
        ...

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        """Encoder inputs ([CLS] title [SEP] body [SEP]) of rows Long[M]; NO_ROW gives the null passage."""
        ...


@runtime_checkable
class Index(Protocol):
    """Vectors to hits. Exact or not, in memory or mapped."""

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def search(self, vectors: Tensor, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None) -> Hits:
        """Best k rows for each of vectors Float[B, D].

        exclude: Long[B, E], rows that query b may not get, NO_ROW as padding.
        allowed: Bool[N], rows that any query may get.
        k may exceed the number of rows: the rest is padded.
        """
        ...

    def vectors(self, rows: Tensor) -> Tensor:
        """Float32[..., D]: the stored vectors of rows Long[...]; NO_ROW gives zeros."""
        ...


class Retriever(Protocol):
    """Queries to hits. Retrievers nest: a re-ranker or a fusion holds retrievers and is one."""

    def __call__(self, queries: Sequence[str], k: int) -> Hits: ...


class Reader(Trainable, Protocol):
    """Gives log p(y_j | z, x) for each target token under each candidate passage."""

    def log_prob(self, query: Tokens, body: Tokens, target: Target, num_candidates: int) -> Tensor:
        """Float[B, K, T]; `body` holds B*K passage bodies, those of query 0 first; an empty one is the null passage."""
        ...


class Method(Protocol):
    """A retriever, a reader and an objective held together. The loop knows nothing else of it."""

    def loss(self, batch: Any) -> Loss: ...

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Trainable parameters by role (retriever, reader, ...), so that each role has its learning rate."""
        ...

    def modules(self) -> Mapping[str, Trainable]:
        """What is saved and restored, by name."""
        ...


class Batches(Protocol):
    """Batches as a pure function of the step: resuming is asking for the next number."""

    def batch(self, step: int) -> Any: ...


class Progress(Protocol):
    """Shows long work. The library reports; only the command line draws."""

    def __call__(self, done: int, total: int | None, /) -> None: ...


class Spans(Protocol):
    """Salient spans of a snapshot's rows."""

    def spans(self, row: int) -> np.ndarray:
        """Int32[S, 2]: (start, end) in characters of the row's body text, sorted, not overlapping."""
        ...


DocumentStream = Iterator[Document]

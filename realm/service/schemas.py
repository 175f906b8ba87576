"""The bodies of requests and answers, as OpenAPI shows them. What is answered is made by `workflows.values`; these
models only describe it, and a test holds the two together."""

from __future__ import annotations

from dataclasses import fields
from datetime import date as Date
from typing import Annotated, Any, Literal

from realm.answering.conflicts import ConflictRule
from realm.answering.constraints import Constraints, constraints_of
from realm.service.fields import METADATA_KEYS, Count, Day, Id, Ids, Scalar, Text, When, Where
from realm.service.framework import BaseModel, ConfigDict, Discriminator, Field, StrictBool, Tag
from realm.types import Document


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Out(BaseModel):
    """An answer's part: it has what is described, and nothing else."""

    model_config = ConfigDict(extra="forbid")


# ---------------------------------------------------------------- asked


class Conflicts(_In):
    """When passages count as disagreeing; see `ConflictRule`."""

    ratio: float = Field(0.3, description="A side has this share of the mass of the answer given.")
    least: float | None = Field(
        None, description="A side has at least so much of the whole probability; when left out 0.1, of a blank 0.25."
    )

    def rule(self) -> ConflictRule:
        """UsageError for numbers that make no rule."""
        return ConflictRule(self.ratio, self.least)


class _Constrained(_In):
    """What the passages keep to; see `Constraints`."""

    where: Where | None = Field(
        None, description="A predicate on the documents, as date >= now() - interval '2 years' and source = 'reuters'."
    )
    allow: Ids | None = Field(None, description="Ids of documents: only these.")
    deny: Ids | None = Field(None, description="Ids of documents: none of these.")
    sources: Ids | None = Field(None, description="Only documents from these sources.")
    since: Day | None = Field(None, description="Only documents dated this day or later.")
    until: Day | None = Field(None, description="Only documents dated this day or earlier.")
    max_per_document: Count | None = Field(None, description="At most so many passages of a document.")
    max_per_source: Count | None = Field(None, description="At most so many passages of a source.")
    mmr: float | None = Field(
        None, ge=0, le=1, description="Maximal marginal relevance: 1 is the plain order, less moves repetition back."
    )
    half_life_days: float | None = Field(
        None, ge=1, description="Newest wins: a passage counts half for so many days of its document's age."
    )
    approximate: StrictBool = Field(False, description="Search by the approximate index, which must be there.")

    def constraints(self) -> Constraints | None:
        """None where nothing but `where` is asked for."""
        names = (field.name for field in fields(Constraints))
        return constraints_of(**{name: getattr(self, name) for name in names if name != "now"})


class Ask(_Constrained):
    """One question, or many."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in ("question", "questions")
            ]
        }
    )

    question: Text | None = Field(None, description="A question; of a pre-trained model a sentence with [MASK].")
    questions: list[Text] | None = Field(None, min_length=1, description="Many, in place of `question`.")
    k: Count | None = Field(None, description="Passages to read; as in training by default.")
    as_of: When | None = Field(None, description="Answer from this version, or as of this time (ISO 8601).")
    aggregate: Literal["marginal", "best-span"] | None = Field(
        None, description="An answer's probability: over all its places, or of the best one."
    )
    conflicts: Conflicts | None = None
    early_exit: float | None = Field(
        None,
        ge=0.5,
        lt=1,
        description="Read no further once this share of the probability is read and the answer settled.",
    )


class Search(_Constrained):
    """What to look for."""

    query: Text
    k: Count = 5
    as_of: When | None = Field(None, description="Search this version, or as of this time (ISO 8601).")
    by: Literal["meaning", "words"] = Field("meaning", description="By the model's vectors, or by BM25.")


class Restore(_In):
    """Which state of a document to go back to."""

    as_of: When = Field(description="A version, or a time (ISO 8601).")


class Content(_In):
    """A document without its id."""

    title: Text = ""
    text: Text
    source: Text | None = None
    date: Day | None = None
    lang: Text | None = None
    url: Text | None = None
    metadata: dict[Text, Scalar] = Field(
        default_factory=dict,
        max_length=METADATA_KEYS,
        json_schema_extra={"propertyNames": {"pattern": "^[A-Za-z][A-Za-z0-9_]*$"}},
    )

    def document(self, document_id: str) -> Document:
        """The document of that id."""
        return Document(
            document_id, self.title, self.text, self.source, self.date, self.lang, self.url, dict(self.metadata)
        )


class NewDocument(Content):
    """A document to add."""

    id: Id


class NewDocuments(_In):
    """Documents to add: all or none."""

    documents: list[NewDocument] = Field(min_length=1)


def _how_many(value: Any) -> str:
    return "many" if isinstance(value, dict) and "documents" in value else "one"


Added = Annotated[Annotated[NewDocument, Tag("one")] | Annotated[NewDocuments, Tag("many")], Discriminator(_how_many)]
"""A document, or ``{"documents": [...]}``."""


# ---------------------------------------------------------------- answered


class PassageOut(Out):
    """A piece of a document: its text[start:end]."""

    document_id: str
    number: int
    title: str
    text: str
    start: int
    end: int
    id: str


class EvidenceOut(Out):
    """What an answer rests on: p(z|x), p(z|x,y) and retrieval utility of a passage, and where the answer stands."""

    passage: PassageOut
    document_version: int | None
    score: float
    prior: float
    posterior: float
    retrieval_utility: float | None
    span: Annotated[list[int], Field(min_length=2, max_length=2)] | None
    source: str | None
    date: Date | None
    url: str | None
    recency: float | None = Field(
        description="The log of its factor in p(z|x) for its document's age; 0 without a date; null where none acted."
    )


class SideOut(Out):
    """One of the answers that passages disagree about."""

    text: str
    mass: float
    preferred: bool
    evidence: list[EvidenceOut] = Field(description="Newest first.")
    reason: Literal["mass", "likeliest", "recency"] | None = Field(
        description="Why it is preferred: more of the probability, the likeliest by itself, or newer, where a recency "
        "prior decided; null of the others."
    )
    date: Date | None = Field(description="Of its newest passage.")


class AnswerOut(Out):
    """An answer with what it rests on, best passage first."""

    question: str
    text: str
    confidence: float
    abstained: bool
    evidence: list[EvidenceOut]
    null_prior: float
    alternatives: list[tuple[str, float]]
    knowledge_base_version: int | None
    conflicts: list[SideOut]
    signals: dict[str, float]
    now: str | None = Field(description="What now() meant and ages were counted from; null where nothing hung on it.")
    conflict: str | None = Field(description="`conflicts` in words, with the reason for the preference.")
    unread: float = Field(description="After an early exit: so much any p(y|x) differs at most, uncalibrated; else 0.")


class HitOut(Out):
    """A passage that a search found."""

    rank: int
    score: float
    id: str
    document_id: str
    document_version: int
    number: int
    title: str
    text: str
    start: int
    end: int
    source: str | None
    date: Date | None
    url: str | None
    recency: float | None = Field(description="As of evidence; the order is by score + recency.")


class HitsOut(Out):
    """What a search found, best first, and in which version."""

    hits: list[HitOut]
    version: int
    now: str | None = Field(description="As of an answer.")


class DocumentOut(Out):
    """A document as it was given."""

    id: str
    title: str
    text: str
    source: str | None
    date: Date | None
    lang: str | None
    url: str | None
    metadata: dict[str, str | bool | int | float | None]


class OneDocumentOut(Out):
    """A document and its last change."""

    document: DocumentOut
    document_version: int
    revision: int
    time: str
    version: int


class PageOut(Out):
    """Some documents of a version, in order of insertion."""

    documents: list[DocumentOut]
    total: int
    version: int
    cursor: str | None = Field(description="Gives the next page of the same version; null at the end.")


class FieldOut(Out):
    """A field besides the text that a change gave another value."""

    name: str
    old: str | int | float | bool | None
    new: str | int | float | bool | None


class ChangeOut(Out):
    """A change of a document, the text that it left, and what it changed."""

    version: int
    revision: int
    time: str
    change: Literal["added", "updated", "deleted"]
    num_passages: int
    title: str
    text: str
    difference: list[tuple[Literal["same", "removed", "added"], str]] = Field(
        description="The same and removed pieces are the text before, the same and added ones the text after."
    )
    fields: list[FieldOut]
    same_as: int | None = Field(description="The version above that had the very same document, as when restored.")


class HistoryOut(Out):
    """Changes of a document, oldest first."""

    changes: list[ChangeOut]
    before: int | None = Field(description="Give it as `before` for older changes; null where there are none.")


class EditOut(Out):
    """What an edit did, in documents, and the version that has it."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    version: int


class IndexOut(Out):
    """How fresh the vectors are."""

    encoder: str
    waiting: int = Field(description="Passages without a vector.")
    age_seconds: float = Field(description="How long the oldest of them waits.")


class KnowledgeBaseOut(Out):
    """What is known."""

    version: int
    documents: int
    passages: int
    columns: dict[str, str] = Field(description="What `where` can name, with types.")
    encoders: dict[str, int] = Field(description="Encoders that have vectors here, with their sizes.")
    index: IndexOut | None = Field(description="Of the served model; null until it is open.")


class StatusOut(Out):
    """Whether it lives, or can answer."""

    status: Literal["ok", "ready"]


class ErrorOut(Out):
    """Why not."""

    code: str
    message: str
    request_id: str


class ErrorBody(Out):
    """The one shape that errors have."""

    error: ErrorOut

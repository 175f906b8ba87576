"""Python, HTTP and JSON name the same things alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from realm.answering.ask import Realm
from realm.answering.conflicts import REASONS, ConflictRule
from realm.answering.constraints import Constraints
from realm.answering.questions import QuestionAnswering
from realm.evaluation.plot import Curve, Series
from realm.knowledge.base import Counts, KnowledgeBase, Match, Page, Revision
from realm.service import schemas, schemas_model
from realm.types import Answer, Document, Evidence, Passage, Side


def names(kind: type) -> set[str]:
    """Of a dataclass: its fields and what it works out of them."""
    return {one.name for one in fields(kind)} | {
        name for name, value in vars(kind).items() if isinstance(value, property)
    }


SAME: dict[type, tuple[set[str], set[str], set[str]]] = {
    schemas.AnswerOut: (names(Answer), set(), set()),
    schemas.EvidenceOut: (names(Evidence), set(), set()),
    schemas.SideOut: (names(Side), set(), set()),
    schemas.PassageOut: (names(Passage), set(), {"sentences", "text_hash"}),
    schemas.DocumentOut: (names(Document), set(), set()),
    schemas.Content: (names(Document), set(), {"id"}),
    schemas.NewDocument: (names(Document), set(), set()),
    schemas.EditOut: (names(Counts), set(), set()),
    schemas.Conflicts: (names(ConflictRule), set(), set()),
    schemas.HitOut: (names(Match) | names(Passage), {"rank"}, {"passage", "logit", "sentences", "text_hash"}),
    schemas.ChangeOut: (names(Revision), {"text", "difference", "fields", "same_as"}, {"document_id"}),
    # A cursor is the version, too, so that all pages are of one.
    schemas.PageOut: (names(Page), {"cursor"}, {"next"}),
    schemas_model.SeriesOut: (names(Series), {"name"}, set()),
    schemas_model.CurveOut: (names(Curve), {"name", "stage", "share"}, {"form", "baselines", "axis"}),
}
"""Model of an answer -> names in Python, those that HTTP alone has, those that it leaves out."""


@pytest.mark.parametrize("model", SAME, ids=lambda model: model.__name__)
def test_fields_have_the_names_of_the_dataclasses(model: Any) -> None:
    python, more, less = SAME[model]
    assert more & python == set() and less <= python
    assert set(model.model_fields) == (python - less) | more


CONSTRAINTS = names(Constraints) - {"now", "limited"}
CALLS: list[tuple[Callable[..., Any], set[str]]] = [
    (Realm.ask, set(schemas.Ask.model_fields) - {"questions"}),
    (QuestionAnswering.ask, set(schemas.Ask.model_fields) - {"questions"}),
    (Realm.ask_many, set(schemas.Ask.model_fields) - {"question"}),
    (QuestionAnswering.ask_many, set(schemas.Ask.model_fields) - {"question"}),
    (Realm.search, set(schemas.Search.model_fields) - {"by"}),
    (QuestionAnswering.search, set(schemas.Search.model_fields) - {"by"}),
    (KnowledgeBase.restore, {*schemas.Restore.model_fields, "document_id"}),
]


@pytest.mark.parametrize(("call", "asked"), CALLS, ids=lambda one: getattr(one, "__qualname__", ""))
def test_requests_have_the_names_of_the_arguments(call: Callable[..., Any], asked: set[str]) -> None:
    """Besides the knowledge base, batches and encoders, which the service has, and constraints, which stand there one
    by one."""
    taken = set(inspect.signature(call).parameters) - {"self", "kb", "batch", "encoder", "progress"}
    if "constraints" in taken:
        taken = (taken - {"constraints"}) | CONSTRAINTS
    assert taken == asked


def test_the_reasons_are_those_of_conflicts() -> None:
    reason = schemas.SideOut.model_json_schema()["properties"]["reason"]
    assert set(reason["anyOf"][0]["enum"]) == set(REASONS)

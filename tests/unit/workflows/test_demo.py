"""The edit that the demo tells of: it is undone, even when the demo was killed in the middle of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dots
import pytest
import tiny
from toy_realm import networks

from realm.answering.ask import Realm
from realm.config import DataConfig, PretrainConfig
from realm.knowledge.base import KnowledgeBase
from realm.types import Document
from realm.workflows.demo import EDITS, Edit, edit, put_back, surest

EDIT = EDITS[0]

TOLD = Document("9", EDIT.title, f"{EDIT.title} is a work of {EDIT.old} in London", metadata={"level": 4})
NAMESAKE = Document("10", EDIT.title, f"{EDIT.title} is a name that {EDIT.new} never used")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    settings = DataConfig(spans_pipeline="pattern", max_passage_tokens=60, max_query_tokens=40)
    return Realm(*networks(tiny.tiny_bert(tmp_path_factory.mktemp("bert"))), PretrainConfig(data=settings))


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([TOLD, NAMESAKE])
    return kb


def ignore(kind: str, value: Any) -> None:
    pass


def test_the_edit_is_seen_and_undone(model: Realm, kb: KnowledgeBase) -> None:
    before = model.ask(EDIT.question, kb)
    after = edit(model, kb, EDIT, before, ignore)
    assert any(EDIT.old in evidence.passage.text for evidence in before.evidence)
    assert not any(EDIT.old in evidence.passage.text for evidence in after.evidence)
    assert kb.get("9") == TOLD
    assert [revision.change for revision in kb.history("9")] == ["added", "updated", "updated"]


class Told:
    """Answers every fact, from its own document, as surely as `priors` say."""

    def __init__(self, priors: dict[str, float], wrong: str) -> None:
        self.priors, self.wrong = priors, wrong

    def ask(self, question: str, kb: KnowledgeBase, k: int) -> Any:
        fact = next(fact for fact in EDITS if fact.question == question)
        evidence = [SimpleNamespace(prior=self.priors[fact.title], passage=SimpleNamespace(title=fact.title))]
        return SimpleNamespace(text="nobody" if fact.title == self.wrong else fact.old, evidence=evidence)


def test_the_fact_whose_document_is_surest_is_edited(kb: KnowledgeBase) -> None:
    first, second, third = EDITS
    model: Any = Told({first.title: 0.5, second.title: 0.7, third.title: 0.9}, wrong=third.title)

    def chosen() -> Edit:
        found = surest(model, kb)
        assert found is not None and found[1].text == found[0].old
        return found[0]

    assert chosen() is first  # the knowledge base holds no other
    kb.add([Document(fact.title, fact.title, f"It is by {fact.old}.") for fact in (second, third)])
    assert chosen() is second
    model.wrong = ""
    assert chosen() is third
    kb.delete(["9", second.title, third.title])
    assert surest(model, kb) is None


def test_an_edit_that_was_interrupted_is_undone_at_once(model: Realm, kb: KnowledgeBase) -> None:
    def interrupt(kind: str, value: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(model, kb, EDIT, model.ask(EDIT.question, kb), interrupt)
    assert kb.get("9") == TOLD
    assert len(kb.history("9")) == 3


def test_an_edit_that_was_killed_is_undone(model: Realm, kb: KnowledgeBase) -> None:
    kb.update(replace(TOLD, text=TOLD.text.replace(EDIT.old, EDIT.new)))
    put_back(model, kb)
    assert kb.get("9") == TOLD
    version = kb.version
    put_back(model, kb)
    assert (kb.version, kb.get("10")) == (version, NAMESAKE)

"""Edits of a round leave each other alone, and nothing of one is left for the next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import dots
import numpy as np
import pytest

from realm.evaluation.edit_facts import Substitution, substitution
from realm.evaluation.edit_verdicts import Edit, Said
from realm.knowledge.base import KnowledgeBase, Match, PassageEncoder
from realm.types import Answer, Document, Evidence, Passage
from realm.workflows.editing.rounds import Plan, Scratch, holds, judged, play, said
from realm.workflows.journal import Journal

TOWNS = ("Alm", "Bor", "Cal", "Dun", "Elm", "Fen")
RIVERS = ("Arn", "Belt", "Corr", "Dove", "Esk", "Fal")
VOCABULARY = [*TOWNS, *RIVERS]


def vector(text: str) -> np.ndarray:
    """How often each word of the world stands in the text, and a little of everything."""
    words = re.findall(r"\w+", text)
    return np.array([words.count(word) for word in VOCABULARY], np.float32) + 0.01


class Towns:
    """Passages by common words; the answer is the river in the first of them."""

    def __init__(self, kb: KnowledgeBase, k: int = 2) -> None:
        self.kb, self.k = kb, k
        self.asked: list[tuple[str, int]] = []

    def search(self, questions: Sequence[str]) -> list[list[Match]]:
        return [self.kb.search_vectors(vector(question), self.k, encoder="words") for question in questions]

    def ask(self, questions: Sequence[str]) -> Iterator[Answer]:
        for question, found in zip(questions, self.search(questions), strict=True):
            self.asked.append((question, self.kb.version))
            evidence = tuple(
                Evidence(match.passage, match.document_version, match.score, 0.5, 0.5, 0.0, None) for match in found
            )
            river = next((word for word in re.findall(r"\w+", found[0].passage.text) if word in RIVERS), "")
            yield Answer(question, river, 1.0, not river, evidence, 0.0)

    def can_say(self, text: str) -> bool:
        return text in RIVERS

    def meaning(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([vector(text) for text in texts])


ENCODER = PassageEncoder("words", lambda passages: np.stack([vector(passage.text) for passage in passages]))


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(
        [Document(t.lower(), t, f"{t} lies on the {r}.", metadata={"n": i})
         for i, (t, r) in enumerate(zip(TOWNS, RIVERS, strict=True))],
        encoder=ENCODER,
    )  # fmt: skip
    return Scratch(kb, ENCODER, kb.version)


def plan(scratch: Scratch, asker: Towns, town: str, new: str) -> Plan:
    question, old = f"Where is {town}?", RIVERS[TOWNS.index(town)]
    (answer,) = asker.ask([question])
    before = said(answer)
    read = [scratch.original(seen.document) for seen in before.passages]
    return Plan(
        id=town, question=question, group="right", type="name", old=old, new=new, accepted=(old,), before=before,
        change=Substitution({old: new}), documents=tuple(d for d in read if holds(d.text, [old])),
    )  # fmt: skip


def contents(kb: KnowledgeBase) -> list[Document]:
    return sorted(kb.documents(), key=lambda document: document.id)


def test_every_edit_is_followed_and_all_is_put_back(scratch: Scratch) -> None:
    asker, before = Towns(scratch.kb), contents(scratch.kb)
    plans = [plan(scratch, asker, town, RIVERS[i - 1]) for i, town in enumerate(TOWNS)]
    changed: list[list[str]] = []
    edits = list(play(plans, scratch, asker, lambda ids: changed.append(list(ids))))
    assert sorted(edit.id for edit in edits) == sorted(TOWNS)
    assert {edit.verdict for edit in edits} == {"follows"}
    for edit in edits:
        (document,) = edit.documents
        (place,) = document.places
        text = scratch.original(document.id).text
        assert text[place.start : place.end] == edit.old and place.field == "text"
    assert sorted(identity for ids in changed for identity in ids) == [document.id for document in before]
    scratch.commit({})
    assert contents(scratch.kb) == before


def test_an_edit_is_alone_with_its_question(scratch: Scratch) -> None:
    """A document that is changed for another question and comes in uncalled sends the question to a later round."""
    asker = Towns(scratch.kb, k=1)
    # Cal's edit makes its document like the question for Alm, which would read it in the same round.
    plans = [plan(scratch, asker, "Alm", "Fal"), plan(scratch, asker, "Cal", "Alm Alm")]
    assert plans[0].read.isdisjoint(plans[1].edited)
    asker.asked.clear()
    edits = {edit.id: edit for edit in play(plans, scratch, asker, lambda ids: None)}
    assert sorted(question for question, _ in asker.asked) == ["Where is Alm?", "Where is Alm?", "Where is Cal?"]
    assert edits["Alm"].after.text == "Fal"
    assert [seen.document for seen in edits["Alm"].after.passages] == ["alm"]


def test_what_a_stopped_process_left_is_put_back(scratch: Scratch) -> None:
    asker, before = Towns(scratch.kb), contents(scratch.kb)
    told: list[str] = []
    edits = play([plan(scratch, asker, "Dun", "Arn")], scratch, asker, told.extend)
    assert isinstance(next(edits), Edit)
    assert contents(scratch.kb) != before
    again = Scratch(scratch.kb, ENCODER, scratch.base.version)
    again.put_back(told)
    assert contents(again.kb) == before


def test_passages_are_kept_in_the_order_of_the_search() -> None:
    def evidence(name: str, score: float, posterior: float) -> Evidence:
        passage = Passage(name, 0, "", f"The {name} river.", 0, 10, ())
        return Evidence(passage, 1, score, 0.5, posterior, 0.0, None)

    answer = Answer("?", "x", 0.5, False, (evidence("Esk", 1.0, 0.9), evidence("Fal", 2.0, float("nan"))), 0.0)
    found = said(answer, frozenset({"Esk"}), ["the Fal"], ["Esk"])
    assert [seen.document for seen in found.passages] == ["Fal", "Esk"]
    assert [(seen.edited, seen.holds_old, seen.holds_new) for seen in found.passages] == [
        (False, True, False),
        (True, False, True),
    ]
    assert isinstance(found, Said) and found.passages[0].posterior == 0.0


def test_a_journal_loses_only_what_was_half_written(tmp_path: Path) -> None:
    place = tmp_path / "new" / "journal.jsonl"
    Journal(place).append({"text": "a\u2028b", "n": 1})
    with open(place, "ab") as stream:
        stream.write(b'{"n": 2')
    journal = Journal(place)
    assert journal.entries == [{"text": "a\u2028b", "n": 1}]
    journal.append({"n": 3})
    assert [entry["n"] for entry in Journal(place).entries] == [1, 3]


def test_an_alias_in_another_case_is_no_new_answer() -> None:
    accepted = ("Paris", "paris", "PARIS", "city of Paris")
    change = substitution("Paris", "place", "London", "Where was it ?", accepted)
    before = Said("Paris", 1.0, False)
    plan = Plan("1", "Where was it ?", "right", "place", "Paris", "London", accepted, before, change, ())
    assert plan.accepted_after == ("London", "city of London")
    assert judged(plan, before).verdict == "clings"
    assert judged(plan, Said("london", 1.0, False)).verdict == "follows"

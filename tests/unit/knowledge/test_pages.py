"""Reading a knowledge base piece by piece, and what its encoders have not seen yet."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dots
import numpy as np
import pytest

from realm.errors import AbsentError, KnowledgeBaseError, PresentError, UsageError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.table.store import NoVersionError
from realm.types import Document

ENCODER = PassageEncoder("e", lambda passages: np.ones((len(passages), 2)))


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add([Document(f"it's {i}", "", "one. " * (i % 3), metadata={"i": i}) for i in range(10)])
    kb.update(Document("it's 3", "", "two. three.", metadata={"i": 3}))  # keeps its place
    kb.delete("it's 5")
    return kb


def test_pages_are_the_documents_in_order(kb: KnowledgeBase) -> None:
    expected = list(kb.documents())
    for limit in (1, 4, 9, 50):
        found: list[Document] = []
        after = None
        while True:
            page = kb.page(limit=limit, after=after)
            assert (page.total, page.version) == (9, kb.version)
            assert len(page.documents) <= limit
            found += page.documents
            if (after := page.next) is None:
                break
        assert found == expected
    some = kb.page("i > 3", limit=2)
    assert [d.id for d in some.documents] == ["it's 4", "it's 6"] and some.total == 5
    assert kb.page("i > 99").documents == [] and kb.page("i > 99").next is None
    assert kb.at(1).page().documents == []


@pytest.mark.parametrize("where", ["text LIKE '%one%'", "number = 0", "not number = 7"])
def test_what_only_passages_have_is_not_asked_of_documents(kb: KnowledgeBase, where: str) -> None:
    assert kb.num_passages(where) > 0
    for ask in (kb.page, lambda where: list(kb.documents(where))):
        with pytest.raises(UsageError, match="expected a column") as caught:
            ask(where)
        assert "text" not in str(caught.value).split("the columns are")[1]


@pytest.mark.parametrize("version", [-1, 0, 2**40, 2**63, 2**64, 10**30])
def test_a_version_that_never_was(kb: KnowledgeBase, version: int) -> None:
    with pytest.raises(NoVersionError, match=f"no version {version}: expected"):
        kb.at(version)


def test_history_can_be_read_from_its_end(kb: KnowledgeBase) -> None:
    for text in ("four", "five", "six"):
        kb.upsert([Document("it's 3", "", f"{text}.")])
    whole = kb.history("it's 3")
    assert [change.revision for change in whole] == [1, 2, 3, 4, 5]
    assert kb.history("it's 3", limit=2) == whole[-2:]
    assert kb.history("it's 3", limit=2, before=whole[3].version) == whole[1:3]
    assert kb.history("it's 3", before=whole[0].version) == []
    assert kb.history("it's 3", before=10**6) == whole


def test_passages_without_a_vector_are_counted(kb: KnowledgeBase) -> None:
    assert kb.waiting("e").passages == kb.num_passages()
    kb.embed_missing(ENCODER)
    assert kb.waiting("e").passages == 0 and kb.waiting("e").since is None
    before = datetime.now(UTC)
    kb.add([Document("late", "", "one. two.")])
    waiting = kb.waiting("e")
    assert waiting.passages == 2 and waiting.since is not None and before <= waiting.since <= datetime.now(UTC)
    kb.add([Document("embedded", "", "three.")], encoder=ENCODER)
    assert kb.waiting("e").passages == 2


def test_errors_tell_what_is_absent_and_what_is_there(kb: KnowledgeBase) -> None:
    with pytest.raises(AbsentError, match="nobody"):
        kb.delete("nobody")
    with pytest.raises(AbsentError, match="nobody"):
        kb.update(Document("nobody", "", "x"))
    with pytest.raises(PresentError, match="is there already"):
        kb.add([Document("it's 1", "", "x")])
    with pytest.raises(NoVersionError) as caught:
        kb.at(999)
    assert isinstance(caught.value, KnowledgeBaseError)

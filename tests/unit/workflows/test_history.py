"""What became of a document, as a script and as a person reads it."""

from __future__ import annotations

import random
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path

import dots
import pytest

from realm.console import print_change
from realm.errors import AbsentError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.differences import differences, enough_work
from realm.types import Document
from realm.workflows import history
from realm.workflows.history import history_of

FIRST = Document("d", "Old title", "It was painted by Picasso in 1937.", source="atlas", metadata={"room": 3})
SECOND = Document("d", "New title", "It was painted by Miró in 1937.", date=date(1937, 6, 4), metadata={"big": True})


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    kb.add([FIRST])
    first = kb.version
    kb.update(SECOND)
    kb.restore("d", first)
    kb.delete("d")
    return kb


def test_each_change_tells_what_it_did(kb: KnowledgeBase) -> None:
    added, updated, restored, deleted = history_of(kb, "d")
    assert added["difference"] == [["added", FIRST.text]] and added["fields"] == []
    assert updated["difference"] == [
        ["same", "It was painted by "],
        ["removed", "Picasso"],
        ["added", "Miró"],
        ["same", " in 1937."],
    ]
    assert {field["name"]: (field["old"], field["new"]) for field in updated["fields"]} == {
        "title": ("Old title", "New title"),
        "source": ("atlas", None),
        "date": (None, "1937-06-04"),
        "metadata.room": (3, None),
        "metadata.big": (None, True),
    }
    assert [change["same_as"] for change in (added, updated, restored, deleted)] == [None, None, added["version"], None]
    assert [change["change"] for change in (added, updated, restored, deleted)] == [
        "added", "updated", "updated", "deleted",
    ]  # fmt: skip
    assert deleted["difference"] == [["removed", FIRST.text]] and deleted["fields"] == [] and deleted["text"] == ""
    for change in (added, updated, restored, deleted):
        assert kb.version_at(datetime.fromisoformat(change["time"])) == change["version"]


def test_a_page_of_it_is_a_part_of_the_whole(kb: KnowledgeBase) -> None:
    whole = history_of(kb, "d")
    page = history_of(kb, "d", limit=2)
    assert [(c["version"], c["difference"], c["fields"]) for c in page] == [
        (c["version"], c["difference"], c["fields"]) for c in whole[2:]
    ]
    assert history_of(kb, "d", before=page[0]["version"]) == whole[:2]
    assert history_of(kb, "d", before=whole[0]["version"]) == []
    with pytest.raises(AbsentError, match="'nobody'"):
        history_of(kb, "nobody")


def test_a_person_reads_what_changed(kb: KnowledgeBase, capsys: pytest.CaptureFixture[str]) -> None:
    added, updated, restored, _ = history_of(kb, "d")
    for change in (updated, restored):
        print_change(change)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"version {updated['version']}  {updated['time']}  updated"
    assert "  title: [-Old title-]{+New title+}" in lines and "  metadata.room: [-3-]" in lines
    assert "  text: It was painted by [-Picasso-]{+Miró+} in 1937." in lines
    assert any(line.endswith(f"updated, the same as version {added['version']}") for line in lines)


def test_long_stretches_are_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    words = [f"word{n}" for n in range(400)]
    kb.add([Document("d", "", " ".join(words))])
    words[200] = "[bold]other[/]\n"
    kb.update(Document("d", "", " ".join(words)))
    for change in history_of(kb, "d"):
        print_change(change)
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  text"))
    assert (
        len(first) < 400 and first.startswith("  text: {+word0 word1") and first.endswith("word399+}") and "…" in first
    )
    assert len(second) < 250 and "word199 [-word200 -]{+[bold]other[/]¶ +}word201" in second
    assert second.startswith("  text: …") and second.endswith("…")


def test_long_texts_make_a_short_page(kb: KnowledgeBase) -> None:
    """However long they are: the newest change is told, and no more of those before it than fit."""
    whole = history_of(kb, "d")
    length = {change["version"]: len(change["text"]) for change in whole}
    for characters in (1, length[whole[2]["version"]], sum(length.values()) - 1, sum(length.values())):
        page = history_of(kb, "d", characters=characters)
        assert [change["version"] for change in page] == [change["version"] for change in whole[-len(page) :]]
        assert [change["difference"] for change in page] == [change["difference"] for change in whole[-len(page) :]]
        held = [length[change["version"]] for change in page]
        assert len(page) == 1 or sum(held) <= characters
        assert len(page) == len(whole) or sum(held) + length[whole[-len(page) - 1]["version"]] > characters


def test_all_changes_share_the_work_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest have the first of it; where it is used up, what differs counts as replaced as a whole."""
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    chance = random.Random(0)
    for _ in range(4):
        kb.upsert([Document("d", "", " ".join(chance.choices("abc", k=60)) + ".")])
    full = history_of(kb, "d")
    assert all(sum(kind == "same" for kind, _ in change["difference"]) > 5 for change in full[1:])
    left = enough_work()
    differences(full[-2]["text"], full[-1]["text"], left)
    spent = enough_work()[0] - left[0]
    assert spent > 0
    monkeypatch.setattr(history, "enough_work", lambda: [spent])
    short = history_of(kb, "d")
    assert short[-1]["difference"] == full[-1]["difference"]
    for before, change in pairwise(short[:-1]):
        assert sum(kind == "same" for kind, _ in change["difference"]) <= 2, "what they begin and end with"
        sides = {
            kind: "".join(t for k, t in change["difference"] if k in ("same", kind)) for kind in ("removed", "added")
        }
        assert (sides["removed"], sides["added"]) == (before["text"], change["text"])

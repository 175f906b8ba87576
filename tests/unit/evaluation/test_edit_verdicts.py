"""What a model said after an edit, judged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from realm.errors import ArtefactError
from realm.evaluation.edit_facts import Place
from realm.evaluation.edit_verdicts import Edit, EditedDocument, Said, Seen, figures, judge_edit, table_rows, tell

EDITED = Seen("d1", "d1#0:x", "Guernica", 2.0, 0.9, (0, 4), "Miró painted it.", edited=True, holds_new=True)
OTHER = Seen("d2", "d2#0:y", "", 1.0, 0.1, None, "Picasso painted it.", holds_old=True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Said("the miró", 0.5, False, passages=(EDITED,)), ("follows", "")),
        (Said("Picasso", 0.5, False, passages=(EDITED, OTHER)), ("clings", "old elsewhere")),
        (Said("", 0.1, True, passages=(EDITED,)), ("abstains", "abstained")),
        (Said("", 0.1, True, passages=(OTHER,)), ("abstains", "not retrieved")),
        (Said("Juan Miró", 0.5, False, passages=(EDITED,)), ("other", "cut otherwise")),
        (Said("Dalí", 0.5, False, passages=(EDITED,)), ("other", "another span")),
        (Said("Dalí", 0.5, False, passages=(OTHER,)), ("other", "not retrieved")),
    ],
)
def test_verdicts(said: Said, expected: tuple[str, str]) -> None:
    assert judge_edit(said, ["Picasso", "Pablo Picasso"], ["Miró"]) == expected


def an_edit(number: int, group: str, verdict: str, **changed: Any) -> Edit:
    cause = {"follows": "", "clings": "old elsewhere", "abstains": "abstained", "other": "another span"}[verdict]
    values: dict[str, Any] = {
        "id": f"q{number}",
        "question": "Who painted Guernica?",
        "group": group,
        "type": "person",
        "old": "Picasso",
        "new": "Miró",
        "accepted_before": ("Picasso",),
        "accepted_after": ("Miró",),
        "documents": (EditedDocument(f"d{number // 2}", (Place("text", 0, 7, "Picasso", "Miró"),)),),
        "before": Said("Picasso", 0.5, False, "Braque", (OTHER,)),
        "after": Said("Miró", 0.5, False, passages=(EDITED,)),
        "verdict": verdict,
        "cause": cause,
    }
    return Edit(**{**values, **changed})


def test_an_edit_comes_back_from_its_line() -> None:
    edit = an_edit(1, "right", "follows")
    assert Edit.from_json(json.loads(json.dumps(edit.to_json()))) == edit
    with pytest.raises(ArtefactError, match="'documents'"):
        Edit.from_json({"id": "q"})


def test_shares_are_told_apart() -> None:
    edits = [an_edit(i, "right", "follows" if i < 9 else "clings") for i in range(10)]
    edits += [an_edit(i, "held", "abstains", type="place") for i in range(10, 14)]
    found = figures(edits)
    assert found["right"]["edits"] == 10 and found["all"]["edits"] == 14
    assert found["right"]["follows"]["share"] == pytest.approx(0.9)
    low, high = found["right"]["follows"]["low"], found["right"]["follows"]["high"]
    assert low < 0.9 <= high <= 1
    assert found["held"]["abstains"] == {"share": 1.0, "low": 1.0, "high": 1.0}
    assert found["right"]["causes"] == {"old elsewhere": 1}
    assert set(found["all"]["types"]) == {"person", "place"}
    assert sum(found["right"][verdict]["share"] for verdict in ("follows", "clings", "abstains", "other")) == 1
    assert found["all"]["retrieved"]["share"] == 1.0 and found["all"]["old_still_read"]["share"] == 0.0
    unsure = an_edit(20, "right", "other", before=Said("Picasso", 0.2, False))
    assert figures([*edits, unsure])["right"]["sure"]["edits"] == 10
    assert figures([unsure])["right"]["sure"] is None
    columns, rows = table_rows(found)
    assert all(len(row) == len(columns) for row in rows)
    assert "held" not in figures(edits[:10])


def test_a_person_can_read_an_edit() -> None:
    told = tell(an_edit(1, "right", "clings"))
    for words in ("Picasso => Miró", "d0: once", "1. Guernica: [Miró] painted it.", "clings: old elsewhere"):
        assert words in told

"""What a model answered after an edit, judged: does it follow, cling, abstain, or say something else, and why.

The paper shows that an answer can follow the knowledge base (Guu et al. 2020, table 4) and warns that a model which
learnt a fact by heart may not (appendix C). A share of edits followed says how much of either there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from realm.errors import ArtefactError
from realm.evaluation.answers import exact_match
from realm.evaluation.edit_facts import Place
from realm.evaluation.retrieval import answer_in_text, paired_bootstrap

SURE = 0.5
"""Confidence before an edit from which a model was sure of its answer."""
VERDICTS = ("follows", "clings", "abstains", "other")
GROUPS = ("right", "held")
"""Facts that the model answered rightly before; facts that it did not, though a passage it read held the answer."""
CAUSES: Mapping[str, str] = {
    "old elsewhere": "a document that was not edited still says the old value",
    "not retrieved": "no edited passage was among those read",
    "cut otherwise": "the new value with other words around it, or a part of it",
    "another span": "an edited passage was read, and something else in what was read was likelier",
    "abstained": "the new value may be the likeliest, but not likely enough",
}
"""Why an answer did not follow."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A passage that was read, in the order of the search."""

    document: str
    passage: str
    title: str
    score: float
    posterior: float
    span: tuple[int, int] | None
    """Where the answer stands in the passage's text, in characters."""
    text: str = ""
    edited: bool = False
    """Whether its document is one of those that the edit changed."""
    holds_old: bool = False
    holds_new: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and what was read for it."""

    text: str
    confidence: float
    abstained: bool
    runner_up: str = ""
    passages: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True)
class EditedDocument:
    """What was replaced in a document; places are characters of its title and text before the edit."""

    id: str
    places: tuple[Place, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One edited fact, asked before and after."""

    id: str
    question: str
    group: str
    type: str
    old: str
    new: str
    accepted_before: tuple[str, ...]
    accepted_after: tuple[str, ...]
    documents: tuple[EditedDocument, ...]
    before: Said
    after: Said
    verdict: str
    cause: str
    """Of `CAUSES`; empty where the answer follows."""

    def to_json(self) -> dict[str, Any]:
        """A line of edits.jsonl."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Edit:
        """Back from a line. ArtefactError when it is not one."""
        try:
            documents = tuple(
                EditedDocument(one["id"], tuple(Place(**place) for place in one["places"]))
                for one in value["documents"]
            )
            changed = {
                "accepted_before": tuple(value["accepted_before"]),
                "accepted_after": tuple(value["accepted_after"]),
                "documents": documents,
                "before": said_of(value["before"]),
                "after": said_of(value["after"]),
            }
            return cls(**{**value, **changed})
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"an edit without {error}: expected a line of edits.jsonl; test again") from None


def said_of(value: Mapping[str, Any]) -> Said:
    """`Said` from its JSON values."""
    passages = tuple(
        Seen(**{**one, "span": None if one["span"] is None else tuple(one["span"])}) for one in value["passages"]
    )
    return Said(**{**value, "passages": passages})


def judge_edit(after: Said, old: Sequence[str], new: Sequence[str]) -> tuple[str, str]:
    """(verdict, cause) of an answer after an edit; equality is exact match by ORQA's convention.

    old, new: what was accepted before, and the same after the edit.
    """
    if after.abstained:
        return "abstains", "abstained" if _read_edited(after) else "not retrieved"
    if exact_match(after.text, new):
        return "follows", ""
    if exact_match(after.text, old):
        return "clings", "old elsewhere"
    if not _read_edited(after):
        return "other", "not retrieved"
    overlap = any(answer_in_text(after.text, one) or answer_in_text(one, after.text) for one in new)
    return "other", "cut otherwise" if overlap else "another span"


def _read_edited(said: Said) -> bool:
    return any(seen.edited and seen.holds_new for seen in said.passages)


# ---------------------------------------------------------------- figures


def figures(edits: Sequence[Edit], seed: int = 0) -> dict[str, Any]:
    """Shares of each verdict with 95% intervals, for each group, for each type in it, and for all.

    Edits of the same first document are drawn together in the bootstrap: they are not independent. ``retrieved``: a
    passage with the new value is among those read; ``old_still_read``: one with the old value is. Intervals as
    {share, low, high}. ``sure``: of the edits whose answer had a confidence of at least `SURE` before.
    """
    found: dict[str, Any] = {}
    for group in ("all", *GROUPS):
        some = [edit for edit in edits if group in ("all", edit.group)]
        if not some:
            continue
        types = Counter(edit.type for edit in some)
        sure = [edit for edit in some if edit.before.confidence >= SURE]
        found[group] = {
            **_shares(some, seed),
            "causes": dict(Counter(edit.cause for edit in some if edit.cause).most_common()),
            "sure": _shares(sure, seed) if sure else None,
            "types": {kind: _shares([e for e in some if e.type == kind], seed) for kind, _ in types.most_common()},
        }
    return found


def _shares(edits: Sequence[Edit], seed: int) -> dict[str, Any]:
    tests: dict[str, Callable[[Edit], bool]] = {
        **{verdict: lambda edit, verdict=verdict: edit.verdict == verdict for verdict in VERDICTS},  # type: ignore[misc]
        "retrieved": lambda edit: _read_edited(edit.after),
        "old_still_read": lambda edit: any(seen.holds_old for seen in edit.after.passages),
    }
    groups = [edit.documents[0].id for edit in edits]
    nothing = np.zeros(len(edits))
    found: dict[str, Any] = {"edits": len(edits)}
    for name, test in tests.items():
        hits = np.array([test(edit) for edit in edits], np.float64)
        share, low, high = paired_bootstrap(nothing, hits, seed=seed, groups=groups)
        found[name] = {"share": share, "low": low, "high": high}
    return found


# ---------------------------------------------------------------- for people

_NAMES = {"all": "all edits", "right": "right before", "held": "wrong before, answer read"}


def table_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of the figures: a row a group, and under it a row a type."""
    columns = ["", "edits", *VERDICTS, "edit read", "old still read"]
    rows = []
    for group, part in found.items():
        rows.append([_NAMES[group], *_cells(part, interval=True)])
        if group != "all":
            sure = part["sure"]
            rows += [[f"  sure ({SURE:.0%} or more)", *_cells(sure, interval=True)]] if sure else []
            rows += [[f"  {kind}", *_cells(one, interval=False)] for kind, one in part["types"].items()]
    return columns, rows


def _cells(part: Mapping[str, Any], *, interval: bool) -> list[str]:
    cells = [f"{part['edits']:,}"]
    for name in (*VERDICTS, "retrieved", "old_still_read"):
        one = part[name]
        wide = interval and name in ("follows", "clings")
        cells.append(f"{one['share']:.1%}" + (f" ({one['low']:.1%} to {one['high']:.1%})" if wide else ""))
    return cells


def tell(edit: Edit, width: int = 160) -> str:
    """An edit as a person would want to read it: the question, what was changed where, both answers, and why."""
    lines = [
        edit.question,
        f"  {edit.old} => {edit.new}  ({edit.type}; "
        + ", ".join(f"{document.id}: {_times(len(document.places))}" for document in edit.documents)
        + ")",
    ]
    for when, said in (("before", edit.before), ("after", edit.after)):
        text = "no answer" if said.abstained else said.text
        lines.append(f"  {when:6}  {text}  {said.confidence:.0%}")
        shown = max((s for s in said.passages if s.span), key=lambda s: s.posterior, default=None)
        if shown is not None and shown.span is not None and shown.text:
            rank = said.passages.index(shown) + 1
            lines.append(f"          {rank}. {shown.title or shown.document}: {_around(shown.text, shown.span, width)}")
    why = f": {edit.cause}: {CAUSES[edit.cause]}" if edit.cause else ""
    return "\n".join([*lines, f"  {edit.verdict}{why}"])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _around(text: str, span: tuple[int, int], width: int) -> str:
    start, end = max(0, span[0] - width // 2), min(len(text), span[1] + width // 2)
    marked = f"{text[start : span[0]]}[{text[span[0] : span[1]]}]{text[span[1] : end]}"
    return ("…" if start else "") + " ".join(marked.split()) + ("…" if end < len(text) else "")

"""What must hold after a kill: the log of `crash_work` tells it, a process that has just opened the store looks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crash_work as cw
import numpy as np
from crash_work import LANES, Places, State

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.text.passages import SentenceSplitter
from realm.types import Passage
from realm.workflows.store import TOKENIZER, load_tokenizer, open_knowledge_base

MANY = 8
CLOSE = 1e-4
"""A batch of other lengths rounds otherwise."""


@dataclass
class Told:
    """What a log says."""

    state: State
    """As it must be, but for what was under way."""
    under_way: dict[str, tuple[str, list[State]]] = field(default_factory=dict)
    """Lane -> kind and groups of what was begun and not acknowledged."""
    acknowledged: list[tuple[int, State]] = field(default_factory=list)
    """Version, and the documents as they are from it on until their lane's next edit."""
    superseded: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


def read_log(path: Path, before: State) -> Told:
    """What a life that began with the documents as in `before` did."""
    told = Told(dict(before))
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut off by the kill: what it was to tell has not begun, or was not acknowledged
        lane = entry["lane"]
        if "error" in entry:
            told.errors.append(entry["error"])
        elif "groups" in entry:
            told.under_way[lane] = entry["kind"], entry["groups"]
        else:
            after = {name: number for group in told.under_way.pop(lane)[1] for name, number in group.items()}
            told.superseded |= {old for name in after if (old := told.state.get(name)) is not None}
            told.state |= after
            told.acknowledged.append((entry["done"], after))
    told.superseded -= {number for number in told.state.values() if number is not None}
    return told


def adopt(told: Told, found: State) -> Iterator[str]:
    """Take over what of the work under way is there; what is wrong with it."""
    for lane, (kind, groups) in told.under_way.items():
        missing = False
        for group in groups:
            before = {name: told.state.get(name) for name in group}
            now = {name: found.get(name) for name in group}
            if before == group:
                continue
            if now not in (before, group):
                yield f"{lane}: {kind} half there: {now}, expected {before} or {group}"
            if now == group and missing and lane == "ingest":
                yield f"{lane}: {kind} has a later batch without an earlier one"
            missing |= now == before
            told.state |= now


def look(model: Realm, places: Places, before: State, sample: int) -> dict[str, Any]:
    """Open the store as any program would, and compare. Runs in a process of its own."""
    told = read_log(places.log, before)
    problems = [f"the process failed: {error}" for error in told.errors]
    kb = open_knowledge_base(places.kb)
    listed = list(kb.documents())
    found: State = {document.id: cw.number_of(document) for document in listed if document.id != "probe"}
    came = {lane: kind for lane, (kind, groups) in told.under_way.items() if _came(groups, told.state, found)}
    problems += adopt(told, found)
    expected = {name: number for name, number in told.state.items() if number is not None}
    problems += [
        f"{name}: edition {found.get(name)}, acknowledged was {expected.get(name)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    problems += [f"{document.id} is half there: {document}" for document in listed if not _is_whole(document)]
    if len({document.id for document in listed}) != len(listed):
        problems.append("a document is listed twice")
    problems += _rows(model, kb, places)
    problems += _searches(kb, told)
    problems += _history(kb, told)
    last = max((version for version, _ in told.acknowledged), default=0)
    answer = model.ask(cw.BLANK, kb, k=3)
    if kb.version < last or answer.knowledge_base_version < last:
        problems.append(f"version {kb.version}, acknowledged was {last}")
    impatient = KnowledgeBase.open(places.kb, split=kb._writer.split, lock_timeout=2.0)  # the lock is free
    impatient.upsert([cw.edition("probe", sample)], encoder=model.passage_encoder)
    return {
        "problems": problems,
        "state": told.state,
        "known": [[version, after] for version, after in told.acknowledged],
        "acknowledged": len(told.acknowledged),
        "under_way": {lane: kind for lane, (kind, _) in told.under_way.items()},
        "came": came,
        "version": kb.version,
        "passages": kb.num_passages(),
    }


def _came(groups: Sequence[State], state: State, found: State) -> bool:
    """Whether something of what was under way is there."""
    return any(found.get(n) == number != state.get(n) for group in groups for n, number in group.items())


def _is_whole(document: Any) -> bool:
    number = cw.number_of(document)
    if document.id in LANES["sync"]:
        return bool(document.text == cw.text(document.id, number))
    return bool(document == cw.edition(document.id, number))


def _rows(model: Realm, kb: KnowledgeBase, places: Places) -> Iterator[str]:
    """Text and vectors, row by row."""
    now = kb.at(kb.version)
    settings = now.splitter
    split = SentenceSplitter(load_tokenizer(str(places.kb / TOKENIZER)), int(settings["max_tokens"]))
    passages = list(now.passages())
    cut = [passage for of_one in split(list(now.documents())) for passage in of_one]
    if passages != cut:
        yield f"{len(passages)} passages are not those that the {len(cut)} of the documents' texts are"
    main = model.passage_encoder
    encoders: Mapping[str, Any] = {main.fingerprint: main} | {
        name: cw.other_encode for name in now.encoders() if name.startswith("other")
    }
    if set(now.encoders()) - encoders.keys():
        yield f"vectors of encoders that nobody has: {sorted(now.encoders())}"
    for name, encode in encoders.items():
        parts = list(now.embedded(name)) if name in now.encoders() else []
        if not parts:  # a new column, killed before the first vectors
            continue
        addresses = np.concatenate([address_N for address_N, _ in parts])
        vector_ND = np.concatenate([part_ND for _, part_ND in parts])
        (matches,) = now.matches_at(addresses[None], np.zeros((1, len(addresses))))
        texts: list[Passage] = [match.passage for match in matches]
        wrong_N = np.abs(encode(texts) - vector_ND).max(axis=1) > CLOSE
        if wrong_N.any():
            worst = texts[int(wrong_N.argmax())]
            yield f"{wrong_N.sum()} of {len(texts)} vectors of {name} are not their texts', as that of {worst}"
        if len(texts) != len(set(texts)):
            yield f"a passage has two rows with vectors of {name}"
        if name == main.fingerprint and len(texts) != len(passages):
            yield f"{len(passages) - len(texts)} passages have no vector, and were committed with one"


def _searches(kb: KnowledgeBase, told: Told) -> Iterator[str]:
    """Editions that are there are found by their number, those that are not, are not."""
    numbers = sorted({number for number in told.state.values() if number is not None})[-MANY:]
    for number in [*numbers, *sorted(told.superseded)[-MANY:]]:
        wanted = {name for name, n in told.state.items() if n == number}
        found = {match.passage.document_id for match in kb.search_text(f"n{number}", k=100)}
        if found != wanted:
            yield f"a search for n{number} finds {sorted(found)}, expected {sorted(wanted)}"


def _history(kb: KnowledgeBase, told: Told) -> Iterator[str]:
    """As of the version that an edit was acknowledged with, it is there."""
    for version, after in told.acknowledged[-MANY:]:
        then = kb.at(version)
        for name, number in list(after.items())[:3]:
            document = then.get(name)
            if (None if document is None else cw.number_of(document)) != number:
                yield f"as of {version} {name} is {document}, acknowledged was {number}"
    for name in sorted(told.state)[:: max(1, len(told.state) // 4)]:
        revisions = [change.revision for change in kb.history(name, limit=4)]
        if revisions and revisions != list(range(revisions[0], revisions[0] + len(revisions))):
            yield f"the history of {name} has a hole: {revisions}"

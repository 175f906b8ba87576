"""A fixed list of masked sentences whose passages are never masked in training: what learning is measured on.

Legend: P sentences of the probe, B of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from realm.errors import ArtefactError, DataError, MismatchError, UsageError
from realm.files import read_json, write_json
from realm.training.batches import Corpus, MaskedSentences, collate
from realm.training.masking import IntArray, MaskedSentence, PassageView, function_word_targets, mask_sentence
from realm.training.order import PROBE
from realm.types import NO_ROW, MaskedBatch, Spans

FORMAT, FORMAT_VERSION = "realm probe", 1
_DRAWS = 12
"""Turns over the rows before a probe is given up as too large: later draws mostly repeat spans."""


class Identified(Corpus, Protocol):
    """A corpus whose passages belong to documents, and which can be told from another one."""

    @property
    def fingerprint(self) -> str: ...

    def document_id(self, row: int) -> str: ...


def held_out_rows(snapshot: Identified, fraction: float, seed: int) -> IntArray:
    """Int64[H], ascending: the rows of a `fraction` (0 to 1) of the documents, chosen by a hash of the document's id.

    A document keeps its side when it is edited and when others come and go; all its passages are on one side.
    """
    if not 0.0 <= fraction <= 1.0:
        raise UsageError(f"held-out fraction {fraction}: expected a number from 0 to 1")
    found = np.zeros(len(snapshot), bool)
    last, side = None, False
    for row in range(len(snapshot)):
        document = snapshot.document_id(row)
        if document != last:
            digest = hashlib.sha256(f"{seed}\n{document}".encode("utf-8", "surrogatepass")).digest()
            last, side = document, int.from_bytes(digest[:8], "big") < fraction * 2**64
        found[row] = side
    return np.flatnonzero(found)


def with_copies(snapshot: Corpus, rows: IntArray) -> IntArray:
    """Int64[H], ascending: `rows` and those whose bodies say the same under another id. What is judged on the first
    must not be learnt from the second."""
    if not len(rows):
        return rows
    copies = snapshot.exclusions(torch.from_numpy(rows), "passage", duplicates=True)
    return np.unique(copies[copies != NO_ROW].numpy())


@dataclass(frozen=True, slots=True)
class ProbeItem:
    """One masked sentence with what is under the mask."""

    row: int
    """The row that may not be retrieved for it; NO_ROW when another corpus is searched."""
    passage: int
    """The row it was taken from."""
    document_id: str
    start: int
    """Where the sentence begins, in characters of the passage."""
    sentence: str
    span: tuple[int, int]
    """(start, end) of the masked text in characters of `sentence`."""
    answer: str
    """The masked text: ``sentence[span[0]:span[1]]``."""
    query_ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """P masked sentences, the same at every step and in every run with the same seed."""

    snapshot: str
    """Fingerprint of the snapshot whose rows are named."""
    strategy: str
    seed: int
    items: tuple[ProbeItem, ...]

    def __len__(self) -> int:
        return len(self.items)

    @staticmethod
    def build(
        snapshot: Identified,
        spans: Spans,
        *,
        rows: IntArray,
        size: int,
        seed: int,
        max_query_tokens: int = 96,
        max_targets: int = 10,
        same_corpus: bool = True,
    ) -> Probe:
        """At most `size` sentences with a salient span masked, from `rows` (Int64[H]).

        One from every usable row, in a random order of rows; then, while `size` is not reached, another span of each.
        same_corpus: whether the snapshot is what will be searched. DataError when no row is usable.
        """
        if size < 1:
            raise UsageError(f"probe size {size}: expected at least 1")
        others = np.setdiff1d(np.arange(len(snapshot)), rows)
        source = MaskedSentences(
            snapshot,
            spans,
            batch_size=1,
            max_query_tokens=max_query_tokens,
            max_targets=max_targets,
            seed=seed,
            held_out=others,
        )
        order = np.random.default_rng((seed, PROBE)).permutation(source.rows).tolist()
        items: dict[tuple[int, tuple[int, int]], ProbeItem] = {}
        for turn in range(_DRAWS):
            for row in order:
                if len(items) == size:
                    break
                masked = source.draw(row, np.random.default_rng((seed, PROBE, row, turn)))
                item = _item(snapshot, row, row if same_corpus else NO_ROW, masked)
                items.setdefault((row, (item.start + item.span[0], item.start + item.span[1])), item)
        return Probe(snapshot.fingerprint, "salient", seed, tuple(items.values()))

    def function_words(self, snapshot: Identified, spans: Spans) -> Probe:
        """The control: the same sentences with a function word masked in place of the span.

        Sentences without a function word are left out, so this probe may be shorter. DataError when all are.
        """
        self.check(snapshot)
        items = []
        for item in self.items:
            row, length = item.passage, len(item.query_ids)
            view = PassageView(
                snapshot.text(row),
                snapshot.body_ids(row),
                snapshot.body_offsets(row),
                snapshot.sentences(row),
                spans.spans(row),
            )
            sentence = int(np.searchsorted(view.sentences[:, 0], item.start))
            words = function_word_targets(view, sentence, length)
            if not words:
                continue
            rng = np.random.default_rng((self.seed, PROBE, row, 1))
            pieces = np.arange(*words[int(rng.integers(len(words)))])
            special = {"cls_id": snapshot.cls_id, "sep_id": snapshot.sep_id, "mask_id": snapshot.mask_id}
            masked = mask_sentence(view, sentence, pieces, **special, max_query_tokens=length, max_targets=len(pieces))
            items.append(_item(snapshot, row, item.row, masked))
        if not items:
            raise DataError(f"none of the {len(self.items)} probe sentences holds an English function word to mask")
        return Probe(self.snapshot, "function-word", self.seed, tuple(items))

    def batches(self, snapshot: Identified, batch_size: int, *, exclude: str = "passage") -> Iterator[MaskedBatch]:
        """The sentences in order, B <= batch_size at a time.

        exclude: "passage" or "document" forbids the source as in training; "none" allows it.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: expected at least 1")
        self.check(snapshot)
        for start in range(0, len(self.items), batch_size):
            part = self.items[start : start + batch_size]
            query, target = collate([_masked(item) for item in part], snapshot.pad_id)
            rows_B = torch.tensor([item.row for item in part])
            exclude_BE = torch.full((len(part), 0), NO_ROW)
            if exclude != "none" and bool((rows_B != NO_ROW).all()):
                exclude_BE = snapshot.exclusions(rows_B, exclude, True)
            yield MaskedBatch(query=query, target=target, source_rows=rows_B, exclude_rows=exclude_BE)

    def check(self, snapshot: Identified) -> None:
        """MismatchError when the probe was made from another snapshot: its rows would name other passages."""
        if snapshot.fingerprint != self.snapshot:
            raise MismatchError(
                f"the probe was made from snapshot {self.snapshot}, this is snapshot {snapshot.fingerprint}: "
                "build the probe again from this snapshot"
            )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        facts = {"format": FORMAT, "format_version": FORMAT_VERSION, "snapshot": self.snapshot}
        items = [asdict(item) for item in self.items]
        write_json(Path(path), {**facts, "strategy": self.strategy, "seed": self.seed, "items": items})

    @staticmethod
    def load(path: Path) -> Probe:
        """Read what `save` wrote. ArtefactError when it is missing, torn, or something else."""
        value: Any = read_json(Path(path))
        try:
            if (value["format"], value["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise KeyError("format")
            items = tuple(_read_item(item) for item in value["items"])
            return Probe(value["snapshot"], value["strategy"], value["seed"], items)
        except (KeyError, TypeError, AttributeError):
            message = f"{path} is not a {FORMAT} of format version {FORMAT_VERSION}: build the probe again"
            raise ArtefactError(message) from None


def _item(snapshot: Identified, passage: int, row: int, masked: MaskedSentence) -> ProbeItem:
    text = snapshot.text(passage)
    start, end = masked.sentence
    return ProbeItem(
        row=row,
        passage=passage,
        document_id=snapshot.document_id(passage),
        start=start,
        sentence=text[start:end],
        span=(masked.span[0] - start, masked.span[1] - start),
        answer=text[masked.span[0] : masked.span[1]],
        query_ids=tuple(masked.query_ids.tolist()),
        positions=tuple(masked.positions.tolist()),
        targets=tuple(masked.targets.tolist()),
    )


def _read_item(item: dict[str, Any]) -> ProbeItem:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}
    return ProbeItem(**fields)


def _masked(item: ProbeItem) -> MaskedSentence:
    start, end = item.span
    ids, positions, targets = (np.array(part, np.int64) for part in (item.query_ids, item.positions, item.targets))
    return MaskedSentence(ids, positions, targets, (0, len(item.sentence)), (start, end))

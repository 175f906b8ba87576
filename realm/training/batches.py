"""Batches of masked sentences, as pure functions of the step.

Legend: B examples of a batch, T target pieces, L word pieces, M sentences, E excluded rows.

Nothing is carried from one batch to the next: the order of an epoch is a permutation drawn from
(seed, epoch), an example's own draws come from (seed, step, place in the global batch). So a run that
resumes asks for the next number and gets, bit for bit, what the uninterrupted run would have got, and
W ranks together get what one rank gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from realm.errors import DataError, UsageError
from realm.training.masking import (
    IntArray,
    MaskedSentence,
    PassageView,
    candidates,
    mask_sentence,
    masked_pieces,
    needs_spans,
    pieces_inside,
)
from realm.training.order import DRAWN, MASKED, Order, check_ranks, share
from realm.types import NO_ROW, MaskedBatch, Spans, Target, Tokens

EXCLUDE = ("none", "passage", "document")
SHORTEST = 16
"""Word pieces of the longest sentence that a curriculum begins with."""


class Corpus(Protocol):
    """What batches read of a snapshot. A row is a passage; offsets are characters of its body text."""

    @property
    def cls_id(self) -> int: ...

    @property
    def sep_id(self) -> int: ...

    @property
    def mask_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    def __len__(self) -> int: ...

    def text(self, row: int) -> str: ...

    def sentences(self, row: int) -> np.ndarray:
        """Int32[M, 2]"""
        ...

    def body_ids(self, row: int) -> np.ndarray:
        """Int[L]"""
        ...

    def body_offsets(self, row: int) -> np.ndarray:
        """Int32[L, 2]"""
        ...

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        """[CLS] title [SEP] body [SEP], segment 1 from the body on; the title keeps up to max_tokens - 3."""
        ...

    def exclusions(self, rows: Tensor, level: Any, duplicates: bool) -> Tensor:
        """Long[B, E]: the rows that a query taken from rows Long[B] may not retrieve, NO_ROW as padding."""
        ...

    def body_groups(self, rows: np.ndarray) -> np.ndarray:
        """UInt64[R] of rows Int64[R]: equal where their bodies are, but for case and white space."""
        ...


class MaskedSentences:
    """Masked sentences for REALM pre-training (Guu et al. 2020, section 3.4).

    An example is drawn as the released code draws it: a passage uniformly, one of its usable spans
    uniformly, and the sentence of that span is the whole query. Passages are drawn without replacement
    within an epoch; what is left over of an epoch when it does not fill a batch is dropped, and the next
    epoch has another order. With fewer usable passages than `batch_size` a batch holds passages more than
    once, with draws of their own.
    """

    def __init__(
        self,
        snapshot: Corpus,
        spans: Spans | None,
        *,
        strategy: str = "salient",
        batch_size: int,
        max_query_tokens: int = 96,
        max_targets: int = 10,
        seed: int = 0,
        exclude: str = "passage",
        duplicates: bool = True,
        held_out: IntArray | None = None,
        rank: int = 0,
        world_size: int = 1,
        same_corpus: bool = True,
        curriculum_steps: int = 0,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """Scan the corpus for usable passages.

        snapshot: the corpus that is masked (X). spans: its salient spans; None where the strategy needs none.
        batch_size: of the global batch, at least `world_size`. max_query_tokens: [CLS] and [SEP] counted.
        held_out: rows that are never masked. same_corpus: whether X is also what is searched (Z); if not, there
        is no source row and nothing to exclude. curriculum_steps: over so many first steps the longest sentence that is
        drawn grows from `SHORTEST` word pieces to all; a passage that has none so short gives its shortest.

        Raises UsageError for impossible settings, DataError when no passage is usable.
        """
        check_ranks(batch_size, rank, world_size, seed)
        if exclude not in EXCLUDE:
            raise UsageError(f"no exclusion level {exclude!r}: expected one of {', '.join(EXCLUDE)}")
        if needs_spans(strategy) and spans is None:
            raise UsageError(f"strategy {strategy!r} was given no spans: find the spans of the snapshot first")
        if max_query_tokens < 4 or max_targets < 1:
            raise UsageError(
                f"max_query_tokens={max_query_tokens}, max_targets={max_targets}: expected at least 4 and 1"
            )
        self._snapshot = snapshot
        self._spans = spans if needs_spans(strategy) else None
        self._strategy, self._max_query_tokens, self._max_targets = strategy, max_query_tokens, max_targets
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size
        self._exclude = exclude if same_corpus else "none"
        self._duplicates, self._same_corpus = duplicates, same_corpus
        self._curriculum_steps = curriculum_steps
        self._rows, self._statistics = self._scan(held_out, progress)
        self._order = Order(len(self._rows), max(1, len(self._rows) // batch_size))

    @property
    def rows(self) -> IntArray:
        """Int64[U]: the usable rows, ascending."""
        return self._rows

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps

    def statistics(self) -> dict[str, int]:
        """What the corpus holds and what of it can't be used, by reason."""
        return dict(self._statistics)

    def batch(self, step: int) -> MaskedBatch:
        """This rank's share of batch `step`: B is batch_size / world_size examples, rounded up or down."""
        picked = [self.example(step, place) for place in share(self._batch_size, self._rank, self._world_size)]
        query, target = collate([sentence for _, sentence in picked], self._snapshot.pad_id)
        rows_B = torch.tensor([row for row, _ in picked])
        exclude_BE = torch.full((len(picked), 0), NO_ROW)
        if self._exclude != "none":
            exclude_BE = self._snapshot.exclusions(rows_B, self._exclude, self._duplicates)
        source_B = rows_B if self._same_corpus else torch.full_like(rows_B, NO_ROW)
        seeds = [
            np.random.SeedSequence((self._seed, DRAWN, step, place)).generate_state(1)[0]
            for place in share(self._batch_size, self._rank, self._world_size)
        ]
        seeds_B = torch.from_numpy(np.array(seeds, np.int64))
        return MaskedBatch(query=query, target=target, source_rows=source_B, exclude_rows=exclude_BE, seeds=seeds_B)

    def example(self, step: int, place: int) -> tuple[int, MaskedSentence]:
        """(row, masked sentence) at `place` of the global batch `step`."""
        epoch, first = self._order.locate(step, self._batch_size)
        order = self._order.permutation((self._seed, MASKED, epoch))
        row = int(self._rows[order[(first + place) % len(order)]])
        rng = np.random.default_rng((self._seed, MASKED, step, place))
        return row, self.draw(row, rng, self._longest(step))

    def _longest(self, step: int) -> int | None:
        if step >= self._curriculum_steps:
            return None
        return SHORTEST + (self._max_query_tokens - SHORTEST) * step // self._curriculum_steps

    def draw(self, row: int, rng: np.random.Generator, longest: int | None = None) -> MaskedSentence:
        """One masked sentence of a usable row. longest: word pieces, see `curriculum_steps`."""
        view = self._view(row, text=self._strategy in ("random-span", "function-word"))
        found = candidates(self._strategy, view, self._max_query_tokens)
        if not len(found):
            raise DataError(f"row {row} has nothing to mask with strategy {self._strategy!r}: see statistics()")
        if longest is not None:
            begin, end = pieces_inside(view.offsets, view.sentences[found[:, 0]])
            found = found[end - begin <= max(longest, int((end - begin).min()))]
        limits = {"max_query_tokens": self._max_query_tokens, "max_targets": self._max_targets}
        chosen = found[int(rng.integers(len(found)))]
        pieces = masked_pieces(self._strategy, view, chosen, rng, **limits)
        source = self._snapshot
        special = {"cls_id": source.cls_id, "sep_id": source.sep_id, "mask_id": source.mask_id}
        return mask_sentence(view, int(chosen[0]), pieces, **special, **limits)

    def _view(self, row: int, *, text: bool) -> PassageView:
        source = self._snapshot
        return PassageView(
            text=source.text(row) if text else "",
            ids=source.body_ids(row),
            offsets=source.body_offsets(row),
            sentences=source.sentences(row),
            spans=np.zeros((0, 2), np.int32) if self._spans is None else self._spans.spans(row),
        )

    def _scan(
        self, held_out: IntArray | None, progress: Callable[[int, int | None], None] | None
    ) -> tuple[IntArray, Counter[str]]:
        total = len(self._snapshot)
        usable = np.ones(total, bool)
        if held_out is not None:
            usable[np.asarray(held_out, np.int64)] = False
        counts: Counter[str] = Counter(rows=total, rows_held_out=int((~usable).sum()))
        for row in np.flatnonzero(usable):
            if progress is not None and row % 10_000 == 0:
                progress(int(row), total)
            if self._spans is not None and not len(self._spans.spans(int(row))):
                counts["rows_without_spans"] += 1
                usable[row] = False
                continue
            view = self._view(int(row), text=self._strategy == "function-word")
            usable[row] = len(candidates(self._strategy, view, self._max_query_tokens, counts)) > 0
            counts["rows_without_candidate"] += int(not usable[row])
        if progress is not None:
            progress(total, total)
        rows = np.flatnonzero(usable)
        counts["rows_usable"] = len(rows)
        if not len(rows):
            reasons = ", ".join(f"{name} {number:,}" for name, number in counts.items() if number)
            raise DataError(
                f"no passage can be masked with strategy {self._strategy!r} ({reasons or 'the corpus is empty'}): "
                "expected at least one; give other text, other spans, or another strategy"
            )
        return rows, counts


def pad_tokens(texts: Sequence[IntArray], pad_id: int, first_segment: Sequence[int] | None = None) -> Tokens:
    """N texts as `Tokens`, padded to the longest. first_segment: how many ids of each are in segment 0 (all)."""
    lengths = [len(text) for text in texts]
    ids = np.full((len(texts), max(lengths)), pad_id, np.int64)
    types = np.zeros_like(ids)
    for number, text in enumerate(texts):
        ids[number, : len(text)] = text
        if first_segment is not None:
            types[number, first_segment[number] : len(text)] = 1
    return Tokens(torch.from_numpy(ids), torch.from_numpy(types), torch.tensor(lengths))


def collate(sentences: Sequence[MaskedSentence], pad_id: int) -> tuple[Tokens, Target]:
    """Masked sentences as one batch, padded to the longest query and to the most targets."""
    counts = [len(sentence.positions) for sentence in sentences]
    ids = np.zeros((len(sentences), max(counts)), np.int64)
    positions, mask = np.zeros_like(ids), np.zeros(ids.shape, bool)
    for number, (sentence, count) in enumerate(zip(sentences, counts, strict=True)):
        ids[number, :count] = sentence.targets
        positions[number, :count] = sentence.positions
        mask[number, :count] = True
    target = Target(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(mask))
    return pad_tokens([sentence.query_ids for sentence in sentences], pad_id), target

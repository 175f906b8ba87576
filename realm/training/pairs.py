"""Batches of (query, passage) pairs out of plain text, as pure functions of the step: see `realm.training.batches`.

Legend: B pairs of a batch, M of the global one, U usable rows, S sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from realm.errors import DataError, UsageError
from realm.training.batches import Corpus, pad_tokens
from realm.training.masking import IntArray, pieces_inside
from realm.training.order import CLOZE, CROPS, Order, check_ranks, share
from realm.types import Batches, PairBatch, Tokens, TwoBatches


class InverseCloze:
    """Pairs of a sentence and the passage it came from (Lee et al. 2019; Guu et al. 2020, section 3.4).

    One sentence of a passage, drawn uniformly, is the query. With `removal_probability` it is taken out of
    its passage, else it stays, so that word matching is learnt too. A passage of one sentence is dropped when
    removal was drawn and kept otherwise; a batch is full all the same, and no passage is twice in an epoch.
    An epoch ends after as many batches as the passages of two or more sentences fill.
    """

    def __init__(
        self,
        snapshot: Corpus,
        *,
        batch_size: int,
        max_query_tokens: int = 64,
        max_passage_tokens: int = 288,
        removal_probability: float = 0.9,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shrink: bool = False,
    ) -> None:
        """Count the sentences of every passage. Lengths count [CLS] and [SEP]; `batch_size` is the global one.

        shrink: take a smaller batch where there are too few passages: all of them, whatever the number of processes.
        Raises UsageError for impossible settings, DataError when there are fewer passages than a batch needs.
        """
        check_ranks(batch_size, rank, world_size, seed)
        if not 0.0 <= removal_probability <= 1.0:
            raise UsageError(f"removal_probability={removal_probability}: expected a number from 0 to 1")
        _check_lengths(max_query_tokens, max_passage_tokens)
        self._snapshot = snapshot
        self._max_query_tokens, self._max_passage_tokens = max_query_tokens, max_passage_tokens
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._removal_probability = removal_probability
        count = np.fromiter((len(self._sentences(row)) for row in range(len(snapshot))), np.int64, len(snapshot))
        self._rows = np.flatnonzero(count > 0)
        self._single = count[self._rows] == 1
        self._statistics = {
            "rows": len(snapshot),
            "rows_usable": len(self._rows),
            "rows_without_sentence": len(snapshot) - len(self._rows),
            "rows_of_one_sentence": int(self._single.sum()),
        }
        certain = len(self._rows) if removal_probability == 0 else int((~self._single).sum())
        what = f"{certain} passages of two or more sentences (of {len(snapshot)})"
        self._batch_size = _fitting(batch_size, certain, what, world_size if shrink else None)
        self._order = Order(len(self._rows), certain // self._batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps

    @property
    def batch_size(self) -> int:
        """Pairs of the global batch; see `shrink`."""
        return self._batch_size

    def statistics(self) -> dict[str, int]:
        """What the corpus holds and what of it can't be used, by reason."""
        return dict(self._statistics)

    def batch(self, step: int) -> PairBatch:
        """This rank's share of batch `step`: B is batch_size / world_size pairs, rounded up or down."""
        epoch, first = self._order.locate(step, self._batch_size)
        order = self._order.permutation((self._seed, CLOZE, epoch))
        rng = np.random.default_rng((self._seed, CLOZE, epoch, 1))
        removed_U = rng.random(len(order)) < self._removal_probability
        kept = ~(self._single[order] & removed_U)
        order, removed_U = order[kept], removed_U[kept]
        places = share(self._batch_size, self._rank, self._world_size)
        row_M = self._rows[order[first : first + self._batch_size]]
        row_B = row_M[places.start : places.stop]
        removed_B = removed_U[first + places.start : first + places.stop]
        pairs = [
            self._pair(int(row), bool(removed), np.random.default_rng((self._seed, CLOZE, step, place)))
            for row, removed, place in zip(row_B, removed_B, places, strict=True)
        ]
        query, passage = _collate(self._snapshot, row_B, pairs, self._max_query_tokens, self._max_passage_tokens)
        copies = _copies(self._snapshot, row_M, places)
        return PairBatch(query=query, passage=passage, removed=torch.from_numpy(removed_B.copy()), copies=copies)

    def _sentences(self, row: int) -> IntArray:
        """Int64[S, 2]: (first, stop) in pieces of the body, of the sentences that have pieces."""
        first, stop = pieces_inside(self._snapshot.body_offsets(row), self._snapshot.sentences(row))
        bounds = np.stack([first, stop], axis=1)
        return bounds[stop > first]

    def _pair(self, row: int, remove: bool, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Word pieces of the query, and of what is left as its passage."""
        bounds, body = self._sentences(row), self._snapshot.body_ids(row)
        first, stop = (int(value) for value in bounds[int(rng.integers(len(bounds)))])
        return body[first:stop], np.concatenate([body[:first], body[stop:]]) if remove else body


class RandomCrops:
    """Pairs of two crops of one passage, drawn apart from each other (independent cropping, Izacard et al. 2021).

    A crop is a run of word pieces of the body; its length is a share of the body's, drawn uniformly, and so is its
    place. The two may overlap, so that matching of words is learnt, too. The passage's crop has the title before it,
    as everything has that is searched. No passage is twice in an epoch.
    """

    def __init__(
        self,
        snapshot: Corpus,
        *,
        batch_size: int,
        max_query_tokens: int = 64,
        max_passage_tokens: int = 288,
        shares: tuple[float, float] = (0.05, 0.5),
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shrink: bool = False,
    ) -> None:
        """shares: shortest and longest crop, as shares of the body (the paper: 0.05 and 0.5); the other arguments and
        errors are those of `InverseCloze`. Bodies of a single word piece are left out.
        """
        check_ranks(batch_size, rank, world_size, seed)
        _check_lengths(max_query_tokens, max_passage_tokens)
        if not 0.0 <= shares[0] <= shares[1] <= 1.0:
            raise UsageError(f"shares={shares}: expected two numbers from 0 to 1, the smaller one first")
        self._snapshot, self._shares = snapshot, shares
        self._max_query_tokens, self._max_passage_tokens = max_query_tokens, max_passage_tokens
        self._seed, self._rank, self._world_size = seed, rank, world_size
        length = np.fromiter((len(snapshot.body_ids(row)) for row in range(len(snapshot))), np.int64, len(snapshot))
        self._rows = np.flatnonzero(length > 1)
        what = f"{len(self._rows)} passages of two or more word pieces (of {len(snapshot)})"
        self._batch_size = _fitting(batch_size, len(self._rows), what, world_size if shrink else None)
        self._order = Order(len(self._rows), len(self._rows) // self._batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps

    @property
    def batch_size(self) -> int:
        """Pairs of the global batch; see `shrink`."""
        return self._batch_size

    def batch(self, step: int) -> PairBatch:
        """This rank's share of batch `step`: B is batch_size / world_size pairs, rounded up or down."""
        epoch, first = self._order.locate(step, self._batch_size)
        order = self._order.permutation((self._seed, CROPS, epoch))
        places = share(self._batch_size, self._rank, self._world_size)
        row_M = self._rows[order[first : first + self._batch_size]]
        row_B = row_M[places.start : places.stop]
        pairs = []
        for row, place in zip(row_B, places, strict=True):
            rng, body = np.random.default_rng((self._seed, CROPS, step, place)), self._snapshot.body_ids(int(row))
            pairs.append((self._crop(body, rng), self._crop(body, rng)))
        query, passage = _collate(self._snapshot, row_B, pairs, self._max_query_tokens, self._max_passage_tokens)
        return PairBatch(query=query, passage=passage, copies=_copies(self._snapshot, row_M, places))

    def _crop(self, body: IntArray, rng: np.random.Generator) -> IntArray:
        size = max(1, round(rng.uniform(*self._shares) * len(body)))
        first = int(rng.integers(len(body) - size + 1))
        return body[first : first + size]


class Beside:
    """Batches of two kinds, a step's of both together. The second kind begins at its own batch `offset`."""

    def __init__(self, first: Batches, second: Batches, *, offset: int = 0) -> None:
        self._first, self._second, self._offset = first, second, offset

    def batch(self, step: int) -> TwoBatches:
        return TwoBatches(self._first.batch(step), self._second.batch(self._offset + step))


def _fitting(batch_size: int, certain: int, what: str, world_size: int | None) -> int:
    """A batch size for which there are enough passages; a smaller one than asked for only where W processes are given.
    It does not hang on W, so that a run may go on with another number of processes.

    Raises DataError when there is none.
    """
    if world_size is not None and max(2, world_size) <= certain < batch_size:
        return certain
    if certain < batch_size:
        raise DataError(
            f"{what}: expected at least batch_size={batch_size}, because a passage may be in a batch only once; lower "
            "batch_size or give more text"
        )
    return batch_size


def _copies(source: Corpus, row_M: IntArray, places: range) -> Tensor | None:
    """`PairBatch.copies` of the places of a global batch that are a rank's."""
    group_M = source.body_groups(row_M)
    if len(np.unique(group_M)) == len(group_M):
        return None
    own = np.arange(places.start, places.stop)
    same_BM = group_M[own, None] == group_M[None, :]
    same_BM[np.arange(len(own)), own] = False
    return torch.from_numpy(same_BM)


def _collate(
    source: Corpus,
    row_B: IntArray,
    pairs: Sequence[tuple[IntArray, IntArray]],
    max_query_tokens: int,
    max_passage_tokens: int,
) -> tuple[Tokens, Tokens]:
    """(query, body) word pieces of the rows as [CLS] query [SEP] and [CLS] title [SEP] body [SEP], cut to fit."""
    # Only the heads are taken from here: what the title leaves room for depends on what is in the body's place.
    whole = source.passages(torch.from_numpy(row_B), max_passage_tokens)
    head_B = ((whole.types == 0) & whole.mask).sum(dim=1).tolist()
    queries, passages = [], []
    for ids, size, (query, body) in zip(whole.ids.numpy(), head_B, pairs, strict=True):
        queries.append(np.concatenate([[source.cls_id], query[: max_query_tokens - 2], [source.sep_id]]))
        passages.append(np.concatenate([ids[:size], body[: max_passage_tokens - size - 1], [source.sep_id]]))
    return pad_tokens(queries, source.pad_id), pad_tokens(passages, source.pad_id, head_B)


def _check_lengths(max_query_tokens: int, max_passage_tokens: int) -> None:
    if max_query_tokens < 3 or max_passage_tokens < 4:
        raise UsageError(f"max_query_tokens={max_query_tokens}, max_passage_tokens={max_passage_tokens}: too short")

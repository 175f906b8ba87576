"""Live edits over an index that can't be edited: new rows beside it, searched exactly, and rows struck out.

What a search sees never changes under it: an edit puts a new state in place of the old one.

Legend: B queries, K hits, N rows of the index below, M rows added, D vector size.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import torch
from torch import Tensor

from realm.errors import UsageError
from realm.search.exact import ExactIndex, check_search
from realm.types import NO_ROW, Hits, Index

WORN_SHARE = 8
"""From one row in so many added or struck out on, the index below had better be made anew."""


class _State(NamedTuple):
    added: ExactIndex | None
    alive: Tensor | None
    """Bool[N + M]; None while nothing is struck out."""


class Layered:
    """An `Index` over another one, with rows added and removed.

    Added rows are numbered behind those of the index below. A number is never given twice: a removed row is no hit any
    more, its vector stays until the index is made anew.
    """

    def __init__(self, base: Index) -> None:
        self.base = base
        self._state = _State(None, None)
        self._writing = threading.Lock()

    @property
    def dim(self) -> int:
        return self.base.dim

    def __len__(self) -> int:
        return self._length(self._state)

    def _length(self, state: _State) -> int:
        return len(self.base) + (len(state.added) if state.added is not None else 0)

    @property
    def alive(self) -> Tensor:
        """Bool[N + M]: rows that were not removed."""
        state = self._state
        return torch.ones(self._length(state), dtype=torch.bool) if state.alive is None else state.alive.clone()

    @property
    def worn(self) -> bool:
        """Whether so much was edited that the index had better be made anew."""
        state = self._state
        struck = 0 if state.alive is None else int((~state.alive).sum())
        return (struck + self._length(state) - len(self.base)) * WORN_SHARE > max(len(self.base), 1)

    def add(self, vectors: Tensor) -> Tensor:
        """Rows Long[n] of n new vectors Float[n, D]. UsageError: of another size. DataError: NaN or infinity."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UsageError(f"vectors of shape {tuple(vectors.shape)}: expected [rows, {self.dim}]")
        with self._writing:
            old, first = self._state, len(self)
            new_MD = vectors.detach().to("cpu", torch.float32)
            if old.added is not None:
                new_MD = torch.cat([*old.added.pieces(), new_MD])
            more = torch.ones(len(vectors), dtype=torch.bool)
            alive = None if old.alive is None else torch.cat([old.alive, more])
            self._state = _State(ExactIndex(new_MD.clone()), alive)
        return torch.arange(first, first + len(vectors))

    def remove(self, rows: Tensor) -> None:
        """Strike rows Long[n] out; one that is out already stays so. UsageError: no such row."""
        with self._writing:
            length = len(self)
            if rows.numel() and (int(rows.max()) >= length or int(rows.min()) < 0):
                raise UsageError(f"a row outside 0..{length - 1}: expected rows of this index")
            alive = self.alive
            alive[rows.to("cpu", torch.long)] = False
            self._state = self._state._replace(alive=alive)

    def search(self, vectors: Tensor, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None) -> Hits:
        """The `Index` contract, as exact as the index below."""
        state, rows = self._state, len(self.base)
        length = self._length(state)
        query_BD, exclude, allowed = check_search(self, torch.device("cpu"), vectors, k, exclude, allowed)
        if exclude is not None:  # of rows that were added since nothing is found
            exclude = exclude.masked_fill(exclude >= length, NO_ROW)
        allowed = None if allowed is None else allowed[:length]
        if state.alive is not None:
            allowed = state.alive if allowed is None else allowed & state.alive
        below = None if exclude is None else _below(exclude, rows)
        hits = self.base.search(query_BD, k, below, None if allowed is None else allowed[:rows])
        if state.added is not None:
            above = None if exclude is None else torch.where(exclude >= rows, exclude - rows, NO_ROW)
            more = state.added.search(query_BD, k, above, None if allowed is None else allowed[rows:])
            score = torch.cat([hits.scores, more.scores], 1)
            row = torch.cat([hits.rows, torch.where(more.rows >= 0, more.rows + rows, NO_ROW)], 1)
            score, order = score.sort(dim=1, descending=True, stable=True)  # added rows are higher: behind their equals
            hits = Hits(row.gather(1, order)[:, :k], score[:, :k])
        return Hits(hits.rows.to(vectors.device), hits.scores.to(vectors.device))

    def vectors(self, rows: Tensor) -> Tensor:
        """Float32[..., D]: the vectors of rows Long[...], of removed ones, too; NO_ROW gives zeros. UsageError: no such
        row."""
        state, below = self._state, len(self.base)
        length = self._length(state)
        if rows.numel() and (int(rows.max()) >= length or int(rows.min()) < NO_ROW):
            raise UsageError(f"a row outside 0..{length - 1}: it belongs to another snapshot")
        found = self.base.vectors(_below(rows, below))
        if state.added is None:
            return found
        more = state.added.vectors(torch.where(rows >= below, rows - below, NO_ROW))
        return torch.where((rows >= below)[..., None], more, found)


def _below(rows: Tensor, first: int) -> Tensor:
    return rows.masked_fill(rows >= first, NO_ROW)

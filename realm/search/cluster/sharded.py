"""Search over an index whose rows are shared out to workers on several machines, each share held by several of them.

Legend: B queries, K hits, N rows, E excluded rows a query, D vector size, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from realm.errors import UsageError
from realm.files import read_manifest
from realm.search.cluster import engine
from realm.search.cluster.engine import Needs, Place
from realm.search.cluster.replicas import Replicas
from realm.search.exact import ExactIndex, check_search
from realm.search.shards import FORMAT, VERSION, Block, read_vectors
from realm.search.topk import NO_SCORE, top
from realm.types import NO_ROW, Hits

ALIGN = 4096
"""Parts begin at multiples of this: `ExactIndex` multiplies so many rows at once, and sums in the same order then."""
OPENING = 600.0
"""Seconds that the workers may take to find a place and read their rows."""


class Group(Protocol):
    """Who answers for the parts."""

    def ask(self, method: str, arguments: Sequence[tuple[Any, ...] | None], *, patience: float = 0.0) -> list[Any]:
        """The answer of each part, in order; None where its arguments are None."""
        ...

    def alive(self) -> list[int]: ...

    def close(self) -> None: ...


class Rows:
    """A worker: holds consecutive rows of an index."""

    def __init__(
        self, folder: str, first: int, last: int, snapshot: str | None, encoder: str | None, threads: int, device: str
    ) -> None:
        torch.set_num_threads(threads)
        self._folder, self._range, self._device = Path(folder), (first, last), device
        self._of = {"snapshot": snapshot, "encoder": encoder}
        self._index: ExactIndex | None = None

    def open(self) -> Place:
        """`read`, and where this is."""
        self.read()
        return self.pulse()

    def read(self) -> None:
        """The rows into this worker's memory. ArtefactError, MismatchError: as `ExactIndex.open`."""
        blocks, _ = read_vectors(self._folder, rows=self._range, **self._of)
        if self._device == "cpu":  # on other devices they are copied anyway
            blocks = [Block(b.data.clone(), None if b.scale is None else b.scale.clone()) for b in blocks]
        self._index = ExactIndex(blocks, device=None if self._device == "cpu" else self._device)

    def pulse(self) -> Place:
        return engine.here()

    def search(
        self, query_BD: np.ndarray, k: int, exclude_BE: np.ndarray | None, allowed_N: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows, counted from this part's first, and scores of its best k."""
        assert self._index is not None
        hits = self._index.search(_tensor(query_BD), k, _maybe(exclude_BE), _maybe(allowed_N))
        return hits.rows.numpy(), hits.scores.numpy()

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Of rows counted from this part's first."""
        assert self._index is not None
        return self._index.vectors(_tensor(rows)).numpy()


class ShardedIndex:
    """An `Index` on several machines, exact: the best K of all rows are among the best K of each part.

    Equal scores give the lower row first, as in `ExactIndex`. A worker that is lost is replaced, and meanwhile the
    others that hold its rows answer. Where none is left, `search` fails: it never answers from a part of the rows.
    """

    def __init__(
        self,
        group: Group,
        ranges: Sequence[tuple[int, int]],
        dim: int,
        facts: Mapping[str, Any],
        *,
        patience: float = 0.0,
    ) -> None:
        """ranges: (first row, row after the last) of each part, in order. facts: what the vectors were made from.

        patience: seconds that `search` waits for a new worker where a part has lost all of them.
        """
        self._group, self._ranges, self._dim, self._patience = group, list(ranges), dim, patience
        self.facts = dict(facts)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        shards: int,
        replicas: int = 1,
        snapshot: str | None = None,
        encoder: str | None = None,
        threads: int = 1,
        gpus: float = 0.0,
        patience: float = 0.0,
        opening: float = OPENING,
        address: str | None = None,
        tell: Callable[[str], object] = lambda line: None,
    ) -> ShardedIndex:
        """Share the rows of a finished index out to shards * replicas workers; returns when all have read theirs.

        folder: seen by all machines under this path. snapshot, encoder: as in `ExactIndex.open`. threads, gpus: of a
        worker. tell: one line about a lost worker. address: of the cluster, see `engine.connect`.
        UnavailableError: no cluster, or no room in it within `opening` seconds. ArtefactError, MismatchError: as
        `ExactIndex.open`.
        """
        if shards < 1 or replicas < 1:
            raise UsageError(f"{shards} shards of {replicas} replicas: expected at least one of each")
        folder = Path(folder).absolute()
        manifest = read_manifest(folder, format=FORMAT, version=VERSION)
        ranges = parts_of(int(manifest["rows"]), shards)
        if not ranges:
            raise UsageError(f"the index {folder} has no rows: expected some to share out")
        engine.connect(address)
        device = "cuda" if gpus else "cpu"
        group = Replicas(
            Rows,
            [(str(folder), first, last, snapshot, encoder, threads, device) for first, last in ranges],
            replicas=replicas,
            needs=Needs(float(threads), gpus),
            tell=tell,
        )
        try:
            group.wait(opening)
        except BaseException:
            group.close()
            raise
        own = {"format", "format_version", "realm_version", "rows", "dim", "dtype", "shards", "hashes"}
        facts = {key: value for key, value in manifest.items() if key not in own}
        return cls(group, ranges, int(manifest["dim"]), facts, patience=patience)

    @property
    def dim(self) -> int:
        return self._dim

    def __len__(self) -> int:
        return self._ranges[-1][1]

    def alive(self) -> list[int]:
        """How many workers hold each part, as far as is known; asks each whether it is there, without waiting."""
        return self._group.alive()

    def close(self) -> None:
        """End the workers."""
        self._group.close()

    @torch.no_grad()
    def search(self, vectors: Tensor, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None) -> Hits:
        """The `Index` contract; the hits lie on the device of the query vectors.

        UsageError, DataError: as `ExactIndex.search`. UnavailableError: a part has no worker left.
        """
        query_BD, exclude, allowed = check_search(self, torch.device("cpu"), vectors, k, exclude, allowed)
        asked = [
            (
                query_BD.numpy(),
                k,
                _inside(exclude, first, last),
                None if allowed is None else allowed[first:last].numpy(),
            )
            for first, last in self._ranges
        ]
        found = self._group.ask("search", asked, patience=self._patience)
        hits = merge([(rows, scores, first) for (rows, scores), (first, _) in zip(found, self._ranges, strict=True)], k)
        return Hits(hits.rows.to(vectors.device), hits.scores.to(vectors.device))

    @torch.no_grad()
    def vectors(self, rows: Tensor) -> Tensor:
        """Float32[..., D]: the stored vectors of rows Long[...]; NO_ROW gives zeros. UsageError: no such row."""
        flat = rows.reshape(-1).cpu()
        if flat.numel() and (int(flat.max()) >= len(self) or int(flat.min()) < NO_ROW):
            raise UsageError(f"a row outside 0..{len(self) - 1}: it belongs to another snapshot")
        places = [((flat >= first) & (flat < last)).nonzero()[:, 0] for first, last in self._ranges]
        asked = [
            ((flat[at] - first).numpy(),) if len(at) else None
            for at, (first, _) in zip(places, self._ranges, strict=True)
        ]
        out = torch.zeros((len(flat), self.dim))
        for at, found in zip(places, self._group.ask("vectors", asked, patience=self._patience), strict=True):
            if found is not None:
                out[at] = _tensor(found)
        return out.view(*rows.shape, self.dim).to(rows.device)


def parts_of(rows: int, shards: int) -> list[tuple[int, int]]:
    """At most so many ranges of about equal size, (first row, row after the last); fewer where there are few rows."""
    size = math.ceil(rows / shards)
    size = math.ceil(size / ALIGN) * ALIGN if size > ALIGN else size
    return [(first, min(first + size, rows)) for first in range(0, rows, max(size, 1))]


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray, int]], k: int) -> Hits:
    """The best k of parts' hits: (rows Int64[B, K] counted from the part's first, scores Float32[B, K], first row), in
    the order of rows. Among equal scores the lower row comes first, because it does within each part."""
    score_BC = torch.cat([_tensor(scores) for _, scores, _ in parts], 1)
    row_BC = torch.cat([_tensor(rows) + first for rows, _, first in parts], 1)
    score_BK, at_BK = top(score_BC, k)
    return Hits(row_BC.gather(1, at_BK).masked_fill(score_BK == NO_SCORE, NO_ROW), score_BK)


def _inside(exclude_BE: Tensor | None, first: int, last: int) -> np.ndarray | None:
    """The exclusions among the rows of a part, counted from its first."""
    if exclude_BE is None:
        return None
    inside_BE = (exclude_BE >= first) & (exclude_BE < last)
    if not inside_BE.any():
        return None
    return (exclude_BE - first).masked_fill(~inside_BE, NO_ROW)[:, inside_BE.any(0)].numpy()


def _tensor(array: np.ndarray) -> Tensor:
    """A copy: what Ray hands over must not be written to, and torch has no such tensors."""
    return torch.from_numpy(np.array(array))


def _maybe(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else _tensor(array)

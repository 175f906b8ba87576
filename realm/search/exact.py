"""Exact inner-product search in blocks: any device, vectors in memory or mapped from shards.

Legend: B queries, K hits, N rows, E excluded rows a query, D vector size, C rows scored at once.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm.errors import DataError, UsageError
from realm.files import staged_folder
from realm.search.shards import Block, dtype_name, pack, read_vectors, seal, shard_name, write_shard
from realm.search.topk import NO_SCORE, Running
from realm.types import NO_ROW, Hits, Index

_FEW_QUERIES = 4
"""Up to here reading each vector once per query beats a matrix product (measured: `python -m benchmarks search`)."""
_SPARSE = 8
"""Where fewer than 1/8 of the rows are allowed, gathering them is cheaper than scoring all."""


class ExactIndex:
    """Every row is scored, so the best K are the best K.

    Scores are float32 whatever the storage; equal scores give the lower row first. Products with a CPU's vectors
    run on torch's threads (`torch.set_num_threads`).
    """

    def __init__(
        self,
        vectors: Tensor | Sequence[Block],
        *,
        dtype: str = "float32",
        facts: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """vectors: Float[N, D], kept as `dtype` ("float32", "bfloat16", "int8"), or stored blocks as they are.

        facts: what the vectors were made from (snapshot, encoder, step), kept for `save`.
        DataError: a vector holds NaN or infinity. UsageError: wrong shape or type.
        """
        self.facts = dict(facts or {})
        if isinstance(vectors, Tensor):
            if vectors.ndim != 2:
                raise UsageError(f"vectors of shape {tuple(vectors.shape)}: expected [rows, size]")
            _finite(vectors)
            blocks = [pack(vectors.detach(), dtype)]
        else:
            blocks = list(vectors)
        if not blocks:
            raise UsageError("an index of no blocks: expected at least one, which may hold no rows")
        self._blocks = [b.to(device) for b in blocks] if device is not None else blocks
        self._firsts = [0, *accumulate(len(b) for b in self._blocks)]

    @property
    def dim(self) -> int:
        return int(self._blocks[0].data.shape[1])

    @property
    def device(self) -> torch.device:
        return self._blocks[0].data.device

    @property
    def dtype(self) -> str:
        return dtype_name(self._blocks[0].data.dtype)

    def __len__(self) -> int:
        return self._firsts[-1]

    def arrays(self) -> tuple[list[np.ndarray], list[int]]:
        """The blocks of rows as a CPU stores them (Float32[n, D] where `dtype` says so), and their first rows."""
        return [block.data.numpy() for block in self._blocks], self._firsts[:-1]

    def pieces(self, rows: int = 1 << 16) -> Iterator[Tensor]:
        """All vectors in their order, Float32[n, D] with n of at most `rows`."""
        for _, block in self._pieces(0, len(self), rows):
            yield block.float()

    # ------------------------------------------------------------------ search

    @torch.no_grad()
    def search(self, vectors: Tensor, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None) -> Hits:
        """The `Index` contract; the hits lie on the device of the query vectors.

        UsageError: k below 1, another vector size, an excluded row that does not exist, a filter of another length.
        DataError: a query holds NaN or infinity.
        """
        query_BD, exclude, allowed = check_search(self, self.device, vectors, k, exclude, allowed)
        best = Running(len(query_BD), k, self.device)
        wide = min(k, len(self))
        # Scores of one piece: about 16 MB on a CPU (its outer cache), 256 MB elsewhere; never fewer than some k.
        budget = (1 << 22) if self.device.type == "cpu" else (1 << 26)
        piece = max(budget // max(len(query_BD), 1), 4 * wide, 1024)
        kept = None if allowed is None else allowed.nonzero()[:, 0]
        sparse = kept is not None and len(kept) * _SPARSE < len(self)
        excluded = _by_row(exclude)
        total = len(kept) if sparse and kept is not None else len(self)
        score = torch.empty((len(query_BD), min(piece, total)), device=self.device) if len(query_BD) else None
        for first in range(0, total if score is not None else 0, piece):
            assert score is not None
            last = min(first + piece, total)
            score_BC = score[:, : last - first]
            if sparse and kept is not None:
                rows = kept[first:last]
                self._score_rows(query_BD, rows, score_BC)
                _mask(score_BC, excluded, rows)
                best.add(score_BC, rows)
                continue
            self._score(query_BD, first, last, score_BC)
            if allowed is not None:
                score_BC.masked_fill_(~allowed[first:last], NO_SCORE)
            _mask(score_BC, excluded, first)
            best.add(score_BC, first)
        hits = best.hits()
        return Hits(hits.rows.to(vectors.device), hits.scores.to(vectors.device))

    def _score(self, query_BD: Tensor, first: int, last: int, out_BC: Tensor) -> None:
        """Scores of the rows first..last into `out_BC`."""
        few = self.device.type == "cpu" and len(query_BD) <= _FEW_QUERIES
        if few:
            self._score_few(query_BD, first, last, out_BC)
            return
        step = 4096 if self.device.type == "cpu" else max(1, last - first)
        for a, block in self._pieces(first, last, step):
            torch.mm(query_BD, block.float().T, out=out_BC[:, a - first : a - first + len(block)])

    def _score_few(self, query_BD: Tensor, first: int, last: int, out_BC: Tensor) -> None:
        """One pass over memory at its own speed.

        A row's inner product of contiguous numbers runs at memory bandwidth in numpy; torch's and MKL's
        matrix-vector product is several times slower on some CPUs. Threads take pieces from one list, so a core
        that is busy elsewhere delays nothing.
        """
        query, out = query_BD.numpy(), out_BC.numpy()
        # A thread costs about 0.1 ms to start: not worth it for a few megabytes.
        helpers = min(torch.get_num_threads(), (last - first) // 32768 + 1) - 1
        # Large pieces, since each costs some 30 us; but several a thread, and converted ones must fit a cache.
        even = (last - first) // (8 * (helpers + 1))
        pieces = self._pieces(first, last, min(max(even, 4096), 65536) if self.dtype == "float32" else 4096)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                a, block = piece
                vector = block.float().numpy()
                for b in range(len(query)):
                    np.vecdot(vector, query[b], out=out[b, a - first : a - first + len(vector)])

        threads = [threading.Thread(target=work) for _ in range(helpers)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()

    def _score_rows(self, query_BD: Tensor, rows: Tensor, out_BC: Tensor) -> None:
        for a in range(0, len(rows), 8192):
            part = rows[a : a + 8192]
            torch.mm(query_BD, self.vectors(part).T, out=out_BC[:, a : a + len(part)])

    def _pieces(self, first: int, last: int, step: int) -> Iterator[tuple[int, Block]]:
        """(first row, stored rows) over first..last, in pieces of at most `step` that cross no shard."""
        at = bisect_right(self._firsts, first) - 1
        while first < last:
            while self._firsts[at + 1] <= first:
                at += 1
            end = min(last, first + step, self._firsts[at + 1])
            yield first, self._blocks[at][first - self._firsts[at] : end - self._firsts[at]]
            first = end

    # ------------------------------------------------------------------ vectors, disk

    @torch.no_grad()
    def vectors(self, rows: Tensor) -> Tensor:
        """Float32[..., D]: the stored vectors of rows Long[...]; NO_ROW gives zeros. UsageError: no such row."""
        flat = rows.reshape(-1).to(self.device)
        if flat.numel() and (int(flat.max()) >= len(self) or int(flat.min()) < NO_ROW):
            raise UsageError(f"a row outside 0..{len(self) - 1}: it belongs to another snapshot")
        out = torch.zeros((len(flat), self.dim), device=self.device)
        shard = torch.bucketize(flat, torch.tensor(self._firsts[1:], device=self.device), right=True)
        for number in shard[flat != NO_ROW].unique().tolist():
            at = ((shard == number) & (flat != NO_ROW)).nonzero()[:, 0]
            out[at] = self._blocks[number][flat[at] - self._firsts[number]].float()
        return out.view(*rows.shape, self.dim).to(rows.device)

    def save(self, folder: Path, *, rows_per_shard: int = 1 << 16) -> None:
        """Write the index as a folder, whole or not at all."""
        ranges = [(a, min(a + rows_per_shard, len(self))) for a in range(0, len(self), rows_per_shard)]
        with staged_folder(Path(folder)) as staged:
            for number, (first, last) in enumerate(ranges):
                parts = [block for _, block in self._pieces(first, last, rows_per_shard)]
                data = torch.cat([p.data for p in parts])
                scale = torch.cat([p.scale for p in parts if p.scale is not None]) if self.dtype == "int8" else None
                write_shard(staged / shard_name(number, first, last), Block(data, scale))
            seal(staged, ranges, dim=self.dim, dtype=self.dtype, facts=self.facts)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        snapshot: str | None = None,
        encoder: str | None = None,
        device: torch.device | str = "cpu",
    ) -> ExactIndex:
        """Open a finished folder: mapped from disk on a CPU, copied to any other device.

        snapshot, encoder: fingerprints that the index must have been made from.
        ArtefactError: missing, torn or of another format. MismatchError: made from something else.
        """
        blocks, manifest = read_vectors(Path(folder), snapshot=snapshot, encoder=encoder)
        own = {"format", "format_version", "realm_version", "rows", "dim", "dtype", "shards", "hashes"}
        facts = {key: value for key, value in manifest.items() if key not in own}
        blocks = blocks or [pack(torch.zeros((0, manifest["dim"])), manifest["dtype"])]
        return cls(blocks, facts=facts, device=None if torch.device(device).type == "cpu" else device)


def check_search(
    index: Index, device: torch.device, vectors: Tensor, k: int, exclude: Tensor | None, allowed: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What `Index.search` was given, on `device`, the queries in float32. UsageError, DataError: as it promises."""
    if k < 1:
        raise UsageError(f"k is {k}: expected at least 1")
    if vectors.ndim != 2 or vectors.shape[1] != index.dim:
        raise UsageError(f"query vectors of shape {tuple(vectors.shape)}: expected [queries, {index.dim}]")
    query_BD = vectors.to(device, torch.float32).contiguous()
    # A sum is finite only where every number is; where it is not, they are looked at, for it may have overflowed.
    if not math.isfinite(float(query_BD.detach().sum())) and not torch.isfinite(query_BD).all():
        raise DataError("a query vector holds NaN or infinity: check the encoder that made it")
    rows = len(index)
    if exclude is not None:
        if exclude.ndim != 2 or len(exclude) != len(vectors):
            raise UsageError(f"exclude of shape {tuple(exclude.shape)}: expected [{len(vectors)}, rows]")
        exclude = exclude.to(device)
        if exclude.numel() and (int(exclude.max()) >= rows or int(exclude.min()) < NO_ROW):
            raise UsageError(f"exclude names a row outside 0..{rows - 1}: it belongs to another snapshot")
    if allowed is not None:
        if allowed.dtype != torch.bool or tuple(allowed.shape) != (rows,):
            raise UsageError(f"allowed is {allowed.dtype} {tuple(allowed.shape)}: expected bool [{rows}]")
        allowed = allowed.to(device)
    return query_BD, exclude, allowed


def _finite(vector_ND: Tensor) -> None:
    for first in range(0, len(vector_ND), 65536):
        bad = (~torch.isfinite(vector_ND[first : first + 65536]).all(1)).nonzero()
        if len(bad):
            row = first + int(bad[0])
            raise DataError(f"the vector of row {row} holds NaN or infinity: check the encoder that made it")


def _by_row(exclude: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """(row, query) of every exclusion, rows ascending."""
    if exclude is None:
        return None
    query, column = (exclude != NO_ROW).nonzero(as_tuple=True)
    row, order = exclude[query, column].sort()
    return row, query[order]


def _mask(score_BC: Tensor, excluded: tuple[Tensor, Tensor] | None, rows: Tensor | int) -> None:
    """Take the excluded rows out of a piece of scores; `rows` as in `Running.add`."""
    if excluded is None or not len(excluded[0]):
        return
    row, query = excluded
    if isinstance(rows, int):
        inside = (row >= rows) & (row < rows + score_BC.shape[1])
        score_BC[query[inside], row[inside] - rows] = NO_SCORE
        return
    at = torch.searchsorted(rows, row).clamp(max=len(rows) - 1)
    inside = rows[at] == row
    score_BC[query[inside], at[inside]] = NO_SCORE

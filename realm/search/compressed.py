"""Search that looks at a part of the rows: compressed codes propose, the exact vectors decide.

The vectors themselves stay where they are, mapped from disk; in memory are the codes alone. Every score is the exact
inner product of the stored vector, so only a row that was not proposed can be missed. How often that happens was
measured where the index was made (`realm.search.tuning`), and the settings are the cheapest that reach the recall asked
for.

Legend: B queries, K hits, C candidates, N rows, E excluded rows a query, D vector size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.files import (
    MANIFEST,
    changed,
    fingerprint,
    hashes_of,
    read_json,
    read_manifest,
    staged_folder,
    write_manifest,
)
from realm.search.codes import Codes, Plan, inner_products
from realm.search.exact import ExactIndex, check_search
from realm.search.topk import NO_SCORE, top
from realm.types import NO_ROW, Hits

FORMAT = "realm compressed index"
VERSION = 1
CODES, VECTORS, BESIDE = "codes.faiss", "vectors", ".."
_SHARD_BYTES = 1 << 30
_FEW_QUERIES = 4
_MEASURED = 10
"""The least K that a recall was measured for: fewer hits are taken from as many candidates."""
_SLACK = 1.1
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Level:
    """What a search costs that reaches down to a depth."""

    depth: int
    """K divided by the share of the rows that are allowed: how far down the order of all rows the hits lie."""
    effort: int
    """Lists that are looked at, or the breadth of a graph's walk."""
    ratio: float
    """Candidates for each hit wanted."""
    recall: float
    """Of held-out queries."""


class CompressedIndex:
    """An `Index` that misses a few hits and is many times faster than one that looks at every row.

    Exact where nothing else is worth it: few rows, deep K, filters that few rows pass, queries for which the
    candidates do not suffice. So there are always as many hits as exact search would give, and none that a filter
    forbids.

    A filter that is related to the query (only a source that is far from it) can cost recall beyond what was measured,
    which was with filters that have nothing to do with it.
    """

    def __init__(
        self,
        exact: ExactIndex,
        codes: Codes | None,
        levels: Sequence[Level] = (),
        *,
        facts: Mapping[str, Any] | None = None,
        chosen: Mapping[str, Any] | None = None,
    ) -> None:
        """Use `realm.search.tuning.build` or `open`.

        codes: None where exact search is the better one. chosen: what was tried.
        """
        if exact.device.type != "cpu":
            raise UsageError(f"vectors on {exact.device}: expected them on the CPU; a GPU searches exactly as fast")
        self.exact, self.codes = exact, codes
        self._arrays = exact.arrays() if exact.dtype == "float32" else None
        self._plain = self._arrays[0][0] if self._arrays is not None and len(self._arrays[0]) == 1 else None
        self._costs: dict[int, tuple[int, int]] = {}
        self.levels = tuple(sorted(levels, key=lambda level: level.depth))
        self.facts, self.chosen = dict(exact.facts if facts is None else facts), dict(chosen or {})

    @property
    def dim(self) -> int:
        return self.exact.dim

    def __len__(self) -> int:
        return len(self.exact)

    def vectors(self, rows: Tensor) -> Tensor:
        """Float32[..., D]: the stored vectors of rows Long[...]; NO_ROW gives zeros. UsageError: no such row."""
        return self.exact.vectors(rows)

    # ------------------------------------------------------------------ search

    def search(self, vectors: Tensor, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None) -> Hits:
        """The `Index` contract, but that hits may be missed; UsageError and DataError as `ExactIndex.search`."""
        if exclude is None and allowed is None and (found := self._alone(vectors, k)) is not None:
            return found
        query_BD, exclude, allowed = check_search(self, _CPU, vectors, k, exclude, allowed)
        wanted, share, keep = k, 1.0, None
        if exclude is not None and exclude.numel():
            wanted += int((exclude != NO_ROW).sum(1).max())
        if allowed is not None:
            allowed_N = allowed.numpy()
            share = np.count_nonzero(allowed_N) / max(len(self), 1)
            keep = np.packbits(allowed_N, bitorder="little") if share < 1 else None
        level = self._level(wanted / share if share else math.inf)
        if self.codes is None or level is None or not len(query_BD):
            return self.exact.search(vectors, k, exclude, allowed)
        query = query_BD.detach().numpy()
        count = self._count(level, wanted)
        row_BC = self.codes.candidates(query, count, level.effort, keep)
        row_BC.sort(axis=1)  # equal scores give the lower row first, and memory is read in its order
        if row_BC[:, -1].max() >= len(self):
            raise ArtefactError(
                "the codes name a row that there is no vector of: they are damaged, make the index again"
            )
        score_BC = self.score(query, row_BC)
        if exclude is not None and exclude.numel():
            score_BC[(row_BC[:, :, None] == exclude.numpy()[:, None, :]).any(2)] = NO_SCORE
        row_BK, score_BK = _best(row_BC, score_BC, k)
        # A search with a filter that does not even fill its candidates has looked at too few rows.
        short_B = (row_BC[:, 0] < 0) if keep is not None else (row_BK[:, -1] < 0)
        hits = Hits(torch.from_numpy(row_BK), torch.from_numpy(score_BK))
        if short_B.any():
            at = torch.from_numpy(short_B.nonzero()[0])
            again = self.exact.search(query_BD[at], k, None if exclude is None else exclude[at], allowed)
            hits.rows[at], hits.scores[at] = again.rows, again.scores
        return hits if vectors.device == _CPU else Hits(hits.rows.to(vectors.device), hits.scores.to(vectors.device))

    def _alone(self, vectors: Tensor, k: int) -> Hits | None:
        """One query without filters, in as few calls as there can be: each costs more than what it does. None where
        anything is unusual, impossible wishes included; `search` then finds out."""
        if (
            self._plain is None
            or self.codes is None
            or vectors.shape != (1, self.dim)
            or vectors.dtype != torch.float32
        ):
            return None
        if k not in self._costs:
            level = self._level(k)
            self._costs[k] = (0, 0) if k < 1 or level is None else (self._count(level, k), level.effort)
        count, effort = self._costs[k]
        if not count or count < k or vectors.device.type != "cpu" or not vectors.is_contiguous():
            return None
        query_1D = vectors.detach().numpy()
        row_C = self.codes.candidates(query_1D, count, effort)[0]
        row_C.sort()
        if row_C[0] < 0 or row_C[-1] >= len(self._plain):
            return None
        score_C = np.vecdot(self._plain.take(row_C, 0), query_1D[0])
        best_K = (-score_C).argsort(kind="stable")[:k]
        row_K, score_K = row_C[best_K], score_C[best_K]
        if not math.isfinite(score_K[0]):  # the query holds NaN or infinity
            return None
        return Hits(torch.from_numpy(row_K[None]), torch.from_numpy(score_K[None]))

    def _count(self, level: Level, wanted: int) -> int:
        """Candidates; of fewer hits than any recall was measured for as many as for those."""
        return min(math.ceil(level.ratio * max(wanted, _MEASURED)), len(self))

    def _level(self, depth: float) -> Level | None:
        # A few rows that were struck out make no deeper search.
        return next((level for level in self.levels if _SLACK * level.depth >= depth), None)

    def score(self, query_BD: np.ndarray, row_BC: np.ndarray) -> np.ndarray:
        """Float32[B, C]: exact inner products with rows, ascending for each query; -inf for -1."""
        if self._arrays is None:
            vector_BCD = self.exact.vectors(torch.from_numpy(row_BC))
            found_BC = torch.einsum("bd,bcd->bc", torch.from_numpy(query_BD), vector_BCD)
            return np.where(row_BC < 0, np.float32(NO_SCORE), found_BC.numpy())
        arrays, firsts = self._arrays
        if len(query_BD) <= _FEW_QUERIES:
            # Starting threads would take longer than the work.
            out_BC = np.full(row_BC.shape, NO_SCORE, np.float32)
            for b, row_C in enumerate(row_BC):
                cut = np.searchsorted(row_C, firsts).tolist()
                for number, (first, last) in enumerate(zip(cut, [*cut[1:], len(row_C)], strict=True)):
                    if first < last:
                        rows = row_C[first:last] - firsts[number] if number else row_C[first:last]
                        out_BC[b, first:last] = np.vecdot(arrays[number].take(rows, 0), query_BD[b])
            return out_BC
        if len(arrays) == 1:
            return inner_products(query_BD, arrays[0], row_BC)
        out_BC = np.full(row_BC.shape, NO_SCORE, np.float32)
        for array, first in zip(arrays, firsts, strict=True):
            inside_BC = (row_BC >= first) & (row_BC < first + len(array))
            if inside_BC.any():
                np.maximum(out_BC, inner_products(query_BD, array, np.where(inside_BC, row_BC - first, -1)), out=out_BC)
        return out_BC

    # ------------------------------------------------------------------ disk

    def save(self, folder: Path, *, beside: bool = False) -> None:
        """Write the index as a folder, whole or not at all.

        beside: `folder` lies in the folder of the exact index that this one was made from, whose vectors are used and
        not copied. Copied ones lie in few large files, which are searched faster than many small ones.
        """
        with staged_folder(Path(folder)) as staged:
            if not beside:
                size = max(1, _SHARD_BYTES // max(1, self.dim * 4))
                self.exact.save(staged / VECTORS, rows_per_shard=size)
            if self.codes is not None:
                self.codes.write(staged / CODES)
            write_manifest(
                staged,
                format=FORMAT,
                version=VERSION,
                rows=len(self),
                dim=self.dim,
                vectors=BESIDE if beside else VECTORS,
                vectors_made=vectors_made(Path(folder).parent if beside else staged / VECTORS),
                plan=None if self.codes is None else asdict(self.codes.plan),
                levels=[asdict(level) for level in self.levels],
                chosen=self.chosen,
                facts=self.facts,
                hashes=hashes_of(staged, CODES),
            )

    @classmethod
    def open(cls, folder: Path, *, snapshot: str | None = None, encoder: str | None = None) -> CompressedIndex:
        """Open a finished folder, mapped from disk where faiss can (see `Codes.read`).

        The codes are in faiss's own format, which is neither safetensors nor JSON and which faiss takes at its word.
        So their SHA-256 is compared with the manifest's before faiss sees them. This finds what was damaged or put in
        their place, not a manifest that was forged with them: open only folders from people you trust.

        ArtefactError: missing, torn or of another format. MismatchError: made from something else.
        """
        folder = Path(folder)
        manifest = read_manifest(folder, format=FORMAT, version=VERSION)
        try:
            plan = None if manifest["plan"] is None else Plan(**manifest["plan"])
            levels = [Level(**level) for level in manifest["levels"]]
            rows, dim, made, hashes = (manifest[name] for name in ("rows", "dim", "vectors_made", "hashes"))
            place = {VECTORS: folder / VECTORS, BESIDE: folder.absolute().parent}[manifest["vectors"]]
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"the manifest of {folder} is damaged ({error!r}): make the index again") from error
        if made != vectors_made(place):
            raise MismatchError(
                f"the codes {folder} were made for other vectors than those in {place}: make them again"
            )
        exact = ExactIndex.open(place, snapshot=snapshot, encoder=encoder)
        if (len(exact), exact.dim) != (rows, dim):
            raise MismatchError(
                f"the codes {folder} are of {rows} rows of {dim}, its vectors {len(exact)} of {exact.dim}: "
                "make them again"
            )
        codes = None
        if plan is not None:
            if CODES not in hashes or changed(folder, hashes) is not None:
                raise ArtefactError(f"{folder / CODES} is not what its manifest was written for: make the index again")
            codes = Codes.read(folder / CODES, plan, rows=rows, dim=dim)
        return cls(exact, codes, levels, facts=manifest.get("facts"), chosen=manifest.get("chosen"))


def vectors_made(folder: Path) -> str:
    """What tells the vectors of an exact index's folder from others: a fingerprint of their hashes or, of an index that
    has none, of the whole manifest."""
    manifest = read_json(folder / MANIFEST)
    told = manifest.get("hashes") or manifest
    return fingerprint(repr(sorted(told.items()) if isinstance(told, dict) else told))


def _best(row_BC: np.ndarray, score_BC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of each query and their scores, padded with NO_ROW and -inf; row_BC ascending."""
    queries, wide = len(row_BC), min(k, score_BC.shape[1])
    best_BK, found_BK = np.full((queries, k), NO_ROW), np.full((queries, k), NO_SCORE, np.float32)
    if queries <= _FEW_QUERIES:
        for b in range(queries):
            order_K = (-score_BC[b]).argsort(kind="stable")[:k]
            found_BK[b, :wide], best_BK[b, :wide] = score_BC[b][order_K], row_BC[b][order_K]
    else:
        value_BK, place_BK = top(torch.from_numpy(score_BC), wide)
        found_BK[:, :wide] = value_BK.numpy()
        best_BK[:, :wide] = np.take_along_axis(row_BC, place_BK.numpy(), 1)
    best_BK[found_BK == NO_SCORE] = NO_ROW
    return best_BK, found_BK

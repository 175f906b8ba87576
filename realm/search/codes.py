"""Compressed codes of vectors and the search for candidates among them, by faiss, which is imported here alone
(Douze et al. 2024, "The Faiss library").

Before they are coded, vectors are rotated onto the axes on which most of them lies (an uncentred principal component
analysis, so that inner products stay), and turned at random within these, which spreads what is left evenly over the
codes. The kinds:

* `ivf-pq`: lists around means (Jégou, Douze & Schmid 2011, section IV), in each the residuals to its mean by product
  quantisation with four bits a piece, which a processor scans in its registers (André, Kermarrec & Le Scouarnec 2017,
  "Accelerated nearest neighbor search with Quick ADC");
* `ivf-rabitq`: the same lists, a bit a dimension (Gao & Long 2024, "RaBitQ");
* `ivf-sq`: the same lists, a byte a dimension;
* `hnsw-sq`: a graph to walk (Malkov & Yashunin 2018) over a byte a dimension.

What they find are candidates: their scores are rough, and whoever asks scores them again with the exact vectors.

Legend: B queries, C candidates, N rows, S rows of a sample, D vector size, E dimensions that are coded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm.errors import ArtefactError, MissingLibraryError, UsageError

KINDS = ("ivf-pq", "ivf-rabitq", "ivf-sq", "hnsw-sq")
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
BREADTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
PER_LIST = 64
"""Vectors of the sample that a list's mean is learnt from."""
_ROUNDS = 10
"""Of k-means: later ones move the means by little."""
_CODEBOOK = 65_536
"""Vectors that the codes are learnt from."""
_BY_QUERY = 11
"""faiss's number for it (measured: a tenth faster than its own choice at 200,000 x 128, for one query and for 64)."""
_MANY_LISTS, _MEANS_AGAIN = 512, 4
"""From so many lists on, those to look at are found by codes; so many times as many are scored again."""
_WIDTH = 40
"""Neighbours considered for each link of a graph, in 16ths: a graph of 16 links is built with 40 * 2 of them."""


@dataclass(frozen=True)
class Plan:
    """What codes are made."""

    kind: str
    dims: int
    """E; as many as the vectors have: they are only turned."""
    lists: int = 0
    pieces: int = 0
    """Of a vector in `ivf-pq`, four bits each."""
    links: int = 0
    """Of a row in `hnsw-sq`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.dims < 1 or (self.kind == "ivf-pq" and (self.pieces < 1 or self.dims % self.pieces)):
            raise UsageError(f"{self.pieces} pieces of {self.dims} dimensions: expected pieces of equal size")
        if (self.lists < 1) != (self.kind == "hnsw-sq") or (self.links < 2) == (self.kind == "hnsw-sq"):
            raise UsageError(f"{self.lists} lists and {self.links} links: expected lists, or links for hnsw-sq")

    def __str__(self) -> str:
        pieces = f", {self.pieces} pieces" if self.pieces else ""
        return (
            f"{self.kind}, {self.lists or self.links:,} {'lists' if self.lists else 'links'}, {self.dims} dims{pieces}"
        )

    @property
    def efforts(self) -> tuple[int, ...]:
        """What a search may cost, cheapest first: lists that are looked at, or the breadth of a graph's walk."""
        if self.kind == "hnsw-sq":
            return BREADTHS
        return (*(probes for probes in PROBES if probes < self.lists), self.lists)

    def bytes_a_row(self) -> float:
        """In memory, reckoned: the code, the row's number or its links, a share of the means."""
        code = {"ivf-pq": self.pieces / 2, "ivf-rabitq": self.dims / 8 + 12}.get(self.kind, float(self.dims))
        return code + (8 if self.lists else 8.5 * self.links + 12)


@dataclass(frozen=True)
class Cells:
    """Lists before there is anything in them; codes of several kinds may share them."""

    rotation_DE: np.ndarray
    mean_LE: np.ndarray
    list_N: np.ndarray
    """Of every row."""


def rotation(sample_SD: np.ndarray, dims: int, seed: int = 0) -> np.ndarray:
    """Float32[D, E]: turns vectors onto their E strongest axes and scales them to a mean length of about one."""
    axes_DD = np.linalg.eigh(sample_SD.T.astype(np.float64) @ sample_SD)[1]
    turn_EE = np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0]
    length = float(np.sqrt(np.einsum("sd,sd->s", sample_SD, sample_SD)).mean()) or 1.0
    return np.ascontiguousarray(axes_DD[:, ::-1][:, :dims] @ turn_EE / length, dtype=np.float32)


def strongest(sample_SD: np.ndarray, share: float) -> int:
    """How many axes hold that share of the squared length of the vectors."""
    power_D = np.linalg.eigvalsh(sample_SD.T.astype(np.float64) @ sample_SD)[::-1]
    total = power_D.sum()
    return int(np.searchsorted(np.cumsum(power_D), share * total) + 1) if total > 0 else 1


def cells(sample_SD: np.ndarray, pieces: Iterable[np.ndarray], lists: int, dims: int, seed: int = 0) -> Cells:
    """Learn the means of lists from a sample, and give every row, which come in pieces [n, D], to the nearest mean."""
    faiss = library()
    rotation_DE = rotation(sample_SD, dims, seed)
    sample_SE = np.ascontiguousarray(sample_SD[: PER_LIST * lists] @ rotation_DE)
    means = faiss.Kmeans(
        dims, lists, niter=_ROUNDS, seed=seed + 1, min_points_per_centroid=1, max_points_per_centroid=PER_LIST
    )
    means.train(sample_SE)
    nearest = faiss.IndexFlatL2(dims)
    nearest.add(means.centroids)
    found = [nearest.search(np.ascontiguousarray(piece @ rotation_DE), 1)[1][:, 0].astype(np.int32) for piece in pieces]
    return Cells(rotation_DE, np.ascontiguousarray(means.centroids), np.concatenate(found))


class Codes:
    """Coded rows, and how candidates are found among them. Threads may share one."""

    def __init__(self, plan: Plan, engine: Any, held: tuple[Any, ...] = ()) -> None:
        """Use `build` or `read`. held: what the engine points to and does not own."""
        self.plan = plan
        self._engine, self._held, self._faiss = engine, held, library()
        self._params: dict[int, Any] = {}
        if plan.kind in ("ivf-pq", "ivf-rabitq"):
            # Query by query: lists are short, and sorting them out for a whole batch takes longer.
            self._faiss.downcast_index(engine.index).implem = _BY_QUERY

    def __len__(self) -> int:
        return int(self._engine.ntotal)

    @classmethod
    def build(
        cls, plan: Plan, sample_SD: np.ndarray, pieces: Iterable[np.ndarray], shared: Cells | None = None, seed: int = 0
    ) -> Codes:
        """Learn the codes from a sample, and code all rows, which come in pieces Float32[n, D].

        shared: lists of the plan's number and dimensions; kinds with lists need them.
        """
        faiss = library()
        faiss.omp_set_num_threads(torch.get_num_threads())
        turn_DE = shared.rotation_DE if shared is not None else rotation(sample_SD, plan.dims, seed)
        turned = faiss.LinearTransform(sample_SD.shape[1], plan.dims, False)
        faiss.copy_array_to_vector(np.ascontiguousarray(turn_DE.T).reshape(-1), turned.A)
        turned.is_trained = True
        rows_SE = np.ascontiguousarray(sample_SD[:_CODEBOOK] @ turn_DE)
        if plan.kind == "hnsw-sq":
            inner = faiss.IndexHNSWSQ(plan.dims, faiss.ScalarQuantizer.QT_8bit, plan.links, faiss.METRIC_INNER_PRODUCT)
            inner.hnsw.efConstruction = _WIDTH * plan.links // 8
            inner.train(rows_SE)
            for piece_ND in pieces:
                inner.add(np.ascontiguousarray(piece_ND @ turn_DE))
            held: tuple[Any, ...] = (inner, turned)
        else:
            if shared is None or len(shared.mean_LE) != plan.lists:
                raise UsageError(f"{plan}: expected lists of that number, see `cells`")
            inner, pointed = _filled(faiss, plan, rows_SE, pieces, shared)
            held = (inner, *pointed, turned)
        return cls(plan, faiss.IndexPreTransform(turned, inner), held)

    def candidates(self, query_BD: np.ndarray, count: int, effort: int, keep: np.ndarray | None = None) -> np.ndarray:
        """Int64[B, count]: rows that are likely to have the largest inner products, -1 where there are no more.

        query_BD: contiguous float32. keep: a bit a row, lowest first; only rows whose bit is set are found.
        """
        faiss = self._faiss
        faiss.omp_set_num_threads(torch.get_num_threads())
        if keep is not None:
            chosen = faiss.IDSelectorBitmap(len(keep), faiss.swig_ptr(keep))
            params = self._parameters(faiss, max(effort, count) if self.plan.links else effort, chosen)
            return np.asarray(self._engine.search(query_BD, count, params=params)[1])
        at = max(effort, count) if self.plan.links else effort
        params = self._params.get(at)
        if params is None:
            params = self._params[at] = self._parameters(faiss, at, None)
        return np.asarray(self._engine.search(query_BD, count, params=params)[1])

    def _parameters(self, faiss: Any, effort: int, chosen: Any) -> Any:
        more = {} if chosen is None else {"sel": chosen}
        if self.plan.links:
            inner = faiss.SearchParametersHNSW(efSearch=effort, **more)
        else:
            inner = faiss.SearchParametersIVF(nprobe=effort, **more)
        return faiss.SearchParametersPreTransform(index_params=inner)

    def write(self, file: Path) -> None:
        """faiss's own serialisation."""
        library().write_index(self._engine, str(file))

    @classmethod
    def read(cls, file: Path, plan: Plan, *, rows: int, dim: int) -> Codes:
        """Open what `write` wrote: a graph and lists of bytes stay on disk and are mapped; faiss reads scanned lists
        (`ivf-pq`, `ivf-rabitq`) into memory, whatever it is asked.

        faiss takes a file at its word: check where it comes from first. ArtefactError: not such codes.
        """
        faiss = library()
        flags = {"hnsw-sq": faiss.IO_FLAG_MMAP_IFC, "ivf-sq": faiss.IO_FLAG_MMAP}.get(plan.kind, 0)
        try:
            engine = faiss.read_index(str(file), flags)
        except (RuntimeError, MemoryError) as error:
            raise ArtefactError(f"{file} is no file of faiss ({str(error)[-120:]}): make the index again") from error
        found = (int(engine.ntotal), int(engine.d), int(getattr(engine, "metric_type", -1)))
        if not isinstance(engine, faiss.IndexPreTransform) or found != (rows, dim, faiss.METRIC_INNER_PRODUCT):
            raise ArtefactError(
                f"{file} holds {found[0]:,} rows of {found[1]}, expected {rows:,} of {dim}: make it again"
            )
        inner: Any = faiss.downcast_index(engine.index)
        kept = isinstance(inner, _type(faiss, plan))
        if not kept or inner.d != plan.dims or getattr(inner, "nlist", 0) != plan.lists:
            raise ArtefactError(f"{file} holds {type(inner).__name__}, its manifest promises {plan}: make it again")
        return cls(plan, engine)


def inner_products(query_BD: np.ndarray, vector_ND: np.ndarray, row_BC: np.ndarray) -> np.ndarray:
    """Float32[B, C]: of each query with its rows, -inf for -1. All contiguous; rows must exist, nothing checks it."""
    faiss = library()
    out_BC = np.empty(row_BC.shape, np.float32)
    pointers = [faiss.swig_ptr(array) for array in (out_BC, query_BD, vector_ND, row_BC)]
    faiss.fvec_inner_products_by_idx(*pointers, query_BD.shape[1], *row_BC.shape)
    return out_BC


def library() -> Any:
    """faiss. MissingLibraryError: it is not installed."""
    try:
        import faiss
    except ImportError:
        raise MissingLibraryError("faiss", "faiss", "compressed search") from None
    return faiss


def _type(faiss: Any, plan: Plan) -> type:
    names = {
        "ivf-pq": "IndexIVFPQFastScan",
        "ivf-rabitq": "IndexIVFRaBitQFastScan",
        "ivf-sq": "IndexIVFScalarQuantizer",
        "hnsw-sq": "IndexHNSWSQ",
    }
    found: type = getattr(faiss, names[plan.kind])
    return found


def _filled(
    faiss: Any, plan: Plan, sample_SE: np.ndarray, pieces: Iterable[np.ndarray], shared: Cells
) -> tuple[Any, list[Any]]:
    """Lists with the codes of all rows in them, and what they point to: the search for the lists to look at."""
    means = faiss.IndexFlatIP(plan.dims)
    means.add(shared.mean_LE)
    metric = faiss.METRIC_INNER_PRODUCT
    if plan.kind == "ivf-pq":
        lists = faiss.IndexIVFPQ(means, plan.dims, plan.lists, plan.pieces, 4, metric)
        lists.pq.cp.min_points_per_centroid = 1
    elif plan.kind == "ivf-rabitq":
        lists = faiss.IndexIVFRaBitQ(means, plan.dims, plan.lists, metric)
    else:
        lists = faiss.IndexIVFScalarQuantizer(means, plan.dims, plan.lists, faiss.ScalarQuantizer.QT_8bit, metric, True)
    lists.by_residual = True
    nearest = faiss.IndexFlatL2(plan.dims)
    nearest.add(shared.mean_LE)
    list_S = np.ascontiguousarray(nearest.search(sample_SE, 1)[1][:, 0])
    residual_SE = np.ascontiguousarray(sample_SE - shared.mean_LE[list_S])
    lists.train_encoder(len(residual_SE), faiss.swig_ptr(residual_SE), faiss.swig_ptr(list_S))
    lists.is_trained = True
    first = 0
    for piece_ND in pieces:
        row_NE = np.ascontiguousarray(piece_ND @ shared.rotation_DE)
        number_N = np.arange(first, first + len(row_NE), dtype=np.int64)
        list_N = shared.list_N[first : first + len(row_NE)].astype(np.int64)
        arrays = [faiss.swig_ptr(array) for array in (row_NE, number_N, list_N)]
        lists.add_core(len(row_NE), *arrays)
        first += len(row_NE)
    if plan.kind == "ivf-pq":
        lists = faiss.IndexIVFPQFastScan(lists, 32)
    elif plan.kind == "ivf-rabitq":
        lists = faiss.IndexIVFRaBitQFastScan(lists, 32)
    held = [means]
    if plan.lists >= _MANY_LISTS and plan.dims % 4 == 0:
        # The lists to look at are themselves found by codes and scored again: all means take longer than the rows.
        quick = faiss.IndexPQFastScan(plan.dims, plan.dims // 2, 4, metric)
        quick.pq.cp.min_points_per_centroid = 1
        quick.train(shared.mean_LE)
        quick.add(shared.mean_LE)
        again = faiss.IndexRefineFlat(quick, faiss.swig_ptr(shared.mean_LE))
        again.k_factor = _MEANS_AGAIN
        lists.quantizer = again
        held += [quick, again]
    return lists, held

"""The peers' compressed and approximate indexes behind one interface.

Each is built as its own documentation recommends for the number of rows, and has settings from the cheapest to the
dearest, of which `search.tune` takes the fastest of the first that reach a recall. `bytes_a_row` is what it holds when
it is built, by its own count where it has one, else by what its parts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


@dataclass
class Approximate:
    """A built index."""

    who: str
    search: Callable[..., np.ndarray]
    """(queries Float[B, D], k, **setting) -> rows Int[B, k]"""
    settings: Sequence[dict[str, Any]]
    """Cheapest first."""
    facts: dict[str, Any] = field(default_factory=dict)


class Peer(NamedTuple):
    """How one is built."""

    module: str
    build: Callable[[np.ndarray, int, Path], Approximate]
    """(vectors Float32[N, D], threads, a folder of its own) -> the index"""
    bytes_a_row: Callable[[np.ndarray], float]
    """What it will hold at its peak, reckoned."""


def _cells(rows: int) -> int:
    """About four times the root of the rows, which faiss and Lance recommend, and 39 rows to learn each from."""
    return max(1, min(int(4 * rows**0.5), rows // 39))


def _probes(cells: int) -> list[int]:
    steps = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    return [*(probes for probes in steps if probes < cells), cells]


def _ivf_flat_training(index: Any, vector_ND: np.ndarray, cells: int) -> None:
    count = min(len(vector_ND), max(64 * cells, 20_000))
    index.train(vector_ND[np.random.default_rng(0).choice(len(vector_ND), count, replace=False)])
    index.add(vector_ND)


def faiss_ivf_pq(vector_ND: np.ndarray, threads: int, folder: Path) -> Approximate:
    """Cells, 4-bit-scanned product quantisation, and the exact vectors for the last choice."""
    import faiss

    faiss.omp_set_num_threads(threads)
    rows, dim = vector_ND.shape
    cells = _cells(rows)
    kind = f"IVF{cells},PQ{dim // 2}x4fs,RFlat"
    index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    _ivf_flat_training(index, vector_ND, cells)

    def search(query_BD: np.ndarray, k: int, *, nprobe: int, k_factor: int) -> np.ndarray:
        inner = faiss.SearchParametersIVF(nprobe=nprobe)
        found = index.search(
            query_BD, k, params=faiss.IndexRefineSearchParameters(k_factor=k_factor, base_index_params=inner)
        )
        return np.asarray(found[1])

    settings = [{"nprobe": probes, "k_factor": factor} for probes in _probes(cells) for factor in (2, 5, 10, 30)]
    return Approximate("faiss IVF-PQ", search, settings, {"kind": kind, "bytes_a_row": dim // 4 + 8 + 4 * dim})


def faiss_ivf_sq(vector_ND: np.ndarray, threads: int, folder: Path) -> Approximate:
    """Cells, and a byte for each number."""
    import faiss

    faiss.omp_set_num_threads(threads)
    rows, dim = vector_ND.shape
    cells = _cells(rows)
    kind = f"IVF{cells},SQ8"
    index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    _ivf_flat_training(index, vector_ND, cells)

    def search(query_BD: np.ndarray, k: int, *, nprobe: int) -> np.ndarray:
        return np.asarray(index.search(query_BD, k, params=faiss.SearchParametersIVF(nprobe=nprobe))[1])

    return Approximate(
        "faiss IVF-SQ",
        search,
        [{"nprobe": probes} for probes in _probes(cells)],
        {"kind": kind, "bytes_a_row": dim + 8},
    )


BREADTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""How many candidates a graph is walked with."""


def faiss_hnsw(vector_ND: np.ndarray, threads: int, folder: Path) -> Approximate:
    """A graph over the exact vectors."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(vector_ND.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(vector_ND)

    def search(query_BD: np.ndarray, k: int, *, efSearch: int) -> np.ndarray:
        return np.asarray(index.search(query_BD, k, params=faiss.SearchParametersHNSW(efSearch=efSearch))[1])

    facts = {"kind": "HNSW32,Flat", "bytes_a_row": 4 * vector_ND.shape[1] + 4 * 66}
    return Approximate("faiss HNSW", search, [{"efSearch": breadth} for breadth in BREADTHS], facts)


def usearch_hnsw(vector_ND: np.ndarray, threads: int, folder: Path) -> Approximate:
    """A graph over the vectors in bfloat16."""
    from usearch.index import Index

    index = Index(ndim=vector_ND.shape[1], metric="ip", dtype="bf16")
    index.add(np.arange(len(vector_ND), dtype=np.uint64), vector_ND, threads=threads)

    def search(query_BD: np.ndarray, k: int, *, expansion: int) -> np.ndarray:
        index.expansion_search = expansion
        found = index.search(query_BD, k, threads=threads)
        return np.asarray(found.keys).reshape(len(query_BD), -1).astype(np.int64)

    settings = [{"expansion": breadth} for breadth in BREADTHS]
    facts = {"kind": "bf16", "bytes_a_row": round(index.memory_usage / len(vector_ND))}
    return Approximate("usearch HNSW", search, settings, facts)


def scann_tree(vector_ND: np.ndarray, threads: int, folder: Path) -> Approximate:
    """Leaves, anisotropic quantisation of pairs of numbers, and the exact vectors for the last choice."""
    import scann

    rows = len(vector_ND)
    leaves = max(1, min(int(2 * rows**0.5), rows // 50))
    index = (
        scann.scann_ops_pybind.builder(vector_ND, 10, "dot_product")
        .tree(num_leaves=leaves, num_leaves_to_search=max(1, leaves // 20), training_sample_size=min(rows, 250_000))
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(100)
        .build()
    )
    index.set_num_threads(threads)

    def search(query_BD: np.ndarray, k: int, *, leaves: int, reorder: int) -> np.ndarray:
        ask = index.search_batched_parallel if len(query_BD) > 1 else index.search_batched
        found = ask(query_BD, final_num_neighbors=k, leaves_to_search=leaves, pre_reorder_num_neighbors=reorder)
        return np.asarray(found[0]).astype(np.int64)

    settings = [{"leaves": probes, "reorder": reorder} for probes in _probes(leaves) for reorder in (30, 100, 300)]
    facts = {"kind": f"tree {leaves}, AH2, reorder", "bytes_a_row": vector_ND.shape[1] // 4 + 4 * vector_ND.shape[1]}
    return Approximate("ScaNN", search, settings, facts)


def lance_ivf_pq(vector_ND: np.ndarray, threads: int, folder: Path) -> Approximate:
    """LanceDB's own index on disk, its rows read again for the last choice."""
    import lancedb
    import pyarrow as pa

    rows, dim = vector_ND.shape
    values = pa.FixedSizeListArray.from_arrays(pa.array(vector_ND.reshape(-1)), dim)
    table = lancedb.connect(folder / "lance").create_table(
        "vectors", pa.table({"row": pa.array(np.arange(rows)), "vector": values})
    )
    cells = max(1, min(rows // 4096, 4096)) if rows > 65_536 else max(1, rows // 256)
    from lancedb.index import IvfPq

    table.create_index("vector", config=IvfPq(distance_type="dot", num_partitions=cells, num_sub_vectors=dim // 8))

    def search(query_BD: np.ndarray, k: int, *, nprobes: int, refine_factor: int) -> np.ndarray:
        asked = query_BD[0] if len(query_BD) == 1 else list(query_BD)
        found = table.search(asked).distance_type("dot").nprobes(nprobes).refine_factor(refine_factor).limit(k)
        result = found.select(["row", "_distance"]).to_arrow()
        row_N = result["row"].to_numpy()
        if len(query_BD) == 1:
            return row_N[None]
        query_N, out = result["query_index"].to_numpy(), np.full((len(query_BD), k), -1)
        for number in range(len(query_BD)):
            mine = row_N[query_N == number]
            out[number, : len(mine)] = mine
        return out

    settings = [{"nprobes": probes, "refine_factor": factor} for probes in _probes(cells) for factor in (2, 5, 10, 30)]
    held = sum(file.stat().st_size for file in (folder / "lance").rglob("*") if file.is_file())
    return Approximate("LanceDB IVF-PQ", search, settings, {"partitions": cells, "bytes_a_row": round(held / rows)})


def _exact_and(more: float) -> Callable[[np.ndarray], float]:
    return lambda vector_ND: 4 * vector_ND.shape[1] + more


PEERS = {
    "faiss IVF-PQ": Peer("faiss", faiss_ivf_pq, _exact_and(80)),
    "faiss IVF-SQ": Peer("faiss", faiss_ivf_sq, lambda vector_ND: 1.5 * vector_ND.shape[1] + 16),
    "faiss HNSW": Peer("faiss", faiss_hnsw, _exact_and(300)),
    "usearch HNSW": Peer("usearch.index", usearch_hnsw, lambda vector_ND: 2 * vector_ND.shape[1] + 300),
    "ScaNN": Peer("scann", scann_tree, lambda vector_ND: 8 * vector_ND.shape[1] + 100),
    "LanceDB IVF-PQ": Peer("lancedb", lance_ivf_pq, _exact_and(100)),
}
"""By the name in the tables."""

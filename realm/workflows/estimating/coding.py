"""What compressed indexes cost to build here, measured with faiss on a few made vectors, where it is installed.

The vectors' spectrum falls like that of an encoder's (in a graph over independent numbers a row's way is twice as
long). Of a row beside 4,096 others: on one core 60 to 62 microseconds, and 83 to 90 beside 21,872, of made vectors
and of a run's alike, 384 numbers each.
"""

from __future__ import annotations

import importlib.util
from functools import partial

import numpy as np
import torch

from realm.search import codes
from realm.workflows.estimating.measuring import once, seconds_of

GRAPH_ROWS = 8_192
"""Rows of the graph that is measured: 4,096 take as long on two threads as on one (58 and 56 microseconds a row), 9,052
don't (41 and 61)."""
CODED_LINKS = 16
"""Of the graph over bytes: M."""
BITS, WORDS = 4, 16
"""Of a piece of a product code."""
_CODED_ROWS = 1_024


def graph_seconds(dim: int) -> float | None:
    """Of a row's way into a graph over bytes with `GRAPH_ROWS` in the end; None without faiss."""
    if importlib.util.find_spec("faiss") is None:
        return None
    codes.library()  # whose import is not counted
    vector_ND = _made(GRAPH_ROWS, dim)
    plan = codes.Plan("hnsw-sq", dim, links=CODED_LINKS)
    building = partial(codes.Codes.build, plan, vector_ND, [vector_ND])
    turning = partial(codes.rotation, vector_ND, dim)  # a part of building that does not grow as the rows' ways do
    turned, built = (min(once(work) for _ in range(2)) for work in (turning, building))
    return max(built - turned, built / 4) / GRAPH_ROWS


def code_seconds(dim: int) -> float | None:
    """Of choosing a word for each of a row's `dim` pieces; None without faiss."""
    if importlib.util.find_spec("faiss") is None:
        return None
    faiss = codes.library()
    faiss.omp_set_num_threads(torch.get_num_threads())
    quantizer = faiss.ProductQuantizer(dim, dim, BITS)
    faiss.copy_array_to_vector(_made(WORDS, dim).reshape(-1), quantizer.centroids)
    rows = partial(quantizer.compute_codes, _made(_CODED_ROWS, dim))
    return seconds_of(rows, torch.device("cpu")) / _CODED_ROWS


def _made(rows: int, dim: int) -> np.ndarray:
    """Float32[rows, dim]: unit vectors whose n-th number varies as 1 / n."""
    drawn_ND = np.random.default_rng(0).standard_normal((rows, dim)) / np.sqrt(np.arange(1, dim + 1))
    return np.ascontiguousarray(drawn_ND / np.linalg.norm(drawn_ND, axis=1, keepdims=True), dtype=np.float32)

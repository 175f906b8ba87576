"""What every `Index` does, run over each of them. Vectors are small integers: scores are exact and tie often.

A compressed index may miss hits, so it is held to brute force where it searches exactly (few rows, deep k, narrow
filters), and to its recall elsewhere: the second half of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm.errors import DataError, UsageError
from realm.search import tuning
from realm.search.cluster.sharded import Rows, ShardedIndex, parts_of
from realm.search.codes import Plan
from realm.search.compressed import CompressedIndex
from realm.search.exact import ExactIndex
from realm.search.layered import Layered
from realm.search.shards import pack
from realm.types import NO_ROW, Hits, Index

Maker = Callable[[torch.Tensor, Path], Index]


def _mapped(dtype: str) -> Maker:
    def make(vector_ND: torch.Tensor, folder: Path) -> Index:
        ExactIndex(vector_ND, dtype=dtype).save(folder / "index", rows_per_shard=7)
        return ExactIndex.open(folder / "index")

    return make


def _grid(vector_ND: torch.Tensor) -> torch.Tensor:
    """Every row gets a component of 127, so that int8 holds the integers exactly."""
    vector_ND = vector_ND.clone()
    vector_ND[:, 0] = 127
    return vector_ND


def _layered(vector_ND: torch.Tensor, folder: Path) -> Index:
    """Half of the rows below, the rest added."""
    below = max(1, len(vector_ND) // 2)
    index = Layered(ExactIndex(vector_ND[:below]))
    for part in vector_ND[below:].split(3):
        index.add(part)
    return index


def _few(vector_ND: torch.Tensor, folder: Path) -> Index:
    tuning.build(vector_ND, 0.9).save(folder / "index")
    return CompressedIndex.open(folder / "index")


class _Here:
    """The parts of an index that is shared out, all of them in this process."""

    def __init__(self, parts: list[Rows]) -> None:
        self._parts = parts

    def ask(self, method: str, arguments: Sequence[tuple[Any, ...] | None], *, patience: float = 0.0) -> list[Any]:
        pairs = zip(self._parts, arguments, strict=True)
        return [None if given is None else getattr(part, method)(*given) for part, given in pairs]

    def alive(self) -> list[int]:
        return [1] * len(self._parts)

    def close(self) -> None:
        pass


def _shared_out(vector_ND: torch.Tensor, folder: Path) -> Index:
    ExactIndex(vector_ND).save(folder / "index", rows_per_shard=7)
    ranges = parts_of(len(vector_ND), 3)
    parts = [Rows(str(folder / "index"), first, last, None, None, 1, "cpu") for first, last in ranges]
    for part in parts:
        part.read()
    return ShardedIndex(_Here(parts), ranges, vector_ND.shape[1], {})


INDEXES: dict[str, Maker] = {
    "memory float32": lambda vectors, folder: ExactIndex(vectors),
    "memory bfloat16": lambda vectors, folder: ExactIndex(vectors, dtype="bfloat16"),
    "memory int8": lambda vectors, folder: ExactIndex(_grid(vectors), dtype="int8"),
    "blocks": lambda vectors, folder: ExactIndex(
        [pack(part, "float32") for part in vectors.split(5)] or [pack(vectors, "float32")]
    ),
    "mapped float32": _mapped("float32"),
    "mapped bfloat16": _mapped("bfloat16"),
    "mapped int8": lambda vectors, folder: _mapped("int8")(_grid(vectors), folder),
    "shared out": _shared_out,
    "layered": _layered,
    "compressed, few rows": _few,
}


@pytest.fixture(params=INDEXES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[torch.Tensor], Index]:
    count = iter(range(10**6))

    def one(vector_ND: torch.Tensor) -> Index:
        return INDEXES[request.param](vector_ND, tmp_path / str(next(count)))

    return one


def integers(*shape: int, seed: int = 0, most: int = 3) -> torch.Tensor:
    return torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def brute(
    index: Index,
    query_BD: torch.Tensor,
    k: int,
    exclude: torch.Tensor | None = None,
    allowed: torch.Tensor | None = None,
) -> Hits:
    """Every score, written down and sorted in Python."""
    vector_ND = index.vectors(torch.arange(len(index)))
    rows, scores = [], []
    for b, query in enumerate(query_BD):
        banned = set() if exclude is None else set(exclude[b].tolist())
        found = sorted(
            (-float(query @ vector), row)
            for row, vector in enumerate(vector_ND)
            if row not in banned and (allowed is None or bool(allowed[row]))
        )[:k]
        rows.append([row for _, row in found] + [NO_ROW] * (k - len(found)))
        scores.append([-score for score, _ in found] + [float("-inf")] * (k - len(found)))
    return Hits(torch.tensor(rows), torch.tensor(scores))


def same(one: Hits, two: Hits) -> None:
    assert torch.equal(one.rows, two.rows)
    assert torch.equal(one.scores, two.scores)


def test_is_an_index(make: Callable[[torch.Tensor], Index]) -> None:
    index = make(integers(20, 4))
    assert isinstance(index, Index)
    assert (len(index), index.dim) == (20, 4)


@pytest.mark.parametrize("queries", [1, 4, 5, 17])
def test_finds_what_brute_force_finds(make: Callable[[torch.Tensor], Index], queries: int) -> None:
    index = make(integers(50, 4))
    query_BD = integers(queries, 4, seed=1)
    same(index.search(query_BD, 7), brute(index, query_BD, 7))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_filters_and_sizes(make: Callable[[torch.Tensor], Index], data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 40), "rows")
    queries = data.draw(st.integers(1, 6), "queries")
    k = data.draw(st.integers(1, 50), "k")
    seed = data.draw(st.integers(0, 99), "seed")
    index = make(integers(rows, 4, seed=seed))
    query_BD = integers(queries, 4, seed=seed + 1)
    exclude = allowed = None
    draw = torch.Generator().manual_seed(seed)
    if data.draw(st.booleans(), "excluding"):
        exclude = torch.randint(NO_ROW, rows, (queries, data.draw(st.integers(0, 5), "excluded")), generator=draw)
    if data.draw(st.booleans(), "filtering"):
        allowed = torch.rand(rows, generator=draw) < data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]), "share")
    same(index.search(query_BD, k, exclude, allowed), brute(index, query_BD, k, exclude, allowed))


def test_equal_scores_give_the_lower_row_first(make: Callable[[torch.Tensor], Index]) -> None:
    index = make(torch.ones(300, 4))
    for queries in (1, 9):
        assert index.search(torch.ones(queries, 4), 5).rows.tolist() == [[0, 1, 2, 3, 4]] * queries


def test_an_excluded_row_is_excluded_for_its_query_only(make: Callable[[torch.Tensor], Index]) -> None:
    index = make(torch.ones(6, 4))
    exclude = torch.tensor([[0, NO_ROW], [1, 2]])
    assert index.search(torch.ones(2, 4), 3, exclude).rows.tolist() == [[1, 2, 3], [0, 3, 4]]


def test_k_beyond_the_rows_is_padded(make: Callable[[torch.Tensor], Index]) -> None:
    hits = make(torch.ones(2, 4)).search(torch.ones(1, 4), 5)
    assert hits.rows.tolist() == [[0, 1, NO_ROW, NO_ROW, NO_ROW]]
    assert hits.scores[0, 2:].tolist() == [float("-inf")] * 3


def test_nothing_allowed_gives_no_hits(make: Callable[[torch.Tensor], Index]) -> None:
    hits = make(integers(9, 4)).search(integers(2, 4), 3, allowed=torch.zeros(9, dtype=torch.bool))
    assert (hits.rows == NO_ROW).all()
    assert (hits.scores == float("-inf")).all()


def test_no_queries_give_no_hits(make: Callable[[torch.Tensor], Index]) -> None:
    hits = make(integers(9, 4)).search(torch.zeros(0, 4), 3)
    assert hits.rows.shape == hits.scores.shape == (0, 3)


def test_search_leaves_no_gradient(make: Callable[[torch.Tensor], Index]) -> None:
    query = torch.ones(1, 4, requires_grad=True)
    assert not make(integers(9, 4)).search(query, 3).scores.requires_grad


def test_vectors_by_row_in_any_shape(make: Callable[[torch.Tensor], Index]) -> None:
    index = make(integers(20, 4))
    every = index.vectors(torch.arange(20))
    rows = torch.tensor([[19, NO_ROW, 3], [3, 0, 12]])
    found = index.vectors(rows)
    assert found.shape == (2, 3, 4)
    assert torch.equal(found[rows != NO_ROW], every[rows[rows != NO_ROW]])
    assert torch.equal(found[0, 1], torch.zeros(4))


def test_vectors_are_those_that_were_given(make: Callable[[torch.Tensor], Index]) -> None:
    given_ND = _grid(integers(20, 4))
    assert torch.allclose(make(given_ND).vectors(torch.arange(20)), given_ND, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"vectors": torch.ones(2, 5)}, r"\(2, 5\)"),
        ({"vectors": torch.ones(4)}, r"\(4,\)"),
        ({"exclude": torch.zeros(1, 1, dtype=torch.long)}, "exclude"),
        ({"exclude": torch.full((2, 1), 9)}, "another snapshot"),
        ({"exclude": torch.full((2, 1), -2)}, "another snapshot"),
        ({"allowed": torch.ones(8, dtype=torch.bool)}, "allowed"),
        ({"allowed": torch.ones(9)}, "allowed"),
    ],
)
def test_impossible_wishes_are_refused(
    make: Callable[[torch.Tensor], Index], arguments: dict[str, object], message: str
) -> None:
    index = make(integers(9, 4))
    with pytest.raises(UsageError, match=message):
        index.search(**{"vectors": torch.ones(2, 4), "k": 3, **arguments})  # type: ignore[arg-type]


def test_rows_that_do_not_exist_are_refused(make: Callable[[torch.Tensor], Index]) -> None:
    for row in (9, -2):
        with pytest.raises(UsageError, match="another snapshot"):
            make(integers(9, 4)).vectors(torch.tensor([row]))


def test_a_query_with_nan_is_refused(make: Callable[[torch.Tensor], Index]) -> None:
    with pytest.raises(DataError, match="query"):
        make(integers(9, 4)).search(torch.full((1, 4), float("nan")), 3)


# ---------------------------------------------------------------- indexes with a recall

ROWS, DIM, RECALL = 3_000, 16, 0.9
PLANS = {
    "ivf-pq": Plan("ivf-pq", 8, lists=32, pieces=8),
    "ivf-rabitq": Plan("ivf-rabitq", 16, lists=32),
    "ivf-sq": Plan("ivf-sq", 8, lists=32),
    "hnsw-sq": Plan("hnsw-sq", 8, links=8),
}


@pytest.fixture(scope="module")
def world() -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of a few strong dimensions, as an encoder's are, the last ten alike and long; and queries."""
    draw = torch.Generator().manual_seed(0)
    axes = torch.randn(6, DIM, generator=draw)
    vector_ND = torch.randn(ROWS + 64, 6, generator=draw) @ axes + 0.1 * torch.randn(ROWS + 64, DIM, generator=draw)
    vector_ND[ROWS - 10 : ROWS] = 3 * vector_ND[ROWS - 10]
    return vector_ND[:ROWS], vector_ND[ROWS:]


@pytest.fixture(scope="module", params=[*PLANS, "mapped int8", "layered"])
def lossy(
    request: pytest.FixtureRequest, world: tuple[torch.Tensor, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Index:
    pytest.importorskip("faiss")
    vector_ND = world[0]
    if request.param == "layered":
        index = Layered(tuning.build(vector_ND[:2_500], RECALL, plans=[PLANS["ivf-pq"]]))
        index.add(vector_ND[2_500:])
        return index
    exact = ExactIndex(vector_ND, dtype="int8" if request.param == "mapped int8" else "float32")
    built = tuning.build(exact, RECALL, plans=[PLANS.get(request.param, PLANS["ivf-pq"])])
    assert built.codes is not None, built.chosen
    folder = tmp_path_factory.mktemp("index") / "compressed"
    built.save(folder)
    return CompressedIndex.open(folder)


def found(hits: Hits, right: Hits) -> float:
    """Share of the right hits, or of others that score as well, that were found."""
    wanted = right.rows >= 0
    good = (hits.scores >= right.scores.masked_fill(~wanted, float("inf")).amin(1)[:, None] * (1 - 1e-6)) & (
        hits.rows >= 0
    )
    return float(good.sum() / wanted.sum())


@pytest.mark.parametrize("k", [1, 10, 30, 100])
def test_reaches_its_recall(lossy: Index, world: tuple[torch.Tensor, torch.Tensor], k: int) -> None:
    """Of queries that nothing was tuned with; a little below, since they are few. A query finds the same alone."""
    hits, right = lossy.search(world[1], k), brute_hits(lossy, world[1], k)
    assert found(hits, right) >= RECALL - 0.06
    assert isinstance(lossy, Index) and (len(lossy), lossy.dim) == (ROWS, DIM)
    for queries in (1, 3):
        few = lossy.search(world[1][:queries], k)
        assert torch.equal(few.rows, hits.rows[:queries])
        assert torch.allclose(few.scores, hits.scores[:queries], rtol=1e-5)


def brute_hits(
    index: Index,
    query_BD: torch.Tensor,
    k: int,
    exclude: torch.Tensor | None = None,
    allowed: torch.Tensor | None = None,
) -> Hits:
    """As `brute`, for many rows."""
    score_BN = query_BD @ index.vectors(torch.arange(len(index))).T
    if allowed is not None:
        score_BN[:, ~allowed] = float("-inf")
    for b, row_E in enumerate([] if exclude is None else exclude):
        score_BN[b, row_E[row_E >= 0]] = float("-inf")
    score, row = score_BN.sort(dim=1, descending=True, stable=True)
    return Hits(row[:, :k].masked_fill(score[:, :k].isinf(), NO_ROW), score[:, :k])


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_filter_is_kept_and_filled(
    lossy: Index, world: tuple[torch.Tensor, torch.Tensor], data: st.DataObject
) -> None:
    """At every share of rows that are allowed: none that is forbidden, as many hits as there can be, exact scores in
    order, and the recall."""
    k = data.draw(st.sampled_from([1, 10, 100, 400]), "k")
    share = data.draw(st.sampled_from([0.001, 0.01, 0.1, 0.3, 0.9, 1.0]), "share")
    queries = data.draw(st.sampled_from([2, 40]), "queries")
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 9), "seed"))
    allowed = torch.rand(ROWS, generator=draw) < share
    exclude = None
    if data.draw(st.booleans(), "excluding"):
        exclude = brute_hits(lossy, world[1][:queries], 3, allowed=allowed).rows[:, ::2]
    query_BD = world[1][:queries]
    hits = lossy.search(query_BD, k, exclude, allowed)
    right = brute_hits(lossy, query_BD, k, exclude, allowed)
    there = hits.rows >= 0
    assert torch.equal(there.sum(1), (right.rows >= 0).sum(1))
    assert allowed[hits.rows[there]].all() and (hits.scores[~there] == float("-inf")).all()
    assert exclude is None or not (hits.rows[:, :, None] == exclude.masked_fill(exclude < 0, -2)[:, None]).any()
    assert all(len(set(row.tolist()) - {NO_ROW}) == int((row >= 0).sum()) for row in hits.rows)
    exact = torch.einsum("bd,bkd->bk", query_BD, lossy.vectors(hits.rows))
    assert torch.allclose(hits.scores[there], exact[there], rtol=1e-4, atol=1e-4)
    assert (hits.scores[:, 1:] <= hits.scores[:, :-1]).all()
    if there.sum() >= 200:  # fewer tell a recall too roughly
        assert found(hits, right) >= RECALL - 0.1


def test_equals_come_in_the_order_of_their_rows(lossy: Index, world: tuple[torch.Tensor, torch.Tensor]) -> None:
    query_1D = world[0][ROWS - 1 :]
    for query_BD in (query_1D, query_1D.expand(8, -1)):
        for row_K in lossy.search(query_BD, 10).rows:
            alike = row_K[row_K >= ROWS - 10]
            assert len(alike) > 4 and torch.equal(alike, alike.sort().values)


def test_a_lossy_index_refuses_what_others_refuse(lossy: Index, world: tuple[torch.Tensor, torch.Tensor]) -> None:
    for queries in (1, 64):
        with pytest.raises(UsageError, match="k is 0"):
            lossy.search(world[1][:queries], 0)
        with pytest.raises(UsageError, match="expected \\[queries, 16\\]"):
            lossy.search(world[1][:queries, :8], 3)
    with pytest.raises(UsageError, match="another snapshot"):
        lossy.search(world[1], 3, torch.full((64, 1), ROWS))
    for wrong in (float("nan"), float("inf")):
        query_1D = world[1][:1].clone()
        query_1D[0, 3] = wrong
        with pytest.raises(DataError, match="query"):
            lossy.search(query_1D, 3)
    hits = lossy.search(world[1][:2].requires_grad_(), ROWS + 5)
    world[1].requires_grad_(False)
    assert (hits.rows[:, -5:] == NO_ROW).all() and (hits.rows[:, :ROWS].sort(dim=1).values == torch.arange(ROWS)).all()
    assert lossy.search(torch.zeros(0, DIM), 3).rows.shape == (0, 3)

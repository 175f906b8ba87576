"""What every `Index` does, run over each of them. Vectors are small integers: scores are exact and tie often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm.errors import DataError, UsageError
from realm.search.exact import ExactIndex
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

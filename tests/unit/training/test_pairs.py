"""Two crops of one passage as a pair, and batches of two kinds side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.training.standin import Corpus

from realm.errors import DataError, UsageError
from realm.training.batches import MaskedSentences
from realm.training.pairs import Beside, InverseCloze, RandomCrops
from realm.types import PairBatch, Tokens

WORDS = ["painter", "river", "city", "glass", "stone", "winter", "music", "letter", "garden", "bridge"]
TEXTS = [" ".join(f"{word}{3 * n + turn}" for turn in range(3) for word in WORDS) for n in range(9)]
"""No word comes twice."""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus([*TEXTS, "a", ""])


def texts_of(tokens: Tokens) -> list[list[int]]:
    return [ids[:length].tolist() for ids, length in zip(tokens.ids, tokens.lengths.tolist(), strict=True)]


def plain(batch: PairBatch) -> list[Any]:
    return [texts_of(batch.query), texts_of(batch.passage), batch.passage.types.tolist()]


def where(crop: list[int], body: list[int]) -> int | None:
    return next((at for at in range(len(body) - len(crop) + 1) if body[at : at + len(crop)] == crop), None)


def crops(corpus: Corpus, batch: PairBatch) -> list[tuple[list[int], list[int], list[int]]]:
    """(query, passage, body) of each pair; the passage's title is checked and left out."""
    bodies = [corpus.body_ids(row).tolist() for row in range(len(corpus))]
    found = []
    for query, passage, types in zip(
        texts_of(batch.query), texts_of(batch.passage), batch.passage.types.tolist(), strict=True
    ):
        assert query[0] == passage[0] == corpus.cls_id and query[-1] == passage[-1] == corpus.sep_id
        middle = passage.index(corpus.sep_id)
        assert middle > 1 and types[: len(passage)] == [0] * (middle + 1) + [1] * (len(passage) - middle - 1)
        of_both = [
            b for b in bodies if where(query[1:-1], b) is not None and where(passage[middle + 1 : -1], b) is not None
        ]
        assert of_both, "a crop is a run of word pieces, and both are of one passage"
        found.append((query[1:-1], passage[middle + 1 : -1], of_both[0]))
    return found


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_crops_are_runs_of_one_body_as_long_as_asked(corpus: Corpus, one: float, other: float, step: int) -> None:
    low, high = sorted((one, other))
    batch = RandomCrops(corpus, batch_size=4, max_query_tokens=512, max_passage_tokens=512, shares=(low, high)).batch(
        step
    )
    assert batch.removed is None and len(batch.query) == len(batch.passage) == 4
    for query, passage, body in crops(corpus, batch):
        for crop in (query, passage):
            assert max(1, round(low * len(body))) <= len(crop) <= max(1, round(high * len(body)))


def test_the_two_crops_are_drawn_apart_and_from_everywhere(corpus: Corpus) -> None:
    batches = RandomCrops(corpus, batch_size=3, max_query_tokens=512, max_passage_tokens=512, shares=(0.1, 0.4))
    pairs = [pair for step in range(60) for pair in crops(corpus, batches.batch(step))]
    starts = np.array([(where(query, body), where(passage, body)) for query, passage, body in pairs])
    lengths = np.array([(len(query), len(passage)) for query, passage, _ in pairs])
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.25 and abs(np.corrcoef(lengths.T)[0, 1]) < 0.25
    assert any(start == 0 for start in starts[:, 0])
    assert any(start + len(q) == len(body) for start, (q, _, body) in zip(starts[:, 0], pairs, strict=True))


def test_a_batch_depends_on_its_step_alone_and_two_ranks_get_what_one_gets(corpus: Corpus) -> None:
    one = RandomCrops(corpus, batch_size=4, seed=3)
    run = [plain(one.batch(step)) for step in range(6)]
    assert plain(RandomCrops(corpus, batch_size=4, seed=3).batch(5)) == run[5]
    assert plain(one.batch(2)) == run[2]
    assert plain(RandomCrops(corpus, batch_size=4, seed=4).batch(0)) != run[0]
    two = [RandomCrops(corpus, batch_size=4, seed=3, rank=rank, world_size=2).batch(5) for rank in (0, 1)]
    assert texts_of(two[0].query) + texts_of(two[1].query) == run[5][0]
    assert texts_of(two[0].passage) + texts_of(two[1].passage) == run[5][1]


def test_every_passage_of_two_pieces_comes_once_an_epoch(corpus: Corpus) -> None:
    batches = RandomCrops(corpus, batch_size=3)
    assert batches.steps_per_epoch == 3
    bodies = [tuple(body) for step in range(3) for _, _, body in crops(corpus, batches.batch(step))]
    assert len(set(bodies)) == len(bodies) == len(TEXTS)


def test_crops_are_cut_to_fit(corpus: Corpus) -> None:
    batch = RandomCrops(corpus, batch_size=4, max_query_tokens=6, max_passage_tokens=12, shares=(0.9, 1.0)).batch(0)
    assert batch.query.lengths.tolist() == [6] * 4 and batch.passage.lengths.tolist() == [12] * 4


@pytest.mark.parametrize("kind", [InverseCloze, RandomCrops])
def test_passages_of_one_body_are_copies_of_each_other(kind: type[InverseCloze] | type[RandomCrops]) -> None:
    texts = ["we saw it. it rained.", "they left. they came back.", "We saw  it. It rained.", "a bridge. a river."]
    corpus = Corpus(texts, titles=["a", "b", "c", "d"])
    whole = kind(corpus, batch_size=4, seed=1).batch(3)
    assert whole.copies is not None and whole.copies.shape == (4, 4)
    titles = [ids[1] for ids in texts_of(whole.passage)]
    known = [corpus._title_ids[row][0] for row in (0, 2)]
    one, other = (titles.index(title) for title in known)
    assert sorted(whole.copies.nonzero().tolist()) == sorted([[one, other], [other, one]])
    parts = [kind(corpus, batch_size=4, seed=1, rank=rank, world_size=2).batch(3).copies for rank in (0, 1)]
    assert torch.equal(torch.cat([part for part in parts if part is not None]), whole.copies)
    assert kind(Corpus(texts[1:]), batch_size=3).batch(0).copies is None


def test_what_can_t_be_is_refused(corpus: Corpus) -> None:
    with pytest.raises(
        UsageError, match=r"shares=\(0\.5, 0\.1\): expected two numbers from 0 to 1, the smaller one first"
    ):
        RandomCrops(corpus, batch_size=2, shares=(0.5, 0.1))
    with pytest.raises(
        DataError, match=r"9 passages of two or more word pieces .of 11.: expected at least batch_size=10"
    ):
        RandomCrops(corpus, batch_size=10)
    assert RandomCrops(corpus, batch_size=10, shrink=True).batch_size == 9
    with pytest.raises(UsageError, match="too short"):
        RandomCrops(corpus, batch_size=2, max_query_tokens=2)


def test_two_kinds_side_by_side_are_what_each_is_alone() -> None:
    texts = [f"we saw number {n}. then it rained on {n}." for n in range(20)]
    corpus = Corpus(texts)
    masked = MaskedSentences(corpus, None, strategy="random-token", batch_size=4)
    pairs = InverseCloze(corpus, batch_size=6)
    found = Beside(masked, pairs, offset=100).batch(7)
    assert torch.equal(found.first.query.ids, masked.batch(7).query.ids)
    assert plain(found.second) == plain(pairs.batch(107)) != plain(pairs.batch(7))

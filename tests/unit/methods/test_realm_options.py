"""REALM's named objectives over real networks, and candidates from further down the index than its top."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_realm import QUERIES, TEXTS, ToyCorpus, gradients, masked_batch, realm_of

from realm import objectives
from realm.methods.proposing import ByWords, drawn, first_new
from realm.methods.realm import OBJECTIVES, RealmPretraining
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.types import NO_ROW, Hits, MaskedBatch

Parts = tuple[DenseEncoder, ClozeReader]


# ---------------------------------------------------------------- objectives


def learnt(method: RealmPretraining, batch: MaskedBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the encoder and of the reader."""
    for module in (method.encoder, method.reader):
        module.zero_grad()  # type: ignore[attr-defined]
    method.loss(batch).total.backward()
    return gradients(method.encoder), gradients(method.reader)  # type: ignore[arg-type]


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        torch.allclose(found[name], wanted[name], rtol=1e-3, atol=1e-6) for name in wanted
    )


@pytest.mark.parametrize(
    ("objective", "encoder_as_marginal", "reader_as_marginal"),
    [
        ("emdr2", True, False),
        ("perplexity-distillation", False, True),
        ("leave-one-out", False, True),
    ],
)
def test_an_objective_moves_the_part_it_is_about(
    corpus: ToyCorpus,
    parts: Parts,
    batch: MaskedBatch,
    objective: str,
    encoder_as_marginal: bool,
    reader_as_marginal: bool,
) -> None:
    encoder, reader = learnt(realm_of(*parts, corpus), batch)
    other_encoder, other_reader = learnt(realm_of(*parts, corpus, objective=objective), batch)
    assert same(other_encoder, encoder) is encoder_as_marginal
    assert same(other_reader, reader) is reader_as_marginal


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_loss_is_the_named_objective_of_what_was_read(
    corpus: ToyCorpus, parts: Parts, batch: MaskedBatch, temperature: float
) -> None:
    found = {}
    for name in OBJECTIVES:
        method = realm_of(*parts, corpus, objective=name, distillation_temperature=temperature)
        loss = method.loss(batch)
        found[name] = float(loss.total.detach())
        assert float(loss.stats["loss"]) == found[name]
    reading = method.read(batch)
    read = (reading.score_BK, reading.logp_BKT, batch.target.mask)
    wanted = {"marginal": objectives.marginal_nll(*read), "emdr2": objectives.emdr2_nll(*read)}
    for name, teach in (
        ("perplexity-distillation", objectives.perplexity_teacher_BK),
        ("leave-one-out", objectives.leave_one_out_teacher_BK),
    ):
        wanted[name] = objectives.distillation_nll(*read, teach(*read, temperature=temperature))
    assert found == pytest.approx({name: float(value.detach()) for name, value in wanted.items()}, rel=1e-4)
    assert len(set(found.values())) == len(OBJECTIVES)


def test_an_unknown_objective_is_refused(corpus: ToyCorpus, parts: Parts) -> None:
    with pytest.raises(ValueError, match="found objective 'fid': expected one of marginal, emdr2"):
        realm_of(*parts, corpus, objective="fid")


# ---------------------------------------------------------------- exploration


def seeded(batch: MaskedBatch, first: int) -> MaskedBatch:
    return replace(batch, seeds=torch.arange(first, first + len(QUERIES)))


def read_rows(method: RealmPretraining, batch: MaskedBatch) -> Tensor:
    with torch.no_grad():
        return method.read(batch).rows_BK


@pytest.mark.parametrize("over_retrieve", [1, 2])
@pytest.mark.parametrize("null_passage", [True, False])
def test_exploring_keeps_the_best_and_draws_the_rest_from_below(
    corpus: ToyCorpus, parts: Parts, batch: MaskedBatch, null_passage: bool, over_retrieve: int
) -> None:
    width = 3 + null_passage
    over: dict[str, Any] = {"null_passage": null_passage, "over_retrieve": over_retrieve}
    top_BK = read_rows(realm_of(*parts, corpus, num_candidates=width, **over), batch)
    ranked_BK = read_rows(realm_of(*parts, corpus, num_candidates=5 + null_passage, null_passage=null_passage), batch)
    method = realm_of(*parts, corpus, num_candidates=width, explore=2, explore_depth=4, **over)
    best = width - 2
    seen: list[set[int]] = [set() for _ in QUERIES]
    for first in range(0, 400, 10):
        rows_BK = read_rows(method, seeded(batch, first))
        assert rows_BK.shape == top_BK.shape
        assert torch.equal(rows_BK[:, :best], top_BK[:, :best])
        for b, (_, _, source) in enumerate(QUERIES):
            row = rows_BK[b].tolist()
            assert source not in row and len(set(row)) == width
            seen[b].update(row[best:])
    # Everything down to the depth but the best is drawn sooner or later, and nothing below.
    for b in range(len(QUERIES)):
        within = ranked_BK[b, int(null_passage) :][:4].tolist()
        assert seen[b] == set(within) - set(top_BK[b, :best].tolist())


def test_the_draw_is_the_seed_s_alone(corpus: ToyCorpus, parts: Parts, batch: MaskedBatch, tokenizer: Any) -> None:
    method = realm_of(*parts, corpus, explore=2, explore_depth=5)
    rows_BK = read_rows(method, seeded(batch, 7))
    torch.manual_seed(99)
    assert torch.equal(read_rows(method, seeded(batch, 7)), rows_BK)
    # Half a batch, as a rank reads it, finds what the whole one found.
    half = replace(masked_batch(tokenizer, QUERIES[2:]), seeds=torch.tensor([9, 10]))
    assert torch.equal(read_rows(method, half), rows_BK[2:])
    assert not torch.equal(read_rows(method, seeded(batch, 8)), rows_BK)


def test_a_batch_without_seeds_is_read_from_the_top(corpus: ToyCorpus, parts: Parts, batch: MaskedBatch) -> None:
    top_BK = read_rows(realm_of(*parts, corpus), batch)
    assert torch.equal(read_rows(realm_of(*parts, corpus, explore=2, explore_depth=5), batch), top_BK)
    assert torch.equal(read_rows(realm_of(*parts, corpus), seeded(batch, 1)), top_BK)


def test_a_small_corpus_is_explored_to_its_end(tokenizer: Any, parts: Parts) -> None:
    corpus = ToyCorpus(tokenizer, TEXTS[:3], ["", "", ""])
    few = replace(masked_batch(tokenizer, [*QUERIES[:2]]), seeds=torch.tensor([1, 2]))
    method = realm_of(*parts, corpus, num_candidates=6, explore=3, explore_depth=200)
    rows_BK = read_rows(method, few)
    assert rows_BK.shape == (2, 6)
    assert [sorted(set(row)) for row in rows_BK.tolist()] == [[NO_ROW, 1, 2], [NO_ROW, 0, 2]]
    loss = method.loss(few)
    loss.total.backward()
    assert bool(torch.isfinite(loss.total))
    assert all(bool(torch.isfinite(value).all()) for value in gradients(parts[0]).values())


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(1, 12), st.integers(0, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_drawn_rows_are_new_distinct_and_as_many_as_there_are(size: int, taken: int, count: int, seed: int) -> None:
    pool_BC = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[None, :size]
    chosen_BK = pool_BC[:, :taken]
    found = drawn(pool_BC, chosen_BK, count, torch.tensor([seed]))[0].tolist()
    rows = [row for row in found if row != NO_ROW]
    left = set(pool_BC[0].tolist()) - set(chosen_BK[0].tolist())
    assert len(found) == count
    assert len(rows) == len(set(rows)) == min(count, len(left)) and set(rows) <= left


def test_every_row_is_as_likely_as_another() -> None:
    pool_BC, draws = torch.arange(10).expand(3000, 10), torch.arange(3000)
    found = Counter(drawn(pool_BC, pool_BC[:, :2], 2, draws).flatten().tolist())
    assert set(found) == set(range(2, 10))
    # 750 expected of each, standard deviation 24.
    assert max(abs(number - 750) for number in found.values()) < 110


# ---------------------------------------------------------------- candidates by words


def test_words_propose_what_the_index_did_not(
    corpus: ToyCorpus, parts: Parts, batch: MaskedBatch, tokenizer: Any
) -> None:
    asked: list[str] = []

    def by_length(texts: list[str], k: int, exclude: Tensor) -> Any:
        asked.extend(texts)
        order = torch.arange(len(corpus)).flip(0).expand(len(texts), -1)
        keep = [
            [row for row in rows if row not in out] for rows, out in zip(order.tolist(), exclude.tolist(), strict=True)
        ]
        rows_BK = torch.tensor([(row + [NO_ROW] * k)[:k] for row in keep])
        return Hits(rows_BK, torch.zeros(rows_BK.shape))

    top_BK = read_rows(realm_of(*parts, corpus, num_candidates=3), batch)
    words = ByWords(by_length, tokenizer)
    method = realm_of(*parts, corpus, num_candidates=4, lexical=words, num_lexical=1)
    assert torch.equal(read_rows(method, batch)[:, :3], top_BK) and not asked  # a probe is read by the index alone
    rows_BK = read_rows(method, seeded(batch, 0))
    assert torch.equal(rows_BK[:, :3], top_BK)
    for b, (_, _, source) in enumerate(QUERIES):
        left = [row for row in reversed(range(len(corpus))) if row != source and row not in top_BK[b].tolist()]
        assert rows_BK[b, 3] == left[0]
    assert len(asked) == len(QUERIES) and all("[" not in text and text for text in asked)


def test_rows_that_are_new_come_in_order_and_run_out() -> None:
    pool_BC = torch.tensor([[4, 2, 7, 1], [5, NO_ROW, NO_ROW, NO_ROW]])
    chosen_BK = torch.tensor([[2, 9], [5, 1]])
    assert first_new(pool_BC, chosen_BK, 3).tolist() == [[4, 7, 1], [NO_ROW] * 3]
    assert first_new(pool_BC, chosen_BK, 1).tolist() == [[4], [NO_ROW]]

"""REALM: eq. 1 by hand, the candidates that may and may not be read, and what of the batch is computed once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_realm import (
    DOCUMENTS,
    QUERIES,
    TEXTS,
    ToyCorpus,
    gradients,
    index_of,
    log_sum_exp,
    masked_batch,
    realm_of,
)

from realm import objectives
from realm.methods.proposing import Proposer, stale_copy
from realm.methods.realm import RealmPretraining
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.types import NO_ROW, MaskedBatch


@torch.no_grad()
def scores_of(encoder: DenseEncoder, corpus: ToyCorpus, batch: MaskedBatch) -> Tensor:
    """f(x, z) of every query and row, the null passage last, one text at a time."""
    query_BD = torch.cat([encoder.encode_queries(batch.query.select(torch.tensor([b]))) for b in range(len(QUERIES))])
    rows = [*range(len(corpus)), NO_ROW]
    passage_ND = torch.cat([encoder.encode_passages(corpus.passages(torch.tensor([row]), 32)) for row in rows])
    return query_BD @ passage_ND.T


# ---------------------------------------------------------------- eq. 1


@pytest.mark.parametrize("level", ["sequence", "token"])
@torch.no_grad()
def test_the_loss_is_equation_1_by_hand(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch, level: str
) -> None:
    encoder, reader = parts
    encoder.null_bias.fill_(0.7)
    method = realm_of(encoder, reader, corpus, marginal=level)
    score_BN = scores_of(encoder, corpus, batch)
    total, count = 0.0, 0
    for b, (_, _, source) in enumerate(QUERIES):
        allowed = [row for row in range(len(corpus)) if row != source]
        best = sorted(allowed, key=lambda row: -float(score_BN[b, row]))[:3]
        score = [float(score_BN[b, -1]) + 0.7, *(float(score_BN[b, row]) for row in best)]
        log_prior = [value - log_sum_exp(score) for value in score]
        one = torch.tensor([b])
        query, target = batch.query.select(one), batch.target
        single = type(target)(target.ids[one], target.positions[one], target.mask[one])
        pieces = int(target.mask[b].sum())
        logp = [
            reader.log_prob(query, corpus.bodies(torch.tensor([row]), 30), single, 1)[0, 0, :pieces].tolist()
            for row in (NO_ROW, *best)
        ]
        if level == "sequence":
            total -= log_sum_exp([prior + sum(tokens) for prior, tokens in zip(log_prior, logp, strict=True)])
            count += 1
        for t in range(pieces if level == "token" else 0):
            total -= log_sum_exp([prior + tokens[t] for prior, tokens in zip(log_prior, logp, strict=True)])
            count += 1
    found = method.loss(batch)
    assert count == (4 if level == "sequence" else int(batch.target.mask.sum()))
    assert float(found.total) == pytest.approx(total / count, rel=1e-4)
    assert found.weight is not None
    assert int(found.weight) == count
    if level == "sequence":
        assert found.per_example is not None
        assert float(found.per_example.mean()) == pytest.approx(float(found.total), rel=1e-4)


def test_the_gradient_of_a_score_is_r(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    method = realm_of(*parts, corpus)
    kept: list[Tensor] = []
    read = method.read

    def watched(batch: MaskedBatch) -> Any:
        reading = read(batch)
        reading.score_BK.retain_grad()
        kept.extend([reading.score_BK, reading.logp_BKT.detach()])
        return reading

    method.read = watched  # type: ignore[method-assign]
    method.loss(batch).total.backward()
    score_BK, logp_BKT = kept
    assert score_BK.grad is not None
    logp_BK = logp_BKT.sum(-1)  # 0 where there is no target
    prior_BK = score_BK.detach().softmax(-1)
    marginal_B1 = (prior_BK * logp_BK.exp()).sum(-1, keepdim=True)
    r_BK = (logp_BK.exp() / marginal_B1 - 1) * prior_BK
    torch.testing.assert_close(-score_BK.grad * len(QUERIES), r_BK, rtol=1e-4, atol=1e-6)
    assert float(r_BK.abs().max()) > 1e-3
    found = gradients(method.encoder)  # type: ignore[arg-type]
    assert float(found["null_bias"]) == pytest.approx(-float(r_BK[:, 0].mean()), rel=1e-3)
    assert not any(p.grad is not None for p in method.index_encoder.parameters())


# ---------------------------------------------------------------- candidates


def test_the_null_passage_is_candidate_0_and_counts(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    reading = realm_of(*parts, corpus).read(batch)
    assert reading.rows_BK.shape == (4, 4)
    assert (reading.rows_BK[:, 0] == NO_ROW).all()
    assert (reading.rows_BK[:, 1:] != NO_ROW).all()
    assert reading.valid_BK.all()
    # Null body: the reader sees the sentence alone.
    encoder, reader = parts
    alone = reader.log_prob(batch.query, corpus.bodies(torch.full((4,), NO_ROW), 30), batch.target, 1)
    torch.testing.assert_close(reading.logp_BKT[:, :1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reading.score_BK[:, 0], scores_of(encoder, corpus, batch)[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exclude", ["passage", "document", "none"])
def test_what_may_be_retrieved(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], tokenizer: Any, exclude: str
) -> None:
    method = realm_of(*parts, corpus, num_candidates=len(TEXTS) + 1)
    rows_BK = method.read(masked_batch(tokenizer, exclude=exclude)).rows_BK
    for b, (_, _, source) in enumerate(QUERIES):
        found = {row for row in rows_BK[b].tolist() if row != NO_ROW}
        forbidden = {
            "passage": {source},
            "document": {row for row in range(len(TEXTS)) if DOCUMENTS[row] == DOCUMENTS[source]},
            "none": set(),
        }[exclude]
        assert found == set(range(len(TEXTS))) - forbidden


def test_without_a_null_passage_all_candidates_are_passages(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    method = realm_of(*parts, corpus, null_passage=False)
    with torch.no_grad():
        method.encoder.null_bias.fill_(100.0)
    reading = method.read(batch)
    assert reading.rows_BK.shape == (4, 4)
    assert (reading.rows_BK != NO_ROW).all()
    wanted_BK = scores_of(parts[0], corpus, batch).gather(1, reading.rows_BK)
    torch.testing.assert_close(reading.score_BK, wanted_BK, rtol=1e-4, atol=1e-5)
    named = ("loss", "log_likelihood", "prior_entropy", "source_hit", "duplicates", "top_drift")
    assert set(method.loss(batch).stats) == set(named)


@pytest.mark.parametrize("null_passage", [True, False])
@pytest.mark.parametrize("over_retrieve", [1, 3])
def test_a_corpus_smaller_than_K_fills_up_with_nothing(
    tokenizer: Any, parts: tuple[DenseEncoder, ClozeReader], null_passage: bool, over_retrieve: int
) -> None:
    corpus = ToyCorpus(tokenizer, TEXTS[:2], ["", ""])
    few = masked_batch(tokenizer, [*QUERIES[:2]])
    method = realm_of(*parts, corpus, num_candidates=5, null_passage=null_passage, over_retrieve=over_retrieve)
    loss = method.loss(few)
    loss.total.backward()
    reading = method.read(few)
    assert reading.valid_BK.sum(-1).tolist() == [1 + null_passage] * 2
    assert torch.isneginf(reading.score_BK[~reading.valid_BK]).all()
    assert all(torch.isfinite(value) for value in loss.stats.values())
    assert all(bool(torch.isfinite(value).all()) for value in gradients(parts[0]).values())
    # The passages that don't exist change nothing.
    exact = realm_of(*parts, corpus, num_candidates=1 + null_passage, null_passage=null_passage).loss(few).total
    torch.testing.assert_close(loss.total, exact, rtol=1e-4, atol=1e-5)


def test_a_passage_under_several_queries_is_encoded_once(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    method = realm_of(*parts, corpus, num_candidates=len(TEXTS) + 1)
    rows_BK = method.read(batch).rows_BK
    (asked,) = corpus.asked
    assert sorted(asked) == sorted(set(rows_BK.flatten().tolist())) == [NO_ROW, *range(len(TEXTS))]


# ---------------------------------------------------------------- a stale index


def moved(encoder: DenseEncoder) -> DenseEncoder:
    """Another encoder of the same shape, which ranks otherwise."""
    other = stale_copy(encoder)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return other  # type: ignore[return-value]


def ranked(score_BN: Tensor, k: int) -> list[list[int]]:
    """Rows by score, without the source."""
    allowed = [[row for row in range(len(TEXTS)) if row != source] for _, _, source in QUERIES]
    return [sorted(rows, key=lambda row: -float(score_BN[b, row]))[:k] for b, rows in enumerate(allowed)]


def test_the_stale_parameters_propose_and_the_live_ones_score(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    encoder, reader = parts
    stale = moved(encoder)
    method = realm_of(encoder, reader, corpus)
    live_BN, stale_BN = scores_of(encoder, corpus, batch), scores_of(stale, corpus, batch)
    assert method.read(batch).rows_BK[:, 1:].tolist() == ranked(live_BN, 3)
    method.swap(index_of(stale, corpus), stale)
    reading = method.read(batch)
    assert reading.rows_BK[:, 1:].tolist() == ranked(stale_BN, 3) != ranked(live_BN, 3)
    torch.testing.assert_close(reading.score_BK[:, 1:], live_BN.gather(1, reading.rows_BK[:, 1:]), rtol=1e-4, atol=1e-5)
    assert method.modules()["index_encoder"] is stale


def test_over_retrieval_keeps_the_best_by_live_parameters(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    encoder, reader = parts
    stale = moved(encoder)
    method = realm_of(encoder, reader, corpus, over_retrieve=10)
    method.swap(index_of(stale, corpus), stale)
    live, proposed = (ranked(scores_of(which, corpus, batch), 3) for which in (encoder, stale))
    reading = method.read(batch)
    assert reading.rows_BK[:, 1:].tolist() == live
    replaced = sum(row not in proposed[b] for b, rows in enumerate(live) for row in rows) / 12
    assert float(method.loss(batch).stats["candidates_changed"]) == pytest.approx(replaced)
    assert 0 < replaced < 1
    wanted_BK = scores_of(stale, corpus, batch).gather(1, reading.rows_BK[:, 1:])
    torch.testing.assert_close(reading.index_BK[:, 1:], wanted_BK, rtol=1e-4, atol=1e-5)


def test_who_watches_sees_how_far_the_index_lags(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    encoder, reader = parts
    method = realm_of(encoder, reader, corpus, num_candidates=5)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    method.watch = lambda *one: seen.append(one)
    method.read(batch)
    assert not seen, "a probe is no training"
    assert float(method.loss(batch).stats["top_drift"]) == 0.0, "the index is the live parameters' own"
    stale = moved(encoder)
    method.swap(index_of(stale, corpus), stale)
    drift = float(method.loss(batch).stats["top_drift"])
    (_, (rows_BK, index_BK, live_BK)) = seen
    assert torch.isnan(index_BK[:, 0]).all(), "nobody proposes the null passage"
    for scores_BK, which in ((index_BK, stale), (live_BK, encoder)):
        wanted_BK = scores_of(which, corpus, batch).gather(1, rows_BK[:, 1:])
        torch.testing.assert_close(scores_BK[:, 1:], wanted_BK, rtol=1e-4, atol=1e-5)
    halves = [[set(row.topk(2).indices.tolist()) for row in scores_BK[:, 1:]] for scores_BK in (index_BK, live_BK)]
    assert drift == pytest.approx(sum(2 - len(a & b) for a, b in zip(*halves, strict=True)) / 8)
    assert drift > 0 and not live_BK.requires_grad


def test_what_moves_the_encoder_does_not_move_what_proposes(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    method = realm_of(*parts, corpus)
    before = method.read(batch).rows_BK
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.mul_(-0.5)
    assert torch.equal(method.read(batch).rows_BK, before)


def test_whether_the_source_would_have_been_found(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], tokenizer: Any, batch: MaskedBatch
) -> None:
    method = realm_of(*parts, corpus, num_candidates=3)
    score_BN = scores_of(parts[0], corpus, batch)[:, :-1]
    wanted = []
    for b, (_, _, source) in enumerate(QUERIES):
        second = sorted((float(score_BN[b, row]) for row in range(len(TEXTS)) if row != source), reverse=True)[1]
        wanted.append(float(score_BN[b, source]) >= second)
    reading = method.read(batch)
    assert reading.source_hit_B is not None
    assert reading.source_hit_B.tolist() == wanted
    assert len(set(wanted)) == 2, "both must occur, or the test says nothing"
    assert float(method.loss(batch).stats["source_hit"]) == pytest.approx(sum(wanted) / 4)
    other = masked_batch(tokenizer, exclude="none", same_corpus=False)
    assert method.read(other).source_hit_B is None
    assert "source_hit" not in method.loss(other).stats


# ---------------------------------------------------------------- the null passage's level


@torch.no_grad()
def test_calibration_puts_the_null_passage_among_the_others(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    method = realm_of(*parts, corpus)
    method.encoder.null_bias.fill_(-50.0)
    assert float(method.loss(batch).stats["null_prior"]) < 1e-6
    for _ in range(2):  # a second time changes nothing
        method.calibrate_null(batch)
        score_BK = method.read(batch).score_BK
        assert float(score_BK[:, 0].mean()) == pytest.approx(float(score_BK[:, 1:].mean()), abs=1e-4)
    assert method.encoder.null_bias.requires_grad


def test_the_figures_are_those_of_the_objectives(
    corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader], batch: MaskedBatch
) -> None:
    method = realm_of(*parts, corpus)
    with torch.no_grad():
        reading = method.read(batch)
    stats = method.loss(batch).stats
    utility_BK = (reading.logp_BKT - reading.logp_BKT[:, :1]).sum(-1)[:, 1:]
    assert float(stats["retrieval_utility"]) == pytest.approx(float(utility_BK.mean()), rel=1e-4)
    assert float(stats["null_prior"]) == pytest.approx(float(reading.score_BK.softmax(-1)[:, 0].mean()), rel=1e-4)
    assert 0 <= float(stats["prior_entropy"]) <= math.log(4)
    retrieved = reading.rows_BK[:, 1:].flatten().tolist()
    assert 0 < float(stats["duplicates"]) == pytest.approx(1 - len(set(retrieved)) / len(retrieved))
    assert not any(value.requires_grad for value in stats.values())


def test_roles_cover_every_parameter_that_learns(corpus: ToyCorpus, parts: tuple[DenseEncoder, ClozeReader]) -> None:
    method = realm_of(*parts, corpus)
    roles = [id(p) for group in method.parameter_groups().values() for p in group]
    learning = [id(p) for module in method.modules().values() for p in module.parameters() if p.requires_grad]
    assert len(roles) == len(set(roles))
    assert set(learning) <= set(roles)


def test_an_index_without_passages_leaves_the_null_passage(
    tokenizer: Any, parts: tuple[DenseEncoder, ClozeReader]
) -> None:
    """Nothing to retrieve is p(y|x) = p(y|null,x)."""
    encoder, reader = parts
    corpus = ToyCorpus(tokenizer, [], [])
    batch = masked_batch(tokenizer, exclude="none", same_corpus=False)
    proposer = Proposer(encoder, corpus, ExactIndex(torch.zeros(0, 8)), num_passages=2, max_passage_tokens=32)
    method = RealmPretraining(encoder, reader, corpus, proposer)
    reading = method.read(batch)
    wanted = -objectives.sequence_logp_BK(reading.logp_BKT, batch.target.mask)[:, 0].mean()
    torch.testing.assert_close(method.loss(batch).total, wanted, rtol=1e-5, atol=1e-5)

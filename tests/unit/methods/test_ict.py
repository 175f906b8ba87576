"""The inverse cloze task: its loss is a softmax over the batch, however much of the batch is in memory at once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from toy_realm import close, gradients, networks, pair_batch

from realm.methods.ict import InverseCloze
from realm.models.encoders import DenseEncoder
from realm.types import PairBatch, Tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def batch() -> PairBatch:
    return pair_batch(tiny.tiny_tokenizer(), (0, 1, 2, 3, 4, 5))


def encoder_of(folder: Path, dropout: float = 0.0, **settings: Any) -> DenseEncoder:
    return networks(folder, dropout=dropout, **settings)[0].double()


def run(encoder: DenseEncoder, batch: PairBatch, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    encoder.zero_grad()
    loss = InverseCloze(encoder, **settings).loss(batch).total
    loss.backward()
    return loss.detach(), gradients(encoder)


def test_the_loss_is_the_softmax_over_the_batch(folder: Path, batch: PairBatch) -> None:
    encoder = encoder_of(folder)
    found = InverseCloze(encoder).loss(batch)
    queries, passages = encoder.encode_queries(batch.query).tolist(), encoder.encode_passages(batch.passage).tolist()
    wanted, right = 0.0, []
    for i, query in enumerate(queries):
        scores = [sum(a * b for a, b in zip(query, passage, strict=True)) for passage in passages]
        wanted += math.log(sum(math.exp(score) for score in scores)) - scores[i]
        right.append(scores[i] == max(scores))
    assert float(found.total.detach()) == pytest.approx(wanted / len(queries), rel=1e-9)
    assert float(found.stats["loss"]) == float(found.total.detach())
    assert batch.removed is not None
    assert float(found.stats["accuracy"]) == pytest.approx(sum(right) / len(right))
    for name, chosen in (("accuracy_removed", batch.removed), ("accuracy_kept", ~batch.removed)):
        of_these = [r for r, c in zip(right, chosen.tolist(), strict=True) if c]
        assert float(found.stats[name]) == pytest.approx(sum(of_these) / len(of_these))
    assert 0 < sum(right) < len(right), "the accuracies would hold for any rule if all were right, or none"


def test_a_copy_of_the_right_passage_is_no_wrong_answer(folder: Path) -> None:
    """Passages 1 and 4 are one: neither is a choice for the other's query, and both are for the rest."""
    encoder, batch = encoder_of(folder), pair_batch(tiny.tiny_tokenizer(), (0, 1, 2, 3, 1))
    copies = torch.zeros(5, 5, dtype=torch.bool)
    copies[1, 4] = copies[4, 1] = True
    score_BB = encoder.encode_queries(batch.query) @ encoder.encode_passages(batch.passage).T
    wanted = torch.nn.functional.cross_entropy(score_BB.masked_fill(copies, -torch.inf), torch.arange(5))
    plain, found = (InverseCloze(encoder).loss(replace(batch, copies=given)) for given in (None, copies))
    torch.testing.assert_close(found.total, wanted, rtol=1e-10, atol=0)
    assert float(found.total.detach()) < float(plain.total.detach())
    assert float(found.stats["accuracy"]) >= float(plain.stats["accuracy"]), "a tie with a copy is no mistake"
    right = score_BB.masked_fill(copies, -torch.inf).argmax(1) == torch.arange(5)
    assert float(found.stats["accuracy"]) == pytest.approx(float(right.double().mean()))


def test_a_figure_of_nothing_is_left_out(folder: Path, batch: PairBatch) -> None:
    method = InverseCloze(encoder_of(folder))
    kept = method.loss(PairBatch(batch.query, batch.passage, torch.zeros(6, dtype=torch.bool)))
    assert set(kept.stats) == {"loss", "accuracy", "accuracy_kept"}
    assert set(method.loss(PairBatch(batch.query, batch.passage)).stats) == {"loss", "accuracy"}


@pytest.mark.parametrize("chunk_tokens", [1, 20, 40])
@pytest.mark.parametrize("tied", [True, False])
def test_chunks_change_no_gradient(folder: Path, batch: PairBatch, chunk_tokens: int, tied: bool) -> None:
    encoder = encoder_of(folder, tied=tied)
    whole, wanted = run(encoder, batch)
    loss, found = run(encoder, batch, chunk_tokens=chunk_tokens)
    torch.testing.assert_close(loss, whole, rtol=1e-10, atol=0)
    close(found, wanted, rtol=1e-8, atol=1e-10)


def test_the_second_pass_through_a_chunk_draws_the_same_dropout(folder: Path, batch: PairBatch) -> None:
    """The gradient must be that of the vectors in the loss, though they are computed twice."""
    encoder = encoder_of(folder, dropout=0.3)
    torch.manual_seed(3)
    loss, found = run(encoder, batch, chunk_tokens=20)

    def by_hand(encode: Any, tokens: Tokens) -> Tensor:
        order = tokens.lengths.argsort(stable=True)
        chunks = [encode(tokens.select(index)) for index in order.split(max(1, 20 // tokens.ids.shape[1]))]
        return torch.cat(chunks)[order.argsort()]

    encoder.zero_grad()
    torch.manual_seed(3)
    score_BB = by_hand(encoder.encode_queries, batch.query) @ by_hand(encoder.encode_passages, batch.passage).T
    wanted = torch.nn.functional.cross_entropy(score_BB, torch.arange(6))
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-10, atol=0)
    close(found, gradients(encoder), rtol=1e-8, atol=1e-10)
    torch.manual_seed(4)
    assert abs(float(run(encoder, batch, chunk_tokens=20)[0] - loss)) > 1e-3, "dropout was on"


def test_chunks_are_encoded_twice_and_hold_what_they_may(folder: Path, batch: PairBatch) -> None:
    encoder = encoder_of(folder)
    sizes: list[int] = []
    handle = encoder.query_tower.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].ids.numel()))
    run(encoder, batch, chunk_tokens=20)
    handle.remove()
    assert max(sizes) <= 20
    forward = sizes[: len(sizes) // 2]
    assert sorted(forward) == sorted(sizes[len(sizes) // 2 :])


def test_the_right_passage_is_in_our_own_block(folder: Path, batch: PairBatch) -> None:
    """Rank 1 of two: its passages come second."""
    encoder = encoder_of(folder)
    other = encoder.encode_passages(batch.passage).detach().flip(0)
    method = InverseCloze(encoder, gather=lambda x: (torch.cat([other, x]), 6))
    query, passage = encoder.encode_queries(batch.query), encoder.encode_passages(batch.passage)
    wanted = torch.nn.functional.cross_entropy(query @ torch.cat([other, passage]).T, torch.arange(6, 12))
    found = method.loss(batch)
    torch.testing.assert_close(found.total, wanted, rtol=1e-10, atol=0)
    assert found.weight is not None and int(found.weight) == 6, "what it is the mean of, for the mean over the ranks"

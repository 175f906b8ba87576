from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch

from realm.errors import UsageError
from realm.models.cloze import ClozeReader
from realm.models.late import LateReader, open_reader
from realm.types import Target, Tokens

QUERIES, ANSWERS = ["guernica was painted by [MASK] .", "the [MASK] runs through seoul"], ["pablo picasso", "han"]
BODIES = ["", "guernica by pablo picasso in paris", "the danube", "", "the river han", "marie curie discovered radium"]


@pytest.fixture(scope="module")
def batch() -> tuple[Tokens, Tokens, Target]:
    tokenizer = tiny.tiny_tokenizer()
    query, target = tiny.mask_words(tokenizer, QUERIES, ANSWERS)
    return query, tiny.bodies_of(tokenizer, BODIES), target


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> LateReader:
    torch.manual_seed(0)
    made = LateReader.from_pretrained(tiny.tiny_bert(tmp_path_factory.mktemp("bert")), copy=True).eval()
    torch.nn.init.normal_(made.copy_head.query.weight, std=0.3)
    torch.nn.init.normal_(made.copy_head.sentinel.weight, std=0.1)
    torch.nn.init.constant_(made.copy_head.sentinel.bias, 0.5)
    return made


@torch.no_grad()
def test_log_prob_is_the_pointer_sentinel_mixture(reader: LateReader, batch: tuple[Tokens, Tokens, Target]) -> None:
    query, body, target = batch
    found_BKT = reader.log_prob(query, body, target, 3)
    embeddings = reader.model.bert.embeddings
    for b in range(2):
        length = int(query.lengths[b])
        hidden_LH = reader.model.bert(
            query.ids[b : b + 1, :length], token_type_ids=torch.zeros(1, length, dtype=torch.long)
        ).last_hidden_state[0]
        for t in range(int(target.mask[b].sum())):
            state_H = hidden_LH[target.positions[b, t]]
            alone_V = reader.model.cls.predictions(state_H).softmax(-1)
            for k in range(3):
                n = 3 * b + k
                ids_L = body.ids[n, : body.lengths[n]]
                keys_LH = embeddings.LayerNorm(embeddings.word_embeddings(ids_L))
                asked_OH = reader.copy_head.query(state_H).unflatten(0, (5, -1))
                logit_L = torch.zeros(len(ids_L))
                for offset, asked_H in zip((0, -1, 1, -2, 2), asked_OH, strict=True):
                    for i in range(len(ids_L)):
                        if 0 <= i + offset < len(ids_L):
                            logit_L[i] += keys_LH[i + offset] @ asked_H / math.sqrt(len(state_H))
                share_L1 = torch.cat([logit_L, reader.copy_head.sentinel(state_H)]).softmax(0)
                wanted = target.ids[b, t]
                expected = share_L1[:-1][ids_L == wanted].sum() + share_L1[-1] * alone_V[wanted]
                torch.testing.assert_close(found_BKT[b, k, t], expected.log(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found_BKT[1, :, 1], torch.zeros(3))


def test_distribution_sums_to_one_and_agrees_with_log_prob(
    reader: LateReader, batch: tuple[Tokens, Tokens, Target]
) -> None:
    query, body, target = batch
    logp_BKTV = reader.log_distribution(query, body, target.positions, 3)
    torch.testing.assert_close(logp_BKTV[0].logsumexp(-1), torch.zeros(3, 2), atol=1e-5, rtol=0)
    wanted_BKT = logp_BKTV.gather(-1, target.ids[:, None, :, None].expand(2, 3, -1, 1))[..., 0]
    torch.testing.assert_close(
        wanted_BKT * target.mask[:, None], reader.log_prob(query, body, target, 3), rtol=1e-4, atol=1e-5
    )
    answers_CT = torch.stack([target.ids[0], target.ids[0].flip(0)])
    score_KC = reader.score_candidates(
        query.select(torch.tensor([0])), body.select(torch.arange(3)), target.positions[0], answers_CT
    )
    torch.testing.assert_close(score_KC[:, 0], reader.log_prob(query, body, target, 3)[0].sum(-1), rtol=1e-4, atol=1e-5)


def test_null_passages_alone_leave_the_vocabulary_and_finite_gradients(
    reader: LateReader, batch: tuple[Tokens, Tokens, Target]
) -> None:
    query, body, target = batch
    nothing = tiny.bodies_of(reader.tokenizer, ["", ""])
    torch.testing.assert_close(
        reader.log_prob(query, nothing, target, 1)[:, 0], reader.log_prob(query, body, target, 3)[:, 0]
    )
    reader.zero_grad()
    reader.log_prob(query, body, target, 3).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in reader.parameters())
    assert reader.copy_head.query.weight.grad.abs().sum() > 0
    with pytest.raises(UsageError, match="found 6 bodies for 4 pairs"):
        reader.log_prob(query, body, target, 2)


def test_it_learns_to_point(tmp_path: Path, batch: tuple[Tokens, Tokens, Target]) -> None:
    """Trained on the marginal alone, its pointer learns which passage holds the answer."""
    torch.manual_seed(0)
    margins = []
    reader = LateReader.from_pretrained(tiny.tiny_bert(tmp_path / "bert"), copy=True)
    optimizer = torch.optim.Adam(reader.copy_head.parameters(), 1e-2)  # the vocabulary can't learn it by heart
    for _ in range(30):
        optimizer.zero_grad()
        logp_BK = reader.log_prob(*batch, 3).sum(-1)
        margins.append((logp_BK[:, 1] - logp_BK[:, 2]).detach())
        (-logp_BK.logsumexp(-1).mean()).backward()
        optimizer.step()
    assert bool((margins[-1] > margins[0] + 1.0).all()), margins


def test_saved_and_opened_it_is_the_same_kind(
    reader: LateReader, tmp_path: Path, batch: tuple[Tokens, Tokens, Target]
) -> None:
    reader.save_pretrained(tmp_path / "late")
    again = open_reader(tmp_path / "late").eval()
    assert type(again) is LateReader
    assert torch.equal(again.log_prob(*batch, 3), reader.log_prob(*batch, 3))
    plain = ClozeReader.from_pretrained(tiny.tiny_bert(tmp_path / "bert"), copy=True)
    plain.save_pretrained(tmp_path / "joint")
    assert type(open_reader(tmp_path / "joint")) is ClozeReader

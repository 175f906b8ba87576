"""The cloze reader: one number for each masked piece under each passage, and the answers that follow from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.types import Target, Tokens

QUERIES, ANSWERS = ["guernica was painted by [MASK] .", "the [MASK] runs through seoul"], ["pablo picasso", "han"]
BODIES = ["", "guernica by pablo picasso in paris", "the danube", "", "the river han", "marie curie discovered radium"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def batch() -> tuple[Tokens, Tokens, Target]:
    tokenizer = tiny.tiny_tokenizer()
    query, target = tiny.mask_words(tokenizer, QUERIES, ANSWERS)
    return query, tiny.bodies_of(tokenizer, BODIES), target


def open_reader(folder: Path, **settings: object) -> ClozeReader:
    torch.manual_seed(0)
    reader = ClozeReader.from_pretrained(folder, **settings).eval()
    if reader.copy_head is not None:
        torch.nn.init.normal_(reader.copy_head.gate.weight, std=0.1)
    return reader


@pytest.fixture(scope="module")
def readers(folder: Path) -> dict[bool, ClozeReader]:
    return {copy: open_reader(folder, copy=copy) for copy in (False, True)}


@pytest.mark.parametrize("copy", [False, True])
def test_shape_and_zeros_where_nothing_is_masked(
    folder: Path, batch: tuple[Tokens, Tokens, Target], copy: bool
) -> None:
    found_BKT = open_reader(folder, copy=copy).log_prob(*batch, 3)
    assert found_BKT.shape == (2, 3, 2)
    assert (found_BKT[0] < 0).all() and (found_BKT[1, :, 0] < 0).all()
    assert torch.equal(found_BKT[1, :, 1], torch.zeros(3))


@pytest.mark.parametrize("copy", [False, True])
def test_grouping_by_length_has_the_gradients_of_single_reads(
    folder: Path, batch: tuple[Tokens, Tokens, Target], copy: bool
) -> None:
    query, body, target = batch
    reader = open_reader(folder, copy=copy).double()
    parameters = list(reader.parameters())
    weight = torch.randn(2, 3, 2, dtype=torch.float64)
    results = []
    for budget in (10**6, 24, 1):
        reader.token_budget = budget
        found_BKT = reader.log_prob(query, body, target, 3)
        results.append((found_BKT, torch.autograd.grad((found_BKT * weight).sum(), parameters, materialize_grads=True)))
    assert max(float(gradient.abs().max()) for gradient in results[0][1]) > 1e-2
    for found_BKT, gradients in results[1:]:
        assert_close(found_BKT, results[0][0])
        for mine, theirs in zip(gradients, results[0][1], strict=True):
            assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.permutations(range(6)), st.booleans())
def test_a_passage_is_read_alone(
    readers: dict[bool, ClozeReader], batch: tuple[Tokens, Tokens, Target], order: list[int], copy: bool
) -> None:
    """Which other candidates stand beside a passage, and in which order, is nothing to the reader."""
    query, body, target = batch
    reader = readers[copy]
    with torch.no_grad():
        query_of_N = torch.tensor([0, 0, 0, 1, 1, 1])
        expected_NT = reader.log_prob_pairs(query, body, target, query_of_N)
        index = torch.tensor(order)
        found_NT = reader.log_prob_pairs(query, body.select(index), target, query_of_N[index])
        assert_close(found_NT, expected_NT[index], rtol=1e-4, atol=1e-4)
        some_NT = reader.log_prob_pairs(query, body.select(index[:2]), target, query_of_N[index[:2]])
        assert_close(some_NT, expected_NT[index[:2]], rtol=1e-4, atol=1e-4)
        assert reader.log_prob_pairs(query, body.select(index[:0]), target, index[:0]).shape == (0, 2)


def test_copying_helps_where_the_answer_stands_and_not_under_the_null_passage(
    folder: Path, batch: tuple[Tokens, Tokens, Target]
) -> None:
    plain_BKT = open_reader(folder).log_prob(*batch, 3)
    torch.manual_seed(0)
    copying = ClozeReader.from_pretrained(folder, copy=True).eval()
    copied_BKT = copying.log_prob(*batch, 3)
    assert torch.equal(copied_BKT[:, 0], plain_BKT[:, 0])
    assert (copied_BKT[0, 1] > plain_BKT[0, 1]).all() and copied_BKT[1, 1, 0] > plain_BKT[1, 1, 0]
    # Where the body lacks the piece, the gate's share of the probability went to the copy: log(1 - g) less, exactly.
    assert_close(copied_BKT[0, 2], plain_BKT[0, 2] + torch.nn.functional.logsigmoid(torch.tensor(2.0)))
    copied_BKT.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in copying.copy_head.parameters())


@pytest.mark.parametrize("copy", [False, True])
def test_candidate_answers_cost_one_pass_and_agree_with_log_prob(folder: Path, copy: bool) -> None:
    tokenizer = tiny.tiny_tokenizer()
    reader = open_reader(folder, copy=copy)
    answers = ["pablo picasso", "marie curie", "paris vienna", "radium polonium"]
    body = tiny.bodies_of(tokenizer, ["", "guernica by pablo picasso in paris", "marie curie discovered radium"])
    query, target = tiny.mask_words(tokenizer, QUERIES[:1], answers[:1])
    candidates_CT = torch.cat([tiny.mask_words(tokenizer, QUERIES[:1], [a])[1].ids for a in answers])
    found_KC = reader.score_candidates(query, body, target.positions[0], candidates_CT)
    for number, ids_T in enumerate(candidates_CT):
        one = Target(ids_T[None], target.positions, target.mask)
        expected_K = reader.log_prob(query, body, one, 3)[0].sum(-1)
        assert_close(found_KC[:, number], expected_K, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="as many masks as pieces"):
        reader.score_candidates(query, body, target.positions[0], candidates_CT[:, :1])


def test_predictions_sum_passages_out(folder: Path, batch: tuple[Tokens, Tokens, Target]) -> None:
    query, body, target = batch
    reader = open_reader(folder, copy=True)
    logp_BKTV = reader.log_distribution(query, body, target.positions, 3)
    assert_close(logp_BKTV.exp().sum(-1), torch.ones(2, 3, 2))
    log_prior_BK = torch.tensor([[0.2, 0.7, 0.1], [1.0, 0.0, 0.0]]).log()
    ids, values = reader.predict(query, body, target.positions, log_prior_BK, top=4)
    mixed_TV = (log_prior_BK[0].exp()[:, None, None] * logp_BKTV[0].exp()).sum(0)
    expected = mixed_TV.topk(4, dim=-1)
    assert torch.equal(ids[0], expected.indices)
    assert_close(values[0].exp(), expected.values)
    assert_close(values[1], logp_BKTV[1, 0].topk(4, dim=-1).values)


@torch.no_grad()
def test_long_bodies_are_cut_and_long_queries_refused(folder: Path, batch: tuple[Tokens, Tokens, Target]) -> None:
    query, _, target = batch
    reader = open_reader(folder, max_length=16)
    words = torch.randint(50, 100, (2, 300), generator=torch.Generator().manual_seed(0))
    body = Tokens(words, torch.zeros_like(words), torch.tensor([300, 300]))
    short = Tokens(words[:, :5], torch.zeros_like(words[:, :5]), torch.tensor([5, 5]))
    room = 16 - 1 - int(query.lengths[0])
    assert room == 6
    found_BKT = reader.log_prob(query, body, target, 1)
    assert_close(
        found_BKT[0], reader.log_prob(query, Tokens(words[:, :6], words[:, :6], short.lengths + 1), target, 1)[0]
    )
    assert not torch.allclose(found_BKT[0], reader.log_prob(query, short, target, 1)[0])
    with pytest.raises(UsageError, match="query of 9 tokens: the reader takes at most 4"):
        open_reader(folder, max_length=5).log_prob(query, short, target, 1)
    # The model itself holds 128 positions: whatever the setting says, nothing longer reaches it.
    assert open_reader(folder, max_length=999).log_prob(query, body, target, 1).isfinite().all()


def test_segments_follow_the_checkpoint(folder: Path, tmp_path: Path, batch: tuple[Tokens, Tokens, Target]) -> None:
    assert open_reader(folder).settings.segments is True
    sentence = tiny.tiny_bert(tmp_path / "sentence", masked_head=False)
    (sentence / "1_Pooling").mkdir()
    (sentence / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    # No masked-token head there: the reader starts with a new one, tied to the word embeddings.
    reader = open_reader(sentence)
    assert reader.settings.segments is False
    assert reader.model.get_output_embeddings().weight is reader.model.get_input_embeddings().weight
    on = open_reader(sentence, segments=True)
    assert not torch.allclose(reader.log_prob(*batch, 3), on.log_prob(*batch, 3))


@pytest.mark.parametrize("copy", [False, True])
def test_saved_and_opened_it_is_the_same(
    folder: Path, tmp_path: Path, batch: tuple[Tokens, Tokens, Target], copy: bool
) -> None:
    reader = open_reader(folder, copy=copy, layers=1, max_length=40)
    reader.save_pretrained(tmp_path / "reader")
    again = ClozeReader.from_pretrained(tmp_path / "reader", freeze_word_embeddings=True).eval()
    assert again.fingerprint() == reader.fingerprint()
    assert torch.equal(again.log_prob(*batch, 3), reader.log_prob(*batch, 3))
    again.log_prob(*batch, 3).sum().backward()
    assert again.model.get_input_embeddings().weight.grad is None
    if not copy:
        assert ClozeReader.from_pretrained(tmp_path / "reader", copy=True).copy_head is not None
    else:
        with pytest.raises(UsageError, match="copy=False"):
            ClozeReader.from_pretrained(tmp_path / "reader", copy=False)


def test_half_precision_autocast_gives_float32_log_probabilities(
    folder: Path, batch: tuple[Tokens, Tokens, Target]
) -> None:
    reader = open_reader(folder, copy=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_BKT = reader.log_prob(*batch, 3)
    assert found_BKT.dtype == torch.float32
    assert_close(found_BKT, reader.log_prob(*batch, 3), rtol=0.1, atol=0.2)
    found_BKT.sum().backward()
    assert all(p.grad.isfinite().all() for p in reader.parameters() if p.grad is not None)


def test_a_new_head_predicts_frequent_words_first(tmp_path: Path, batch: tuple[Tokens, Tokens, Target]) -> None:
    query, body, target = batch
    reader = open_reader(tiny.tiny_bert(tmp_path / "bare", masked_head=False))
    counts_V = torch.zeros(len(tiny.tiny_vocab()))
    counts_V[90] = 1e9
    reader.set_token_counts(counts_V)
    ids, _ = reader.predict(query, body, target.positions, torch.zeros(2, 3), top=1)
    assert (ids == 90).all()
    with pytest.raises(UsageError, match="expected 111 counts, one a word piece"):
        reader.set_token_counts(counts_V[:-1])


def test_every_parameter_has_one_role(folder: Path) -> None:
    reader = open_reader(folder, copy=True)
    groups = reader.parameter_groups()
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in reader.parameters()}
    assert id(reader.model.get_output_embeddings().weight) in {id(parameter) for parameter in groups["reader"]}
    assert {id(parameter) for parameter in reader.copy_head.parameters()} < {id(p) for p in groups["head"]}


def test_what_cannot_be_read_is_refused_in_one_line(
    folder: Path, tmp_path: Path, batch: tuple[Tokens, Tokens, Target]
) -> None:
    from transformers import AlbertConfig, AlbertForMaskedLM, GPT2Config, GPT2Model

    sizes = {"vocab_size": 120, "hidden_size": 16, "num_attention_heads": 2}
    for name, model, message in [
        (
            "albert",
            AlbertForMaskedLM(AlbertConfig(**sizes, embedding_size=8)),
            "'albert': the cloze reader knows the heads",
        ),
        (
            "gpt2",
            GPT2Model(GPT2Config(vocab_size=120, n_embd=16, n_head=2, n_layer=1)),
            "expected one with a masked-token head",
        ),
    ]:
        model.save_pretrained(tmp_path / name)
        tiny.tiny_tokenizer().save_pretrained(tmp_path / name)
        with pytest.raises(UsageError, match=message):
            ClozeReader.from_pretrained(tmp_path / name)
    with pytest.raises(UsageError, match="reader setting 'copying'"):
        ClozeReader.from_pretrained(folder, copying=True)
    with pytest.raises(UsageError, match="found 6 bodies for 4 pairs"):
        open_reader(folder).log_prob(*batch, 2)
    DenseEncoder.from_pretrained(folder, dim=8).save_pretrained(tmp_path / "encoder")
    with pytest.raises(MismatchError, match="holds a realm dense encoder: expected a realm cloze reader"):
        ClozeReader.from_pretrained(tmp_path / "encoder")
    open_reader(folder, copy=True).save_pretrained(tmp_path / "reader")
    (tmp_path / "reader/head.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"no file .*head.safetensors"):
        ClozeReader.from_pretrained(tmp_path / "reader")

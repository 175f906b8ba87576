"""Our models against plain `transformers` calls, and our folders opened by `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.testing import assert_close

from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.models.heads import vocabulary_head

TEXTS = ["the river han runs through seoul .", "guernica", "marie curie discovered radium and polonium ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


def by_hand(folder: Path, pairs: list[str] | None = None, segments: bool = True) -> tuple[Any, Tensor]:
    """The tokenizer's encoding of TEXTS and BertModel's output, the way a `transformers` user gets them."""
    from transformers import AutoModel, AutoTokenizer

    encoded = AutoTokenizer.from_pretrained(folder)(TEXTS, pairs, padding=True, return_tensors="pt")
    if not segments:
        encoded["token_type_ids"] = torch.zeros_like(encoded["token_type_ids"])
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager").eval()
    with torch.no_grad():
        return encoded, model(**encoded).last_hidden_state


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("segments", [True, False])
@torch.no_grad()
def test_encoder_is_bert_pooled_and_projected(folder: Path, pooling: str, segments: bool) -> None:
    torch.manual_seed(0)  # an unlucky projection makes the LayerNorm enlarge the rounding
    encoder = DenseEncoder.from_pretrained(folder, dim=8, pooling=pooling, segments=segments, temperature=2.0).eval()
    bodies = ["seoul is a city", "a painting by pablo picasso", ""]
    encoded, hidden_NLH = by_hand(folder, bodies, segments)
    mask_NL1 = encoded["attention_mask"][..., None]
    pooled_NH = hidden_NLH[:, 0] if pooling == "cls" else (hidden_NLH * mask_NL1).sum(1) / mask_NL1.sum(1)
    tokens = tiny.tokens_of(encoder.tokenizer, TEXTS, bodies)
    assert_close(encoder.pool_passages(tokens), pooled_NH)
    tower = encoder.query_tower
    expected_ND = torch.nn.functional.layer_norm(pooled_NH @ tower.projection.weight.T + tower.projection.bias, (8,))
    assert_close(encoder.encode_passages(tokens), expected_ND, rtol=1e-4, atol=1e-5)
    assert_close(encoder.encode_queries(tokens), expected_ND / 2.0, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cls_tanh_is_berts_own_pooler(tmp_path: Path) -> None:
    from transformers import BertModel

    folder = tiny.tiny_bert(tmp_path / "bert", masked_head=False)
    encoder = DenseEncoder.from_pretrained(folder, dim=8).eval()
    assert encoder.settings.pooling == "cls-tanh"
    tokens = tiny.tokens_of(encoder.tokenizer, TEXTS)
    reference = BertModel.from_pretrained(folder).eval()
    expected = reference(input_ids=tokens.ids, attention_mask=tokens.mask.long()).pooler_output
    assert_close(encoder.pool_passages(tokens), expected)
    encoder.save_pretrained(tmp_path / "saved")
    saved = BertModel.from_pretrained(tmp_path / "saved").eval()
    assert_close(saved(input_ids=tokens.ids, attention_mask=tokens.mask.long()).pooler_output, expected)


def test_plain_cloze_is_the_masked_language_model(folder: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    reader = ClozeReader.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    queries = ["guernica was painted by [MASK] [MASK] .", "the [MASK] runs"]
    bodies = ["", "pablo picasso in paris", "the danube flows through vienna", "the river han", "", "seoul"]
    answers = ["pablo picasso", "han"]
    query, target = tiny.mask_words(tokenizer, ["guernica was painted by [MASK] .", "the [MASK] runs"], answers)
    found_BKT = reader.log_prob(query, tiny.bodies_of(tokenizer, bodies), target, 3)
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    encoded = tokenizer([q for q in queries for _ in range(3)], bodies, padding=True, return_tensors="pt")
    logp_NLV = model(**encoded).logits.log_softmax(-1)
    for number in range(6):
        places = (encoded["input_ids"][number] == tokenizer.mask_token_id).nonzero()[:, 0]
        gold = tokenizer(answers[number // 3], add_special_tokens=False)["input_ids"]
        expected_T = logp_NLV[number, places, torch.tensor(gold)]
        assert_close(found_BKT[number // 3, number % 3, : len(gold)], expected_T, rtol=1e-4, atol=1e-5)
    assert torch.equal(found_BKT[1, :, 1], torch.zeros(3))


@torch.no_grad()
def test_saved_folders_open_in_transformers_and_agree(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    encoder = DenseEncoder.from_pretrained(folder, dim=8, layers=1, tied=False).eval()
    encoder.passage_tower.backbone.get_input_embeddings().weight.mul_(1.5)
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    tokens = tiny.tokens_of(tokenizer, TEXTS)
    for place, tower in (("encoder", encoder.query_tower), ("encoder/passage", encoder.passage_tower)):
        model = AutoModel.from_pretrained(tmp_path / place, add_pooling_layer=False).eval()
        assert model.config.num_hidden_layers == 1
        hidden = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).last_hidden_state
        assert_close(hidden[:, 0], tower.pool(tokens))

    reader = ClozeReader.from_pretrained(folder, copy=True, layers=1).eval()
    reader.save_pretrained(tmp_path / "reader")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "reader").eval()
    assert model.config.num_hidden_layers == 1
    expected = reader.model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).logits
    assert_close(model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).logits, expected)
    assert AutoModel.from_pretrained(tmp_path / "reader", add_pooling_layer=False).config.num_hidden_layers == 1
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pkl"))


def families() -> dict[str, Any]:
    """A tiny random masked language model of each family that the reader knows."""
    import transformers as hf

    sizes = {"vocab_size": len(tiny.tiny_vocab()), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 66}
    like_roberta = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "type_vocab_size": 1}
    return {
        "bert": hf.BertConfig(**sizes),
        "camembert": hf.CamembertConfig(**sizes, **like_roberta),
        "distilbert": hf.DistilBertConfig(
            vocab_size=sizes["vocab_size"], dim=32, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=66
        ),
        "electra": hf.ElectraConfig(**sizes, embedding_size=16),
        "modernbert": hf.ModernBertConfig(
            **sizes, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3
        ),
        "mpnet": hf.MPNetConfig(**sizes, pad_token_id=0, bos_token_id=2, eos_token_id=3),
        "roberta": hf.RobertaConfig(**sizes, **like_roberta),
        "xlm-roberta": hf.XLMRobertaConfig(**sizes, **like_roberta),
    }


@pytest.mark.parametrize("family", list(families()))
def test_every_family_of_heads_agrees_with_its_own_model(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(0)
    tokenizer = tiny.tiny_tokenizer()
    AutoModelForMaskedLM.from_config(families()[family]).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    reader = ClozeReader.from_pretrained(tmp_path / "model", layers=1, segments=False).eval()
    query, target = tiny.mask_words(tokenizer, ["the river [MASK] runs ."], ["han"])
    body = tiny.bodies_of(tokenizer, ["seoul", "the danube flows through vienna"])
    found_KT = reader.log_prob(query, body, target, 2)[0]
    for number, text in enumerate(["seoul", "the danube flows through vienna"]):
        encoded = tokenizer("the river [MASK] runs .", text, return_tensors="pt")
        logits_LV = reader.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[0]
        expected_T = logits_LV[target.positions[0]].log_softmax(-1).gather(1, target.ids.T)[:, 0]
        assert_close(found_KT[number], expected_T, rtol=1e-4, atol=1e-5)

    encoder = DenseEncoder.from_pretrained(tmp_path / "model", dim=8, pooling="mean").eval()
    encoder.save_pretrained(tmp_path / "encoder")
    again = DenseEncoder.from_pretrained(tmp_path / "encoder").eval()
    tokens = tiny.tokens_of(tokenizer, TEXTS)
    assert_close(again.encode_passages(tokens), encoder.encode_passages(tokens))


@pytest.mark.parametrize("family", list(families()))
def test_every_family_can_start_without_a_head(family: str, tmp_path: Path) -> None:
    """The new head's transform is the identity and its bias the corpus's log frequencies, also once saved."""
    from transformers import AutoModel, AutoModelForMaskedLM

    torch.manual_seed(0)
    AutoModel.from_config(families()[family]).save_pretrained(tmp_path / "bare")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "bare")
    reader = ClozeReader.from_pretrained(tmp_path / "bare")
    counts_V = torch.arange(len(tiny.tiny_vocab()))
    assert reader.head_is_new and reader.set_token_counts(counts_V)
    dense = vocabulary_head(reader.model.config.model_type).transform(reader.model)
    assert_close(dense(torch.eye(32)), torch.eye(32)[:, : dense.out_features])
    reader.save_pretrained(tmp_path / "reader")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "reader")
    bias_V = model.get_output_embeddings().bias
    assert_close((bias_V[7] - bias_V[1]).exp().item(), 7.5 / 1.5, rtol=1e-4, atol=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    again = ClozeReader.from_pretrained(tmp_path / "reader")
    assert not again.head_is_new and not again.set_token_counts(counts_V.flip(0))
    assert torch.equal(again.model.get_output_embeddings().bias, bias_V)

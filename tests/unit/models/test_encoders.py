"""Dense encoders: what they start from, what they keep, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import tiny
import torch
from torch.testing import assert_close

from realm.errors import ArtefactError, MismatchError, UnavailableError, UsageError
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.types import Encoder, Tokens

TEXTS = ["the river han runs through seoul .", "guernica", "marie curie discovered radium and polonium .", "paris ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def sentence_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says, as sentence-transformers does, that it pools by the mean."""
    place = tiny.tiny_bert(tmp_path_factory.mktemp("sentence"), masked_head=False)
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return place


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return tiny.tokens_of(tiny.tiny_tokenizer(), TEXTS, ["a title", "", "vienna", "budapest and belgrade"])


def test_it_is_an_encoder(folder: Path, tokens: Tokens) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8)
    assert isinstance(encoder, Encoder)
    assert (encoder.dim, encoder.device.type) == (8, "cpu")
    assert encoder.encode_queries(tokens).shape == encoder.encode_passages(tokens).shape == (4, 8)
    assert encoder.encode_passages(tokens.select(torch.tensor([], dtype=torch.long))).shape == (0, 8)


def test_it_follows_the_checkpoint(folder: Path, sentence_folder: Path, tokens: Tokens) -> None:
    plain = DenseEncoder.from_pretrained(folder).settings
    # This checkpoint, saved with a masked-token head, has no trained pooler.
    assert (plain.pooling, plain.segments) == ("cls", True)
    sentence = DenseEncoder.from_pretrained(sentence_folder).settings
    assert (sentence.pooling, sentence.segments) == ("mean", False)
    ours = DenseEncoder.from_pretrained(sentence_folder, pooling="cls", segments=True).settings
    assert (ours.pooling, ours.segments) == ("cls", True)


@torch.no_grad()
def test_segments_off_ignores_the_segment_ids(folder: Path, tokens: Tokens) -> None:
    other = Tokens(tokens.ids, 1 - tokens.types, tokens.lengths)
    for segments in (True, False):
        encoder = DenseEncoder.from_pretrained(folder, dim=None, normalize="none", segments=segments).eval()
        same = torch.allclose(encoder.encode_passages(tokens), encoder.encode_passages(other), atol=1e-5)
        assert same is not segments


@torch.no_grad()
def test_padding_and_neighbours_do_not_matter(folder: Path, tokens: Tokens) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8, pooling="mean").eval()
    expected = encoder.encode_passages(tokens)
    junk = torch.nn.functional.pad(tokens.ids.masked_fill(~tokens.mask, 9), (0, 5), value=9)
    wide = Tokens(junk, torch.nn.functional.pad(tokens.types, (0, 5), value=1), tokens.lengths)
    assert_close(encoder.encode_passages(wide), expected, rtol=1e-4, atol=1e-5)
    one_by_one = [encoder.encode_passages(tokens.select(torch.tensor([n]))) for n in range(4)]
    assert_close(torch.cat(one_by_one), expected, rtol=1e-4, atol=1e-5)


def test_grouping_by_length_has_the_gradients_of_one_padded_pass(folder: Path, tokens: Tokens) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8, pooling="weighted-mean").double().eval()
    weight = torch.randn(4, 8, dtype=torch.float64)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    naive = torch.autograd.grad((encoder.query_tower(tokens) * weight).sum(), parameters, materialize_grads=True)
    encoder.token_budget = 16
    ours = torch.autograd.grad((encoder.encode_passages(tokens) * weight).sum(), parameters, materialize_grads=True)
    assert max(float(gradient.abs().max()) for gradient in naive) > 1e-3
    for mine, theirs in zip(ours, naive, strict=True):
        assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_weighted_mean_starts_from_given_weights(folder: Path, tokens: Tokens) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8, pooling="weighted-mean").eval()
    mean = DenseEncoder.from_pretrained(folder, dim=8, pooling="mean").eval()
    assert_close(encoder.pool_passages(tokens), mean.pool_passages(tokens))
    weight_V = torch.ones(encoder.query_tower.backbone.config.vocab_size)
    weight_V[tokens.ids[0, 1]] = 1e6
    encoder.set_token_weights(weight_V)
    hidden = encoder.query_tower.backbone(
        tokens.ids[:1], tokens.mask[:1].long(), token_type_ids=tokens.types[:1]
    ).last_hidden_state
    assert_close(encoder.pool_passages(tokens)[0], hidden[0, 1], rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="positive figures"):
        encoder.set_token_weights(torch.zeros_like(weight_V))
    with pytest.raises(UsageError, match="only weighted-mean"):
        mean.set_token_weights(weight_V)


@torch.no_grad()
def test_normalisation_and_temperature(folder: Path, tokens: Tokens) -> None:
    norms = {}
    for kind in ("layernorm", "l2", "none"):
        encoder = DenseEncoder.from_pretrained(folder, dim=16, normalize=kind, temperature=4.0).eval()
        passage_ND, query_ND = encoder.encode_passages(tokens), encoder.encode_queries(tokens)
        assert_close(4.0 * query_ND, passage_ND)
        norms[kind] = passage_ND.norm(dim=-1)
    assert_close(norms["l2"], torch.ones(4))
    assert_close(norms["layernorm"], torch.full((4,), 4.0))
    assert norms["none"].std() > 0.01


def test_a_learnt_temperature_gets_a_gradient_and_is_saved(folder: Path, tmp_path: Path, tokens: Tokens) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8, temperature=2.0, learn_temperature=True)
    encoder.encode_queries(tokens)[0, 0].backward()
    assert encoder.log_temperature.grad is not None and encoder.log_temperature.grad.abs() > 0
    encoder.log_temperature.data.fill_(math.log(3.0))
    encoder.save_pretrained(tmp_path / "saved")
    assert DenseEncoder.from_pretrained(tmp_path / "saved").temperature.item() == pytest.approx(3.0)
    fixed = DenseEncoder.from_pretrained(folder, dim=8, temperature=2.0)
    assert "log_temperature" not in {name for name, p in fixed.named_parameters() if p.requires_grad}


@torch.no_grad()
def test_a_projection_from_pca_keeps_the_directions_that_vary(folder: Path) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=3, normalize="none").eval()
    torch.manual_seed(0)
    basis_3H = torch.linalg.qr(torch.randn(32, 3))[0].T
    flat_NH = torch.randn(200, 3) @ torch.diag(torch.tensor([5.0, 2.0, 1.0])) @ basis_3H + 7.0
    assert encoder.init_projection_from_pca(flat_NH) == pytest.approx(1.0, abs=1e-6)
    projected_ND = encoder.query_tower.projection(flat_NH)
    assert_close(torch.pdist(projected_ND), torch.pdist(flat_NH), rtol=1e-3, atol=1e-3)
    assert_close(projected_ND.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    assert encoder.init_projection_from_pca(torch.randn(200, 32)) < 0.5
    with pytest.raises(UsageError, match="a PCA needs"):
        encoder.init_projection_from_pca(torch.randn(1, 32))
    with pytest.raises(UsageError, match="without a projection"):
        DenseEncoder.from_pretrained(folder, dim=None).init_projection_from_pca(flat_NH)


def test_tied_towers_are_one_and_untied_start_equal(folder: Path, tmp_path: Path, tokens: Tokens) -> None:
    tied = DenseEncoder.from_pretrained(folder, dim=8)
    untied = DenseEncoder.from_pretrained(folder, dim=8, tied=False).eval()
    assert (len(tied.towers()), len(untied.towers())) == (1, 2)
    count = sum(parameter.numel() for parameter in tied.query_tower.parameters())
    assert sum(parameter.numel() for parameter in untied.parameters()) >= 2 * count
    assert count < sum(parameter.numel() for parameter in tied.parameters()) < 1.1 * count
    assert_close(untied.encode_queries(tokens), untied.encode_passages(tokens))
    loss = untied.encode_passages(tokens)[:, 0].sum()
    loss.backward()
    assert all(parameter.grad is None for parameter in untied.query_tower.parameters())
    with torch.no_grad():
        untied.passage_tower.projection.bias.add_(torch.arange(8.0))
    untied.save_pretrained(tmp_path / "untied")
    again = DenseEncoder.from_pretrained(tmp_path / "untied").eval()
    assert_close(again.encode_passages(tokens), untied.encode_passages(tokens), rtol=0, atol=0)
    assert_close(again.encode_queries(tokens), untied.encode_queries(tokens), rtol=0, atol=0)
    assert not torch.allclose(again.encode_queries(tokens), again.encode_passages(tokens))


@pytest.mark.parametrize("pooling", ["cls", "mean", "weighted-mean"])
def test_saved_and_opened_it_is_the_same(folder: Path, tmp_path: Path, tokens: Tokens, pooling: str) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8, pooling=pooling, normalize="l2", dropout=0.3).eval()
    encoder.save_pretrained(tmp_path / "saved")
    encoder.save_pretrained(tmp_path / "saved")
    again = DenseEncoder.from_pretrained(tmp_path / "saved", freeze_word_embeddings=True).eval()
    assert again.fingerprint() == encoder.fingerprint()
    assert torch.equal(again.encode_passages(tokens), encoder.encode_passages(tokens))
    assert again.settings.dropout == 0.3 and again.settings.freeze_word_embeddings
    with torch.no_grad():
        again.query_tower.projection.bias[0] += 1e-6
    assert again.fingerprint() != encoder.fingerprint()


def test_some_layers_are_kept(folder: Path, tmp_path: Path, tokens: Tokens) -> None:
    whole = DenseEncoder.from_pretrained(folder, dim=None, normalize="none").eval()
    second = DenseEncoder.from_pretrained(folder, dim=None, normalize="none", layers=(1,)).eval()
    first = DenseEncoder.from_pretrained(folder, dim=None, normalize="none", layers=1).eval()
    kept = {name: value for name, value in second.state_dict().items() if ".layer." in name}
    source = {name: value for name, value in whole.state_dict().items() if ".layer.1." in name}
    assert len(kept) == len(source) == 16
    for name, value in source.items():
        assert torch.equal(kept[name.replace(".layer.1.", ".layer.0.")], value)
    assert not torch.allclose(first.encode_passages(tokens), second.encode_passages(tokens))
    second.save_pretrained(tmp_path / "second")
    again = DenseEncoder.from_pretrained(tmp_path / "second").eval()
    assert torch.equal(again.encode_passages(tokens), second.encode_passages(tokens))
    for wrong in (3, (0, 2), ()):
        with pytest.raises(UsageError, match="expected 0 to 2 layers"):
            DenseEncoder.from_pretrained(folder, layers=wrong)


def test_no_layers_leave_a_bag_of_word_pieces(folder: Path, tokens: Tokens, tmp_path: Path) -> None:
    settings = {"dim": None, "normalize": "none", "pooling": "mean"}
    encoder = DenseEncoder.from_pretrained(folder, layers=0, **settings).eval()
    embeddings = encoder.query_tower.backbone.embeddings
    embedded_NLH = embeddings.LayerNorm(embeddings.word_embeddings(tokens.ids))  # a bag: no positions, no segments
    mask_NL1 = tokens.mask[..., None]
    assert torch.allclose(
        encoder.encode_passages(tokens), (embedded_NLH * mask_NL1).sum(1) / mask_NL1.sum(1), atol=1e-6
    )
    encoder.save_pretrained(tmp_path / "none")
    again = DenseEncoder.from_pretrained(tmp_path / "none").eval()
    assert torch.equal(again.encode_passages(tokens), encoder.encode_passages(tokens))


def test_frozen_word_embeddings_and_dropout(folder: Path, tokens: Tokens) -> None:
    encoder = DenseEncoder.from_pretrained(
        folder, dim=8, freeze_word_embeddings=True, dropout=0.5, backbone_dropout=0.0
    )
    encoder.train().encode_passages(tokens).sum().backward()
    assert encoder.query_tower.backbone.get_input_embeddings().weight.grad is None
    assert encoder.query_tower.projection.weight.grad is not None
    torch.manual_seed(0)
    assert 0.3 < (encoder.encode_passages(tokens) == 0).float().mean() < 0.7
    no_dropout = DenseEncoder.from_pretrained(folder, dim=8, dropout=0.0, backbone_dropout=0.0).train()
    assert torch.equal(no_dropout.encode_passages(tokens), no_dropout.encode_passages(tokens))


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_one_role(folder: Path, tied: bool) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8, pooling="weighted-mean", tied=tied)
    groups = encoder.parameter_groups()
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in encoder.parameters()}
    backbones = {id(parameter) for tower in encoder.towers() for parameter in tower.backbone.parameters()}
    assert {id(parameter) for parameter in groups["retriever"]} == backbones
    assert len(groups["token_weights"]) == (1 if tied else 2)


@torch.no_grad()
def test_whitening_evens_out_the_components(folder: Path) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=3, normalize="none").eval()
    torch.manual_seed(0)
    spreads = torch.tensor([8.0, 4.0, 2.0])
    vectors_NH = torch.zeros(4000, 32)
    vectors_NH[:, :3] = torch.randn(4000, 3) * spreads
    for whiten in (0.0, 0.5, 1.0):
        encoder.init_projection_from_pca(vectors_NH, whiten=whiten)
        found = encoder.query_tower.projection(vectors_NH).std(0)
        assert_close(found / found[0], (spreads / 8.0) ** (1 - whiten), rtol=0.05, atol=0)


def test_half_precision_autocast_gives_float32_vectors(folder: Path, tokens: Tokens) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8, pooling="mean").eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = encoder.encode_passages(tokens)
    assert vectors.dtype == torch.float32
    assert_close(vectors, encoder.encode_passages(tokens), rtol=0.1, atol=0.2)


# ------------------------------------------------------------------ what is refused


def test_wrong_settings_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    for settings, message in [
        ({"pooling": "max"}, "pooling='max': expected one of cls, cls-tanh, mean, weighted-mean"),
        ({"pooling": "cls-tanh"}, "no trained pooler"),
        ({"normalize": "unit"}, "normalize='unit': expected one of"),
        ({"temperature": 0.0}, "temperature=0.0: expected a positive number"),
        ({"size": 3}, "setting 'size': expected one of dim"),
    ]:
        with pytest.raises(UsageError, match=message):
            DenseEncoder.from_pretrained(folder, **settings)
    DenseEncoder.from_pretrained(folder, dim=8).save_pretrained(tmp_path / "saved")
    with pytest.raises(UsageError, match=r"found dim=16 .* saved with 8"):
        DenseEncoder.from_pretrained(tmp_path / "saved", dim=16)


def test_a_text_longer_than_the_model_is_refused(folder: Path) -> None:
    encoder = DenseEncoder.from_pretrained(folder, dim=8)
    ids = torch.full((1, 129), 7)
    with pytest.raises(UsageError, match="input of 129 tokens: BertModel takes at most 128"):
        encoder.encode_queries(Tokens(ids, torch.zeros_like(ids), torch.tensor([129])))


def test_damaged_folders_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no folder .*nowhere"):
        DenseEncoder.from_pretrained(tmp_path / "nowhere")
    for part in ("model.safetensors", "head.safetensors"):
        DenseEncoder.from_pretrained(folder, dim=8).save_pretrained(tmp_path / part)
        data = (tmp_path / part / part).read_bytes()
        (tmp_path / part / part).write_bytes(data[: len(data) // 2])
        with pytest.raises(ArtefactError) as caught:
            DenseEncoder.from_pretrained(tmp_path / part)
        assert part in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "head.safetensors/manifest.json").unlink()
    with pytest.raises(ArtefactError, match="interrupted"):
        DenseEncoder.from_pretrained(tmp_path / "head.safetensors")


def test_a_reader_is_no_encoder(folder: Path, tmp_path: Path) -> None:
    ClozeReader.from_pretrained(folder).save_pretrained(tmp_path / "reader")
    with pytest.raises(MismatchError, match="holds a realm cloze reader: expected a realm dense encoder"):
        DenseEncoder.from_pretrained(tmp_path / "reader")


def test_saving_never_replaces_what_is_not_ours(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is no saved model"):
        DenseEncoder.from_pretrained(folder, dim=8).save_pretrained(tmp_path / "thesis")
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"


def test_a_hub_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UnavailableError, match="can't get the model 'no-such/model' from the Hugging Face hub"
    ) as caught:
        DenseEncoder.from_pretrained("no-such/model")
    assert "\n" not in str(caught.value)

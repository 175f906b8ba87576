"""The span reader scores every short span of a passage, and only those, whatever stands beside it in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from toy_realm import gradients, networks

from realm.errors import MismatchError, UsageError
from realm.models.attention import ROW_BY_ROW, attend_row_by_row, row_by_row
from realm.models.freezing import with_frozen_passages
from realm.models.span import SpanHead, SpanLogits, SpanReader
from realm.types import Tokens

QUESTIONS = ["who painted guernica", "which river flows through seoul in paris"]
BODIES = ["guernica was painted by pablo picasso in paris in 1937 .", "the river han .", "", "marie"]
OF_QUESTION = torch.tensor([0, 1, 1, 0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def reader(folder: Path) -> SpanReader:
    torch.manual_seed(1)
    return SpanReader.from_pretrained(folder, span_size=16, max_width=3).eval()


def read(reader: SpanReader, **options: Any) -> SpanLogits:
    query = tiny.tokens_of(reader.tokenizer, QUESTIONS)
    return reader.span_logits(query, tiny.bodies_of(reader.tokenizer, BODIES), OF_QUESTION, **options)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_head_agrees_with_a_loop_over_spans(width: int) -> None:
    torch.manual_seed(0)
    head = SpanHead(6, 8, width)
    torch.nn.init.normal_(head.project.weight)
    hidden_NLH = torch.randn(2, 5, 6)
    score_NLW = head(hidden_NLH)
    assert score_NLW.shape == (2, 5, width)
    for n in range(2):
        for start in range(5):
            for end in range(start, min(start + width, 5)):
                both = torch.cat([hidden_NLH[n, start], hidden_NLH[n, end]])
                weight = torch.cat(list(head.project.weight.chunk(2)), dim=1)
                hidden = torch.relu(weight @ both + sum(head.project.bias.chunk(2)))
                expected = head.score(torch.nn.functional.layer_norm(hidden, (8,), eps=1e-3))
                torch.testing.assert_close(score_NLW[n, start, end - start], expected[0])


def test_valid_spans_are_those_of_the_body(reader: SpanReader) -> None:
    spans = read(reader)
    for n, body in enumerate(BODIES):
        length = len(reader.tokenizer(body, add_special_tokens=False)["input_ids"]) if body else 0
        found = {
            (start, end)
            for start, end, valid in zip(
                spans.start_S.tolist(), spans.end_S.tolist(), spans.valid_NS[n].tolist(), strict=True
            )
            if valid
        }
        assert found == {(a, b) for a in range(length) for b in range(a + 1, min(a + 3, length) + 1)}


def test_a_pair_reads_the_same_alone_and_in_any_chunk(reader: SpanReader) -> None:
    together = read(reader)
    alone = reader.span_logits(
        tiny.tokens_of(reader.tokenizer, QUESTIONS[1:]),
        tiny.bodies_of(reader.tokenizer, BODIES[1:2]),
        torch.tensor([0]),
    )
    size = alone.logit_NS.shape[1]
    there_S = alone.valid_NS[0]
    torch.testing.assert_close(together.logit_NS[1, :size][there_S], alone.logit_NS[0][there_S], rtol=1e-4, atol=1e-5)
    assert not together.valid_NS[1, size:].any()
    budget, reader.token_budget = reader.token_budget, 16
    try:
        small = read(reader)
    finally:
        reader.token_budget = budget
    torch.testing.assert_close(
        small.logit_NS[small.valid_NS], together.logit_NS[together.valid_NS], rtol=1e-4, atol=1e-5
    )


def test_the_question_and_the_order_of_the_passage_matter(reader: SpanReader) -> None:
    query, body = tiny.tokens_of(reader.tokenizer, QUESTIONS), tiny.bodies_of(reader.tokenizer, BODIES[:1] * 2)
    one_NS = reader.span_logits(query, body, torch.tensor([0, 1])).logit_NS
    assert not torch.allclose(one_NS[0], one_NS[1], atol=1e-3)


def test_a_title_is_read_but_holds_no_answer(reader: SpanReader) -> None:
    query = tiny.tokens_of(reader.tokenizer, QUESTIONS[:1])
    bodies = tiny.bodies_of(reader.tokenizer, ["han the river han"])
    plain = reader.span_logits(query, bodies, torch.tensor([0]))
    titled = reader.span_logits(query, bodies, torch.tensor([0]), before_N=torch.tensor([1]))
    assert int(titled.valid_NS.sum()) == 3 + 2 + 1 and int(plain.valid_NS.sum()) == 4 + 3 + 2
    shifted = plain.logit_NS[0].view(-1, 3)[1:4].flatten()[titled.valid_NS[0]]
    torch.testing.assert_close(titled.logit_NS[0][titled.valid_NS[0]], shifted, rtol=1e-4, atol=1e-5)


def test_a_passage_that_is_cut_has_no_span_behind_the_cut(folder: Path) -> None:
    reader = SpanReader.from_pretrained(folder, span_size=8, max_width=2, max_length=16).eval()
    spans = read(reader)
    room = 16 - 1 - int(tiny.tokens_of(reader.tokenizer, QUESTIONS).lengths[0])
    assert int(spans.end_S[spans.valid_NS[0]].max()) == room
    with pytest.raises(UsageError, match="cut the query"):
        reader.span_logits(
            tiny.tokens_of(reader.tokenizer, ["paris " * 20]),
            tiny.bodies_of(reader.tokenizer, ["han"]),
            torch.tensor([0]),
        )


def test_in_bfloat16_it_reads_nearly_the_same(reader: SpanReader) -> None:
    plain = read(reader)
    spans = read(reader.in_bfloat16())
    assert spans.logit_NS.dtype == torch.float32, "the span network keeps its precision"
    valid = plain.valid_NS
    difference = (spans.logit_NS - plain.logit_NS)[valid].abs().max() / plain.logit_NS[valid].std()
    assert 0 < difference < 0.1 and torch.equal(spans.valid_NS, valid)
    assert torch.equal(read(reader).logit_NS, plain.logit_NS), "the reader itself stays as it was"


def test_nothing_to_read(reader: SpanReader) -> None:
    query = tiny.tokens_of(reader.tokenizer, QUESTIONS)
    none = reader.span_logits(query, tiny.bodies_of(reader.tokenizer, []), torch.zeros(0, dtype=torch.long))
    assert none.logit_NS.shape == (0, 0)
    empty = reader.span_logits(query, tiny.bodies_of(reader.tokenizer, ["", ""]), torch.tensor([0, 1]))
    assert empty.logit_NS.shape == (2, 0) and empty.valid_NS.shape == (2, 0)
    with pytest.raises(UsageError, match="one body for each"):
        reader.span_logits(query, tiny.bodies_of(reader.tokenizer, ["han"]), torch.tensor([0, 1]))


def test_gradients_are_those_without_recomputation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for again in (True, False):
        torch.manual_seed(2)
        reader = SpanReader.from_pretrained(folder, span_size=8, max_width=3, backbone_dropout=0.0).train()
        if not again:
            monkeypatch.setattr("realm.models.span.checkpoint", lambda fn, x, **_: fn(x))
        spans = read(reader)
        spans.logit_NS[spans.valid_NS].square().sum().backward()
        found.append(gradients(reader))
    assert found[0].keys() == found[1].keys() and "head.project.weight" in found[0]
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


def test_saved_and_opened_again(reader: SpanReader, tmp_path: Path) -> None:
    reader.save_pretrained(tmp_path / "reader")
    opened = SpanReader.from_pretrained(tmp_path / "reader", max_width=3).eval()
    assert opened.fingerprint() == reader.fingerprint()
    torch.testing.assert_close(read(opened).logit_NS, read(reader).logit_NS)
    assert opened.settings == reader.settings
    with pytest.raises(UsageError, match=r"span_size=7 .* can't be changed"):
        SpanReader.from_pretrained(tmp_path / "reader", span_size=7)
    from realm.models.cloze import ClozeReader

    with pytest.raises(MismatchError, match="realm span reader"):
        ClozeReader.from_pretrained(tmp_path / "reader")


def test_it_starts_from_a_reader_or_an_encoder_of_pre_training(folder: Path, tmp_path: Path) -> None:
    encoder, cloze = networks(folder)
    cloze.save_pretrained(tmp_path / "cloze"), encoder.save_pretrained(tmp_path / "encoder")
    for name, model in (("cloze", cloze.model.base_model), ("encoder", encoder.query_tower.backbone)):
        started = SpanReader.from_pretrained(tmp_path / name)
        for key, value in started.model.state_dict().items():
            torch.testing.assert_close(value, model.state_dict()[key])


def test_fewer_layers_and_frozen_words(folder: Path) -> None:
    reader = SpanReader.from_pretrained(folder, layers=1, freeze_word_embeddings=True)
    assert reader.model.config.num_hidden_layers == 1
    spans = read(reader)
    spans.logit_NS[spans.valid_NS].sum().backward()
    assert not any("word_embeddings" in name for name in gradients(reader))


def test_frozen_passages_score_as_before_and_stay(folder: Path) -> None:
    encoder, _ = networks(folder)
    query = tiny.tokens_of(encoder.tokenizer, QUESTIONS)
    passage: Tokens = tiny.tokens_of(encoder.tokenizer, BODIES[:2])
    before = encoder.encode_queries(query) @ encoder.encode_passages(passage).T
    untied = with_frozen_passages(encoder)
    scores = untied.encode_queries(query) @ untied.encode_passages(passage).T
    torch.testing.assert_close(scores, before)
    scores.sum().backward()
    assert gradients(untied) and all(name.startswith(("query_tower", "log_temp")) for name in gradients(untied))
    assert with_frozen_passages(untied) is untied


@pytest.mark.parametrize("heads", [4, 2])
def test_attention_row_by_row_is_attention(heads: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 7, 8), torch.randn(3, heads, 7, 8), torch.randn(3, heads, 7, 8)
    mask = torch.zeros(3, 1, 7, 7).masked_fill(torch.rand(3, 1, 1, 7) < 0.3, torch.finfo(torch.float32).min)
    for added in (None, mask):
        ours, _ = row_by_row(torch.nn.Module(), query, key, value, added)
        theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, added, enable_gqa=True)
        torch.testing.assert_close(ours, theirs.transpose(1, 2))


def test_in_bfloat16_the_scores_are_the_same_but_for_rounding(reader: SpanReader) -> None:
    rounded = reader.in_bfloat16()
    assert rounded.model.config._attn_implementation == ROW_BY_ROW != reader.model.config._attn_implementation
    with torch.inference_mode():
        exact, near = read(reader), read(rounded)
    assert torch.equal(exact.valid_NS, near.valid_NS)
    difference = (exact.logit_NS - near.logit_NS)[exact.valid_NS].abs()
    assert 0 < difference.max() < 0.02 * exact.logit_NS[exact.valid_NS].std() + 0.02


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "ModernBert", "Qwen3", "MPNet"])
def test_row_by_row_changes_nothing_in_any_class(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    size: dict[str, Any] = {"vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 1}
    if kind == "DistilBert":
        size |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    else:
        size |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if kind == "ModernBert":  # has layers that look only so far, which the mask says
        size |= {"local_attention": 8, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    if kind == "Qwen3":  # two heads share keys and values
        size |= {"num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**size)).eval()
    ids = torch.randint(5, 99, (3, 24))
    mask = (torch.arange(24) < torch.tensor([[24], [15], [7]])).long()
    before = model(ids, attention_mask=mask).last_hidden_state[mask.bool()]
    attend_row_by_row(model)
    after = model(ids, attention_mask=mask).last_hidden_state[mask.bool()]
    assert (model.config._attn_implementation == ROW_BY_ROW) == (kind != "MPNet")  # which computes its own
    torch.testing.assert_close(after, before)
    assert not caplog.records

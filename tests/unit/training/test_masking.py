"""Masking: a mask always is its text, and nothing else changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from realm.errors import UsageError
from realm.training.masking import (
    STRATEGIES,
    MaskedSentence,
    PassageView,
    candidates,
    function_word_targets,
    mask_sentence,
    masked_pieces,
    random_spans,
    word_starts,
)

CLS, SEP, MASK = 2, 3, 4
TOKENIZER = tiny_tokenizer()


def view_of(text: str, sentences: list[tuple[int, int]] | None = None, *spans: str) -> PassageView:
    encoded = TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False)
    found = [(text.index(span), text.index(span) + len(span)) for span in spans]
    return PassageView(
        text=text,
        ids=np.array(encoded.ids, np.int32),
        offsets=np.array(encoded.offsets, np.int32).reshape(-1, 2),
        sentences=np.array(sentences or [(0, len(text))], np.int32).reshape(-1, 2),
        spans=np.array(found, np.int32).reshape(-1, 2),
    )


def draw(
    strategy: str, view: PassageView, seed: int = 0, *, max_query_tokens: int = 96, max_targets: int = 10
) -> tuple[MaskedSentence, np.ndarray, int]:
    rng = np.random.default_rng(seed)
    limits = {"max_query_tokens": max_query_tokens, "max_targets": max_targets}
    found = candidates(strategy, view, max_query_tokens)
    chosen = found[int(rng.integers(len(found)))]
    pieces = masked_pieces(strategy, view, chosen, rng, **limits)
    masked = mask_sentence(view, int(chosen[0]), pieces, cls_id=CLS, sep_id=SEP, mask_id=MASK, **limits)
    return masked, pieces, int(chosen[0])


words = st.sampled_from(
    [
        "Guernica",
        "was",
        "painted",
        "by",
        "Picasso",
        "in",
        "1937",
        "Zoë",
        "İzmir",
        "naïve",
        "of",
        "x,y",
        "(Paris)",
        "😀",
        "서울",
        "東京",
    ]
)


@st.composite
def passages(drawing: st.DrawFn) -> tuple[PassageView, list[str]]:
    """Sentences of odd words; spans are runs of whole words, so they are whole pieces."""
    text, sentences, spans, names = "", [], [], []
    for _ in range(drawing(st.integers(1, 3))):
        parts = drawing(st.lists(words, min_size=2, max_size=9))
        first = drawing(st.integers(0, len(parts) - 1))
        last = drawing(st.integers(first, min(first + 3, len(parts) - 1)))
        start = len(text)
        begin = start + sum(len(part) + 1 for part in parts[:first])
        name = " ".join(parts[first : last + 1])
        text += " ".join(parts) + ". "
        sentences.append((start, len(text) - 1))
        spans.append((begin, begin + len(name)))
        names.append(name)
    view = view_of(text, sentences)
    return PassageView(text, view.ids, view.offsets, view.sentences, np.array(spans, np.int32)), names


@given(passages(), st.integers(0, 1000))
def test_the_masked_characters_are_the_span(drawn: tuple[PassageView, list[str]], seed: int) -> None:
    view, names = drawn
    if not len(candidates("salient", view, 96)):
        return
    masked, pieces, sentence = draw("salient", view, seed, max_targets=100)
    start, end = masked.span
    assert view.text[start:end] == names[sentence]
    assert masked.targets.tolist() == view.ids[pieces].tolist()


@given(passages(), st.integers(0, 1000), st.sampled_from(STRATEGIES), st.integers(8, 40), st.integers(1, 10))
def test_only_the_masked_positions_change(
    drawn: tuple[PassageView, list[str]], seed: int, strategy: str, max_query_tokens: int, max_targets: int
) -> None:
    view, _ = drawn
    if not len(candidates(strategy, view, max_query_tokens)):
        return
    limits = {"max_query_tokens": max_query_tokens, "max_targets": max_targets}
    masked, pieces, sentence = draw(strategy, view, seed, **limits)
    start, end = view.sentences[sentence]
    inside = (view.offsets[:, 0] >= start) & (view.offsets[:, 1] <= end)
    plain = [CLS, *view.ids[inside][: max_query_tokens - 2].tolist(), SEP]
    assert len(masked.query_ids) == len(plain) <= max_query_tokens
    changed = np.flatnonzero(masked.query_ids != np.array(plain))
    assert (masked.query_ids[changed] == MASK).all()
    assert len(changed) == len(pieces) > 0
    assert len(masked.positions) == min(len(pieces), max_targets)
    assert masked.positions.tolist() == changed[:max_targets].tolist()
    assert masked.targets.tolist() == [plain[position] for position in masked.positions]
    assert masked.query_ids[0] == CLS and masked.query_ids[-1] == SEP


def test_a_piece_that_only_overlaps_the_span_stays_visible() -> None:
    view = view_of("guernica was painted by picasso", None, "paint", "was pain")
    counts: Counter[str] = Counter()
    found = candidates("salient", view, 96, counts)
    assert [view.text[view.offsets[a, 0] : view.offsets[b - 1, 1]] for _, a, b in found] == ["was"]
    assert counts["spans_without_piece"] == 1


def test_what_can_not_be_drawn_is_counted_by_reason() -> None:
    text = "picasso painted guernica in paris . paris . the river han runs through seoul in 1937 ."
    sentences = [(0, 35), (36, 41), (44, len(text))]
    view = view_of(text, sentences, "guernica", "paris . paris", "1937")
    view.spans[1] = (36, 41)  # the whole of the second sentence
    crossing = PassageView(text, view.ids, view.offsets, view.sentences, np.array([(28, 41), *view.spans.tolist()]))
    counts: Counter[str] = Counter()
    found = candidates("salient", crossing, 9, counts)
    assert found[:, 0].tolist() == [0]
    assert counts == {
        "spans": 4,
        "spans_across_sentences": 1,
        "spans_without_context": 1,
        "spans_beyond_query": 1,
        "spans_without_piece": 0,
    }


def test_a_mask_that_just_fits_is_kept_and_one_that_would_be_cut_is_not() -> None:
    view = view_of("in paris picasso painted guernica in 1937", None, "guernica")
    assert len(candidates("salient", view, 7)) == 1  # [CLS] in paris picasso painted guernica [SEP]
    assert len(candidates("salient", view, 6)) == 0


def test_more_pieces_than_targets_stay_masked() -> None:
    view = view_of("picasso painted zzzzzz in paris", None, "zzzzzz")
    masked, pieces, _ = draw("salient", view, max_targets=2)
    assert len(pieces) == 6 and (masked.query_ids == MASK).sum() == 6
    assert masked.positions.tolist() == [3, 4]


def test_random_tokens_have_the_budget_of_bert_and_reach_every_piece() -> None:
    view = view_of(" ".join(["paris"] * 20))
    drawn = [draw("random-token", view, seed)[1] for seed in range(200)]
    assert {len(pieces) for pieces in drawn} == {3}
    hits = np.bincount(np.concatenate(drawn), minlength=20)
    assert hits.min() > 10 and hits.max() < 60  # 30 expected
    assert len(draw("random-token", view_of("in paris"), 0)[1]) == 1
    assert len(draw("random-token", view_of(" ".join(["paris"] * 90)), 0, max_targets=5)[1]) == 5


def test_random_spans_have_the_lengths_of_spanbert() -> None:
    chosen = random_spans(np.ones(200_000, bool), 6_000, np.random.default_rng(0))
    runs = np.diff(np.flatnonzero(np.diff(chosen, prepend=-9, append=10**9) != 1))
    assert runs[runs <= 10].mean() == pytest.approx(3.8, abs=0.25)  # mean of Geo(0.2) cut at 10
    assert (runs > 10).mean() < 0.05  # two runs that happen to touch
    assert len(chosen) == 6_000


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(1, 10), st.integers(0, 99))
def test_random_spans_mask_whole_words_and_leave_one(starts: list[bool], budget: int, seed: int) -> None:
    is_start = np.array([True, *starts[1:]])
    chosen = random_spans(is_start, budget, np.random.default_rng(seed))
    word = np.cumsum(is_start) - 1
    touched = np.unique(word[chosen])
    assert len(chosen) > 0 and chosen.tolist() == sorted(set(chosen.tolist()))
    if word[-1] > 0:
        assert np.isin(word, touched).sum() == len(chosen)
        assert len(touched) <= word[-1]
        assert len(chosen) <= budget or len(touched) == 1


def test_words_begin_where_a_reader_sees_them() -> None:
    view = view_of("zzz's, 東京 서울 picasso.")
    starts = word_starts(view, 0, len(view.ids))
    begun = [int(view.offsets[piece, 0]) for piece in np.flatnonzero(starts)]
    assert [view.text[at] for at in begun] == ["z", "'", "s", ",", "東", "京", "서", "p", "."]


def test_function_words_are_words_outside_spans() -> None:
    text = "The river of Seoul, often in Bank of Paris, was in"
    view = view_of(text, None, "Bank of Paris")
    found = function_word_targets(view, 0, 96)
    shown = [text[view.offsets[a, 0] : view.offsets[b - 1, 1]] for a, b in found]
    assert shown == ["The", "of", "in", "was"]  # not the "of" of the span, nor the last word, which may be cut
    masked, _, _ = draw("function-word", view, 1)
    assert text[slice(*masked.span)] in shown


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(UsageError, match="salient, random-token"):
        candidates("salent", view_of("in paris"), 96)

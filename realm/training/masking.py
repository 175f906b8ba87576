"""From a passage to a masked sentence: what may be masked, and which word pieces then are.

Legend: L word pieces of a passage body, M sentences, S spans, C candidates, P masked pieces.

A strategy answers two questions about a passage. *What can be drawn?* - `candidates`, an Int64[C, 3] of
(sentence, first piece, stop piece), pieces counted in the passage body. *Which pieces of the drawn
candidate become [MASK]?* - `masked_pieces`. Everything rests on the tokenizer's character offsets, which
come from the snapshot: nothing is tokenised again, so a mask can't drift away from its text.

Source: Guu et al. 2020, sections 3.4 and 4.5. Every masked piece becomes [MASK]; BERT's 80/10/10
mixture is not used, because a REALM query must never show a wrong word to the retriever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from realm.errors import UsageError

IntArray = np.ndarray[Any, np.dtype[np.integer[Any]]]

STRATEGIES = ("salient", "random-token", "random-span", "function-word")
MASK_SHARE = 0.15
"""Share of a sentence's pieces that the random strategies mask (BERT's and SpanBERT's budget)."""
SPAN_P = 0.2
"""Parameter of SpanBERT's geometric distribution of span lengths, in words."""
SPAN_MAX_WORDS = 10
FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "for", "from", "had", "has", "have", "in", "into"}
    | {"is", "it", "its", "not", "of", "on", "or", "that", "the", "their", "then", "there", "these", "they", "this"}
    | {"to", "was", "were", "which", "who", "will", "with"}
)
"""English words that carry no knowledge; the control group for null mass on entities."""


@dataclass(frozen=True, slots=True, eq=False)
class PassageView:
    """What masking reads of one passage. Offsets, sentences and spans are in characters of `text`."""

    text: str
    ids: IntArray
    """Int[L]: word pieces of the body."""
    offsets: IntArray
    """Int[L, 2], both columns non-decreasing."""
    sentences: IntArray
    """Int[M, 2], sorted, not overlapping."""
    spans: IntArray
    """Int[S, 2]; empty for the strategies that need none."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskedSentence:
    """One masked query, before batching."""

    query_ids: IntArray
    """Int64[L]: [CLS] masked sentence [SEP]."""
    positions: IntArray
    """Int64[P]: the masked pieces that are predicted, as indices into `query_ids`; ascending."""
    targets: IntArray
    """Int64[P]: what stood there."""
    sentence: tuple[int, int]
    """(start, end) of the sentence in characters of the passage."""
    span: tuple[int, int]
    """(start, end) in characters of the passage, from the first masked piece to the last."""


def needs_spans(strategy: str) -> bool:
    """Whether a strategy reads salient spans. UsageError for an unknown name."""
    if strategy not in STRATEGIES:
        raise UsageError(f"no masking strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    return strategy in ("salient", "function-word")


def pieces_inside(offsets: IntArray, ranges: IntArray) -> tuple[IntArray, IntArray]:
    """First and stop (exclusive) of the pieces that lie fully inside each character range of Int[R, 2].

    A piece that only overlaps a range is outside it; stop <= first means that no piece fits.
    """
    starts, ends = np.ascontiguousarray(offsets[:, 0]), np.ascontiguousarray(offsets[:, 1])
    return starts.searchsorted(ranges[:, 0], "left"), ends.searchsorted(ranges[:, 1], "right")


def candidates(
    strategy: str, view: PassageView, max_query_tokens: int, skipped: Counter[str] | None = None
) -> IntArray:
    """Int64[C, 3]: what a strategy may draw in a passage, as (sentence, first piece, stop piece).

    For ``salient`` and ``function-word`` a row is a span, for the random strategies a sentence (the part of
    it that fits into the query). `skipped` counts what can't be drawn, by reason.
    """
    limit = max_query_tokens - 2  # [CLS] and [SEP]
    sentence_first, sentence_stop = pieces_inside(view.offsets, view.sentences)
    if not needs_spans(strategy):
        stop = np.minimum(sentence_stop, sentence_first + limit)
        usable = stop - sentence_first >= 2  # one piece masked and at least one left to search with
        if skipped is not None:
            skipped["sentences"] += len(usable)
            skipped["sentences_too_short"] += int((~usable).sum())
        drawn: IntArray = np.stack([np.arange(len(stop)), sentence_first, stop], axis=1)[usable]
        return drawn
    spans = view.spans
    if not len(spans) or not len(view.sentences):
        if skipped is not None:
            skipped["spans"] += len(spans)
            skipped["spans_across_sentences"] += len(spans)
        return np.zeros((0, 3), np.int64)
    sentence = view.sentences[:, 0].searchsorted(spans[:, 0], "right") - 1
    inside = (sentence >= 0) & (spans[:, 1] <= view.sentences[sentence, 1])
    first, stop = pieces_inside(view.offsets, spans)
    covered = stop > first
    begin = sentence_first[sentence]
    fits = stop - begin <= limit
    # A sentence that is nothing but the span would leave a query of [MASK] only: nothing to search with.
    context = np.minimum(sentence_stop[sentence], begin + limit) - begin > stop - first
    usable = inside & covered & fits & context
    if skipped is not None:
        skipped["spans"] += len(spans)
        skipped["spans_across_sentences"] += int((~inside).sum())
        skipped["spans_without_piece"] += int((inside & ~covered).sum())
        skipped["spans_beyond_query"] += int((inside & covered & ~fits).sum())
        skipped["spans_without_context"] += int((inside & covered & fits & ~context).sum())
    found: IntArray = np.stack([sentence, first, stop], axis=1)[usable]
    if strategy == "function-word" and len(found):
        drawable = [each for each in set(found[:, 0].tolist()) if function_word_targets(view, each, max_query_tokens)]
        at_hand = np.isin(found[:, 0], drawable)
        if skipped is not None:
            skipped["spans_without_function_word"] += int((~at_hand).sum())
        found = found[at_hand]
    return found


def masked_pieces(
    strategy: str,
    view: PassageView,
    candidate: IntArray,
    rng: np.random.Generator,
    *,
    max_query_tokens: int,
    max_targets: int,
) -> IntArray:
    """Int64[P]: the pieces of the body that become [MASK] when `candidate` (Int[3]) was drawn; ascending, P >= 1.

    ``salient``: every piece fully inside the span (Guu et al. 2020, section 3.4), however many.
    ``random-token``: 15% of the sentence's pieces, rounded, at least one, at most `max_targets`, drawn
    uniformly without replacement (the "random uniform masks" of Table 2).
    ``random-span``: runs of whole words with SpanBERT's geometric lengths until the same budget is met.
    ``function-word``: one occurrence of a function word in the sentence of the drawn span.
    """
    sentence, first, stop = (int(value) for value in candidate)
    if strategy == "salient":
        return np.arange(first, stop)
    if strategy == "function-word":
        words = function_word_targets(view, sentence, max_query_tokens)
        first, stop = words[int(rng.integers(len(words)))]
        return np.arange(first, stop)
    budget = min(max(1, round(MASK_SHARE * (stop - first))), max_targets)
    if strategy == "random-token":
        return np.sort(rng.choice(stop - first, size=budget, replace=False)) + first
    if strategy == "random-span":
        return first + random_spans(word_starts(view, first, stop), budget, rng)
    raise UsageError(f"no masking strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")


def random_spans(is_start: IntArray, budget: int, rng: np.random.Generator) -> IntArray:
    """Int64[P]: positions of runs of whole words, SpanBERT's scheme (Joshi et al. 2020, section 3.1).

    is_start: Bool[n], whether a piece begins a word. Lengths follow Geo(0.2) conditioned on at most 10
    words; a run begins at any word uniformly. Runs are added until `budget` pieces are masked; a run is
    shortened to the whole words that still fit, except that the first word of all is always masked whole.
    At least one word stays visible; a sentence of a single word loses its first `budget` pieces.
    """
    bounds = np.append(np.flatnonzero(is_start), len(is_start))
    words = len(bounds) - 1
    if words < 2:
        return np.arange(min(budget, len(is_start)))
    weight = (1 - SPAN_P) ** np.arange(SPAN_MAX_WORDS)
    weight /= weight.sum()
    chosen: set[int] = set()
    pieces = 0
    for anchor in rng.permutation(words):  # each word is tried once as an anchor, so this ends
        length = 1 + int(rng.choice(SPAN_MAX_WORDS, p=weight))
        for word in range(int(anchor), min(int(anchor) + length, words)):
            size = int(bounds[word + 1] - bounds[word])
            if word in chosen:
                continue
            if (chosen and pieces + size > budget) or len(chosen) + 1 >= words:
                break
            chosen.add(word)
            pieces += size
        if pieces >= budget:
            break
    return np.concatenate([np.arange(bounds[word], bounds[word + 1]) for word in sorted(chosen)])


def word_starts(view: PassageView, first: int, stop: int) -> IntArray:
    """Bool[stop - first]: whether a piece begins a word.

    A piece continues a word when it touches the piece before it and letters or digits meet at the seam;
    an ideograph or kana is a word of its own, as BERT's tokenizer has it.
    """
    text = view.text
    starts = np.ones(stop - first, bool)
    touching = np.flatnonzero(view.offsets[first + 1 : stop, 0] == view.offsets[first : stop - 1, 1]) + 1
    for piece, at in zip(touching.tolist(), view.offsets[first + touching, 0].tolist(), strict=True):
        before, after = text[at - 1 : at], text[at : at + 1]
        starts[piece] = not (before.isalnum() and after.isalnum()) or _ideograph(before) or _ideograph(after)
    return starts


def _ideograph(character: str) -> bool:
    # Kana, unified ideographs, their compatibility forms, and the two planes of rarer ideographs.
    ranges = (range(0x3040, 0x3100), range(0x3400, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x40000))
    return any(ord(character) in each for each in ranges)


def function_word_targets(
    view: PassageView, sentence: int, max_query_tokens: int, words: Collection[str] = FUNCTION_WORDS
) -> list[tuple[int, int]]:
    """(first piece, stop piece) of every function word of a sentence that stands outside all spans.

    Masking one of these instead of an entity is the control for the null passage: knowledge does not help
    to guess "of", so the null passage should take more of p(z|x) there.
    """
    bounds = view.sentences[sentence : sentence + 1]
    begin, end = (int(value[0]) for value in pieces_inside(view.offsets, bounds))
    end = min(end, begin + max_query_tokens - 2)
    if end - begin < 2:
        return []
    edges = [*(begin + np.flatnonzero(word_starts(view, begin, end))).tolist(), end]
    if len(edges) < 3:
        return []
    found = []
    offsets = view.offsets[begin:end].tolist()
    # The last word is left out: the cut of a long sentence may have gone through it.
    for first, stop in pairwise(edges[:-1]):
        start, finish = offsets[first - begin][0], offsets[stop - 1 - begin][1]
        if view.text[start:finish].lower() not in words:
            continue
        if len(view.spans) and ((view.spans[:, 0] < finish) & (view.spans[:, 1] > start)).any():
            continue
        found.append((first, stop))
    return found


def mask_sentence(
    view: PassageView,
    sentence: int,
    pieces: IntArray,
    *,
    cls_id: int,
    sep_id: int,
    mask_id: int,
    max_query_tokens: int,
    max_targets: int,
) -> MaskedSentence:
    """The query of a sentence with `pieces` (Int64[P], at least one, inside the kept part) masked.

    All of `pieces` become [MASK]; only the first `max_targets` of them are predicted, the rest stay masked.
    """
    begin, end = (int(value[0]) for value in pieces_inside(view.offsets, view.sentences[sentence : sentence + 1]))
    end = min(end, begin + max_query_tokens - 2)
    query = np.empty(end - begin + 2, np.int64)
    query[0], query[-1] = cls_id, sep_id
    query[1:-1] = view.ids[begin:end]
    places = np.asarray(pieces, np.int64) - begin + 1
    targets = query[places[:max_targets]]
    query[places] = mask_id
    start, finish = (int(value) for value in view.sentences[sentence])
    return MaskedSentence(
        query_ids=query,
        positions=places[:max_targets],
        targets=targets,
        sentence=(start, finish),
        span=(int(view.offsets[pieces[0], 0]), int(view.offsets[pieces[-1], 1])),
    )

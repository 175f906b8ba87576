"""Reading that ends early answers what a whole reading answers, by the bounds that `answering.early` proves."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from realm.answering.confidence import Confidence
from realm.answering.early import EarlyExit
from realm.answering.questions import QuestionAnswering
from realm.answering.spans import Part, Spans, partly, whole
from realm.config import override
from realm.errors import UsageError
from realm.evaluation.calibration import Calibration
from realm.knowledge.base import Match
from realm.methods import extraction
from realm.models.encoders import DenseEncoder
from realm.models.span import SpanHead, SpanReader
from realm.settings_finetune import FinetuneConfig
from realm.types import Answer, Passage

WORDS = ["a", "b", "c", "d", "e"]


def match(number: int, text: str, score: float) -> Match:
    return Match(Passage("d", number, "", text, 0, len(text), ((0, len(text)),)), score, 1, None, None, None)


def spans_of(texts: Sequence[str], logits: Sequence[float], scores: Sequence[Sequence[float]]) -> Spans:
    """Passages of single words, each a span."""
    longest = max(map(len, scores), default=0)
    logit_KS = torch.tensor([[*row, *[99.0] * (longest - len(row))] for row in scores])
    valid_KS = torch.tensor([[s < len(row) for s in range(longest)] for row in scores], dtype=torch.bool)
    offsets = [np.array([(2 * w, 2 * w + 1) for w in range(len(text.split()))]).reshape(-1, 2) for text in texts]
    matches = [match(n, text, logit) for n, (text, logit) in enumerate(zip(texts, logits, strict=True))]
    start_S = torch.arange(longest)
    return Spans(matches, logit_KS, valid_KS, start_S, start_S + 1, offsets)


def first_of(spans: Spans, count: int) -> Spans:
    return spans._replace(
        matches=spans.matches[:count],
        logit_KS=spans.logit_KS[:count],
        valid_KS=spans.valid_KS[:count],
        offsets=spans.offsets[:count],
    )


def share(part: Part, text: str) -> float:
    return math.fsum(math.exp(one.log_prob) for one in part.found if one.text == text)


# A passage may be empty, and the first may hold next to everything or nothing.
PASSAGES = st.lists(
    st.tuples(st.floats(-8, 8), st.lists(st.tuples(st.sampled_from(WORDS), st.floats(-3, 3)), max_size=5)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(
    passages=PASSAGES,
    mass=st.sampled_from([0.5, 0.9, 0.99]),
    level=st.sampled_from(["joint", "passage"]),
    aggregate=st.sampled_from(["marginal", "best-span"]),
    considered=st.sampled_from([1, 2, 3, 256]),
)
def test_what_is_settled_stays(
    passages: list[tuple[float, list[tuple[str, float]]]], mass: float, level: str, aggregate: str, considered: int
) -> None:
    passages = sorted(passages, key=lambda one: -one[0])
    texts = [" ".join(word for word, _ in words) for _, words in passages]
    everything = spans_of(texts, [one[0] for one in passages], [[s for _, s in words] for _, words in passages])
    how = {"level": level, "aggregate": aggregate, "normalize": str}
    early = EarlyExit(mass)
    joint = [logit + score for logit, words in passages for _, score in words]
    # Which of two spans of the very same weight is considered, where only one more is, hangs on nothing.
    assume(considered >= len(joint) or len({round(weight, 3) for weight in joint}) == len(joint))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "CONSIDERED_SPANS", considered)
        all_read = whole(everything, **how)
        for count in range(1, len(passages)):
            some = first_of(everything, count)
            part = partly(some, everything.matches, early, highest=3.0, most=5, **how)
            for word in WORDS:
                assert share(part, word) == pytest.approx(share(all_read, word), abs=part.unread + 1e-5)
            if early.settled(part.found, part.unread, aggregate):
                assert part.found[0].text == all_read.found[0].text
                assert part.unread <= 1 - mass


def test_reading_ends_where_one_passage_holds_the_mass_and_goes_on_where_two_answers_are_near() -> None:
    how = {"level": "passage", "aggregate": "marginal", "normalize": str}
    early = EarlyExit(0.99)
    assert early.first([9.0, 1.0, 0.0]) == 1 and early.first([1.0, 1.0, 1.0]) == 3 and early.first([5.0]) == 1
    sure = spans_of(["a b", "b c", "c"], [9.0, 1.0, 0.0], [[3.0, 0.0], [0.0, 0.0], [0.0]])
    part = partly(first_of(sure, 1), sure.matches, early, highest=3.0, most=5, **how)
    assert part.unread == pytest.approx(1 - torch.tensor([9.0, 1.0, 0.0]).softmax(0)[0].item(), abs=1e-6)
    assert early.settled(part.found, part.unread, "marginal")
    near = spans_of(["a b", "b c", "c"], [9.0, 1.0, 0.0], [[0.0, 0.0], [0.0, 0.0], [0.0]])
    part = partly(first_of(near, 1), near.matches, early, highest=3.0, most=5, **how)
    assert not early.settled(part.found, part.unread, "marginal")
    # Of one softmax over all spans p(z|x) bounds nothing: a passage of little of it can outweigh the first.
    loud = spans_of(["a b", "c"], [6.0, 0.0], [[-6.0, -9.0], [6.0]])
    joint = {**how, "level": "joint"}
    assert whole(loud, **joint).found[0].text == "c"
    bound = partly(first_of(loud, 1), loud.matches, early, highest=6.0, most=2, **joint)
    guess = partly(first_of(loud, 1), loud.matches, EarlyExit(0.99, "prior"), highest=6.0, most=2, **joint)
    assert not early.settled(bound.found, bound.unread, "marginal")
    assert early.settled(guess.found, guess.unread, "marginal"), "the rule by p(z|x) alone would have answered a"


@pytest.mark.parametrize("wrong", [{"mass": 1.0}, {"mass": 0.4}, {"mass": float("nan")}, {"rule": "hope"}])
def test_what_is_no_early_exit(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="early"):
        EarlyExit(**wrong)  # type: ignore[arg-type]


def test_no_span_scores_more_than_the_highest() -> None:
    torch.manual_seed(0)
    head = SpanHead(8, 16, 3).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        highest = head.highest()
        assert float(head(50 * torch.randn(400, 6, 8)).max()) <= highest
        # As near as that can be come by: what LayerNorm normalises lies along the linear map.
        aligned_D = head.score.weight[0] * head.norm.weight
        near = head.score(head.norm((aligned_D - aligned_D.mean()) * 1e3))
        assert float(near) == pytest.approx(highest, rel=1e-4)


@settings(max_examples=150, deadline=None)
@given(
    masses=st.lists(st.floats(0.001, 1), min_size=1, max_size=6),
    moved=st.lists(st.floats(-1, 1), min_size=8, max_size=8),
    unread=st.floats(0, 0.1),
    temperature=st.sampled_from([0.5, 1.0, 1.8]),
    threshold=st.floats(0.05, 0.95),
)
def test_an_answer_that_is_sure_to_be_given_is_given(
    masses: list[float], moved: list[float], unread: float, temperature: float, threshold: float
) -> None:
    masses = sorted((mass / max(1.0, sum(masses)) for mass in masses), reverse=True)
    confidence = Confidence(Calibration(temperature, 1.5, 0.1), threshold)
    if not confidence.surely_answers(masses, unread):
        return
    there = [*masses, 0.0, 0.0][:8]
    after = [max(0.0, mass + unread * by) for mass, by in zip(there, moved, strict=False)]
    after = [mass / max(1.0, sum(after)) for mass in after]
    told = sorted(after[1:], reverse=True)[: extraction.ALTERNATIVES]
    if after[0] < masses[0] - unread:  # what could not be without leaving p(y|x) over 1
        return
    answer = Answer("q", "a", after[0], False, (), 0.0, tuple(("b", mass) for mass in told))
    assert not confidence(answer).abstained


def test_a_claim_that_weighs_signals_is_never_sure() -> None:
    assert Confidence(threshold=0.2).surely_answers([0.99], 0.001)
    assert not Confidence(threshold=0.2).surely_answers([0.15, 0.1], 0.001)
    assert not Confidence(Calibration(weights={"support": 1.0}), 0.2).surely_answers([0.99], 0.001)
    assert Confidence(Calibration(weights={"support": 1.0})).surely_answers([0.99], 0.001), "without a threshold"


# ------------------------------------------------------------ the model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"), masked_head=False)


@pytest.fixture(scope="module", params=["passage", "joint"])
def model(request: pytest.FixtureRequest, bert: Path) -> QuestionAnswering:
    """Random, with spans that differ: its answers lead."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reader = SpanReader.from_pretrained(bert, span_size=16, max_width=3)
        reader.head.score.weight.data.mul_(30.0)
        encoder = DenseEncoder.from_pretrained(bert, dim=8)
    config = override(FinetuneConfig(), ["reader.max_tokens=96", "reader.max_width=3", f"qa.level={request.param}"])
    return QuestionAnswering(encoder, reader, config)


def found(draw: random.Random, count: int, spread: float) -> list[Match]:
    words = tiny.WORDS.split()
    return [
        match(n, " ".join(draw.choice(words) for _ in range(draw.randint(1, 20))), draw.uniform(0, spread))
        for n in range(count)
    ]


def test_a_model_that_exits_early_answers_the_same(model: QuestionAnswering) -> None:
    draw = random.Random(0)
    questions = [f"who painted {word} ?" for word in tiny.WORDS.split()][:24]
    matches = [found(draw, 6, draw.choice([2.0, 30.0, 300.0])) for _ in questions]
    matches[3] = []
    fully = model.read(questions, matches, 7)
    early = model.read(questions, matches, 7, early_exit=EarlyExit(0.99))
    fewer = 0
    for all_read, some_read, mine in zip(fully, early, matches, strict=True):
        assert model.normalize(some_read.text) == model.normalize(all_read.text)
        assert some_read.abstained == all_read.abstained and some_read.unread <= 0.01
        assert some_read.confidence == pytest.approx(all_read.confidence, abs=some_read.unread + 1e-4)
        assert all_read.unread == 0.0 and len(all_read.evidence) == len(mine)
        before = {one.passage.number: one.prior for one in all_read.evidence}
        for one in some_read.evidence:
            assert one.prior == pytest.approx(before[one.passage.number], abs=1e-5), "over all that were found"
        fewer += len(some_read.evidence) < len(mine)
        assert (some_read.unread > 0) <= (len(some_read.evidence) < len(mine))
    assert fewer >= 3, "and some of it was not read"


def test_a_model_that_may_abstain_exits_only_where_it_surely_answers(model: QuestionAnswering) -> None:
    draw = random.Random(1)
    questions = [f"who painted {word} ?" for word in tiny.WORDS.split()][:16]
    matches = [found(draw, 5, 60.0) for _ in questions]
    plain = model.confidence
    try:
        for threshold in (0.3, 0.9):
            model.confidence = Confidence(Calibration(1.5, 1.2, 0.0), threshold)
            fully = model.read(questions, matches)
            early = model.read(questions, matches, early_exit=EarlyExit(0.9))
            assert [one.abstained for one in early] == [one.abstained for one in fully]
            assert all(not one.unread for one in early if one.abstained)
    finally:
        model.confidence = plain

"""Spans to answers: one answer whatever its places, cut from the text letter for letter."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm.evaluation.answers import normalize_orqa
from realm.methods.extraction import extract, signals_of

TEXTS = ("The Han, and the  Danube", "han !")
OFFSETS = [np.array([m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]) for text in TEXTS]
START_S, END_S = torch.tensor([0, 0, 1, 1, 5]), torch.tensor([1, 2, 2, 3, 6])


def joint(values: dict[tuple[int, int], float]) -> torch.Tensor:
    log_joint_KS = torch.full((2, 5), -math.inf)
    for place, value in values.items():
        log_joint_KS[place] = math.log(value)
    return log_joint_KS


def found(values: dict[tuple[int, int], float], aggregate: str = "marginal") -> list[tuple[str, float]]:
    answers = extract(joint(values), START_S, END_S, TEXTS, OFFSETS, normalize=normalize_orqa, aggregate=aggregate)
    return [(answer.text, round(math.exp(answer.log_prob), 6)) for answer in answers]


def test_the_same_answer_is_summed_over_spans_and_passages() -> None:
    # "The Han", "Han" and "Han," of the first passage, "han" of the second, and the Danube, which is the best span.
    values = {(0, 1): 0.2, (0, 2): 0.15, (0, 3): 0.05, (1, 0): 0.1, (0, 4): 0.3}
    assert found(values) == [("The Han", 0.5), ("Danube", 0.3)]
    assert found(values, "best-span") == [("Danube", 0.3), ("The Han", 0.2)]


def test_places_and_posteriors() -> None:
    answer = extract(
        joint({(0, 1): 0.2, (0, 2): 0.1, (1, 0): 0.1}), START_S, END_S, TEXTS, OFFSETS, normalize=normalize_orqa
    )[0]
    assert {k: TEXTS[k][slice(*place)] for k, place in answer.places.items()} == {0: "The Han", 1: "han"}
    assert [math.exp(answer.log_posterior(k)) for k in (0, 1, 2)] == pytest.approx([0.75, 0.25, 0.0])


def test_a_span_of_signs_is_no_answer() -> None:
    assert found({(0, 0): 0.5}) == [], "an article alone"
    assert found({}) == []


def test_another_aggregate_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of marginal, best-span"):
        found({}, "mean")


@given(
    st.text(alphabet="aAbé .,-😀\n", min_size=1, max_size=30),
    st.integers(0, 1000),
    st.sampled_from(("marginal", "best-span")),
)
def test_answers_stand_in_the_text(text: str, seed: int, aggregate: str) -> None:
    offsets_L2 = np.array([m.span() for m in re.finditer(r"\w|[^\w\s]", text)]).reshape(-1, 2)
    length = len(offsets_L2)
    start_S = torch.arange(length).repeat_interleave(3)
    end_S = start_S + torch.arange(1, 4).repeat(length)
    scores = torch.randn(1, 3 * length, generator=torch.Generator().manual_seed(seed))
    log_joint_KS = scores.masked_fill(end_S > length, -math.inf).log_softmax(-1)
    answers = extract(log_joint_KS, start_S, end_S, [text], [offsets_L2], normalize=normalize_orqa, aggregate=aggregate)
    assert all(answer.text and answer.text in text for answer in answers)
    assert all(text[slice(*answer.places[0])] == answer.text for answer in answers)
    keys = [normalize_orqa(answer.text) for answer in answers]
    assert len(set(keys)) == len(keys)
    assert sum(math.exp(answer.log_prob) for answer in answers) <= 1 + 1e-5


def test_signals_see_what_the_softmax_hides() -> None:
    """All spans a hundred times less likely is the same p(y|x), and another support."""
    span_KS, valid_KS = torch.tensor([[1.0, 2.0], [0.5, 9.0]]), torch.tensor([[True, True], [True, False]])
    score_K = torch.tensor([0.3, 0.3])
    found = signals_of(score_K, span_KS, valid_KS)
    weights = [math.exp(1.3), math.exp(2.3), math.exp(0.8)]
    assert found["support"] == pytest.approx(math.log(sum(weights)))
    assert found["prior_entropy"] == pytest.approx(math.log(2))
    assert signals_of(score_K, span_KS - 5, valid_KS)["support"] == pytest.approx(found["support"] - 5)
    missing = signals_of(torch.tensor([0.3, -math.inf]), span_KS, valid_KS & torch.tensor([[True], [False]]))
    assert missing["prior_entropy"] == pytest.approx(0.0)
    assert signals_of(score_K, span_KS, valid_KS & False) == {}

"""Calibration: what fitting must not break, what the figures are on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.errors import ArtefactError, UsageError
from realm.evaluation.calibration import (
    BINS,
    Calibration,
    area_under_risk_coverage,
    error_by_chance,
    expected_calibration_error,
    fit_best,
    fit_logistic,
    fit_temperature,
    reliability,
    reliability_curve,
    risk_coverage,
    risk_coverage_curve,
)
from realm.evaluation.plot import draw
from realm.evaluation.thresholds import threshold_between, threshold_for_accuracy, threshold_for_coverage

SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5001, 0.75, 0.9, 1.0])
JUDGED = st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=40)
MASSES = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=8)


def overconfident(questions: int = 600, seed: int = 0, sharpness: float = 3.0) -> tuple[list[list[float]], np.ndarray]:
    """A model whose logits are `sharpness` times too large, and whether its best answers are right."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(questions, 5))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answer = np.array([random.choice(5, p=row) for row in true])
    claimed = np.exp(sharpness * logits)
    return (claimed / claimed.sum(axis=1, keepdims=True)).tolist(), logits.argmax(axis=1) == answer


def test_fitting_finds_the_temperature_and_the_error_falls_on_other_questions() -> None:
    masses, right = overconfident()
    fitted = fit_temperature(masses, right)
    assert fitted.temperature == pytest.approx(3.0, rel=0.25)
    others, judged = overconfident(seed=1)
    before = expected_calibration_error(Calibration()(others), judged)
    after = expected_calibration_error(fitted(others), judged)
    assert before > 0.2 and after < 0.06
    by_error = fit_temperature(masses, right, by="ece")
    assert expected_calibration_error(by_error(others), judged) < 0.1


def test_the_curve_reaches_what_a_temperature_cannot() -> None:
    """One answer considered, always claimed with 0.9 or more, right in one of ten: no temperature claims so little."""
    random = np.random.default_rng(0)
    claimed = random.uniform(0.9, 0.99, 500)
    masses, right = [[share] for share in claimed], random.random(500) < (claimed - 0.85)
    tempered, curved = fit_temperature(masses, right), fit_logistic(masses, right)
    assert expected_calibration_error(tempered(masses), right) > 0.2
    assert expected_calibration_error(curved(masses), right) < 0.05
    assert curved(masses).mean() == pytest.approx(right.mean(), abs=0.02)


def signalled(questions: int = 800, seed: int = 0, weight: float = 2.0) -> tuple[list[list[float]], list[bool], list]:
    """Shares that say something about being right, and a signal that says more (nothing at weight 0)."""
    random = np.random.default_rng(seed)
    share, support = random.uniform(0.2, 0.9, questions), 50 + 10 * random.normal(size=questions)
    chance = 1 / (1 + np.exp(-(3 * (share - 0.6) + weight * (support - 50) / 10)))
    signals = [{"support": float(s), "prior_entropy": float(e)} for s, e in zip(support, random.random(questions))]  # noqa: B905
    return [[value] for value in share], (random.random(questions) < chance).tolist(), signals


def test_a_signal_that_helps_is_weighed_and_one_that_does_not_is_left() -> None:
    masses, right, signals = signalled()
    curve, losses = fit_best(masses, right, signals)
    assert set(curve.weights) == {"support"} and curve.weights["support"] == pytest.approx(0.2, rel=0.3)
    assert losses["share + support"] < losses["share"] - 0.05
    others, judged, told = signalled(seed=1)
    plain = fit_logistic(masses, right)
    assert area_under_risk_coverage(curve(others, told), judged) < area_under_risk_coverage(plain(others), judged) - 0.1
    assert expected_calibration_error(curve(others, told), judged) < 0.06
    assert Calibration.from_json(curve.to_json()) == curve
    softened, _ = fit_best(*overconfident(), [{} for _ in range(600)])
    assert softened.temperature > 2 and softened.slope == 1
    useless, _ = fit_best(*signalled(weight=0.0))
    assert not useless.weights
    alone, losses = fit_best(masses, right, [{} for _ in masses])  # answers of before had no signals
    assert not alone.weights and list(losses) == ["temperature", "share"]
    with pytest.raises(UsageError, match="without the signal 'support'"):
        curve(others)
    with pytest.raises(UsageError, match="without the signal"):
        curve([[0.5]], [{"support": float("nan")}])


def test_true_claims_have_the_error_of_chance() -> None:
    random = np.random.default_rng(0)
    claimed = random.uniform(0, 1, 300)
    by_chance = error_by_chance(claimed)
    true = [expected_calibration_error(claimed, random.random(300) < claimed) for _ in range(20)]
    assert by_chance == pytest.approx(np.mean(true), rel=0.15) and by_chance > 0.05
    assert error_by_chance(random.uniform(0, 1, 30_000), draws=3) < 0.01
    assert error_by_chance([1.0] * 20) == 0


@settings(max_examples=15)
@given(MASSES, st.randoms(use_true_random=False))
def test_fitting_never_makes_the_loss_worse_and_keeps_the_order(masses: list[list[float]], random: object) -> None:
    right = [bool(random.getrandbits(1)) for _ in masses]  # type: ignore[attr-defined]
    plain, fitted = Calibration()(masses), fit_temperature(masses, right)

    def loss(confidence: np.ndarray) -> float:
        p = np.clip(confidence, 1e-12, 1 - 1e-12)
        return float(-np.where(right, np.log(p), np.log(1 - p)).mean())

    assert loss(fitted(masses)) <= loss(plain) + 1e-9
    assert (fitted(masses) >= 0).all() and (fitted(masses) <= 1).all()
    curved = fit_logistic(masses, right)
    assert np.isfinite(curved(masses)).all()
    order = np.argsort(plain, kind="stable")
    assert (np.diff(curved(masses)[order]) >= -1e-9).all()
    assert Calibration.from_json(curved.to_json()) == curved


def test_one_claims_the_share_at_temperature_one_and_less_above() -> None:
    masses = [[0.6, 0.3], [0.6], [2.0, 2.0], [0.3, 0.6], [0.0]]
    assert Calibration()(masses) == pytest.approx([0.6, 0.6, 0.5, 0.6, 0.0])
    assert Calibration(4.0)(masses)[0] < 0.6 < Calibration(0.25)(masses)[0]
    assert Calibration(1e6)(masses)[0] == pytest.approx(1 / 3, abs=1e-3)  # two answers and the rest


@pytest.mark.parametrize("masses", [[[0.5, -0.1]], [[float("nan")]], [[[0.5]]]])
def test_masses_that_are_none(masses: list[list[float]]) -> None:
    with pytest.raises(UsageError, match="found the masses"):
        Calibration()(masses)


def test_settings_that_are_none() -> None:
    for values in ({"temperature": 0.0}, {"slope": -1.0}, {"intercept": float("inf")}):
        with pytest.raises(UsageError, match="expected"):
            Calibration(**values)
    for value in (None, {"temperature": 1.0}, {"temperature": "x", "slope": 1, "intercept": 0}):
        with pytest.raises(ArtefactError, match="calibrate again"):
            Calibration.from_json(value)
    with pytest.raises(UsageError, match="judgements"):
        fit_temperature([[0.5]], [True, False])


def test_the_error_by_hand() -> None:
    confidence, right = [0.2, 0.3, 0.8, 0.9], [0, 1, 1, 1]
    assert expected_calibration_error(confidence, right, bins=2) == pytest.approx((0.25 + 0.15) / 2)
    assert expected_calibration_error(confidence, right, bins=1) == pytest.approx(0.2)
    assert expected_calibration_error([0.5] * 10, [True, False] * 5) == 0  # ties are one lot, whatever the bins
    assert len(reliability(np.linspace(0, 1, 100), np.zeros(100))) == BINS == 15
    with pytest.raises(UsageError, match="no confidences"):
        expected_calibration_error([], [])
    with pytest.raises(UsageError, match="no numbers"):
        expected_calibration_error([float("nan")], [True])


@given(JUDGED, st.randoms(use_true_random=False))
def test_no_figure_depends_on_the_order(judged: list[tuple[float, bool]], random: object) -> None:
    shuffled = list(judged)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for figure in (expected_calibration_error, area_under_risk_coverage):
        assert figure(*zip(*judged, strict=True)) == pytest.approx(figure(*zip(*shuffled, strict=True)))
        assert 0 <= figure(*zip(*judged, strict=True)) <= 1


@given(JUDGED)
def test_the_bins_hold_every_question_once_and_as_many_each(judged: list[tuple[float, bool]]) -> None:
    confidence, right = zip(*judged, strict=True)
    bins = reliability(confidence, right)
    counts = [bin.share * len(judged) for bin in bins]
    assert sum(counts) == pytest.approx(len(judged)) and max(counts) - min(counts) < 1.5
    assert sum(bin.share * bin.right for bin in bins) == pytest.approx(np.mean(right))
    assert [bin.confidence for bin in bins] == sorted(bin.confidence for bin in bins)


@given(JUDGED)
def test_risk_ends_at_the_error_rate(judged: list[tuple[float, bool]]) -> None:
    confidence, right = zip(*judged, strict=True)
    coverage, risk = risk_coverage(confidence, right)
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(1 - np.mean(right))
    assert ((risk >= -1e-12) & (risk <= 1 + 1e-12)).all()
    best = area_under_risk_coverage(right, right)
    assert best <= area_under_risk_coverage(confidence, right) + 1e-12


def test_the_area_by_hand() -> None:
    assert area_under_risk_coverage([0.9, 0.8, 0.1], [1, 1, 0]) == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert area_under_risk_coverage([0.1, 0.2, 0.9], [1, 1, 0]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert area_under_risk_coverage([0.5, 0.5], [1, 0]) == pytest.approx(0.5)  # the mean over both orders


@given(JUDGED, st.floats(0.05, 1.0))
def test_a_threshold_keeps_its_promise(judged: list[tuple[float, bool]], target: float) -> None:
    confidence, right = (np.array(column) for column in zip(*judged, strict=True))
    lower = [t for t in np.unique(confidence) if right[confidence >= t].mean() >= target - 1e-12]
    if lower:
        threshold = threshold_for_accuracy(confidence, right, target)
        assert threshold == min(lower)
    else:
        with pytest.raises(UsageError, match="at best"):
            threshold_for_accuracy(confidence, right, target)
    threshold = threshold_for_coverage(confidence, target)
    assert (confidence >= threshold).mean() >= target - 1e-9
    assert (confidence > threshold).mean() < target


def test_the_threshold_between_two_kinds() -> None:
    confidence = [0.1, 0.2, 0.3, 0.6, 0.7, 0.9]
    answerable = [False, False, True, False, True, True]
    threshold = threshold_between(confidence, answerable)
    kept = np.array(confidence) >= threshold
    assert threshold == pytest.approx(0.3) or threshold == pytest.approx(0.7)
    assert (~kept)[~np.array(answerable)].mean() >= 2 * (~kept)[np.array(answerable)].mean()
    # Of the two, only one abstains from the unanswerable four times as often.
    assert threshold_between(confidence, answerable, 4.0) == pytest.approx(0.3)
    with pytest.raises(UsageError, match="lower ratio"):
        threshold_between([0.1, 0.2, 0.3], [True, False, True], 3.0)
    for one_kind in ([True] * 6, [False] * 6):
        with pytest.raises(UsageError, match="one kind"):
            threshold_between(confidence, one_kind)
    with pytest.raises(UsageError, match="coverage"):
        threshold_for_coverage(confidence, 0)


def test_the_curves_can_be_drawn() -> None:
    masses, right = overconfident(100)
    confidence = Calibration()(masses)
    plot = draw(reliability_curve(reliability(confidence, right)))
    assert [line.label for line in plot.lines] == ["measured", "as claimed"]
    assert plot.moments[0].text.startswith("confidence 0: as claimed 0%")
    coverage, risk = risk_coverage(confidence, right)
    plot = draw(risk_coverage_curve(coverage, risk))
    assert plot.moments[-1].text == f"coverage 100: {1 - right.mean():.0%}"

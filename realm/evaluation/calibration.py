"""Confidence that means something: fitted on questions with known answers, measured on others.

Legend: P questions, A candidate answers of a question. A confidence is what is claimed for the best answer; `right`
says whether that answer was right (it never is for a question that has none).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from realm.errors import ArtefactError, UsageError
from realm.evaluation.plot import Curve, Series

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

BINS = 15
"""Of equal mass: each holds the same number of questions (Nguyen & O'Connor 2015). Bins of equal width would leave
most of them empty, because the confidences of a weak model lie close together."""

SIGNALS = ("support", "prior_entropy")
"""Of an answer, in the order in which a calibration takes them up; see `methods.extraction.signals_of`."""
RIDGE = 0.01

_TINY = 1e-12
Signals = Sequence[Mapping[str, float]]
Loss = Literal["nll", "ece"]


@dataclass(frozen=True)
class Calibration:
    """From what a model says to what is claimed: temperature over the candidates, then a logistic curve."""

    temperature: float = 1.0
    """Guo et al. (2017): p(y)^(1/T), normalised over the considered answers. The order of answers stays."""
    slope: float = 1.0
    """Platt (1999): sigmoid(slope * logit(p) + intercept). At 1 and 0 it changes nothing."""
    intercept: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of `Answer.signals` in the sigmoid, by name."""

    def __post_init__(self) -> None:
        values = (self.temperature, self.slope, self.intercept, *self.weights.values())
        if not all(np.isfinite(values)) or self.temperature <= 0 or self.slope < 0:
            raise UsageError(
                f"found temperature {self.temperature}, slope {self.slope}, intercept {self.intercept}: expected "
                "finite numbers, a temperature above 0 and a slope of at least 0"
            )

    def __call__(self, masses: Sequence[Sequence[float]], signals: Signals | None = None) -> FloatArray:
        """Claimed confidence of the best answer of each question, Float[P]. masses: as for `fit_temperature`.

        signals: of each question, `Answer.signals`. UsageError where one that was weighed is missing.
        """
        top_P = _tempered(_ratios(masses), self.temperature)
        if self.slope == 1.0 and self.intercept == 0.0 and not self.weights:
            return top_P
        value_P = self.slope * _logit(top_P) + self.intercept
        for name, weight in self.weights.items():
            value_P = value_P + weight * signal_column(name, signals, len(top_P))
        return _sigmoid(value_P)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "weights": dict(self.weights)}

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """ArtefactError when it is not what `to_json` gave."""
        numbers = {"temperature", "slope", "intercept"}
        if not isinstance(value, dict) or set(value) - {"weights"} != numbers:
            raise ArtefactError(f"found {value!r}: expected temperature, slope and intercept; calibrate again")
        try:
            weights = {str(name): float(weight) for name, weight in dict(value.get("weights", {})).items()}
            return cls(**{name: float(value[name]) for name in numbers}, weights=weights)
        except (TypeError, ValueError) as error:
            raise ArtefactError(f"found {value!r} ({error}): expected numbers; calibrate again") from None


def fit_temperature(masses: Sequence[Sequence[float]], right: Sequence[bool], by: Loss = "nll") -> Calibration:
    """The temperature that makes the best answer's share foretell whether it is right.

    masses: for each question the probabilities of its considered answers (any positive scale), as in
    `Answer.confidence` and `Answer.alternatives`; the largest is the answer given. What they leave to 1 belongs to
    answers that were not kept and counts as one more. by: the log loss of `right`, or the calibration error.
    The best of a grid from 1/32 to 32, refined twice; so it is no worse than T = 1, and deterministic.
    """
    ratio_PA, right_P = _ratios(masses), _right(right, len(masses))

    def loss(log2_temperature: float) -> float:
        confidence_P = _tempered(ratio_PA, 2.0**log2_temperature)
        return _log_loss(confidence_P, right_P) if by == "nll" else expected_calibration_error(confidence_P, right_P)

    return Calibration(2.0 ** _search(loss, -5.0, 5.0))


def fit_logistic(
    masses: Sequence[Sequence[float]],
    right: Sequence[bool],
    temperature: float = 1.0,
    signals: Signals | None = None,
    names: Sequence[str] = (),
) -> Calibration:
    """Platt's curve over the share of the best answer at a temperature, by Newton's method on the log loss.

    A temperature alone can't bring a share of 0.9 below the share that equal answers would have; where a model is
    rarely right this can. Targets are Platt's (a pair of questions counts on the other side), so that it also has a
    finite answer when all or none are right. names: signals that are weighed, too; a ridge keeps each near 0 where
    there is little to learn it from.
    """
    right_P = _right(right, len(masses))
    logit_P = _logit(Calibration(temperature)(masses))
    columns = np.stack([logit_P, *(signal_column(name, signals, len(masses)) for name in names)], axis=1)
    # Signals are put on one scale, so that the ridge means the same for each; the share's own slope is left free.
    centre, scale = columns.mean(0), np.maximum(columns.std(0), 1e-9)
    centre[0], scale[0] = 0.0, 1.0
    design_PF = np.column_stack([(columns - centre) / scale, np.ones(len(right_P))])
    ridge = np.diag([1e-6, *(RIDGE for _ in names), 1e-6])
    positive = float(right_P.sum())
    target_P = np.where(right_P > 0, (positive + 1) / (positive + 2), 1 / (len(right_P) - positive + 2))
    prior = np.array([1.0, *(0.0 for _ in names), 0.0])
    weights = np.array([1.0, *(0.0 for _ in names), _logit(np.array([target_P.mean()]))[0]])
    for _ in range(100):
        p_P = _sigmoid(design_PF @ weights)
        gradient = design_PF.T @ (p_P - target_P) + ridge @ (weights - prior)
        hessian = (design_PF * (p_P * (1 - p_P))[:, None]).T @ design_PF + ridge
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step * min(1.0, 5.0 / float(np.abs(step).max() + _TINY))  # long steps overshoot
        if float(np.abs(step).max()) < 1e-9:
            break
    if weights[0] < 0:  # more confident where it is wrong: the share of right answers is all that can be claimed
        return Calibration(temperature, 0.0, float(_logit(np.array([target_P.mean()]))[0]))
    slopes = weights[:-1] / scale
    intercept = float(weights[-1] - (slopes * centre).sum())
    weighed = {name: float(weight) for name, weight in zip(names, slopes[1:], strict=True)}
    return Calibration(temperature, float(slopes[0]), intercept, weighed)


def fit_best(
    masses: Sequence[Sequence[float]], right: Sequence[bool], signals: Signals, folds: int = 5
) -> tuple[Calibration, dict[str, float]]:
    """Of a temperature alone, and curves over the share of the best answer and as many of `SIGNALS`, in their order,
    that which foretells best on questions it was not fitted on.

    (fitted on all; the log loss of each choice over `folds` parts, each judged by a fit on the others). A signal that
    some question lacks is no choice, nor any behind it; of nearly equal ones the simplest.
    """
    right_P = _right(right, len(masses))
    there = [name for name in SIGNALS if all(np.isfinite(one.get(name, np.nan)) for one in signals)]
    counts = [count for count in range(len(SIGNALS) + 1) if set(SIGNALS[:count]) <= set(there)]
    choices: dict[str, tuple[str, ...] | None] = {"temperature": None}
    choices |= {" + ".join(("share", *SIGNALS[:count])): tuple(SIGNALS[:count]) for count in counts}
    part_P, losses = np.arange(len(masses)) % folds, dict[str, float]()
    for choice, names in choices.items():
        losses[choice] = 0.0
        for part in range(folds):
            inside, outside = np.nonzero(part_P != part)[0], np.nonzero(part_P == part)[0]
            if not len(inside) or not len(outside):
                continue
            curve = _fitted(_at(masses, inside), right_P[inside], _at(signals, inside), names)
            claimed = curve(_at(masses, outside), _at(signals, outside))
            losses[choice] += _log_loss(claimed, right_P[outside]) * len(outside) / len(masses)
    best = min(choices, key=lambda choice: losses[choice] + 1e-4 * list(choices).index(choice))
    return _fitted(masses, right_P, signals, choices[best]), losses


def _fitted(masses: Any, right_P: FloatArray, signals: Signals, names: Sequence[str] | None) -> Calibration:
    right = [bool(value) for value in right_P]
    return fit_temperature(masses, right) if names is None else fit_logistic(masses, right, 1.0, signals, names)


def _at(values: Sequence[Any], index: Any) -> list[Any]:
    return [values[i] for i in index.tolist()]


def signal_column(name: str, signals: Signals | None, count: int) -> FloatArray:
    """Float[P]: a signal of each question. UsageError where one has none."""
    values = [one.get(name, np.nan) for one in signals or ()]
    if len(values) != count or not np.isfinite(values).all():
        raise UsageError(
            f"found questions without the signal {name!r}: expected it of each; answer with the model that was "
            "calibrated, or calibrate again"
        )
    return np.asarray(values, np.float64)


def expected_calibration_error(
    confidence: Sequence[float] | FloatArray, right: Sequence[bool] | FloatArray, bins: int = BINS
) -> float:
    """Mean over questions of |share right - mean confidence| of the bin (Naeini et al. 2015), bins of equal mass.

    Questions of equal confidence count as if each were right in the share that all of them are, so that their order
    does not matter. With fewer questions than bins there are as many bins as questions.
    """
    return float(sum(bin.share * abs(bin.right - bin.confidence) for bin in reliability(confidence, right, bins)))


def error_by_chance(confidence: Sequence[float] | FloatArray, bins: int = BINS, draws: int = 200) -> float:
    """The calibration error that claims like these would have if they were exactly true, on so few questions.

    Right and wrong are drawn by the claims themselves: what a bin differs by then is chance. A measured error about as
    large says nothing against the claims; a smaller one can only be luck. Deterministic.
    """
    confidence_P, random = finite(confidence), np.random.default_rng(0)
    found = [
        expected_calibration_error(
            confidence_P, (random.random(len(confidence_P)) < confidence_P).astype(np.float64), bins
        )
        for _ in range(draws)
    ]
    return float(np.mean(found))


class Bin(NamedTuple):
    """Questions of like confidence."""

    share: float
    confidence: float
    right: float


def reliability(
    confidence: Sequence[float] | FloatArray, right: Sequence[bool] | FloatArray, bins: int = BINS
) -> list[Bin]:
    """The bins of the calibration error, least confident first."""
    if bins < 1:
        raise UsageError(f"found {bins} bins: expected at least 1")
    confidence_P, right_P = by_confidence(confidence, right)
    parts = np.array_split(np.arange(len(confidence_P)), min(bins, len(confidence_P)))
    return [
        Bin(len(part) / len(confidence_P), float(confidence_P[part].mean()), float(right_P[part].mean()))
        for part in parts
    ]


def risk_coverage(
    confidence: Sequence[float] | FloatArray, right: Sequence[bool] | FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(coverage, risk), each Float[P]: the share of wrong answers among the i most confident questions
    (El-Yaniv & Wiener 2010). Among equal confidences it is the mean over their orders."""
    _, right_P = by_confidence(confidence, right)
    answered_P = np.arange(1, len(right_P) + 1, dtype=np.float64)
    return answered_P / len(right_P), np.cumsum(1.0 - right_P[::-1]) / answered_P


def area_under_risk_coverage(confidence: Sequence[float] | FloatArray, right: Sequence[bool] | FloatArray) -> float:
    """AURC: the mean of the risks (Geifman et al. 2019); 0 is best, the error rate is what a random order has."""
    return float(risk_coverage(confidence, right)[1].mean())


def reliability_curve(bins: Sequence[Bin], label: str = "measured") -> Curve:
    """How often answers of a confidence are right, for `realm.evaluation.plot`; both in percent."""
    points = [(bin.confidence * 100, bin.right * 100) for bin in bins]
    series = [Series(label=label, points=points), Series(label="as claimed", points=[(0, 0), (100, 100)])]
    meaning = "Right answers in percent, over the confidence claimed for them in percent, in bins of equal size."
    return Curve(title="Reliability", meaning=meaning, series=series, form="{:.0f}%", axis="confidence")


def risk_coverage_curve(coverage: FloatArray, risk: FloatArray, label: str = "measured") -> Curve:
    """Wrong answers in percent, over the share of questions that are answered, most confident first."""
    points = [(float(x) * 100, float(y) * 100) for x, y in zip(coverage, risk, strict=True)]
    meaning = "Wrong answers in percent, over the percentage of questions answered, the most confident first."
    everything = [("all answered", points[-1][1])] if points else []
    series = [Series(label=label, points=points)]
    facts: dict[str, Any] = {"form": "{:.0f}%", "baselines": everything, "axis": "coverage"}
    return Curve(title="Risk and coverage", meaning=meaning, series=series, **facts)


# ---------------------------------------------------------------- inside


def _masses(row: Sequence[float]) -> FloatArray:
    """Shares of the considered answers, the best first, and what they leave to 1."""
    mass_A = np.sort(np.asarray(row, np.float64))[::-1]
    if mass_A.ndim != 1 or not np.isfinite(mass_A).all() or (mass_A < 0).any():
        raise UsageError(f"found the masses {list(row)!r}: expected numbers of at least 0")
    total = float(mass_A.sum())
    if total > 1:
        return mass_A / total
    return np.append(mass_A, 1.0 - total) if total > 0 and 1.0 - total > 1e-9 else mass_A


def _ratios(masses: Sequence[Sequence[float]]) -> FloatArray:
    """log p(y) - log p(best), Float[P, A]; -inf where there is no answer or no mass, NaN where nothing has any: there
    nothing is claimed at any temperature."""
    rows = [_masses(row) for row in masses]
    ratio_PA = np.full((len(rows), max(map(len, rows), default=0)), -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        for p, row in enumerate(rows):
            ratio_PA[p, : len(row)] = np.log(row) - np.log(row[:1]) if len(row) and row[0] > 0 else np.nan
    return ratio_PA


def _tempered(ratio_PA: FloatArray, temperature: float) -> FloatArray:
    """Float[P]: the share of the best answer; what has no mass at T = 1 has none at any T."""
    with np.errstate(over="ignore"):
        share_P = 1.0 / np.exp(ratio_PA / temperature).sum(axis=1)
    return np.asarray(np.nan_to_num(share_P, nan=0.0, posinf=0.0), np.float64)


def by_confidence(confidence: Any, right: Any) -> tuple[FloatArray, FloatArray]:
    """Sorted by confidence, ascending; questions of equal confidence get the mean of their `right`."""
    confidence_P = finite(confidence)
    right_P = _right(right, len(confidence_P))
    values, place_P = np.unique(confidence_P, return_inverse=True)
    mean = np.bincount(place_P, weights=right_P, minlength=len(values)) / np.bincount(place_P, minlength=len(values))
    order = np.sort(place_P)
    return values[order], mean[order]


def finite(confidence: Any) -> FloatArray:
    confidence_P = np.asarray(confidence, np.float64)
    if confidence_P.ndim != 1 or not len(confidence_P) or not np.isfinite(confidence_P).all():
        raise UsageError("found no confidences, or some that are no numbers: expected one a question, at least one")
    return confidence_P


def _right(right: Any, length: int) -> FloatArray:
    right_P = np.asarray(right, np.float64)
    if right_P.shape != (length,) or not length:
        raise UsageError(f"found {right_P.shape} judgements for {length} questions: expected one each, at least one")
    return right_P


def _log_loss(confidence_P: FloatArray, right_P: FloatArray) -> float:
    p_P = np.clip(confidence_P, _TINY, 1 - _TINY)
    return float(-(right_P * np.log(p_P) + (1 - right_P) * np.log(1 - p_P)).mean())


def _search(loss: Callable[[float], float], low: float, high: float) -> float:
    """A grid that holds 0 (no change), refined around its best; among equals, the one nearest to 0."""
    best = 0.0
    for _ in range(3):
        grid = np.append(np.linspace(low, high, 41), best)
        best = float(min(grid, key=lambda x: (loss(float(x)), abs(x))))
        width = (high - low) / 20
        low, high = best - width, best + width
    return best


def _logit(p: FloatArray) -> FloatArray:
    clipped = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), np.float64)


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float64)

"""Calibrated confidence: what a fine-tuned model claims after `realm calibrate`, and when it would rather not answer.

The file lies in the model's folder; a model without one claims its own p(y|x) and answers everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from realm import files
from realm.errors import ArtefactError
from realm.evaluation.calibration import Calibration
from realm.methods.extraction import ALTERNATIVES
from realm.types import Answer

FILE = "calibration.json"
FORMAT = "realm calibration"


@dataclass(frozen=True)
class Confidence:
    """From p(y|x) to a claim, and the claim below which nothing is answered."""

    calibration: Calibration = field(default_factory=Calibration)
    threshold: float = 0.0
    passages: int | None = None
    """So many were read for each question that it was fitted on; p(y|x) is normalised over what is read."""

    def __call__(self, answer: Answer) -> Answer:
        """The answer with its calibrated confidence. Below the threshold it abstains: its text is then the first of
        the alternatives, whose shares stay those of the model."""
        if answer.abstained:
            return answer
        masses = [answer.confidence, *(share for _, share in answer.alternatives)]
        claimed = float(self.calibration([masses], [answer.signals])[0])
        if claimed >= self.threshold:
            return replace(answer, confidence=claimed)
        others = ((answer.text, answer.confidence), *answer.alternatives)
        return replace(answer, text="", confidence=claimed, abstained=True, alternatives=others)

    def surely_answers(self, masses: Sequence[float], unread: float) -> bool:
        """Whether an answer is given, not an abstention, also where every p(y|x) may be off by `unread`.

        masses: p(y|x) of the answers, the likeliest first. With a threshold on a claim that weighs signals nobody
        knows, as one of them is of all that there is to read.
        """
        if self.threshold <= 0:
            return True
        others = [mass + unread for mass in (*masses[1:], *[0.0] * ALTERNATIVES)][:ALTERNATIVES]
        first = max(0.0, masses[0] - unread)
        left = max(0.0, 1.0 - first - sum(max(0.0, mass - 2 * unread) for mass in others))
        if self.calibration.weights or first <= max(left, *others):
            return False
        return float(self.calibration([[first, *others, left]])[0]) >= self.threshold


def save_confidence(folder: Path, confidence: Confidence, facts: dict[str, Any]) -> None:
    """Write it into a model's folder. facts: JSON values, what it was fitted on."""
    value = {"format": FORMAT, **confidence.calibration.to_json(), "threshold": confidence.threshold, "facts": facts}
    files.write_json(folder / FILE, value)


def open_confidence(folder: Path) -> Confidence:
    """What a model's folder says; the model's own claims where it says nothing. ArtefactError for a damaged file."""
    if not (folder / FILE).exists():
        return Confidence()
    value = files.read_json(folder / FILE)
    names = ("temperature", "slope", "intercept")
    known = isinstance(value, dict) and value.get("format") == FORMAT and all(name in value for name in names)
    if not known or not isinstance(value.get("threshold"), int | float):
        raise ArtefactError(
            f"{folder / FILE} is no calibration of realm: calibrate the model again, or remove the file"
        )
    curve = {**{name: value[name] for name in names}, "weights": value.get("weights", {})}
    passages = dict(value.get("facts") or {}).get("passages")
    return Confidence(Calibration.from_json(curve), float(value["threshold"]), passages)

"""The page of a calibration: reliability before and after, risk against coverage, the figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from realm.evaluation import calibration as cal
from realm.evaluation.report import Table, write_report


def write_page(
    path: Path,
    model: Path,
    suite: str,
    result: dict[str, Any],
    right: cal.FloatArray,
    before: cal.FloatArray,
    after: cal.FloatArray,
) -> None:
    """Write one HTML file. right, before, after: of each question that nothing was fitted on, whether its answer was
    right and what was claimed for it."""
    reliability = cal.reliability_curve(cal.reliability(after, right), "after")
    was = cal.reliability_curve(cal.reliability(before, right), "before").series[0]
    risk = cal.risk_coverage_curve(*cal.risk_coverage(after, right), label="after")
    risk_was = cal.risk_coverage_curve(*cal.risk_coverage(before, right), label="before").series[0]
    rows = [
        [name.replace("_", " "), f"{result['before'][name]:.3f}" if name in result["before"] else "–", f"{value:.3f}"]
        for name, value in result["after"].items()
    ]
    fit, questions = result["calibration"], result["questions"]
    weights = ", ".join(f"{name} {value:+.3f}" for name, value in fit["weights"].items())
    write_report(
        path,
        title=f"Calibration of {model.parent.name if model.name == 'model' else model.name}",
        subtitle=f"{questions['judged']:,} questions that nothing was fitted on",
        facts={
            "questions": suite,
            "fitted on": f"{questions['fitted']:,} questions",
            "passages read": str(result["passages"]),
            "temperature": f"{fit['temperature']:.3g}",
            "curve": f"slope {fit['slope']:.3g}, intercept {fit['intercept']:.3g}",
            "weights": weights or "none",
            "threshold": f"{result['threshold']:.3f}",
        },
        curves=[
            replace(reliability, series=[reliability.series[0], was, reliability.series[1]]),
            replace(risk, series=[risk.series[0], risk_was]),
        ],
        curves_title="Claims and what became of them",
        table=Table(columns=["", "before", "after"], rows=rows, emphasis=2),
        notes=[
            "ece by chance: the error that claims like these would show on so few questions if they were exactly true.",
            "A question that has no answer is wrong whatever is answered, in both plots.",
        ],
    )

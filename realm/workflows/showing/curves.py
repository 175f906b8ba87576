"""What of a training is worth a plot, and the plots of the trainings that a model stems from."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from realm import files
from realm.errors import RealmError
from realm.evaluation.plot import Curve, Series, curve_of, fitting
from realm.training.metrics import read_metrics
from realm.workflows.run import FINETUNING, FORMAT, Run

log = logging.getLogger("realm.workflows")
KINDS = {FORMAT: "pre-training", FINETUNING: "fine-tuning"}


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Figures of ``metrics.jsonl`` that belong in one plot."""

    name: str
    """Stays what it is, whatever the title says: a page in another language knows the plot by it."""
    title: str
    meaning: str
    """One sentence for a reader who has not read the paper."""
    figures: Mapping[str, str]
    """Name in metrics.jsonl -> label."""
    stage: str
    kind: str = "train"
    form: str = "{:.2f}"

    def curve(self, events: Iterable[Mapping[str, Any]]) -> Curve:
        """What the events hold of it; without series where that is nothing."""
        chosen = [event for event in events if event.get("kind") == self.kind]
        return curve_of(chosen, self.figures, stage=self.stage, title=self.title, meaning=self.meaning, form=self.form)


PRETRAINING = (
    Watched(
        name="probe",
        title="recall@5 on the probe",
        meaning="How often the masked words of the first 1,000 probe sentences stand in one of the first five "
        "passages.",
        figures={"recall@5": "REALM"},
        stage="realm",
        kind="refresh",
        form="{:.1%}",
    ),
    Watched(
        name="loss",
        title="Loss",
        meaning="-log p(y|x): how surprising the masked words were with the retrieved passages at hand.",
        figures={"loss": "loss"},
        stage="realm",
    ),
    Watched(
        name="utility",
        title="Retrieval utility",
        meaning="log p(y|z,x) - log p(y|null,x): how much a passage helps; above 0 it helps.",
        figures={"retrieval_utility_top1": "best passage", "retrieval_utility": "mean of the passages"},
        stage="realm",
        form="{:+.2f}",
    ),
    Watched(
        name="null",
        title="Null passage",
        meaning="The share of belief that no passage is needed, before and after the answer is known.",
        figures={"null_prior": "p(null|x)", "null_posterior": "p(null|x,y)"},
        stage="realm",
        form="{:.1%}",
    ),
    Watched(
        name="index-age",
        title="Index age",
        meaning="Steps since the parameters of the index in use were published.",
        figures={"index_age_steps": "steps"},
        stage="realm",
        form="{:.0f}",
    ),
    Watched(
        name="warm-start",
        title="Warm start",
        meaning="The inverse cloze task: how surprising the right passage was among those of the batch.",
        figures={"loss": "loss"},
        stage="ict",
    ),
)
FINE_TUNING = (
    Watched(
        name="exact-match",
        title="Exact match on the dev questions",
        meaning="How often the answer was right, and how sure the model was of its answers.",
        figures={"exact_match": "exact match", "confidence": "mean confidence"},
        stage="qa",
        kind="dev",
        form="{:.1%}",
    ),
    Watched(
        name="qa-loss",
        title="Loss",
        meaning="How surprising the answers were: as a whole, to the reader, and to the search over many passages.",
        figures={"loss": "whole", "reader_loss": "reader", "early_loss": "search"},
        stage="qa",
    ),
    Watched(
        name="qa-recall",
        title="Recall in training",
        meaning="How often an answer stood in the first passage, or in one of the first five.",
        figures={"recall@1": "first passage", "recall@5": "first five"},
        stage="qa",
        form="{:.1%}",
    ),
)
WATCHED = {FORMAT: PRETRAINING, FINETUNING: FINE_TUNING}


def curves(path: Path, watched: Sequence[Watched] = PRETRAINING) -> list[tuple[Watched, Curve]]:
    """The plots of a run folder's ``metrics.jsonl`` that have something in them."""
    events = read_metrics(path / "metrics.jsonl")
    drawn = [(one, one.curve(events)) for one in watched]
    return [(one, curve) for one, curve in drawn if curve.series]


def trainings(model: str | Path) -> list[dict[str, Any]]:
    """The trainings that a model stems from as JSON values, the last one first, each with its curves.

    model: as `--model` takes it: a run, something inside one, or anything else, which stems from none that is known
    here. Of a fine-tuned model also the run that it began with, where that is still there. A run that can't be read is
    left out, and the log says why: a model answers without its curves.
    """
    found: list[dict[str, Any]] = []
    seen: set[Path] = set()
    place, before = _run_folder(Path(model).expanduser()), None
    while place is not None and place not in seen:
        seen.add(place)
        try:
            told, parent = _training(place, before)
        except (RealmError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("no curves of %s: %s", place.name, error)
            break
        if told is None:
            break
        found.append(told)
        before, place = datetime.fromisoformat(told["created"]), parent
    return found


def _training(path: Path, before: datetime | None) -> tuple[dict[str, Any] | None, Path | None]:
    """A run as JSON values, and the folder of the run that it began with. None where it is a later one than `before`:
    what was begun with once stood in its place."""
    format = files.read_json(path / "run.json").get("format")
    facts = Run(path, format if format in KINDS else FORMAT).facts()
    created = datetime.fromisoformat(facts["created"])
    if before is not None and created > before:
        return None, None
    told = {
        "kind": KINDS[facts["format"]],
        "created": created.isoformat(),
        "realm_version": str(facts["realm_version"]),
        "curves": [_curve_json(one, curve) for one, curve in curves(path, WATCHED[facts["format"]])],
    }
    parent = Path(str(facts["parents"].get("model") or ""))
    return told, _run_folder(parent) if parent.is_absolute() else None


def _curve_json(watched: Watched, curve: Curve) -> dict[str, Any]:
    names = {label: name for name, label in watched.figures.items()}
    return {
        "name": watched.name,
        "title": curve.title,
        "meaning": curve.meaning,
        "stage": watched.stage,
        "share": curve.form.endswith("%}"),
        "series": [
            {"name": names[one.label], "label": one.label, "points": [[x, float(f"{y:.5g}")] for x, y in one.points]}
            for one in map(_fitted, curve.series)
            if one.points
        ],
    }


def _fitted(series: Series) -> Series:
    return replace(series, points=fitting(series.points))


def _run_folder(path: Path) -> Path | None:
    """The run that `path` is, or lies in."""
    absolute = path.absolute()
    return next((place for place in (absolute, *absolute.parents[:4]) if (place / "run.json").is_file()), None)

"""The answer that tells of the model, as OpenAPI shows it; see `schemas`."""

from __future__ import annotations

from typing import Literal

from realm.service.schemas import Out


class SeriesOut(Out):
    """One line of a plot. name: the figure's in metrics.jsonl. points: step and figure, averaged in groups where there
    are many."""

    name: str
    label: str
    points: list[tuple[float, float]]


class CurveOut(Out):
    """One plot of a training. share: whether its figures are shares, 0 to 1."""

    name: str
    title: str
    meaning: str
    stage: Literal["ict", "realm", "qa"]
    share: bool
    series: list[SeriesOut]


class TrainingOut(Out):
    """A run that the model stems from."""

    kind: Literal["pre-training", "fine-tuning"]
    created: str
    realm_version: str
    curves: list[CurveOut]


class ModelOut(Out):
    """What answers. kind: whether it fills blanks or answers questions. encoder: its fingerprint, as the knowledge base
    names encoders. k: passages that it reads where a question names no number. trainings: the last one first, empty
    where no run is known."""

    kind: Literal["pre-trained", "fine-tuned"]
    encoder: str
    k: int
    trainings: list[TrainingOut]

"""Curves of the trainings that a model stems from."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
from toy_service import write_run

from realm import files
from realm.evaluation.plot import MAX_POINTS
from realm.settings_finetune import FinetuneConfig
from realm.training.metrics import Metrics
from realm.workflows.run import FINETUNING, Run
from realm.workflows.showing.curves import curves, trainings


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def tuned(folder: Path, model: str) -> Path:
    Run(folder, FINETUNING).create_or_resume(FinetuneConfig(), {"model": model})
    with Metrics(folder) as metrics:
        for step in (0, 50):
            metrics.write({"stage": "qa", "kind": "dev", "step": step, "exact_match": step / 100, "confidence": 0.5})
    return folder


def test_a_run_and_what_lies_in_it(run: Path) -> None:
    (found,) = trainings(run)
    assert found["kind"] == "pre-training" and files.read_json(run / "run.json")["created"] == found["created"]
    by_name = {curve["name"]: curve for curve in found["curves"]}
    assert list(by_name) == ["probe", "loss", "utility", "null"]
    assert by_name["probe"]["share"] and not by_name["loss"]["share"]
    (loss,) = by_name["loss"]["series"]
    assert loss == {"name": "loss", "label": "loss", "points": [[10, 9], [20, 8], [30, 7], [40, 6], [50, 5]]}
    assert [line["name"] for line in by_name["utility"]["series"]] == ["retrieval_utility_top1", "retrieval_utility"]
    inside = run / "checkpoints" / "step-000050" / "encoder"
    inside.mkdir(parents=True)
    assert trainings(inside) == trainings(run / "model") == [found]
    json.dumps(found, allow_nan=False)


def test_a_model_from_elsewhere_has_none(tmp_path: Path) -> None:
    assert trainings("vital-small") == trainings(tmp_path / "nothing") == []


def test_a_fine_tuned_model_has_those_of_the_run_that_it_began_with(run: Path, tmp_path: Path) -> None:
    newest, first = trainings(tuned(tmp_path / "tuned", str(run)))
    assert (newest["kind"], first["kind"]) == ("fine-tuning", "pre-training")
    (curve,) = newest["curves"]
    assert [(line["name"], line["points"]) for line in curve["series"]] == [
        ("exact_match", [[0, 0], [50, 0.5]]),
        ("confidence", [[0, 0.5], [50, 0.5]]),
    ]
    assert len(trainings(tuned(tmp_path / "named", "vital-small"))) == 1


def test_a_run_that_came_later_is_not_what_was_begun_with(run: Path, tmp_path: Path) -> None:
    later = tuned(tmp_path / "tuned", str(run))
    facts = files.read_json(run / "run.json")
    files.write_json(run / "run.json", {**facts, "created": "2999-01-01T00:00:00+00:00"})
    assert [one["kind"] for one in trainings(later)] == ["fine-tuning"]
    files.write_json(run / "run.json", {**facts, "parents": {"model": str(run)}})
    assert len(trainings(run)) == 1  # one that names itself comes to an end


def test_many_points_are_averaged_and_what_is_not_finite_is_left_out(run: Path) -> None:
    with Metrics(run) as metrics:
        metrics.write({"stage": "realm", "kind": "train", "step": 60, "loss": math.nan})
        for step in range(100, 100 + 3 * MAX_POINTS):
            metrics.write({"stage": "realm", "kind": "train", "step": step, "loss": 1.0})
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"stage": "realm", "kind": "tr')  # torn by a kill
    (found,) = trainings(run)
    ((line,),) = [curve["series"] for curve in found["curves"] if curve["name"] == "loss"]
    assert MAX_POINTS / 2 < len(line["points"]) <= MAX_POINTS + 1
    assert line["points"][-1] == [99 + 3 * MAX_POINTS, 1.0] and all(y == y for _, y in line["points"])


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"format": "realm run", "format_version": 99}'])
def test_a_damaged_run_is_told_in_the_log_and_does_no_harm(
    text: str, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "run.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert trainings(run) == []
    assert "no curves of run" in caplog.text


def test_the_page_of_a_run_has_the_same_curves(run: Path) -> None:
    (found,) = trainings(run)
    assert [curve.title for _, curve in curves(run)] == [curve["title"] for curve in found["curves"]]

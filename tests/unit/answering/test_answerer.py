"""What a model's answers depend on has one name, known without opening it; a report of another one is stale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from realm import files
from realm.answering.answerer import model_fingerprint, save_answerer
from realm.answering.confidence import Confidence, save_confidence
from realm.config import override
from realm.errors import ArtefactError
from realm.models.encoders import DenseEncoder
from realm.models.span import SpanReader
from realm.recipes.finetuning import small
from realm.types import Question
from realm.workflows.comparing.ablate import untuned_fingerprint
from realm.workflows.comparing.systems import Leg
from realm.workflows.comparing.systems.tuned import tuned_fingerprint
from realm.workflows.judging.calibrate import Source, _identity
from realm.workflows.reporting import Silent
from realm.workflows.run import FINETUNING, Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model, without any training."""
    folder = tmp_path_factory.mktemp("world")
    bert = tiny.tiny_bert(folder / "bert", masked_head=False)
    networks = {
        "encoder": DenseEncoder.from_pretrained(bert, dim=8),
        "reader": SpanReader.from_pretrained(bert, span_size=16, max_width=3),
    }
    config = override(small(), ["encoder.model=bert"])
    Run(folder / "run", FINETUNING).create_or_resume(config, {"snapshot": "one"})
    save_answerer(folder / "run" / "model", networks, config, card="", facts={"step": 1})
    return folder / "run"


def change(file: Path, *path: str, value: Any) -> str:
    """Another value in a file of JSON; what the file held."""
    before = file.read_text(encoding="utf-8")
    found = inner = json.loads(before)
    for name in path[:-1]:
        inner = inner[name]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    files.write_json(file, found)
    return before


def leg(run: Path, start: str | None = None) -> Leg:
    places = {"folder": run, "knowledge_base": run, "questions": run, "dev": None, "start": start}
    return Leg(config=small(), reporter=Silent(), should_stop=None, **places)


CHANGES = {
    "config.json": ("qa", "aggregate", "best-span"),
    "reader/realm.json": ("settings", "max_width", 2),
    "encoder/realm.json": ("fingerprint", "0000"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_reports_of_a_changed_model_are_stale(run: Path, name: str) -> None:
    *path, value = CHANGES[name]
    one = leg(run)
    snapshot: Any = SimpleNamespace(fingerprint="one")
    source = Source("set", [Question("1", "who ?", ("me",))])

    def told() -> tuple[str, str, str]:
        return model_fingerprint(run), tuned_fingerprint(one), _identity(run / "model", snapshot, source, 5)

    before = told()
    kept = change(run / "model" / name, *path, value=value)
    try:
        assert all(new != old for new, old in zip(told(), before, strict=True))
    finally:
        (run / "model" / name).write_text(kept, encoding="utf-8")
    assert told() == before


def test_what_was_calibrated_later_and_how_a_file_is_laid_out_change_nothing(run: Path) -> None:
    before, place = model_fingerprint(run), run / "model" / "config.json"
    assert model_fingerprint(run / "model") == before
    save_confidence(run / "model", replace(Confidence(), threshold=0.5), {})
    place.write_text(json.dumps(files.read_json(place)), encoding="utf-8")
    assert model_fingerprint(run) == before
    with pytest.raises(ArtefactError, match="holds no fine-tuned model"):
        model_fingerprint(run.parent / "bert")


def test_reports_over_another_snapshot_are_stale(run: Path) -> None:
    one = leg(run, start=str(run / "model" / "encoder"))
    before = tuned_fingerprint(one), untuned_fingerprint(one)
    kept = change(run / "run.json", "parents", "snapshot", value="another")
    assert tuned_fingerprint(one) != before[0] and untuned_fingerprint(one) != before[1]
    (run / "run.json").write_text(kept, encoding="utf-8")

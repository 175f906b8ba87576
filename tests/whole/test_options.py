"""A training with every option of its objective goes on from a checkpoint as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import story
from story import error, result

OPTIONS = {
    "realm__objective": "leave-one-out",
    "realm__explore": "1",
    "realm__explore_depth": "9",
    "realm__ict_weight": "0.5",
    "realm__ict_batch_size": "6",
    "ict__pairs": "crop",
    "ict__crop_shares": "0.1,0.6",
    "loop__keep_checkpoints": "9",
    "loop__seed": "4",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return story.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("world")
    result("ingest", story.write_documents(folder / "towns.jsonl"), "--kb", folder / "kb", "--tokenizer", model)
    return folder / "kb"


def trained(run: Path) -> list[dict[str, Any]]:
    """Events of the joint training, without what tells the time."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in event.items() if "seconds" not in name}
        for event in events
        if event["stage"] == "realm" and event["kind"] == "train"
    ]


def tensors(run: Path) -> dict[str, bytes]:
    last = run / "checkpoints" / "step-000006"
    return {str(path.relative_to(run)): path.read_bytes() for path in last.rglob("*.safetensors")}


def test_every_option_resumes_bit_for_bit(kb: Path, model: Path, tmp_path: Path) -> None:
    settings = story.settings(model, **OPTIONS)
    whole, again = tmp_path / "whole", tmp_path / "again"
    table = result("pretrain", "--kb", kb, "--out", whole, *settings)
    assert any("objective: leave-one-out; marginal: sequence" in note for note in table["notes"])
    events = trained(whole)
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert all(event["ict_loss"] > 0 and 0 <= event["ict_accuracy"] <= 1 for event in events)

    shutil.copytree(whole, again)
    for step in (4, 6):
        shutil.rmtree(again / "checkpoints" / f"step-{step:06d}")
    result("pretrain", "--kb", kb, "--out", again, *settings)
    assert trained(again) == events
    assert len(tensors(whole)) >= 4 and tensors(again) == tensors(whole)


def test_what_can_t_be_explored_is_one_line(kb: Path, model: Path, tmp_path: Path) -> None:
    settings = story.settings(model, realm__explore="3")
    code, line = error("pretrain", "--kb", kb, "--out", tmp_path / "run", *settings)
    assert code == 2 and "found realm.explore=3 of 3 retrieved passages: expected at most 2" in line
    assert not (tmp_path / "run").exists()

"""A run becomes a model to give away, and another run goes on from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import story
from story import error, result

from realm import KnowledgeBase, Realm
from realm.answering import pretrained
from realm.files import sha256_of
from realm.knowledge.catalog import CatalogEntry

QUESTION = "The bridge of Almby was painted by [MASK] in 1800."


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base, the tiny model that a run began with, and the run."""
    folder = tmp_path_factory.mktemp("world")
    model = story.write_model(folder / "model")
    result("ingest", story.write_documents(folder / "towns.jsonl"), "--kb", folder / "kb", "--tokenizer", model)
    result("pretrain", "--kb", folder / "kb", "--out", folder / "run", *story.settings(model))
    return folder


def test_a_model_folder_answers_as_its_run(world: Path, tmp_path: Path) -> None:
    done = result("export", world / "run", "--out", tmp_path / "towns", "--licence", "CC0", "--data", "invented towns")
    assert done["bytes"] == sum(f.stat().st_size for f in (tmp_path / "towns").rglob("*") if f.is_file())
    kb = KnowledgeBase.open(world / "kb")
    ours, theirs = (Realm.from_pretrained(place).ask(QUESTION, kb) for place in (world / "run", tmp_path / "towns"))
    assert (ours.text, ours.confidence) == (theirs.text, theirs.confidence)
    card = (tmp_path / "towns" / "README.md").read_text(encoding="utf-8")
    report = json.loads((world / "run" / "evaluations" / "realm" / "report.json").read_text())
    assert f"{report['figures']['recall@5']:.1%}" in card
    assert "Licence: CC0" in card
    assert "invented towns" in card
    assert result("show", tmp_path / "towns")["kind"] == "realm model"


def test_a_packed_model_has_a_name_and_a_run_goes_on_from_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "towns.safetensors"
    done = result("export", world / "run", "--out", file)
    assert done["sha256"] == sha256_of(file)
    assert result("show", file)["kind"] == "realm packed model"
    entry = CatalogEntry(
        name="towns", kind="model", description="", licence="CC0", sha256=done["sha256"], url=file.as_uri()
    )
    monkeypatch.setattr(pretrained, "CATALOG", {"towns": entry})
    monkeypatch.setattr(pretrained, "fetch", lambda name: file)
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    run, packed = (Realm.from_pretrained(place).encoder.state_dict() for place in (world / "run", "towns"))
    for name, value in run.items():
        assert (packed[name] - value).abs().max() <= 2**-7 * value.abs().max() + 1e-9, name

    begun = [*story.settings(world / "model", realm__steps="2"), "start=towns"]
    table = result("pretrain", "--kb", world / "kb", "--out", tmp_path / "more", *begun, "ict.steps=0")
    assert table["columns"][1] == "start (towns)"
    assert any("may have been masked" in note for note in table["notes"])
    warm = next((tmp_path / "more" / "warm-start" / "checkpoints").iterdir())
    for name, value in Realm.from_pretrained("towns").encoder.state_dict().items():
        assert (pretrained.DenseEncoder.from_pretrained(warm / "encoder").state_dict()[name] == value).all(), name


def test_a_start_of_another_shape_is_refused(world: Path, tmp_path: Path) -> None:
    begun = [*story.settings(world / "model", encoder__dim="8"), f"start={world / 'run'}"]
    code, line = error("pretrain", "--kb", world / "kb", "--out", tmp_path / "run", *begun)
    assert code == 1
    assert "found encoder.dim=8" in line
    assert "which has 16" in line


def test_a_start_with_other_word_pieces_is_refused(world: Path, tmp_path: Path) -> None:
    from tiny import tiny_bert

    other = tiny_bert(tmp_path / "other", ["another vocabulary altogether"])
    begun = [*story.settings(other), f"start={world / 'run'}"]
    _, line = error("pretrain", "--kb", world / "kb", "--out", tmp_path / "run", *begun)
    assert "word pieces" in line


def test_nothing_of_others_is_replaced(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    _, line = error("export", world / "run", "--out", tmp_path / "mine")
    assert "not empty and is no model" in line
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    (tmp_path / "x.safetensors").write_text("dear")
    _, line = error("export", world / "run", "--out", tmp_path / "x.safetensors")
    assert "exists" in line
    assert (tmp_path / "x.safetensors").read_text() == "dear"


def test_what_is_no_model_names_what_would_be_one(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run" / "warm-start", tmp_path / "half")
    _, line = error("ask", QUESTION, "--kb", world / "kb", "--model", tmp_path / "half")
    assert "expected a folder with run.json" in line
    assert "vital-small" in line

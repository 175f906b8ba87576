"""A run becomes a model to give away, and another run goes on from it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import story
from story import error, result

from realm import KnowledgeBase, Realm
from realm.answering import packing
from realm.files import sha256_of
from realm.knowledge import fetching
from realm.knowledge.catalog import CatalogEntry
from realm.models.encoders import DenseEncoder
from realm.workflows.export import model_card
from realm.workflows.pretraining.comparison import compare
from realm.workflows.run import Run

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


def test_a_packed_model_opens_and_a_run_goes_on_from_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "towns.safetensors"
    done = result("export", world / "run", "--out", file)
    assert done["sha256"] == sha256_of(file)
    assert done["bytes"] == file.stat().st_size
    assert result("show", file)["kind"] == "realm packed model"
    run, packed = (Realm.from_pretrained(place).encoder.state_dict() for place in (world / "run", file))
    for name, value in run.items():
        assert (packed[name] - value).abs().max() <= 2**-7 * value.abs().max() + 1e-9, name

    begun = [*story.settings(world / "model", realm__steps="2", ict__steps="0"), f"start={file}"]
    command = ["pretrain", "--kb", world / "kb", "--out", tmp_path / "more", *begun]
    table = result(*command)
    assert table["columns"][1] == f"start ({file})"
    assert any("may have been masked" in note for note in table["notes"])
    warm = next((tmp_path / "more" / "warm-start" / "checkpoints").iterdir())
    for name, value in Realm.from_pretrained(file).encoder.state_dict().items():
        assert (DenseEncoder.from_pretrained(warm / "encoder").state_dict()[name] == value).all(), name

    # The run stands on its own copy, and says whose it is.
    shutil.rmtree(tmp_path / "cache")
    file.unlink()
    shutil.rmtree(tmp_path / "more" / "checkpoints")
    shutil.rmtree(tmp_path / "more" / "evaluations" / "realm")
    assert result(*command)["figures"] == table["figures"]
    assert json.loads((tmp_path / "more" / "run.json").read_text())["parents"]["start"]


def test_a_model_of_the_catalogue_opens_by_its_name(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "towns.safetensors"
    sha256 = result("export", world / "run", "--out", file)["sha256"]
    entry = CatalogEntry("towns", "model", "", "CC0", sha256, url=file.as_uri())
    monkeypatch.setattr(packing, "CATALOG", {"towns": entry})
    monkeypatch.setattr(packing, "fetch", lambda name: fetching.fetch(name, catalog={"towns": entry}))
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    answer = result("ask", QUESTION, "--kb", world / "kb", "--model", "towns")
    assert answer["text"] == Realm.from_pretrained(file).ask(QUESTION, KnowledgeBase.open(world / "kb")).text

    (folder,) = (tmp_path / "cache" / "models").glob("towns-*/")
    whole = {place: place.read_bytes() for place in folder.rglob("*") if place.is_file()}
    for torn in (list(whole)[1:], [folder / "manifest.json"], [folder / "reader" / "model.safetensors"]):
        for place in torn:
            place.write_bytes(whole[place][: len(whole[place]) // 2])
        again = result("ask", QUESTION, "--kb", world / "kb", "--model", "towns")
        assert again["text"] == answer["text"], "what was cut off is unpacked again"
        assert {place: place.read_bytes() for place in folder.rglob("*") if place.is_file()} == whole


def test_a_wrong_start_leaves_no_run_behind(world: Path, tmp_path: Path) -> None:
    right = ["pretrain", "--kb", world / "kb", "--out", tmp_path / "run", *story.settings(world / "model")]
    assert "no run and no checkpoint" in error(*right, "start=/nowhere")[1]
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_not_ended_is_no_model(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "half")
    shutil.rmtree(sorted((tmp_path / "half" / "checkpoints").glob("step-*"))[-1])
    _, line = error("export", tmp_path / "half", "--out", tmp_path / "m")
    assert "stands at step 4 of 6" in line
    shutil.copytree(world / "run", tmp_path / "unjudged")
    shutil.rmtree(tmp_path / "unjudged" / "evaluations" / "realm")
    assert "was not judged" in error("export", tmp_path / "unjudged", "--out", tmp_path / "m")[1]
    assert "is no run" in error("export", world / "kb", "--out", tmp_path / "m")[1]


def test_the_card_shows_each_figure_in_its_column(world: Path) -> None:
    from markdown_it import MarkdownIt

    run = Run(world / "run")
    page = MarkdownIt().enable("table").render(model_card(run, "towns"))
    shown = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    comparison = compare(run)
    assert shown == [comparison["columns"], *comparison["rows"]]


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
    assert "exists: expected a new name" in line
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert "is a file" in error("export", world / "run", "--out", tmp_path / "mine" / "letter.txt" / "x")[1]
    (tmp_path / "x.safetensors").write_text("dear")
    _, line = error("export", world / "run", "--out", tmp_path / "x.safetensors")
    assert "exists" in line
    assert (tmp_path / "x.safetensors").read_text() == "dear"


def test_what_is_no_model_names_what_would_be_one(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run" / "warm-start", tmp_path / "half")
    _, line = error("ask", QUESTION, "--kb", world / "kb", "--model", tmp_path / "half")
    assert "expected a folder with run.json" in line
    assert "vital-small" in line

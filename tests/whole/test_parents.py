"""A run and the knowledge bases it stands on: edited, moved, made by two processes at once."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import story
from story import error, realm, result

FEW = {"ict__steps": "1", "realm__steps": "2", "refresh__every_steps": "1", "loop__checkpoint_every": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return story.write_model(tmp_path_factory.mktemp("model"))


def ingest(tmp_path: Path, model: Path, rows: list[dict[str, str]], name: str) -> Path:
    documents = story.write_documents(tmp_path / f"{name}.jsonl", rows)
    result("ingest", documents, "--kb", tmp_path / name, "--tokenizer", model, "--max-tokens", "48")
    return tmp_path / name


def forget_the_end(run: Path) -> None:
    """As if the run had been killed in its last step."""
    shutil.rmtree(run / "checkpoints" / "step-000002")
    shutil.rmtree(run / "evaluations" / "realm")


def test_a_run_of_two_corpora_goes_on_after_both_were_edited_and_moved(tmp_path: Path, model: Path) -> None:
    rows = story.documents()
    searched = ingest(tmp_path, model, rows[:16], "searched")
    masked = ingest(tmp_path, model, rows[8:], "masked")
    run, settings = tmp_path / "run", story.settings(model, **FEW)
    begin = ("pretrain", "--kb", searched, "--corpus", masked, "--out", run, *settings)
    expected = result(*begin)

    for kb in (searched, masked):
        assert realm("docs", "update", "--kb", kb, rows[10]["id"], "--text", "Nothing of it is left.").code == 0
    forget_the_end(run)
    assert result("pretrain", run)["figures"] == expected["figures"]

    moved = searched.rename(tmp_path / "moved")
    forget_the_end(run)
    assert str(searched) in error("pretrain", run)[1]
    assert result("pretrain", run, "--kb", moved)["figures"] == expected["figures"]
    assert result("pretrain", run)["figures"] == expected["figures"]  # the new place was written down
    assert result("evaluate", "--model", run, "--kb", moved)["figures"] == expected["figures"]


def test_an_index_of_other_parameters_is_not_gone_on_with(tmp_path: Path, model: Path) -> None:
    kb = ingest(tmp_path, model, story.documents(), "kb")
    run = tmp_path / "run"
    expected = result("pretrain", "--kb", kb, "--out", run, *story.settings(model, **FEW))
    forget_the_end(run)
    used = json.loads((run / "checkpoints" / "step-000001" / "loop.json").read_text())["index_step"]
    index = run / "index" / f"step-{used:06d}"
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps({**manifest, "encoder": "another"}))
    (shard,) = index.glob("shard-*.npy")
    vectors = shard.read_bytes()
    shard.write_bytes(vectors[:-1024] + bytes(1024))
    assert result("pretrain", run)["figures"] == expected["figures"]
    assert shard.read_bytes() == vectors


def test_a_checkpoint_of_another_snapshot_is_refused(tmp_path: Path, model: Path) -> None:
    kb = ingest(tmp_path, model, story.documents(), "kb")
    run, other = tmp_path / "run", tmp_path / "other"
    result("pretrain", "--kb", kb, "--out", run, *story.settings(model, **FEW))
    assert realm("docs", "update", "--kb", kb, "almby", "--text", "Nothing of it is left.").code == 0
    result("pretrain", "--kb", kb, "--out", other, *story.settings(model, **FEW))
    forget_the_end(other)
    shutil.rmtree(other / "checkpoints")
    shutil.copytree(run / "checkpoints", other / "checkpoints")
    snapshots = [json.loads((each / "run.json").read_text())["parents"]["snapshot"] for each in (run, other)]
    code, line = error("pretrain", other)
    assert code == 1
    assert all(snapshot in line for snapshot in snapshots)


@pytest.mark.slow
def test_two_runs_that_begin_at_once_make_one_snapshot(tmp_path: Path, model: Path) -> None:
    kb = ingest(tmp_path, model, story.documents(), "kb")
    settings = story.settings(model, **FEW)
    begun = [story.start("pretrain", "--kb", kb, "--out", tmp_path / name, "--json", *settings) for name in "ab"]
    ends: list[Any] = [(*process.communicate(timeout=120), process.returncode) for process in begun]
    assert [code for _, _, code in ends] == [0, 0], ends
    snapshots = [path.name for path in (kb / "snapshots").iterdir() if not path.name.startswith(".")]
    assert len(snapshots) == 2  # the snapshot and its spans


def test_a_missing_library_is_one_line(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kb = ingest(tmp_path, model, story.documents(), "kb")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    code, line = error("pretrain", "--kb", kb, "--out", tmp_path / "run", *story.settings(model, **FEW))
    assert code == 1
    assert "'bm25s'" in line and "pip install realm-lm" in line


def test_an_empty_knowledge_base_is_said_to_be_empty(tmp_path: Path, model: Path) -> None:
    kb = ingest(tmp_path, model, story.documents()[:1], "kb")
    result("docs", "delete", "--kb", kb, story.documents()[0]["id"])
    code, line = error("pretrain", "--kb", kb, "--out", tmp_path / "run", *story.settings(model))
    assert code == 1
    assert "holds no passages" in line
    assert not (tmp_path / "run").exists()

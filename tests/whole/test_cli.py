"""The whole command line on a small world: from documents to an answer that follows an edit; faults; interruptions."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import story
from story import error, realm, result

from realm.errors import ArtefactError
from realm.knowledge.base import KnowledgeBase

QUESTION = "The bridge of Almby was painted by [MASK] in 1800."


@dataclass(frozen=True)
class World:
    folder: Path
    model: Path
    documents: Path
    kb: Path
    run: Path
    comparison: Mapping[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Documents, ingested and trained on once."""
    folder = tmp_path_factory.mktemp("world")
    model, kb, run = story.write_model(folder / "model"), folder / "kb", folder / "run"
    documents = story.write_documents(folder / "towns.jsonl")
    counts = result("ingest", documents, "--kb", kb, "--tokenizer", model)
    assert (counts["added"], counts["documents"], counts["skipped"]) == (24, 24, 0)
    comparison = result("pretrain", "--kb", kb, "--out", run, *story.settings(model))
    return World(folder, model, documents, kb, run, comparison)


# ---------------------------------------------------------------- the story


def test_a_training_is_compared_with_its_start_and_with_bm25(world: World) -> None:
    assert world.comparison["columns"] == ["", "warm start (ICT)", "REALM", "BM25"]
    for name in ("warm-start", "realm", "bm25"):
        assert 0 <= world.comparison["figures"][name]["recall@5"] <= 1
    assert result("evaluate", "--model", world.run)["figures"] == world.comparison["figures"]
    assert result("pretrain", world.run)["figures"] == world.comparison["figures"]  # nothing is left to do
    assert "recall@5" in realm("evaluate", "--model", world.run).out


def test_everything_can_be_shown(world: World) -> None:
    run = result("show", world.run)
    assert run["kind"] == "realm run"
    assert run["stage"] == "finished: REALM step 6 of 6, evaluated"
    assert result("show", world.kb)["documents"] == 24
    assert result("show", world.run / "checkpoints" / "step-000006")["step"] == 6
    assert "finished: REALM step 6 of 6" in realm("show", world.run).out


def test_an_answer_follows_an_edit(world: World, tmp_path: Path) -> None:
    kb = shutil.copytree(world.kb, tmp_path / "kb")
    arguments = ("ask", QUESTION, "--kb", kb, "--model", world.run, "--k", "24")
    before = result(*arguments)
    assert before["text"]
    assert not before["abstained"]
    old = next(e for e in before["evidence"] if e["passage"]["document_id"] == "almby")
    assert "Anna Weir" in old["passage"]["text"]
    assert realm(*arguments).out.startswith(QUESTION)

    listed = result("docs", "list", "--kb", kb, "--where", "source = 'south'")
    assert listed["total"] == 12
    changed = result("docs", "update", "--kb", kb, "almby", "--replace", "Anna Weir=>Zoe Kern")
    assert changed["updated"] == 1
    assert changed["version"] > before["knowledge_base_version"]

    after = result(*arguments)
    new = next(e for e in after["evidence"] if e["passage"]["document_id"] == "almby")
    assert "Zoe Kern" in new["passage"]["text"]
    assert new["document_version"] > old["document_version"]
    offered = {after["text"], *(text for text, _ in after["alternatives"])}
    assert "Anna Weir" not in new["passage"]["text"]
    assert offered
    past = result(*arguments, "--as-of", str(before["knowledge_base_version"]))
    assert [e["passage"]["id"] for e in past["evidence"]] == [e["passage"]["id"] for e in before["evidence"]]
    assert past["text"] == before["text"]

    history = result("docs", "history", "--kb", kb, "almby")
    assert [("Anna Weir" in h["text"], "Zoe Kern" in h["text"]) for h in history] == [(True, False), (False, True)]

    assert result("docs", "delete", "--kb", kb, "almby")["deleted"] == 1
    assert "almby" not in {e["passage"]["document_id"] for e in result(*arguments)["evidence"]}
    text = tmp_path / "almby.txt"
    text.write_text("The bridge of Almby was painted by Yara Holm in 1800.", encoding="utf-8")
    assert result("docs", "add", "--kb", kb, text, "--id", "almby", "--title", "Almby")["added"] == 1
    found = result(*arguments)
    assert any("Yara Holm" in e["passage"]["text"] for e in found["evidence"])
    # The run stands on the version that it was begun with; the edits are not its concern.
    assert result("show", kb)["vectors_of_encoders"] != "none yet"


def test_search_by_words_and_by_meaning(world: World, tmp_path: Path) -> None:
    kb = shutil.copytree(world.kb, tmp_path / "kb")
    by_words = result("search", "Almby bridge painted", "--kb", kb, "--k", "3")
    assert by_words[0]["document_id"] == "almby"
    assert [hit["rank"] for hit in by_words] == [1, 2, 3]
    everything = result("search", "rivers", "--kb", kb, "--model", world.run, "--k", "1000")  # more than there is
    assert sorted(hit["document_id"] for hit in everything) == sorted(row["id"] for row in story.documents())
    assert [hit["score"] for hit in everything] == sorted((hit["score"] for hit in everything), reverse=True)
    north = result("search", "river", "--kb", kb, "--model", world.run, "--k", "24", "--where", "source = 'north'")
    assert {hit["source"] for hit in north} == {"north"}
    assert len(north) == 12


def test_ingesting_again_takes_only_what_changed(world: World, tmp_path: Path) -> None:
    kb = shutil.copytree(world.kb, tmp_path / "kb")
    rows = story.documents()
    rows[3]["text"] += " It has a market."
    counts = result(
        "ingest", story.write_documents(tmp_path / "again.jsonl", rows), "--kb", kb, "--tokenizer", world.model
    )
    assert (counts["added"], counts["updated"], counts["unchanged"]) == (0, 1, 23)


def test_estimate_before_anything_is_built(world: World) -> None:
    found = result("estimate", "--passages", "1000", *story.settings(world.model))
    assert found["numbers"]["index_bytes"] == 1000 * 16 * 4
    assert found["numbers"]["total_seconds"] > 0


def test_the_demo_on_documents_of_ones_own(world: World, tmp_path: Path) -> None:
    kb = shutil.copytree(world.kb, tmp_path / "kb")
    version = KnowledgeBase.open(kb).content_version
    arguments = ("demo", "--quick", "--kb", kb, "--out", tmp_path / "out", *story.settings(world.model))
    told = realm(*arguments)
    assert told.code == 0, told.err
    assert "recall@5" in told.out
    assert "p(z|x)" in told.out
    found = result(*arguments)  # the same command again has nothing left to do
    assert found
    assert (tmp_path / "out" / "run" / "report.html").exists()
    assert KnowledgeBase.open(kb).content_version == version  # one's own documents are not edited


def test_what_a_person_reads(world: World, tmp_path: Path) -> None:
    kb = shutil.copytree(world.kb, tmp_path / "kb")
    rows = story.documents()[:2]
    for arguments, words in (
        (
            ("ingest", story.write_documents(tmp_path / "a.jsonl", rows), "--kb", kb, "--tokenizer", world.model),
            "2 unchanged",
        ),
        (("docs", "list", "--kb", kb, "--limit", "3"), "almby\tAlmby\tThe town of Almby"),
        (("docs", "update", "--kb", kb, "almby", "--title", "Almby, a town"), "1 updated"),
        (("docs", "update", "--kb", kb, "almby", "--title", "Almby, a town"), "1 unchanged"),
        (("docs", "history", "--kb", kb, "almby"), "updated"),
        (("docs", "delete", "--kb", kb, "almham"), "1 deleted"),
        (("search", "Almby", "--kb", kb, "--k", "1"), "[almby"),
        (("search", "zzzz", "--kb", kb), "nothing found"),
        (("show", kb), "realm knowledge base"),
        (("estimate", "--passages", "10", *story.settings(world.model)), "memory: peak"),
        (("pretrain", world.run), "recall@5 of REALM minus the warm start"),
    ):
        done = realm(*arguments)
        assert done.code == 0, done.err
        assert words in done.out, done.out


def test_debug_shows_where_it_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError):
        realm("--debug", "show", tmp_path / "nothing")


def test_without_a_verb_there_is_the_help() -> None:
    told = realm()
    assert told.code == 2 and told.err.startswith("Usage: ")


def test_help_names_every_verb() -> None:
    text = realm("--help").out
    for verb in ("demo", "ingest", "pretrain", "search", "ask", "evaluate", "show", "estimate", "docs"):
        assert verb in text


# ---------------------------------------------------------------- faults


def test_wrong_usage_is_one_line_and_exit_code_2(world: World, tmp_path: Path) -> None:
    kb, run, new = ("--kb", world.kb), ("--model", world.run), ("--out", tmp_path / "new")
    for arguments, words in (
        (("pretrain", *kb, *new, "realm.stepz=3"), ["realm.stepz", "realm.steps"]),
        (("pretrain", *kb, *new, "realm.steps=many"), ["realm.steps", "many"]),
        (("pretrain", *kb), ["--out"]),
        (("pretrain", world.run, "realm.steps=9"), ["RUN alone"]),
        (("pretrain", *kb, *new, "--recipe", "huge"), ["huge", "small"]),
        (("ask", "Who painted it?", *kb, *run), ["[MASK]"]),
        (("ask", "[MASK] painted [MASK].", *kb, *run), ["one"]),
        (("search", "x", *kb, "--where", "colour = 'red'"), ["colour", "source"]),
        (("search", "x", *kb, "--where", "source = ("), ["where"]),
        (("ask", QUESTION, *kb, *run, "--where", "nonsense !!"), ["where"]),
        (("search", "x", *kb, "--k", "0"), ["--k"]),
        (("estimate", "--passages", "0"), ["--passages"]),
        (("docs", "update", *kb, "almby"), ["--text"]),
        (("ingest", world.documents, "--kb", tmp_path / "k", "--on-error", "cry"), ["cry", "skip"]),
        (("dance",), ["dance"]),
        (("search", "--loud"), ["--loud"]),
    ):
        code, line = error(*arguments)
        assert code == 2, line
        assert all(word in line for word in words), line
    assert not (tmp_path / "new").exists()


def test_work_that_fails_is_one_line_and_exit_code_1(world: World, tmp_path: Path) -> None:
    nothing, empty = tmp_path / "nothing", tmp_path / "empty"
    empty.mkdir()
    kb, run = ("--kb", world.kb), ("--model", world.run)
    for arguments, words in (
        (("search", "x", "--kb", nothing), [str(nothing), "ingest"]),
        (("ask", QUESTION, "--kb", nothing, *run), [str(nothing)]),
        (("pretrain", "--kb", nothing, "--out", tmp_path / "new", *story.settings(world.model)), [str(nothing)]),
        (("pretrain", nothing), [str(nothing)]),
        (("evaluate", "--model", nothing), [str(nothing)]),
        (("ask", QUESTION, *kb, "--model", nothing), [str(nothing)]),
        (("ask", QUESTION, *kb, "--model", world.kb), [str(world.kb)]),
        (("show", nothing), [str(nothing)]),
        (("show", empty), ["is empty"]),
        (("ingest", empty, "--kb", tmp_path / "kb", "--tokenizer", world.model), [str(empty)]),
        (("ingest", nothing, "--kb", tmp_path / "kb2", "--tokenizer", world.model), [str(nothing)]),
        (("docs", "update", *kb, "atlantis", "--text", "x"), ["atlantis"]),
        (("docs", "update", *kb, "almby", "--replace", "Atlantis=>x"), ["Atlantis"]),
        (("docs", "delete", *kb, "atlantis"), ["atlantis"]),
        (("docs", "history", *kb, "atlantis"), ["atlantis"]),
        (("docs", "add", *kb, world.documents), ["already"]),
        (("search", "x", *kb, "--as-of", "999"), ["999"]),
    ):
        code, line = error(*arguments)
        assert code == 1, line
        assert all(word in line for word in words), line
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_only_with_its_own_settings(world: World) -> None:
    begun = ("pretrain", "--kb", world.kb, "--out", world.run)
    code, line = error(*begun, *story.settings(world.model, realm__batch_size="5"))
    assert code == 1
    assert "realm.batch_size=4" in line
    assert "realm.batch_size=5" in line


@pytest.mark.parametrize("file", ["encoder/model.safetensors", "encoder/head.safetensors", "reader/model.safetensors"])
def test_a_damaged_checkpoint_is_named(world: World, tmp_path: Path, file: str) -> None:
    run = shutil.copytree(world.run, tmp_path / "run")
    damaged = run / "checkpoints" / "step-000006" / file
    damaged.write_bytes(damaged.read_bytes()[:-100])
    code, line = error("ask", QUESTION, "--kb", world.kb, "--model", run)
    assert code == 1
    assert str(damaged.parent) in line
    shown = result("show", damaged.parent.parent)
    assert any(damaged.name in problem for problem in shown["damaged"])


# ---------------------------------------------------------------- interruptions

LONG = {"realm__steps": "80", "refresh__every_steps": "20", "loop__checkpoint_every": "8"}


@pytest.mark.slow
def test_interrupted_and_killed_it_ends_as_if_nothing_had_happened(world: World, tmp_path: Path) -> None:
    settings = story.settings(world.model, **LONG)
    whole, run = tmp_path / "whole", tmp_path / "run"
    expected = result("pretrain", "--kb", world.kb, "--out", whole, *settings)

    process = story.start("pretrain", "--kb", world.kb, "--out", run, *settings)
    wait_for_step(process, run, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not out
    assert "Traceback" not in err
    assert "the same command goes on" in err
    step = newest_step(run)
    assert 2 <= step < 80
    assert result("show", run)["stage"] == f"REALM, step {step} of 80"  # the step was finished and saved

    process = story.start("pretrain", run)
    wait_for_step(process, run, max(step, 17) + 2)
    process.kill()
    process.communicate(timeout=60)
    assert newest_step(run) < 80
    assert "goes on from here" in result("show", run)["unfinished"]

    resumed = result("pretrain", "--kb", world.kb, "--out", run, *settings)
    assert resumed["figures"] == expected["figures"]
    assert resumed["rows"] == expected["rows"]
    assert tensors(run) == tensors(whole)
    assert figures(run) == figures(whole)


def test_an_index_that_came_after_the_last_checkpoint_is_told_once(world: World, tmp_path: Path) -> None:
    """The checkpoint of step 4 is from before the index of step 4: what goes on from there takes it into use again."""
    run = shutil.copytree(world.run, tmp_path / "run")
    before = figures(run)
    assert [e["step"] for e in before if e["kind"] == "refresh"] == [0, 2, 4]
    shutil.rmtree(run / "checkpoints" / "step-000006")
    shutil.rmtree(run / "evaluations" / "realm")
    result("pretrain", run)
    assert figures(run) == before


def newest_step(run: Path) -> int:
    return max((e["step"] for e in events(run) if e["stage"] == "realm" and e["kind"] == "train"), default=0)


def wait_for_step(process: Any, run: Path, step: int) -> None:
    end = time.monotonic() + 90
    while newest_step(run) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "training did not get that far"
        time.sleep(0.02)


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def figures(run: Path) -> list[dict[str, Any]]:
    """Every event of the run without what tells the time."""
    return [{name: value for name, value in event.items() if "seconds" not in name} for event in events(run)]


def tensors(run: Path) -> dict[str, bytes]:
    """Weights, optimizer state and vectors of the last step, byte for byte."""
    last = [*(run / "checkpoints" / "step-000080").rglob("*.safetensors"), *(run / "index").glob("step-000080/*.npy")]
    assert len(last) >= 5
    return {str(path.relative_to(run)): path.read_bytes() for path in last}

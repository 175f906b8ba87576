"""Fine-tuning on a made-up world: it learns to answer, what it learns is the answers, and it goes on bit for bit.

150 paintings, each with its maker and its place; half of the paintings' questions teach, the other half judge. All
networks start at random: which word of a passage answers "who" and which "where" is to be learnt.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import qa_world
from qa_world import SETTINGS
from story import error, realm, result

from realm import KnowledgeBase, QuestionAnswering
from realm.answering import packing
from realm.answering.answerer import open_answerer
from realm.config import override
from realm.files import sha256_of
from realm.knowledge import fetching
from realm.knowledge.catalog import CatalogEntry
from realm.recipes.finetuning import small
from realm.workflows.finetuning.finetune import finetune
from realm.workflows.ingest import ingest_sources


class World(NamedTuple):
    folder: Path
    model: Path

    def settings(self, **changed: str) -> list[str]:
        values = {**SETTINGS, **{name.replace("__", "."): value for name, value in changed.items()}}
        return [f"{name}={value}" for name, value in values.items()]

    def run(self, name: str, questions: str = "train.jsonl", **changed: str) -> Mapping[str, Any]:
        return finetune(
            str(self.model),
            self.folder / "kb",
            self.folder / name,
            override(small(), self.settings(**changed)),
            questions=self.folder / questions,
            dev=self.folder / "dev.jsonl",
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = qa_world.write_model(folder / "bert", masked_head=False, hidden=64)
    ingest_sources([str(qa_world.write_documents(folder / "documents.jsonl"))], folder / "kb", tokenizer=str(model))
    asked = qa_world.questions()
    teach, judge = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    qa_world.write_questions(folder / "train.jsonl", teach)
    qa_world.write_questions(folder / "dev.jsonl", judge)
    answers = [question.answers for question in teach]
    random.Random(1).shuffle(answers)
    shuffled = [replace(question, answers=answer, gold=()) for question, answer in zip(teach, answers, strict=True)]
    qa_world.write_questions(folder / "shuffled.jsonl", shuffled)
    return World(folder, model)


@pytest.fixture(scope="module")
def learnt(world: World) -> Mapping[str, Any]:
    return world.run("learnt")


def exact_match(result: Mapping[str, Any]) -> list[float]:
    return [point["exact_match"] for point in result["curve"]]


def test_it_learns_to_answer_questions_it_never_saw(world: World, learnt: Mapping[str, Any]) -> None:
    curve = exact_match(learnt)
    assert [point["step"] for point in learnt["curve"]] == [0, 40, 80, 120]
    # Measured: 0.07, then 0.78, 0.90 and 0.78; with the answers shuffled 0.07, then nothing right at all.
    assert curve[0] < 0.2 and max(curve) >= 0.6
    best = max(range(len(curve)), key=lambda number: (curve[number], number))
    assert learnt["best_step"] == learnt["curve"][best]["step"]


def test_what_it_learns_is_the_answers(world: World, learnt: Mapping[str, Any]) -> None:
    control = world.run("control", "shuffled.jsonl", qa__labelled="none")
    assert max(exact_match(control)) < max(exact_match(learnt)) - 0.3


def test_the_model_is_a_folder_with_a_card(world: World, learnt: Mapping[str, Any]) -> None:
    encoder, reader, config = open_answerer(world.folder / "learnt")
    assert config.qa.steps == 120 and not encoder.settings.tied and reader.max_width == 3
    card = (Path(learnt["model"]) / "README.md").read_text(encoding="utf-8")
    for words in ("## Training", "120 steps of 16 questions", "train.jsonl", "## Limits", "## Licence", "| 40 |"):
        assert words in card
    shown = result("show", world.folder / "learnt")
    assert shown["best_step"] == learnt["best_step"] and "unfinished" not in shown
    assert result("show", learnt["model"])["kind"] == "realm question answerer"


def test_a_packed_answerer_answers_as_its_run(
    world: World, learnt: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "paintings.safetensors"
    done = result("export", world.folder / "learnt", "--out", file, "--licence", "CC0", "--data", "invented paintings")
    assert done["format"] == "realm question answerer" and done["sha256"] == sha256_of(file)
    assert done["bytes"] < 0.6 * sum(f.stat().st_size for f in Path(learnt["model"]).rglob("*") if f.is_file())

    kb, asked = KnowledgeBase.open(world.folder / "kb"), [question.text for question in qa_world.questions()[:40]]
    run, packed = (QuestionAnswering.from_pretrained(place, bf16=False) for place in (world.folder / "learnt", file))
    ours, theirs = (list(model.ask_many(asked, kb)) for model in (run, packed))
    assert sum(a.text == b.text for a, b in zip(ours, theirs, strict=True)) >= 36, "rounding changes an answer seldom"

    entry = CatalogEntry("paintings", "model", "", "CC0", done["sha256"], url=file.as_uri())
    monkeypatch.setattr(packing, "CATALOG", {"paintings": entry})
    monkeypatch.setattr(packing, "fetch", lambda name: fetching.fetch(name, catalog={"paintings": entry}))
    named = result("ask", asked[0], "--kb", world.folder / "kb", "--model", "paintings", "--float32")
    assert named["text"] == theirs[0].text

    _, line = error("calibrate", "--model", file, "--kb", world.folder / "kb", "--suite", world.folder / "dev.jsonl")
    assert "is a packed model" in line and "realm export" in line
    result("export", file, "--out", tmp_path / "again")
    files = [place for place in (tmp_path / "again").rglob("*") if place.is_file() and place.suffix != ".safetensors"]
    told = [place.read_text(encoding="utf-8") for place in files]
    assert not any(str(world.folder) in text for text in told), "places of this machine are nobody else's business"
    assert "invented paintings" in (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    folder = QuestionAnswering.from_pretrained(tmp_path / "again", bf16=False)
    assert folder.ask(asked[0], kb).text == theirs[0].text


def test_a_run_that_has_not_ended_is_not_exported(world: World, learnt: Mapping[str, Any], tmp_path: Path) -> None:
    shutil.copytree(world.folder / "learnt", tmp_path / "half")
    (tmp_path / "half" / "result.json").unlink()
    assert "has not ended" in error("export", tmp_path / "half", "--out", tmp_path / "m")[1]
    assert not (tmp_path / "m").exists()


def test_as_many_passages_are_read_as_the_confidence_was_fitted_on(world: World, learnt: Mapping[str, Any]) -> None:
    model = QuestionAnswering.from_pretrained(world.folder / "learnt")
    assert model.num_passages == model.config.qa.num_passages == 2
    model.confidence = replace(model.confidence, passages=3)
    assert model.num_passages == 3
    kb = KnowledgeBase.open(world.folder / "kb")
    assert len(model.ask("who made it ?", kb).evidence) == 3


def trained(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in event.items() if "seconds" not in name} for event in events]


@pytest.mark.parametrize(("documents", "retriever"), [("frozen", "fused"), ("refreshed", "dense")])
def test_it_goes_on_bit_for_bit(world: World, tmp_path: Path, documents: str, retriever: str) -> None:
    options = {"qa__steps": "6", "loop__checkpoint_every": "2", "loop__keep_checkpoints": "9", "loop__log_every": "1"}
    options |= {"dev__size": "8", "qa__documents": documents, "qa__num_early": "6", "encoder__dropout": "0.1"}
    options |= {"refresh__mode": "sync", "refresh__every_steps": "3", "reader__dropout": "0.1"}
    options |= {"qa__retriever": retriever, "qa__substituted": "0.5"}
    name = f"whole-{documents}"
    world.run(name, **options)
    whole, again = world.folder / name, tmp_path / "again"
    facts = json.loads((whole / "run.json").read_text())
    facts["parents"]["licence"] = "of the paintings"
    (whole / "run.json").write_text(json.dumps(facts))
    shutil.copytree(whole, again)
    for step in (4, 6):
        shutil.rmtree(again / "checkpoints" / f"step-{step:06d}")
    done = realm("finetune", again)
    assert done.code == 0 and "the best, of step" in done.out, done.err
    assert trained(again) == trained(whole)
    assert "of the paintings" in (again / "model" / "README.md").read_text(encoding="utf-8")
    last = Path("checkpoints") / "step-000006"
    files = [path.relative_to(whole) for path in (whole / last).rglob("*.safetensors")]
    assert len(files) >= 5
    for file in files:
        assert (again / file).read_bytes() == (whole / file).read_bytes(), file
    if documents == "refreshed":
        assert json.loads((whole / last / "loop.json").read_text())["index_step"] == 3
        return
    assert any("early_loss" in event for event in trained(whole))  # vectors learn beside words, too
    # Words and vectors over the living knowledge base: a name that stands in one passage brings it first.
    painting = qa_world.names(1)[0]
    answer = result("ask", f"who made {painting} ?", "--kb", world.folder / "kb", "--model", again)
    best = max(answer["evidence"], key=lambda one: one["score"])
    assert best["passage"]["document_id"] == painting.lower()


# ---------------------------------------------------------------- what can go wrong


def command(world: World, out: Path, *settings: str, **options: Any) -> tuple[int, str]:
    given = {"model": world.model, "kb": world.folder / "kb", "qa": world.folder / "train.jsonl", **options}
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    return error("finetune", *flags, "--out", out, *world.settings(), *settings)


def test_other_questions_are_refused_and_nothing_answerable_is_one_line(
    world: World, learnt: Mapping[str, Any], tmp_path: Path
) -> None:
    code, line = command(world, Path(learnt["run"]), dev=world.folder / "train.jsonl")
    assert code == 1 and "was begun with" in line
    (tmp_path / "none.jsonl").write_text(json.dumps({"question": "who ?", "answers": ["nobody here"]}) + "\n")
    code, line = command(world, tmp_path / "run", qa=tmp_path / "none.jsonl", dev=world.folder / "dev.jsonl")
    assert code == 1 and "none of 1 questions can be learnt from" in line and "answers stand nowhere 1" in line


def test_a_start_that_read_the_same_questions_in_the_same_order_is_told(
    world: World, learnt: Mapping[str, Any], tmp_path: Path
) -> None:
    told = [
        realm("finetune", "--model", learnt["run"], "--kb", world.folder / "kb", "--qa", world.folder / "train.jsonl",
              "--dev", world.folder / "dev.jsonl", "--out", tmp_path / seed, *world.settings(qa__steps="1"),
              f"loop.seed={seed}")
        for seed in ("0", "1")
    ]  # fmt: skip
    assert [done.code for done in told] == [0, 0]
    assert ["same order again" in done.out + done.err for done in told] == [True, False]


def test_wrong_usage(world: World, tmp_path: Path) -> None:
    assert error("finetune", "--kb", world.folder / "kb") == (
        2,
        "realm: found no --model, --qa, --out: expected --model, --kb, --qa and --out for a new run (--from-corpus for "
        "--qa, where there are no questions), or RUN alone to go on",
    )
    code, line = command(world, tmp_path / "run", "qa.level=both")
    assert code == 2 and "joint or passage" in line
    code, line = command(world, tmp_path / "run", "reader.max_tokens=40")
    assert code == 2 and "leaves no room for a passage" in line
    code, line = command(world, tmp_path / "run", model="no/such/model/at/all")
    assert code == 2 and "expected an existing folder, a hub id" in line
    code, line = error("finetune", world.folder / "kb")
    assert code == 1 and "run.json" in line
    assert not (tmp_path / "run").exists()


def test_a_blank_gets_a_remark_which_model_fills_it(world: World, learnt: Mapping[str, Any]) -> None:
    done = realm("ask", "[MASK] made it .", "--kb", world.folder / "kb", "--model", learnt["model"])
    assert done.code == 0 and "a pre-trained one fills blanks" in done.err

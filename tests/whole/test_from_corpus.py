"""Questions made from a knowledge base: the same file each time, never written over, and a model learns from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import qa_world
from story import error, result

from realm.answering.questions import open_model
from realm.config import override
from realm.errors import ArtefactError, DataError, MismatchError
from realm.evaluation.answers import token_f1
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.questions.files import read_questions
from realm.settings_corpus import CorpusQuestionsConfig
from realm.settings_finetune import FinetuneConfig
from realm.workflows.ingest import ingest_sources
from realm.workflows.questions import make as making
from realm.workflows.questions.make import Record, make_questions, read_made

PATTERN = CorpusQuestionsConfig(pipeline="pattern", top=0, min_content=2, per_passage=3)
FEW = (
    "qa.steps=2 qa.batch_size=4 qa.num_early=20 loop.checkpoint_every=2 loop.tensorboard=false dev.size=4 "
    "loop.threads=1 encoder.dim=16 corpus.pipeline=pattern corpus.min_content=2 corpus.count=60"
)

UNTAUGHT = "qa.retriever=dense qa.learning_rate=1e-6 qa.reader_learning_rate=1e-6 qa.head_learning_rate=1e-6"


class World:
    """A knowledge base of paintings and a network that knows nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kb = folder, folder / "kb"
        self.model = qa_world.write_model(folder / "bert")
        ingest_sources([str(qa_world.write_documents(folder / "docs.jsonl"))], self.kb, tokenizer=str(self.model))

    def make(self, out: Path, config: CorpusQuestionsConfig = PATTERN, **more: Any) -> list[Record]:
        plain = override(FinetuneConfig(), ["encoder.dim=16"])
        make_questions(str(self.model), self.kb, out, config, finetuning=plain, device="cpu", **more)
        return read_made(out, 10_000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    """All the questions that the text gives."""
    world.make(world.folder / "whole.jsonl")
    return world.folder / "whole.jsonl"


def test_answers_stand_in_the_passages_they_name(world: World, whole: Path) -> None:
    made = read_made(whole, 10_000)
    passages = {passage.id: passage for passage in KnowledgeBase.open(world.kb).passages()}
    assert len(made) >= qa_world.PAINTINGS
    assert len(passages) == qa_world.PAINTINGS
    for record in made:
        (gold,), (start, end) = record["gold_ids"], record["span"]
        assert passages[gold].text[start:end] == record["answers"][0]
        assert record["answers"][0] not in record["question"] and record["rule"] == "in place"
    read = read_questions(whole)
    assert [(q.id, q.text, q.gold) for q in read] == [(m["id"], m["question"], tuple(m["gold_ids"])) for m in made]
    assert len({question.text for question in read}) == len(read)


def test_the_search_keeps_what_it_finds_and_tells_the_place(world: World, tmp_path: Path, whole: Path) -> None:
    near = world.make(tmp_path / "near.jsonl", CorpusQuestionsConfig(pipeline="pattern", top=3, min_content=2))
    assert near and {record["rank"] for record in near} <= {1, 2, 3}
    about = json.loads(Path(f"{tmp_path / 'near.jsonl'}.about.json").read_text(encoding="utf-8"))
    assert about["left_out"]["passage not found"] > 0
    assert {record["id"] for record in near} < {record["id"] for record in read_made(whole, 10_000)}


def test_an_interrupted_making_goes_on_and_comes_to_the_same(
    world: World, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again.jsonl"
    with pytest.raises(KeyboardInterrupt):
        world.make(out, should_stop=lambda: True)
    (parts,) = tmp_path.glob(".again.jsonl.parts-*")
    assert [file.name for file in parts.iterdir()] == ["000000.json"] and not out.exists()
    drafted = []
    ask = making.ask_passage
    monkeypatch.setattr(making, "ask_passage", lambda *a, **k: drafted.append(a[1]) or ask(*a, **k))
    world.make(out)
    assert len(drafted) == qa_world.PAINTINGS - making.CHUNK
    assert out.read_bytes() == whole.read_bytes()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_torn_chunk_is_made_again_and_so_is_a_file_that_nothing_tells_of(
    world: World, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "torn.jsonl"
    with pytest.raises(KeyboardInterrupt):
        world.make(out, should_stop=lambda: True)
    (parts,) = tmp_path.glob(".torn.jsonl.parts-*")
    (parts / "000000.json").write_text('{"records": [', encoding="utf-8")
    out.write_text("killed before it was told what this is", encoding="utf-8")
    world.make(out)
    assert out.read_bytes() == whole.read_bytes()


def test_another_seed_takes_other_passages_and_a_count_is_kept(world: World, tmp_path: Path) -> None:
    settings = {"pipeline": "pattern", "top": 0, "min_content": 2, "count": 20}
    first = world.make(tmp_path / "0.jsonl", CorpusQuestionsConfig(**settings))
    second = world.make(tmp_path / "1.jsonl", CorpusQuestionsConfig(**settings, seed=1))
    assert len(first) == len(second) == 20
    assert {record["id"] for record in first} != {record["id"] for record in second}


def test_what_a_person_mended_is_never_written_over(world: World, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "mended.jsonl"
    shutil.copy(whole, out)
    with pytest.raises(ArtefactError, match="no file says what made it"):
        world.make(out)
    shutil.copy(f"{whole}.about.json", f"{out}.about.json")
    out.write_text(out.read_text(encoding="utf-8").replace("what", "whatever"), encoding="utf-8")
    assert "whatever" in world.make(out)[0]["question"]
    with pytest.raises(MismatchError, match="another text, model or settings"):
        world.make(out, CorpusQuestionsConfig(pipeline="pattern", top=0, min_content=2, seed=3))
    out.unlink()
    with pytest.raises(ArtefactError, match="which is gone"):
        world.make(out)


def test_a_text_without_a_question_is_an_error_in_one_line(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no question to make from 150 passages \(short"):
        world.make(tmp_path / "none.jsonl", CorpusQuestionsConfig(pipeline="pattern", top=0, min_words=20))


def test_a_model_without_labels_answers_and_then_checks_what_is_made(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    few = [*FEW.split(), *UNTAUGHT.split()]
    command = ["finetune", "--model", world.model, "--kb", world.kb, "--from-corpus", "--out", run, *few]
    done = result(*command)
    made = read_made(run / "made-questions.jsonl", 100)
    assert len(made) == 60 and done["curve"][-1]["step"] == 2
    kb = KnowledgeBase.open(world.kb)
    answer = open_model(run).ask(made[0]["question"], kb, k=3)
    assert any(answer.text in evidence.passage.text for evidence in answer.evidence)
    assert "made-questions.jsonl" in (run / "model" / "README.md").read_text(encoding="utf-8")

    assert result(*command)["curve"] == done["curve"]  # goes on, and makes no other questions
    assert "begun with corpus.count=60: found 40" in error(*command[:-1], "corpus.count=40")[1]
    assert "expected one of them" in error(*command, "--qa", run / "made-questions.jsonl")[1]
    given = ["finetune", "--model", world.model, "--kb", world.kb, "--qa", run / "made-questions.jsonl"]
    assert error(*given, "--out", tmp_path / "other", "corpus.count=3")[1].startswith(
        "realm: found corpus.count=3 without"
    )

    # It learnt next to nothing, so that its answers are any words of the passage: some touch the right ones.
    settings = ["pipeline=pattern", "min_content=2", "top=150", "min_f1=0.01", "--model", run]
    told = result("questions", "--kb", world.kb, "--out", tmp_path / "trip.jsonl", "-n", "100", *settings)
    assert told["questions"] > 0 and told["left_out"]["answered otherwise"] > 0
    model = open_model(run)
    for record in read_made(tmp_path / "trip.jsonl", 5):
        assert token_f1(model.ask(record["question"], kb).text, record["answers"]) >= 0.01

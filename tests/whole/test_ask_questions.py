"""Plain questions to a fine-tuned model over documents that people edit."""

from __future__ import annotations

from pathlib import Path

import pytest
import qa_world
from story import error, result

from realm import KnowledgeBase
from realm.answering import answerer
from realm.answering.questions import QuestionAnswering, open_model
from realm.workflows import run as runs
from realm.workflows.store import open_knowledge_base

ASKED = qa_world.questions()[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base of paintings and a model that had a few steps: it need not be right here."""
    folder = tmp_path_factory.mktemp("world")
    model = qa_world.write_model(folder / "bert")
    result("ingest", qa_world.write_documents(folder / "docs.jsonl"), "--kb", folder / "kb", "--tokenizer", model)
    asked = qa_world.write_questions(folder / "qa.jsonl", qa_world.questions())
    command = ["finetune", "--model", model, "--kb", folder / "kb", "--qa", asked, "--out", folder / "run"]
    few = ["qa.steps=2", "qa.batch_size=4", "qa.num_early=20", "loop.checkpoint_every=2", "loop.tensorboard=false"]
    result(*command, *few, "dev.size=4", "loop.threads=1", "encoder.dim=16")
    return folder


def test_the_run_is_told_by_its_format() -> None:
    assert answerer.RUN_FORMAT == runs.FINETUNING


def test_an_answer_stands_in_a_passage_letter_for_letter(world: Path) -> None:
    model, kb = open_model(world / "run"), KnowledgeBase.open(world / "kb")
    assert isinstance(model, QuestionAnswering)
    for question in qa_world.questions()[:10]:
        answer = model.ask(question.text, kb, k=4)
        told = [evidence for evidence in answer.evidence if evidence.span]
        assert told
        assert answer.text in {e.passage.text[e.span[0] : e.span[1]] for e in told if e.span}
        assert sum(evidence.posterior for evidence in answer.evidence) == pytest.approx(1, abs=1e-3)
        assert sum(evidence.prior for evidence in answer.evidence) == pytest.approx(1, abs=1e-5)
        shown = [answer.confidence, *(share for _, share in answer.alternatives)]
        assert shown == sorted(shown, reverse=True)
        assert 0 < sum(shown) <= 1 + 1e-6


def test_an_edit_is_read_at_the_next_question(world: Path) -> None:
    model, kb = QuestionAnswering.from_pretrained(world / "run" / "model"), open_knowledge_base(world / "kb")
    document = kb.get(ASKED.gold[0])
    assert document is not None
    found = model.ask(ASKED.text, kb, k=200)
    assert any(ASKED.answers[0] in evidence.passage.text for evidence in found.evidence)
    before = kb.version
    kb.delete(document.id)
    after = model.ask(ASKED.text, kb, k=200)
    assert all(evidence.passage.document_id != document.id for evidence in after.evidence)
    past = model.ask(ASKED.text, kb, k=200, as_of=before)
    assert past.knowledge_base_version == before
    assert any(evidence.passage.document_id == document.id for evidence in past.evidence)
    kb.add([document])


def test_the_command_answers_plain_questions(world: Path) -> None:
    answer = result("ask", ASKED.text, "--kb", world / "kb", "--model", world / "run")
    assert answer["question"] == ASKED.text
    assert answer["text"]
    assert answer["evidence"][0]["retrieval_utility"] is None
    assert "empty question" in error("ask", "  ", "--kb", world / "kb", "--model", world / "run")[1]


def test_a_long_question_is_cut_and_answered(world: Path) -> None:
    kb = KnowledgeBase.open(world / "kb")
    assert open_model(world / "run").ask("who made " + "this thing " * 10_000 + "?", kb).text

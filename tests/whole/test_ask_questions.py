"""Plain questions to a fine-tuned model over documents that people edit."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import date
from pathlib import Path

import dots
import pytest
import qa_world
import torch
from story import error, realm, result

from realm import KnowledgeBase, Realm
from realm.answering import answerer
from realm.answering.agreement import agree
from realm.answering.conflicts import ConflictRule
from realm.answering.questions import QuestionAnswering, open_model
from realm.console import print_answer
from realm.errors import ArtefactError, UsageError
from realm.evaluation.scores import read_report
from realm.models.precision import multiplies_bfloat16
from realm.types import Document
from realm.workflows import run as runs
from realm.workflows.ask import ask_question
from realm.workflows.reporting import Silent
from realm.workflows.store import open_knowledge_base
from realm.workflows.values import answer_json

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
    result(*command, *few, "dev.size=4", "loop.threads=1", "encoder.dim=16", "qa.retriever=dense")
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


def test_many_questions_have_the_answers_they_have_alone(world: Path) -> None:
    model, kb = QuestionAnswering.from_pretrained(world / "run"), open_knowledge_base(world / "kb")
    texts = [*(q.text for q in qa_world.questions()[:9]), "who " * 80, "wer malte das Bild?", "?!"]
    for settings in ({}, {"aggregate": "best-span", "k": 7}):
        together = list(model.ask_many(texts, kb, batch=5, **settings))  # type: ignore[arg-type]
        for text, answer in zip(texts, together, strict=True):
            alone = model.ask(text, kb, **settings)  # type: ignore[arg-type]
            assert (answer.question, answer.text) == (text, alone.text)
            assert answer.confidence == pytest.approx(alone.confidence, abs=1e-5)
            assert [(e.passage, e.span) for e in answer.evidence] == [(e.passage, e.span) for e in alone.evidence]
            assert [side.text for side in answer.conflicts] == [side.text for side in alone.conflicts]
    asked = model.ask_many(["who ?", "  "], kb)
    with pytest.raises(UsageError, match=r"an empty question \(number 2\)"):
        next(asked)
    assert list(model.ask_many([], kb)) == []
    for wrong in ({"aggregate": "mean"}, {"batch": 0}, {"k": 0}):
        with pytest.raises(UsageError, match="expected"):
            model.ask_many(["who ?"], kb, **wrong)  # type: ignore[arg-type]


def test_the_best_span_has_no_more_than_the_marginal(world: Path) -> None:
    model, kb = QuestionAnswering.from_pretrained(world / "run"), open_knowledge_base(world / "kb")
    for question in qa_world.questions()[:5]:
        marginal, best = (model.ask(question.text, kb, aggregate=a) for a in ("marginal", "best-span"))
        assert best.confidence <= marginal.confidence + 1e-6
        again = model.ask(question.text, kb)  # by default; from memory now, the first one from the store
        assert again.text == marginal.text and again.confidence == pytest.approx(marginal.confidence, rel=1e-6)


def test_an_edit_is_seen_by_the_next_batch(world: Path) -> None:
    model, kb = QuestionAnswering.from_pretrained(world / "run"), open_knowledge_base(world / "kb")
    document = kb.get(ASKED.gold[0])
    assert document is not None
    asked = model.ask_many([ASKED.text] * 4, kb, k=200, batch=2)
    ids = [{e.passage.document_id for e in next(asked).evidence}]
    kb.delete(document.id)
    ids += [{e.passage.document_id for e in answer.evidence} for answer in asked]
    kb.add([document])
    assert [document.id in found for found in ids] == [True, True, False, False]


def test_a_file_of_questions_is_answered_a_line_each(world: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text(f"{ASKED.text}\n\nwho ?\n", encoding="utf-8")
    common = ("--kb", world / "kb", "--model", world / "run", "--questions", tmp_path / "asked.txt")
    code, out, _ = realm("ask", *common, "--json", "--aggregate", "best-span", "--conflict-ratio", "0.9")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(line["id"], line["question"]) for line in lines] == [("1", ASKED.text), ("3", "who ?")]
    assert all(line["text"] and line["evidence"] for line in lines)
    assert "the first 62 are read" in realm("ask", "who " * 10_000, *common[:4]).err
    assert "the model knows 0 of" in realm("ask", "누가 무엇을", *common[:4]).err
    code, out, _ = realm("ask", *common)
    assert code == 0 and ASKED.text in out and "version" in out
    assert "expected a question, or a file" in error("ask", "who ?", *common)[1]
    assert "expected a question, or a file" in error("ask", *common[:4])[1]
    assert "expected one of marginal, best-span" in error("ask", *common, "--aggregate", "sum")[1]
    assert "expected a ratio" in error("ask", *common, "--conflict-ratio", "2")[1]


def test_passages_that_disagree_are_shown(world: Path, tmp_path: Path) -> None:
    """Each document says one word, so that any reader has to read it there."""
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split, splitter=dots.SETTINGS)
    texts = {"old": "Ramo .", "new": "Teso ."}
    days = {"old": date(1999, 1, 1), "new": date(2020, 1, 1)}
    kb.add([Document(id, id, text, source="press", date=days[id]) for id, text in texts.items()])
    model = QuestionAnswering.from_pretrained(world / "run")
    answer = model.ask("where is Bado from ?", kb, k=2, conflicts=ConflictRule(ratio=1e-6, least=0.0))
    assert [side.date for side in answer.conflicts] == [days["new"], days["old"]]
    assert [e.passage.document_id for side in answer.conflicts for e in side.evidence] == ["new", "old"]
    (given,) = [side for side in answer.conflicts if side.preferred]
    assert agree(given.text, answer.text, model.normalize)
    value = answer_json(answer)
    assert json.loads(json.dumps(value))["conflicts"][0]["evidence"][0]["date"] == "2020-01-01"
    assert value["conflict"].startswith("the passages disagree")
    with redirect_stdout(io.StringIO()) as out:
        print_answer(answer)
    assert "the passages disagree" in out.getvalue() and "2020-01-01, press" in out.getvalue()


def test_a_long_question_is_cut_and_answered(world: Path) -> None:
    kb = KnowledgeBase.open(world / "kb")
    assert open_model(world / "run").ask("who made " + "this thing " * 10_000 + "?", kb).text


def test_questions_with_known_answers_judge_a_model_and_bm25(world: Path, tmp_path: Path) -> None:
    asked = [question for question in qa_world.questions() if question.id != f"who-{ASKED.gold[0]}"]
    suite = qa_world.write_questions(tmp_path / "test.jsonl", asked)
    common = ("--kb", world / "kb", "--suite", suite, "--limit", "20")

    def judged(name: str, *more: str | Path) -> dict[str, float]:
        figures: dict[str, float] = result("evaluate", *common, "--out", tmp_path / name, *more)["figures"]["all"]
        return figures

    words = judged("bm25")
    ours = judged("ours", "--model", world / "run", "--k", "3")
    assert words["questions"] == ours["questions"] == 20
    assert words["recall_string@5"] == 1.0  # a painting's name stands in one passage
    assert "exact_match" not in words
    assert 0 <= ours["exact_match"] <= 1
    lines = (tmp_path / "ours" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 20


def test_what_evaluate_lacks_is_said(world: Path, tmp_path: Path) -> None:
    assert "no --model" in error("evaluate")[1]
    assert "without --kb or --out" in error("evaluate", "--suite", "nq", "--kb", world / "kb")[1]
    missing = error("evaluate", "--suite", "nothing", "--kb", world / "kb", "--out", tmp_path / "r")[1]
    assert "expected one of nq" in missing


def test_a_fine_tuned_model_is_no_pre_trained_one(world: Path) -> None:
    with pytest.raises(ArtefactError, match="fine-tuned on questions"):
        Realm.from_pretrained(world / "run")


def test_a_calibrated_model_claims_less_and_abstains(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run" / "model", tmp_path / "model")
    kb = KnowledgeBase.open(world / "kb")
    own = QuestionAnswering.from_pretrained(world / "run")
    asked = qa_world.questions()[:120]
    # Nobody trained this model: every third question takes its answer for the right one.
    given = own.ask_many([question.text for question in asked], kb)
    asked = [
        replace(q, answers=(a.text,)) if i % 3 == 0 else q for i, (q, a) in enumerate(zip(asked, given, strict=True))
    ]
    none = [replace(q, id=f"none-{q.id}", answers=(), gold=(), answerable=False) for q in asked[:60]]
    rows = [
        {"id": q.id, "question": q.text, "answers": list(q.answers), "answerable": q.answerable}
        for q in (*asked, *none)
    ]
    suite = tmp_path / "dev.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = [{**row, "id": f"other-{row['id']}"} for row in rows[-60:]]  # one that the suite holds is not asked again
    (tmp_path / "none.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    command = ("calibrate", "--model", tmp_path / "model", "--kb", world / "kb", "--suite", suite)
    found = result(*command, "--remove-passages", "0.5", "--unanswerable", tmp_path / "none.jsonl")
    removed = read_report(tmp_path / "model.calibration" / "passages-removed").judged
    assert 40 <= len(removed) <= 80 and not any(one.answerable or one.exact_match for one in removed.values())
    assert found["questions"]["fitted"] + found["questions"]["judged"] == 240 + len(removed)
    assert found["after"]["ece"] <= found["before"]["ece"] + 0.02
    assert found["before"]["exact_match"] == found["after"]["exact_match"]
    assert {"abstained: passages removed", "abstained_answerable", "ece_by_chance"} <= set(found["after"])
    judged = tmp_path / "model.calibration" / "predictions.jsonl"
    first = judged.stat().st_mtime_ns
    again = result(*command, "--remove-passages", "0.5", "--unanswerable", tmp_path / "none.jsonl")
    assert again == found and judged.stat().st_mtime_ns == first, "what was asked is not asked again"
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "Reliability" in page and "Risk and coverage" in page
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "Its confidence was calibrated on" in card and "is not calibrated" not in card

    calibrated = QuestionAnswering.from_pretrained(tmp_path / "model")
    plain = own.ask(ASKED.text, kb)
    masses = [plain.confidence, *(share for _, share in plain.alternatives)]
    claimed = calibrated.confidence.calibration([masses], [plain.signals])[0]
    assert calibrated.ask(ASKED.text, kb).confidence == pytest.approx(claimed)
    fitted = calibrated.confidence.passages
    assert fitted == calibrated.config.qa.num_passages
    notes: list[str] = []
    reporter = Silent()
    reporter.note = notes.append  # type: ignore[method-assign]
    for k in (None, fitted + 1):
        ask_question(ASKED.text, world / "kb", model=tmp_path / "model", k=k, reporter=reporter)
    assert len(notes) == 1 and f"fitted for {fitted} passages, {fitted + 1} are read: calibrate again" in notes[0]
    figures = result("evaluate", *command[1:], "--limit", "12", "--out", tmp_path / "report")["figures"]["all"]
    assert 0 <= figures["coverage"] <= 1 and "abstained_answerable" in figures
    refused = replace(calibrated.confidence, threshold=1.1)(plain)
    assert refused.abstained
    assert (refused.text, refused.alternatives[0]) == ("", (plain.text, plain.confidence))
    assert refused.evidence == plain.evidence

    sure = result(*command, "--accuracy", "0.4")
    assert 0 < sure["threshold"] < 1 and sure["after"]["coverage"] < 1
    assert "expected one of them" in error(*command, "--accuracy", "0.5", "--coverage", "0.5")[1]
    assert "no question without an answer" in error(*command, "--unanswerable", world / "qa.jsonl")[1]
    assert "found none of" in error(*command[:-1], tmp_path / "none.jsonl")[1]
    assert judged.stat().st_mtime_ns != first, "other questions are asked"
    half = result(*command, "--coverage", "0.5")
    assert half["threshold"] > 0 and half["after"]["coverage"] >= 0.4
    (tmp_path / "model" / "calibration.json").write_text("[]")
    assert "is no calibration" in error("ask", "who ?", "--kb", world / "kb", "--model", tmp_path / "model")[1]


def test_too_few_questions_are_no_calibration(world: Path, tmp_path: Path) -> None:
    suite = qa_world.write_questions(tmp_path / "few.jsonl", qa_world.questions()[:10])
    line = error("calibrate", "--model", world / "run", "--kb", world / "kb", "--suite", suite)[1]
    assert "at least 20 in each" in line


def test_bfloat16_reads_alike_and_is_refused_where_it_means_nothing(world: Path) -> None:
    kb, question = KnowledgeBase.open(world / "kb"), ASKED.text
    plain, rounded = (open_model(world / "run", bf16=bf16).ask(question, kb) for bf16 in (False, True))
    assert rounded.confidence == pytest.approx(plain.confidence, abs=0.05) and rounded.confidence != plain.confidence
    for option, expected in (("--bf16", rounded), ("--float32", plain)):
        told = result("ask", question, "--kb", world / "kb", "--model", world / "run", option)
        assert told["confidence"] == pytest.approx(expected.confidence)
    with pytest.raises(UsageError, match="expected a fine-tuned model"):
        open_model("vital-small", bf16=True)


@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_is_what_a_processor_that_has_it_reads_with(
    has_it: bool, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_it, "avx2": True}, raising=False)
    kb = KnowledgeBase.open(world / "kb")
    asked = open_model(world / "run").ask(ASKED.text, kb)
    assert asked.confidence == open_model(world / "run", bf16=has_it).ask(ASKED.text, kb).confidence
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # torch 2.11
    assert not multiplies_bfloat16(torch.device("cpu"))

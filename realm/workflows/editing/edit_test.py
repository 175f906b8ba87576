"""Edit documents and ask again: does the answer follow, with no training? (Guu et al. 2020, table 4)

OUT/
  report.json    shares with intervals, last
  report.txt     the same as a table, and some edits
  edits.jsonl    every edit: what was replaced where, both answers, the verdict and the evidence
  .work/         while it goes on: the copy that is edited, what was asked before, what was asked after
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch.nn import functional as F

from realm import files
from realm.addresses import address_of, address_or_path
from realm.answering.answerer import answerer_folder, is_answerer, model_fingerprint
from realm.answering.ask import Realm
from realm.answering.confidence import FILE as CALIBRATION
from realm.answering.confidence import Confidence
from realm.answering.pretrained import locate
from realm.answering.questions import QuestionAnswering, open_model
from realm.errors import ArtefactError, DataError, MismatchError, UsageError
from realm.evaluation.edit_verdicts import Edit, figures, table_rows, tell
from realm.knowledge.base import KnowledgeBase, Match
from realm.knowledge.cloning import clone
from realm.knowledge.questions.files import read_questions
from realm.models.backbone import pieces
from realm.types import Answer
from realm.workflows.ask import embed_missing
from realm.workflows.editing.plan import AT_ONCE, Facts
from realm.workflows.editing.rounds import Asker, Plan, Scratch, play
from realm.workflows.journal import Journal
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.store import TOKENIZER, open_knowledge_base

FORMAT, VERSION = "realm edit test", 1
RULES = 2
"""How edits are made: a test that was begun by others can't go on. 2: a number that is accepted alone is exchanged
alone."""
REPORT, EDITS, TEXT, WORK = "report.json", "edits.jsonl", "report.txt", ".work"
SHOWN = 10
"""Edits in report.txt."""
ONLY = ("both", "right", "held")


def edit_test(
    model: Path,
    kb_path: Path,
    qa: Path,
    out: Path,
    *,
    edits: int = 500,
    seed: int = 0,
    k: int = 5,
    only: str = "both",
    tagger: str = "en_core_web_sm",
    raw: bool = False,
    format: str | None = None,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Make so many edits, ask before and after each, write `out`; returns the report.

    Facts come from the questions in `qa`, in an order of the seed: one whose answer stands in a passage that is read
    for it. Wherever an accepted answer stands in the documents of those passages, title and text, another value of its
    type takes its place (see `evaluation.edit_facts`); the knowledge base embeds and commits it as any update. All of
    that happens to a copy in `out`, which goes when the test is done: `kb_path` is only read.

    model: what `realm finetune` wrote, or a pre-trained model where the questions have blanks. k: passages to read.
    only: "right" takes the facts that the model answers rightly before, "held" those that it does not, "both" all.
    tagger: finds the types; on a machine without it capital letters and dates do. raw: as the model was before it was
    calibrated, so it never abstains.

    A test that was stopped goes on when called again with the same arguments; a finished one is only read.

    Raises:
        UsageError: a size below 1, an unknown `only`, or questions without a blank for a pre-trained model.
        DataError: no question gave a fact.
        MismatchError: `out` holds a test with other arguments, or of another model or other questions in their place.
        ArtefactError: `out` holds something else.
    """
    if min(edits, k) < 1 or only not in ONLY:
        raise UsageError(f"found edits={edits}, k={k}, only={only!r}: expected sizes of at least 1, {', '.join(ONLY)}")
    reporter = reporter or Silent()
    if address_of(kb_path) is not None:
        raise UsageError(
            f"found --kb {address_or_path(kb_path)}: expected a folder, for the edits are tried on a copy of it"
        )
    model, kb_path, qa, out = Path(model), Path(kb_path).absolute(), Path(qa), Path(out)
    questions = read_questions(qa, format=format)
    settings = {
        "model": str(model), "knowledge_base": str(kb_path), "questions": str(qa), "edits": edits, "seed": seed, "k": k,
        "only": only, "tagger": tagger, "raw": raw, "rules": RULES,
        "model_fingerprint": _fingerprint(model, raw),
        "questions_fingerprint": files.fingerprint(
            *(f"{q.id}\0{q.text}\0{q.answers}\0{q.answerable}\0{q.patterns}" for q in questions)
        ),
    }  # fmt: skip
    finished = _check_place(out, settings)
    if finished is not None:
        return finished
    opened = open_model(model, device, bf16=False)  # the same figures on every processor
    if raw and isinstance(opened, QuestionAnswering):
        opened.confidence = Confidence()
    with _alone(out / WORK):
        scratch, base = _open_scratch(out / WORK, kb_path, settings, opened, reporter)
        asker = _Model(opened, scratch.kb, k)
        journal = Journal(out / WORK / "before.jsonl")
        facts = Facts(questions, asker, scratch, journal, tagger=tagger, seed=seed, only=only)
        plans = facts.plan(edits, reporter)
        if not plans:
            shutil.rmtree(out / WORK)
            raise DataError(
                f"no question of {qa} gave a fact to edit ({_told(facts.skipped)}): expected questions whose answers "
                "stand in passages that the model finds; give others, or a larger --k"
            )
        done = _after(plans, scratch, asker, out / WORK, reporter)
        report = {
            "format": FORMAT,
            "format_version": VERSION,
            **settings,
            "knowledge_base_version": base,
            "tagger_used": f"{facts.parser.name} {facts.parser.version}",
            "asked": facts.asked,
            "left_out": dict(facts.skipped),
            "figures": figures(done),
        }
        files.write_text(out / EDITS, "".join(json.dumps(edit.to_json(), ensure_ascii=False) + "\n" for edit in done))
        files.write_text(out / TEXT, _text(report, done))
        files.write_json(out / REPORT, report)
    shutil.rmtree(out / WORK, ignore_errors=True)  # the next call may be at it, too
    return report


TEXTS_AT_ONCE = 1_024
"""Whose meaning is looked for."""


class _Model:
    """A model over the copy, as an `Asker`."""

    def __init__(self, model: Realm | QuestionAnswering, kb: KnowledgeBase, k: int) -> None:
        self.model, self.kb, self.k = model, kb, k
        self._meanings: dict[str, np.ndarray] = {}
        if isinstance(model, QuestionAnswering):
            self._widest = model.config.reader.max_width
        else:
            self._widest = model.config.data.max_targets

    def search(self, questions: Sequence[str]) -> list[list[Match]]:
        return self.model.retrieval.search_many(questions, self.kb, self.k).matches

    def ask(self, questions: Sequence[str]) -> Iterator[Answer]:
        if isinstance(self.model, QuestionAnswering):
            return self.model.ask_many(questions, self.kb, k=self.k, batch=AT_ONCE)
        return (self.model.ask(question, self.kb, k=self.k) for question in questions)

    def can_say(self, text: str) -> bool:
        return len(pieces(self.model.retrieval.tokenizer, [text])[0]) <= self._widest

    @torch.inference_mode()
    def meaning(self, texts: Sequence[str]) -> np.ndarray:
        fresh = [text for text in dict.fromkeys(texts) if text not in self._meanings]
        for at in range(0, len(fresh), TEXTS_AT_ONCE):
            part = fresh[at : at + TEXTS_AT_ONCE]
            vector_ND = F.normalize(self.model.retrieval.query_vectors(*part).float(), dim=-1).cpu().numpy()
            self._meanings.update(zip(part, vector_ND, strict=True))
        return np.stack([self._meanings[text] for text in texts])


def read_edits(out: Path) -> list[Edit]:
    """The edits of a finished test. ArtefactError when it is none."""
    place = Path(out) / EDITS
    if not place.exists():
        raise ArtefactError(f"no file {place}: expected the folder of a finished edit test")
    return [Edit.from_json(json.loads(line)) for line in place.read_text("utf-8").split("\n") if line]


# ---------------------------------------------------------------- the place


def _fingerprint(model: Path, raw: bool) -> str:
    """Of everything that a model's answers depend on, without opening it."""
    if not is_answerer(model):
        return model_fingerprint(*locate(model))
    curve = answerer_folder(model) / CALIBRATION
    claims = "" if raw or not curve.exists() else curve.read_text(encoding="utf-8")
    return files.fingerprint(model_fingerprint(model), claims)


def _check_place(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report when it is there."""
    begun = out / WORK / "settings.json"
    if (out / REPORT).exists():
        report: dict[str, Any] = files.read_json(out / REPORT)
        if report.get("format") != FORMAT:
            raise ArtefactError(f"{out} holds another report: give another --out")
        _same(out, report, settings)
        shutil.rmtree(out / WORK, ignore_errors=True)  # a test that was killed when all but this was done
        return report
    if begun.exists():
        _same(out, {"rules": 1, **files.read_json(begun)}, settings)
    elif out.exists() and (not out.is_dir() or any(file.name != WORK for file in out.iterdir())):
        what = "is not empty and" if out.is_dir() else "is a file and"
        raise ArtefactError(f"{out} {what} is no edit test: give another --out")
    return None


def _same(out: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name in before and before[name] != value:
            raise MismatchError(
                f"{out} was begun with {name}={before.get(name)}: found {name}={value}; give the same, or another --out"
            )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{work.parent} is being written by another process: wait, or give another --out") from None
    try:
        yield
    finally:
        lock.release()


def _open_scratch(
    work: Path, kb_path: Path, settings: dict[str, Any], model: Realm | QuestionAnswering, reporter: Reporter
) -> tuple[Scratch, int]:
    """The copy that is edited, as the original was when the test began, and that version."""
    if not (work / "settings.json").exists():
        shutil.rmtree(work / "kb", ignore_errors=True)
        clone(kb_path, work / "kb", [TOKENIZER])
        files.write_json(work / "settings.json", {**settings, "base": open_knowledge_base(work / "kb").version})
    base = int(files.read_json(work / "settings.json")["base"])
    kb = open_knowledge_base(work / "kb")
    embed_missing(model, kb, reporter)
    scratch = Scratch(kb, model.passage_encoder, base)
    left = {identity for entry in Journal(work / "commits.jsonl").entries for identity in entry["documents"]}
    if left:
        scratch.put_back(sorted(left))
    return scratch, base


# ---------------------------------------------------------------- after


def _after(plans: Sequence[Plan], scratch: Scratch, asker: Asker, work: Path, reporter: Reporter) -> list[Edit]:
    """Every edit, in the order of the plans."""
    journal, commits = Journal(work / "after.jsonl"), Journal(work / "commits.jsonl")
    done = {entry["id"]: Edit.from_json(entry) for entry in journal.entries}
    waiting = [plan for plan in plans if plan.id not in done]
    with reporter.stage("edit and ask again", "edits") as progress:
        for edit in play(waiting, scratch, asker, lambda documents: commits.append({"documents": list(documents)})):
            journal.append(edit.to_json())
            done[edit.id] = edit
            progress(len(done), len(plans))
    return [done[plan.id] for plan in plans]


def _text(report: Mapping[str, Any], edits: Sequence[Edit]) -> str:
    columns, rows = table_rows(report["figures"])
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in [columns, *rows]]
    told = [f"{report['asked']:,} questions looked at; left out: {_told(report['left_out'])}"]
    return "\n".join([*lines, "", *told, "", *(tell(edit) + "\n" for edit in edits[:SHOWN])])


def _told(skipped: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{reason} {count:,}" for reason, count in sorted(skipped.items(), key=lambda one: -one[1])) or "none"
    )

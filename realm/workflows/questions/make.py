"""A knowledge base in, questions about it out: fine-tuning without labels.

    passages -> sentences with spans -> questions by rule -> those that the model finds the passage for -> a file

Answers are the corpus's own salient spans (Lewis et al. 2019, "Unsupervised question answering by cloze translation").
What the rules made is checked by the model that is to learn from it: the passage that a question comes from must be
among the first that it retrieves, and a model that answers must give the answer back (Alberti et al. 2019, "Synthetic
QA corpora generation with roundtrip consistency").

    FILE                    ordinary questions: id, question, answers, gold_ids; and for people rule, label, span, rank
    FILE.about.json         what it was made from, and what was left out and why
    .FILE.parts-KEY/        finished chunks of a call that was interrupted

The same call goes on from wherever it was stopped, and makes the same file.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from realm import files
from realm.addresses import address_or_path
from realm.config import to_json
from realm.errors import ArtefactError, DataError, MismatchError
from realm.evaluation.answers import token_f1
from realm.knowledge.asking.passages import Limits, Made, ask_passage
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.text.parsing import Parser, load_parser
from realm.knowledge.text.taggers import find_tagger
from realm.settings_corpus import CorpusQuestionsConfig
from realm.settings_finetune import FinetuneConfig
from realm.workflows import parts
from realm.workflows.finetuning import start as starts
from realm.workflows.questions.check import Check, open_check
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.store import open_knowledge_base
from realm.workflows.workbench import Stop

FORMAT, VERSION = "realm made questions", 1
CHUNK = 100
"""Passages that are parsed, checked and kept at a time: seconds of work."""
PARSE_WIDTH = 8
"""Candidates of a passage, for each question that it may give, that are checked by the model."""

Record = dict[str, Any]


def make_questions(
    model: str,
    kb_path: Path,
    out: Path,
    config: CorpusQuestionsConfig,
    *,
    finetuning: FinetuneConfig | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
) -> dict[str, Any]:
    """Write the questions file `out`, or leave it as it is where the same call made it; returns what it is made from.

    model: what checks the questions, and what they are for: anything that fine-tuning starts from, or a model that
    answers. finetuning: says how a plain encoder is opened; a trained one brings that.

    MismatchError when `out` was made otherwise, ArtefactError when it is something else, DataError when the
    text gives no question; KeyboardInterrupt after `should_stop`, with everything finished kept.
    """
    reporter, out = reporter or Silent(), Path(out)
    start = starts.find_start(model)
    kb = open_knowledge_base(kb_path)
    snapshot = parts.prepare_snapshot(kb, starts.tokenizer_of(start), reporter)
    settled = starts.settle(finetuning or FinetuneConfig(), start)
    _, parser_version = find_tagger(config.pipeline)
    facts = {
        "snapshot": snapshot.fingerprint,
        "model_fingerprint": start.fingerprint,
        "encoder": None if start.trained else to_json(settled.encoder),
        "pipeline_version": parser_version,
        "settings": to_json(config),
    }
    key = files.fingerprint(json.dumps({"version": VERSION, **facts}, sort_keys=True))
    about, chunks = about_of(out), out.with_name(f".{out.name}.parts-{key}")
    # With its parts still there and nothing that tells of it, a file is what a killed call left at its very end.
    if about.exists() or (out.exists() and not chunks.exists()):
        return _known(out, about, key)
    maker = _Maker(snapshot, config, chunks)
    with reporter.stage("load the pipeline and the model"):
        maker.parser = load_parser(config.pipeline)
        maker.check = open_check(model, start, kb, snapshot, config, settled, device, reporter)
    with reporter.stage("questions from the text", "questions") as progress:
        for found in maker.work():
            progress(min(found, config.count), config.count)
            if should_stop is not None and should_stop():
                raise KeyboardInterrupt
    records = maker.chosen()
    if not records:
        reasons = ", ".join(f"{name} {count:,}" for name, count in maker.counts.most_common(4))
        raise DataError(
            f"{kb.address}: found no question to make from {maker.passages:,} passages "
            f"({reasons or 'no name, no date'}): expected sentences with names, dates or numbers; loosen the settings, "
            "or give questions with --qa"
        )
    told = {
        "format": FORMAT,
        "format_version": VERSION,
        "fingerprint": key,
        "knowledge_base": address_or_path(kb_path),
        "knowledge_base_version": snapshot.version,
        "model": model if not Path(model).exists() else str(Path(model).absolute()),
        **facts,
        "questions": len(records),
        "passages": maker.passages,
        "rules": dict(Counter(record["rule"] for record in records).most_common()),
        "labels": dict(Counter(record["label"] for record in records).most_common()),
        "left_out": dict(maker.counts.most_common()),
    }
    files.write_text(out, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    files.write_json(about, told)  # last: without it the work counts as unfinished
    for leftover in out.parent.glob(f".{out.name}.parts-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return told


def about_of(out: Path) -> Path:
    """The file beside a made one that says what it was made from."""
    return out.with_name(f"{out.name}.about.json")


def _known(out: Path, about: Path, key: str) -> dict[str, Any]:
    """What an earlier call left. A person may have mended the questions: they are never written over."""
    if not about.exists():
        raise ArtefactError(f"{out} is there already and no file says what made it: give another place")
    told = files.read_json(about)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ArtefactError(f"{about} does not tell of made questions: give another place")
    if not out.exists():
        raise ArtefactError(f"{about} tells of {out.name}, which is gone: remove the first to make the questions again")
    if told.get("fingerprint") != key:
        raise MismatchError(
            f"{out} was made from another text, model or settings: leave them as they were, or give another place"
        )
    return told


class _Maker:
    """Passages in the order of a seed to questions, chunk by chunk."""

    parser: Parser
    check: Check

    def __init__(self, snapshot: Snapshot, config: CorpusQuestionsConfig, parts_folder: Path) -> None:
        self.snapshot, self.config, self.folder = snapshot, config, parts_folder
        self.limits = Limits(config.min_words, config.max_words, config.min_content, config.max_answer_words)
        self.counts: Counter[str] = Counter()
        self.passages = 0
        self._answers: dict[str, set[str]] = {}
        self._records: list[Record] = []

    def work(self) -> Any:
        """Yields the number of questions after every chunk, until there are enough or no passages left."""
        order = np.random.default_rng((self.config.seed, 11)).permutation(len(self.snapshot))
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, first in enumerate(range(0, len(order), CHUNK)):
            rows = order[first : first + CHUNK].tolist()
            place = self.folder / f"{number:06d}.json"
            part = _read_part(place)
            if part is None:
                part = self._chunk(rows)
                files.write_text(place, json.dumps(part, ensure_ascii=False))
            self.passages += len(rows)
            self.counts.update(part["left_out"])
            for record in part["records"]:
                self._answers.setdefault(_same(record["question"]), set()).add(record["answers"][0].casefold())
                self._records.append(record)
            found = len(self.chosen())
            yield found
            if found >= self.config.count:
                return

    def chosen(self) -> list[Record]:
        """The first `count` questions: each text once, and only where it always had the same answer."""
        seen: set[str] = set()
        found = []
        for record in self._records:
            same = _same(record["question"])
            if len(self._answers[same]) == 1 and same not in seen:
                seen.add(same)
                found.append(record)
        return found[: self.config.count]

    def _chunk(self, rows: list[int]) -> dict[str, Any]:
        left: Counter[str] = Counter()
        phrases = self.config.answers == "phrases"
        drafted: list[tuple[int, Made]] = []
        texts = [self.snapshot.text(row) for row in rows]
        for row, text, sentences in zip(rows, texts, self.parser.parse(texts), strict=True):
            found = ask_passage(self.snapshot.title(row), text, sentences, self.limits, left, phrases=phrases)
            spread_out = _spread(list(found), self.config.per_passage * PARSE_WIDTH)
            drafted += [(row, made) for made in spread_out]
        ranks = self.check.ranks([made.question for _, made in drafted], [row for row, _ in drafted])
        near = [(row, made, rank) for (row, made), rank in zip(drafted, ranks, strict=True) if rank is not None]
        left["passage not found"] += len(drafted) - len(near)
        given = self.check.answers([made.question for _, made, _ in near])
        if given is not None:
            kept = [
                entry
                for entry, answer in zip(near, given, strict=True)
                if token_f1(answer, [entry[1].answer]) >= self.config.min_f1
            ]
            left["answered otherwise"] += len(near) - len(kept)
            near = kept
        records: list[Record] = []
        by_row: dict[int, list[tuple[Made, int]]] = {}
        for row, made, rank in near:
            by_row.setdefault(row, []).append((made, rank))
        for row, entries in by_row.items():
            best = _spread([made for made, _ in entries], self.config.per_passage)
            rank_of = dict(entries)
            records += [self._record(row, made, rank_of[made]) for made in best]
            left["enough of the passage"] += len(entries) - len(best)
        return {"records": records, "left_out": dict(left)}

    def _record(self, row: int, made: Made, rank: int) -> Record:
        passage = self.snapshot.passage(row)
        assert passage.text[made.start : made.end] == made.answer, "an answer is cut from its passage"
        return {
            "id": f"made:{files.fingerprint(passage.id, made.question, str(made.start))}",
            "question": made.question,
            "answers": [made.answer],
            "gold_ids": [passage.id],
            "rule": made.rule,
            "label": made.label,
            "span": [made.start, made.end],
            "rank": rank,
            "title": passage.title,
        }


def _spread(made: list[Made], count: int) -> list[Made]:
    """At most `count` questions: one of each sentence, then a second of each, and each answer once as long as that
    goes. In the order of the text."""
    turn: Counter[int] = Counter()
    again: Counter[str] = Counter()
    ranked = []
    for at, each in enumerate(made):
        ranked.append((again[each.answer.casefold()], turn[each.sentence], at, each))
        turn[each.sentence] += 1
        again[each.answer.casefold()] += 1
    return [entry[3] for entry in sorted(sorted(ranked, key=lambda e: e[:3])[:count], key=lambda e: e[2])]


def _same(question: str) -> str:
    return " ".join(question.casefold().split())


def _read_part(place: Path) -> dict[str, Any] | None:
    """A finished chunk; None when it is absent or torn, which both mean that it is made again."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"records", "left_out"} <= set(found) else None


def read_made(out: Path, count: int) -> list[Record]:
    """Some of a made file's questions, spread evenly over it."""
    lines = [line for line in out.read_text(encoding="utf-8").split("\n") if line.strip()]
    wanted = min(count, len(lines))
    return [json.loads(lines[i * len(lines) // wanted]) for i in range(wanted)]

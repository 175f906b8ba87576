"""Which facts an edit test edits: questions are asked before any edit, and each one's answer gets another to draw.

What was asked is kept in a journal, so a test that was stopped asks only what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

from realm import files
from realm.errors import MissingLibraryError, UnavailableError
from realm.evaluation.answers import exact_match
from realm.evaluation.edit_facts import choose_old, core, substitution
from realm.evaluation.edit_values import Pool, Value, values_in
from realm.evaluation.edit_verdicts import Said, said_of
from realm.evaluation.retrieval import answer_in_text
from realm.knowledge.text.parsing import Parser, load_parser
from realm.knowledge.text.taggers import PATTERN
from realm.types import Question
from realm.workflows.editing.rounds import Asker, Plan, Scratch, holds, said
from realm.workflows.journal import Journal
from realm.workflows.reporting import Reporter

AT_ONCE = 32
"""Questions searched and asked together."""
NOT_READ = "no passage read holds an answer"


class Facts:
    """Questions asked before any edit, and what becomes of each."""

    def __init__(
        self,
        questions: Sequence[Question],
        asker: Asker,
        scratch: Scratch,
        journal: Journal,
        *,
        tagger: str,
        seed: int,
        only: str,
    ) -> None:
        """only: "right", "held" or "both"; see `edit_test`."""
        self.asker, self.scratch, self.journal = asker, scratch, journal
        self.seed, self.only = seed, only
        self.by_id = {question.id: question for question in questions}
        self.order = sorted(self.by_id, key=lambda identity: files.fingerprint(str(seed), identity))
        self.parser = open_parser(tagger)
        self.asked = 0
        self.skipped: Counter[str] = Counter()

    def plan(self, edits: int, reporter: Reporter) -> list[Plan]:
        """So many plans, or as many as the questions give."""
        facts: list[dict[str, Any]] = []
        plans: list[Plan] = []
        wanted, waiting = edits, self._looked_at()
        with reporter.stage("ask before", "facts") as progress:
            while True:
                while len(facts) < wanted and (entry := next(waiting, None)) is not None:
                    self.asked += 1
                    if "skip" in entry:
                        self.skipped[entry["skip"]] += 1
                    else:
                        facts.append(entry)
                    progress(len(facts), wanted)
                # All facts draw from what all of them bring, so a longer list may change a draw: plan anew.
                plans = self._draw(facts)
                if len(plans) >= edits or len(facts) < wanted:
                    break
                wanted += edits - len(plans)
        if len(facts) > len(plans):
            self.skipped["no other value of its type"] = len(facts) - len(plans)
        return plans[:edits]

    def _looked_at(self) -> Iterator[dict[str, Any]]:
        """Every question in turn: what was answered and read, or why it is no fact to edit."""
        known = {entry["id"]: entry for entry in self.journal.entries}
        for at in range(0, len(self.order), AT_ONCE):
            part = self.order[at : at + AT_ONCE]
            for entry in self._look([self.by_id[identity] for identity in part if identity not in known]):
                self.journal.append(entry)
                known[entry["id"]] = entry
            yield from (known[identity] for identity in part)

    def _look(self, questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
        asked = []
        for question in questions:
            reason = _unfit(question)
            if reason:
                yield {"id": question.id, "skip": reason}
            else:
                asked.append(question)
        found = self.asker.search([question.text for question in asked]) if asked else []
        held = []
        for question, matches in zip(asked, found, strict=True):
            if any(holds(match.passage.text, question.answers) for match in matches):
                held.append(question)
            else:
                yield {"id": question.id, "skip": NOT_READ}
        answers = self.asker.ask([question.text for question in held])
        for question, answer in zip(held, answers, strict=True):
            yield {"id": question.id, **self._fact(question, said(answer))}

    def _fact(self, question: Question, before: Said) -> dict[str, Any]:
        group = "right" if not before.abstained and exact_match(before.text, question.answers) else "held"
        if self.only not in ("both", group):
            return {"skip": f"{group} before"}
        texts = [seen.text for seen in before.passages if holds(seen.text, question.answers)]
        if not texts:  # a pre-trained model shows the passages it rests on, not the first ones
            return {"skip": NOT_READ}
        parsed = list(self.parser.parse(texts))
        old = choose_old(question.text, question.answers, texts, parsed)
        values = [value for text, found in zip(texts, parsed, strict=True) for value in values_in(text, found)]
        return {"group": group, "before": asdict(before), "old": astuple(old), "values": [astuple(v) for v in values]}

    def _draw(self, facts: Sequence[Mapping[str, Any]]) -> list[Plan]:
        olds = [Value(*fact["old"]) for fact in facts]
        pool = Pool([*olds, *(Value(*value) for fact in facts for value in fact["values"])], self.asker.meaning)
        plans = []
        for fact, old in zip(facts, olds, strict=True):
            question, before = self.by_id[fact["id"]], said_of(fact["before"])
            read = [f"{seen.title}\n{seen.text}" for seen in before.passages]
            new = pool.draw(
                old,
                question.text,
                question.answers,
                read,
                seed=self.seed,
                identity=question.id,
                fits=self.asker.can_say,
            )
            if new is not None:
                plans.append(self._plan(question, fact["group"], before, old.text, old.type, new))
        return plans

    def _plan(self, question: Question, group: str, before: Said, old: str, kind: str, new: str) -> Plan:
        change = substitution(old, kind, new, question.text, question.answers)
        documents = [self.scratch.original(i) for i in dict.fromkeys(seen.document for seen in before.passages)]
        return Plan(
            id=question.id,
            question=question.text,
            group=group,
            type=kind,
            old=old,
            new=new,
            accepted=question.answers,
            before=before,
            change=change,
            documents=tuple(d for d in documents if holds(f"{d.title}\n{d.text}", question.answers)),
        )


def _unfit(question: Question) -> str:
    """Why a question is none to edit an answer of; empty when it may be."""
    if question.patterns:
        return "its answers are patterns"
    cores = [form for answer in question.answers if (form := core(answer))]
    if not question.answerable or not cores:
        return "no answer is known"
    return "the question says the answer" if any(answer_in_text(form, question.text) for form in cores) else ""


def open_parser(pipeline: str) -> Parser:
    """A parser by name, or the one that needs nothing installed on a machine that doesn't have it."""
    try:
        return load_parser(pipeline)
    except (MissingLibraryError, UnavailableError):
        return load_parser(PATTERN)

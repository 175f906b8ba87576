"""Judge legs on test sets, each once: a report is made again only when something it depends on is another.

A leg's reports lie in ``LEG/evaluations/SET/``. Shared by `realm compare` and `realm ablate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realm import files
from realm.errors import DataError, UsageError
from realm.evaluation.retrieval import FloatArray, Interval
from realm.evaluation.scores import PER_QUESTION, REPORT, Results, read_report
from realm.evaluation.seeds import Bootstrap
from realm.knowledge.questions.files import read_flag, read_questions
from realm.types import Question
from realm.workflows.comparing.systems.base import Opened
from realm.workflows.judging.evaluate import FLAG, evaluate
from realm.workflows.reporting import Reporter

PART = "in_kb"
"""The questions that the knowledge base can answer."""


@dataclass(frozen=True)
class TestSet:
    """Questions to judge on."""

    __test__ = False  # not a test of pytest's

    name: str
    questions: Sequence[Question]
    in_kb: frozenset[str] | None
    """Ids of those that the knowledge base can answer; None where the file doesn't say."""
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How every leg is judged."""

    k: int | None = None
    """Passages to read; as in training when None."""
    depth: int = 100
    batch_size: int = 16


def open_tests(tests: Mapping[str, Path], limit: int = 0) -> list[TestSet]:
    """Test sets by name. limit: so many questions, spread evenly over the file; 0 for all.

    UsageError for no set, or a name that can't be a folder's; DataError where a file has the field ``in_kb`` in some
    records only.
    """
    if not tests:
        raise UsageError("found no --test: expected NAME=FILE, the questions to judge on")
    return [_open_test(name, Path(path), limit) for name, path in tests.items()]


def _open_test(name: str, path: Path, limit: int) -> TestSet:
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise UsageError(f"found the test set {name!r}: expected a name of letters, digits, '-', '_' and '.'")
    questions = read_questions(path)
    if not questions:
        raise DataError(f"found no questions in {path}: expected at least one to judge on")
    flagged = f'"{FLAG}"' in path.read_text(encoding="utf-8")  # then in every record, or it is an error
    in_kb = read_flag(path, FLAG) if flagged else None
    if 0 < limit < len(questions):
        questions = [questions[i * len(questions) // limit] for i in range(limit)]
        in_kb = None if in_kb is None else in_kb & {question.id for question in questions}
    parts = (f"{q.id}\0{q.text}\0{q.answers}\0{q.answerable}\0{q.gold}" for q in questions)
    return TestSet(name, questions, in_kb, files.fingerprint(*parts, *sorted(in_kb or ())))


def judge_leg(
    folder: Path,
    fingerprint: str,
    open_leg: Callable[[], AbstractContextManager[Opened]],
    tests: Sequence[TestSet],
    how: Judging,
    reporter: Reporter,
    facts: Mapping[str, Any],
) -> None:
    """Write the reports that are missing or stale. fingerprint: of all that the answers depend on."""
    made_from = {
        test.name: files.fingerprint(fingerprint, test.fingerprint, str((how.k, how.depth, how.batch_size)))
        for test in tests
    }
    due = [test for test in tests if _made_from(folder / "evaluations" / test.name) != made_from[test.name]]
    if not due:
        return
    with open_leg() as opened:
        for test in due:
            evaluate(
                opened.answer,
                test.questions,
                folder / "evaluations" / test.name,
                suite=test.name,
                search=opened.search,
                k=how.k or opened.k,
                depth=how.depth,
                batch_size=how.batch_size,
                parts={} if test.in_kb is None else {PART: test.in_kb},
                facts={**facts, "made_from": made_from[test.name]},
                reporter=reporter,
            )


def _made_from(report: Path) -> str | None:
    return files.read_json(report / REPORT).get("made_from") if (report / REPORT).exists() else None


def read_leg(folder: Path, test: str) -> Results:
    return read_report(folder / "evaluations" / test)


class Figures:
    """Reports of one row of a table, by seed, as arrays of one figure a question."""

    def __init__(self, reports: Mapping[int, Results], *, seeded: bool = True) -> None:
        """reports: by seed. seeded: whether another seed comes out otherwise; one report stands for all where not."""
        self.seeds, self.reports = list(reports), list(reports.values())
        self.seeded = seeded

    def part(self, name: str) -> list[str]:
        """Ids of the questions of a part, in order; all of them for "all"."""
        first = self.reports[0]
        return sorted(first.judged) if name == "all" else list(first.report["parts"].get(name, ()))

    def bootstrap(self, part: str) -> Bootstrap:
        """Draws of the questions of a part, for all figures of all rows of a table."""
        judged = self.reports[0].judged
        return Bootstrap([judged[i].group for i in self.part(part)])

    def values(self, figure: str, part: str) -> FloatArray:
        """Float[S, P]; NaN where the figure is not defined for a question in every seed."""
        value_of = PER_QUESTION[figure]
        found = [[value_of(report.judged[i]) for i in self.part(part)] for report in self.reports]
        value_SP = np.array(found, float)  # None becomes NaN
        value_SP[:, np.isnan(value_SP).any(0)] = np.nan
        return value_SP

    def by_seed(self, figure: str, part: str) -> list[float]:
        """The mean of each seed."""
        return [float(value) for value in np.nanmean(self.values(figure, part), axis=1)]

    def latency(self) -> float | None:
        """Median milliseconds a question, mean over seeds."""
        found = [report.report["figures"]["all"].get("latency_p50_ms") for report in self.reports]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known else None


def difference(before: Figures, after: Figures, figure: str, part: str, draws: Bootstrap) -> Interval | None:
    """after - before on the same questions, over the seeds that both have; what no seed changes stands against each of
    the other's. None where the difference is not known, or they have no seed in common."""
    x_SP, y_SP = before.values(figure, part), after.values(figure, part)
    if before.seeded and after.seeded:
        common = [seed for seed in before.seeds if seed in after.seeds]
        if not common:
            return None
        x_SP, y_SP = (
            value_SP[[figures.seeds.index(seed) for seed in common]]
            for figures, value_SP in ((before, x_SP), (after, y_SP))
        )
    return draws.interval(y_SP - x_SP)

"""What each checkpoint of a fine-tuning is worth on the dev questions; the best one becomes the model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm import files
from realm.answering.answerer import CARD, Part, model_card, save_answerer
from realm.config import to_json
from realm.evaluation.answers import is_correct
from realm.evaluation.patterns import PatternMatcher
from realm.knowledge.snapshot import Snapshot
from realm.methods.open_qa import OpenQA
from realm.settings_finetune import FinetuneConfig
from realm.training.matching import AnswerMatcher
from realm.training.questions import question_tokens
from realm.types import Question
from realm.workflows.reporting import Reporter
from realm.workflows.run import Run

AT_ONCE = 16
FEW = 5
"""Dev questions: a checkpoint that answers fewer tells nothing about which one is best."""


class Judge:
    """Called with a checkpoint whose parameters are those of the method."""

    def __init__(
        self,
        run: Run,
        config: FinetuneConfig,
        method: OpenQA,
        networks: Mapping[str, Part],
        snapshot: Snapshot,
        questions: Sequence[Question],
        reporter: Reporter,
    ) -> None:
        """
        networks: what a model keeps. questions: of these the first `dev.size` in the order of their ids' hashes; none
            takes the newest checkpoint for the best.
        """
        self.run, self.config, self.method, self.networks = run, config, method, networks
        self.snapshot, self.reporter = snapshot, reporter
        self.questions = sorted(questions, key=lambda question: files.fingerprint(question.id))[: config.dev.size]
        # Questions that have no answer by word pieces have no recall, either; by other rules they would be slow.
        self.matcher = AnswerMatcher(snapshot, snapshot.tokenizer, self.questions)
        self.about: dict[str, Any] = {}
        """Of the training, for the card: counts of its questions, steps, licence."""

    def __call__(self, checkpoint: Path) -> dict[str, Any] | None:
        """Figures of a checkpoint, written down; None where they were before."""
        step = int(checkpoint.name.removeprefix("step-"))
        place = self.run.evaluations / f"{checkpoint.name}.json"
        if place.exists():
            return None
        figures: dict[str, Any] = {"step": step, **(self.figures() if self.questions else {})}
        held, model = self._held(), self.run.path / "model"
        if is_best(figures, [held] if "exact_match" in held else []):
            card = self._card([*self.curve(), figures], step)
            parents = self.run.facts()["parents"]
            made_from = {"step": step, "start": parents["model"], "snapshot": parents["snapshot"]}
            facts = {**figures, "made_from": made_from}
            save_answerer(model, self.networks, self.config, card=card, facts=facts)
        files.write_json(place, figures)  # last: where it is there, the model is, too
        return figures

    def figures(self) -> dict[str, Any]:
        """Exact match, recall by the answers' word pieces, mean confidence."""
        started, k = time.perf_counter(), self.config.dev.num_passages or self.config.qa.num_passages
        patterns, right, recalled, confidence = PatternMatcher(), 0, 0, 0.0
        with self.reporter.stage("dev questions", "questions") as progress:
            for first in range(0, len(self.questions), AT_ONCE):
                asked = self.questions[first : first + AT_ONCE]
                texts = [question.text for question in asked]
                query = question_tokens(self.snapshot, texts, self.config.questions.max_query_tokens)
                for question, answer in zip(asked, self.method.answer(texts, k, query=query), strict=True):
                    right += is_correct(answer.text, question, patterns, self.config.questions.convention)
                    confidence += answer.confidence
                rows_BK = self.method.search(texts, k, query=query).rows.numpy()
                recalled += sum(bool(self.matcher.holds(first + b, rows).any()) for b, rows in enumerate(rows_BK))
                progress(first + len(asked), len(self.questions))
        size = len(self.questions)
        return {
            "questions": size,
            "exact_match": right / size,
            f"recall@{k}": recalled / size,
            "confidence": confidence / size,
            "seconds": time.perf_counter() - started,
        }

    def forget(self, step: int) -> None:
        """Judgements of checkpoints after `step`, which a run that goes on from there makes anew. Where the model is of
        one of them, it goes, too, and the checkpoint of `step` is judged again, to be the model."""
        of_gone = int(self._held().get("step", step)) > step
        for place in self.run.evaluations.glob("step-*.json"):
            if int(place.stem.removeprefix("step-")) >= step + (not of_gone):
                place.unlink()
        if of_gone:
            model = self.run.path / "model"
            (model / files.MANIFEST).unlink()  # first: what is left of a folder without one is no model
            shutil.rmtree(model)

    def _held(self) -> dict[str, Any]:
        """Figures and step of the present model; empty where there is none."""
        place = self.run.path / "model" / files.MANIFEST
        return dict(files.read_json(place)) if place.exists() else {}

    def curve(self) -> list[dict[str, Any]]:
        """Figures of every judged checkpoint, in order."""
        return [files.read_json(place) for place in sorted(self.run.evaluations.glob("step-*.json"))]

    def result(self) -> dict[str, Any]:
        """The whole curve, on the model's card, too."""
        curve, model = self.curve(), self.run.path / "model"
        best = int(files.read_json(model / files.MANIFEST)["step"])
        if self.questions and (most := max(map(_right, curve))) < FEW:
            self.reporter.note(
                f"{most} of {len(self.questions)} dev questions are answered exactly, "
                "which tells nothing about the best checkpoint: the newest is the model; train longer, or give --dev "
                "questions with short answers"
            )
        files.write_text(model / CARD, self._card(curve, best))
        return {
            "run": str(self.run.path),
            "model": str(model),
            "start": self.run.facts()["parents"]["start"],
            "steps": self.about["steps"],
            "best_step": best,
            "questions": self.about["questions"],
            "curve": curve,
            "configuration": to_json(self.config),
        }

    def _card(self, curve: Sequence[Mapping[str, Any]], best: int) -> str:
        facts = {"parents": self.run.facts()["parents"], **self.about}
        return model_card(self.run.path.absolute().name, self.config, facts, curve, best_step=best)


def is_best(figures: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a checkpoint is to be the model: at least as good as those before it (of which the present model is the
    best), since longer training is the better guess where the dev questions see no difference. Where hardly any is
    answered the newest is taken."""
    if "exact_match" not in figures:
        return True
    best = max(curve, key=_right, default=figures)
    return _right(best) < FEW or figures["exact_match"] >= best["exact_match"]


def _right(figures: Mapping[str, Any]) -> int:
    right: float = figures["exact_match"] * figures["questions"]
    return round(right)

"""Fine-tuning without labels: questions made from the knowledge base, then `finetuning.finetune` on them.

RUN/made-questions.jsonl holds them, an ordinary question file: mend it and give it to another run with ``--qa``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realm import files
from realm.config import to_json
from realm.errors import MismatchError
from realm.settings_corpus import CorpusQuestionsConfig
from realm.settings_finetune import FinetuneConfig
from realm.training.launch import one_process
from realm.training.ranks import Ranks
from realm.workflows.finetuning.finetune import finetune
from realm.workflows.questions.make import about_of, make_questions
from realm.workflows.reporting import Reporter
from realm.workflows.run import FINETUNING, MADE, Run
from realm.workflows.workbench import Stop


def finetune_from_corpus(
    model: str,
    kb_path: Path,
    out: Path,
    config: FinetuneConfig,
    made: CorpusQuestionsConfig,
    *,
    dev: Path | None = None,
    licence: str = "",
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Make questions of a knowledge base's passages and fine-tune on them into `out`, or go on with what is there.

    made: which questions. The rest, what is returned and what is raised: see `finetune` and `make_questions`. Without
    `dev` some of the made questions judge; their exact match tells checkpoints apart, and is no measure of the model.
    """
    ranks = ranks or one_process("fine-tuning by a call without `ranks` (realm.training.launch.joined)")
    run = Run(Path(out), FINETUNING)
    questions = run.path / MADE
    if run.exists:  # it stands on what it was begun with, whatever became of the knowledge base
        _check(run, made)
    elif ranks.first:
        run.check_place()
        make_questions(
            model,
            kb_path,
            questions,
            made,
            finetuning=config,
            device=config.loop.device,
            reporter=reporter,
            should_stop=should_stop,
        )
    ranks.wait("the questions")
    return finetune(
        model,
        kb_path,
        run.path,
        config,
        questions=questions,
        dev=dev,
        licence=licence,
        reporter=reporter,
        should_stop=should_stop,
        ranks=ranks,
    )


def _check(run: Run, made: CorpusQuestionsConfig) -> None:
    about = about_of(run.path / MADE)
    if not about.exists():
        raise MismatchError(
            f"{run.path} was begun with questions that were given: found --from-corpus; give the same --qa, or another "
            "--out"
        )
    before, now = files.read_json(about)["settings"], to_json(made)
    for name in now:
        if name in before and before[name] != now[name]:
            raise MismatchError(
                f"{run.path} was begun with corpus.{name}={before[name]}: found {now[name]}; leave the setting as it "
                "was, or give another --out"
            )

"""The seven rows of the paper's ablation (Guu et al. 2020, table 2), pre-trained, fine-tuned and judged here.

OUT/
  pretrain-VARIANT-sSEED/       runs of `realm pretrain`: realm, random-token, random-span, rare-refresh
  ROW-sSEED/                    runs of `realm finetune`, one a row
    evaluations/SET/            exact match after fine-tuning
    evaluations/zero-shot-SET/  recall before it
  ablation.json, ablation.csv, differences.csv, ablation.txt, ablation.svg

"Encoder" is the paper's word for the reader's network, and "baseline" for the parameters before REALM: the retriever of
the inverse cloze task (the warm start of the run ``pretrain-realm``), and the language model that the reader begins
with. So a row with a baseline part needs no pre-training of its own. The same command goes on from wherever it was
stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from realm import files
from realm.config import PretrainConfig, override, to_json
from realm.errors import UsageError
from realm.recipes.variants import vary
from realm.settings_finetune import FinetuneConfig
from realm.training.questions import question_tokens
from realm.training.state import latest_checkpoint, read_facts
from realm.types import Hits
from realm.workflows import parts
from realm.workflows.comparing.ablate_tables import write_tables
from realm.workflows.comparing.legs import PART, Figures, Judging, TestSet, difference, judge_leg, open_tests, read_leg
from realm.workflows.comparing.systems.base import Leg, Opened
from realm.workflows.comparing.systems.tuned import open_tuned, snapshot_of, train_tuned, tuned_fingerprint
from realm.workflows.finetuning import start as starts
from realm.workflows.finetuning.retriever import DenseSide
from realm.workflows.judging.evaluate import search_snapshot
from realm.workflows.pretraining.pretrain import pretrain
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.run import FINETUNING, Run
from realm.workflows.store import open_knowledge_base
from realm.workflows.workbench import Stop

FORMAT = "realm ablation"
ZERO_SHOT = "zero-shot-"
RECALL = "recall_string@5"


@dataclass(frozen=True)
class Row:
    """A row of the table: which run its two parts come from; None for the part before REALM."""

    title: str
    retriever: str | None
    reader: str | None
    exact_match: float
    """Published, in per cent: NQ's dev set, after fine-tuning."""
    recall: float
    """Published: recall@5 on it, before."""


ROWS: Mapping[str, Row] = {
    "realm": Row("REALM", "realm", "realm", 38.2, 38.5),
    "realm-retriever": Row("REALM retriever + baseline encoder", "realm", None, 37.4, 38.5),
    "realm-encoder": Row("baseline retriever + REALM encoder", None, "realm", 35.3, 13.9),
    "baseline": Row("baseline (ORQA)", None, None, 31.3, 13.9),
    "random-token": Row("random uniform masks", "random-token", "random-token", 32.3, 24.2),
    "random-span": Row("random span masks", "random-span", "random-span", 35.3, 26.1),
    "stale": Row("30x stale MIPS", "rare-refresh", "rare-refresh", 28.7, 15.1),
}


def ablate(
    kb_path: Path,
    questions: Path,
    tests: Mapping[str, Path],
    out: Path,
    pretraining: PretrainConfig,
    finetuning: FinetuneConfig,
    *,
    seeds: Sequence[int] = (0,),
    rows: Sequence[str] = tuple(ROWS),
    dev: Path | None = None,
    judging: Judging | None = None,
    limit: int = 0,
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
) -> dict[str, Any]:
    """Pre-train, fine-tune and judge every row with every seed; returns what ``ablation.json`` holds.

    pretraining, finetuning: the budget; see `recipes.ablation.build_ablation`. questions, tests, dev, judging, limit:
    as in `compare.compare_systems`. rows: names of `ROWS`.

    Raises what pre-training and fine-tuning raise; UsageError for a row that is none; KeyboardInterrupt after
    `should_stop`, with everything saved.
    """
    reporter, how = reporter or Silent(), judging or Judging()
    unknown = [name for name in rows if name not in ROWS]
    if unknown or not rows or not seeds or len(set(seeds)) < len(seeds) or len(set(rows)) < len(rows):
        raise UsageError(
            f"found rows {', '.join(rows) or 'none'} and seeds {', '.join(map(str, seeds)) or 'none'}: expected some "
            f"of {', '.join(ROWS)}, and some seeds, each once"
        )
    if finetuning.qa.retriever != "dense":
        raise UsageError(
            f"found qa.retriever={finetuning.qa.retriever}: expected dense; words beside the vectors would hide what "
            "pre-training taught"
        )
    sets = open_tests(tests, limit)
    bench = _Bench(Path(kb_path), Path(out), pretraining, finetuning, Path(questions), dev, reporter, should_stop)
    done: dict[str, list[int]] = {}
    result: dict[str, Any] = {}
    for seed in seeds:
        for name in rows:
            reporter.note(f"{ROWS[name].title}, seed {seed}")
            leg = bench.leg(name, seed)
            facts = {"row": name, "seed": seed, "start": leg.start}
            early = [replace(test, name=f"{ZERO_SHOT}{test.name}") for test in sets]
            train_tuned(leg)
            judge_leg(leg.folder, tuned_fingerprint(leg), partial(open_tuned, leg), sets, how, reporter, facts)
            judge_leg(leg.folder, untuned_fingerprint(leg), partial(_untuned, leg), early, how, reporter, facts)
            done.setdefault(name, []).append(seed)
            result = _result(Path(out), done, sets, pretraining, finetuning)
            write_tables(Path(out), result)
    return result


@dataclass(frozen=True)
class _Bench:
    """What all rows have in common."""

    kb: Path
    out: Path
    pretraining: PretrainConfig
    finetuning: FinetuneConfig
    questions: Path
    dev: Path | None
    reporter: Reporter
    should_stop: Stop | None

    def leg(self, name: str, seed: int) -> Leg:
        """The fine-tuning of a row, what it starts from pre-trained."""
        row = ROWS[name]
        run = self._pretrained(row.retriever or "realm", seed)
        # Where nothing is said of the reader, the baseline's is the network that pre-training began with.
        reader = self.finetuning.reader.model or self.pretraining.reader.model
        if row.reader is not None:
            last = latest_checkpoint(self._pretrained(row.reader, seed).checkpoints)
            assert last is not None, "pre-training saves its last step"
            reader = str(last.absolute() / "reader")
        return Leg(
            folder=self.out / f"{name}-s{seed}",
            knowledge_base=self.kb,
            questions=self.questions,
            dev=self.dev,
            config=override(self.finetuning, [f"reader.model={reader}", f"loop.seed={seed}"]),
            start=str((run.path if row.retriever else run.warm_start).absolute()),
            reporter=self.reporter,
            should_stop=self.should_stop,
        )

    def _pretrained(self, variant: str, seed: int) -> Run:
        """The run of a variant, whole; nothing to do when it is."""
        config = override(vary(self.pretraining, variant), [f"loop.seed={seed}"])
        run = Run(self.out / f"pretrain-{variant}-s{seed}")
        last = latest_checkpoint(run.checkpoints)
        if run.exists and last is not None and run.has_report("realm"):
            run.create_or_resume(config, {})  # MismatchError where it was begun with other settings
            if int(read_facts(last)["step"]) == config.realm.steps:
                return run
        self.reporter.note(f"pre-train {variant}, seed {seed}: {run.path}")
        pretrain(self.kb, run.path, config, reporter=self.reporter, should_stop=self.should_stop)
        return run


def _start_of(leg: Leg) -> starts.Start:
    assert leg.start is not None, "every row starts from a run"
    return starts.find_start(leg.start)


def untuned_fingerprint(leg: Leg) -> str:
    """Of all that the search of a row's start finds: its parameters, the snapshot, how much of a question is read."""
    tokens = str(leg.config.questions.max_query_tokens)
    return files.fingerprint(_start_of(leg).fingerprint, snapshot_of(leg), tokens, leg.config.qa.retriever)


@contextmanager
def _untuned(leg: Leg) -> Iterator[Opened]:
    """The row's retriever before fine-tuning, over the index that fine-tuning began with."""
    run, start = Run(leg.folder, FINETUNING), _start_of(leg)
    kb = open_knowledge_base(leg.knowledge_base).at(run.facts()["parents"]["knowledge_base_version"])
    snapshot = parts.prepare_snapshot(kb, starts.tokenizer_of(start), leg.reporter)
    device, config = parts.choose_device(leg.config.loop.device), starts.settle(leg.config, start)
    side = DenseSide(run, config, start, None, snapshot, device, leg.reporter)
    side.retriever.train(False)

    def search(queries: Sequence[str], k: int) -> Hits:
        query = question_tokens(snapshot, queries, config.questions.max_query_tokens)
        found = side.retriever.candidates(queries, query, k)
        return Hits(found.rows_BE, found.score_BE.cpu())

    with torch.inference_mode():
        yield Opened(None, search_snapshot(search, snapshot), config.qa.num_passages)


def _result(
    out: Path,
    done: Mapping[str, Sequence[int]],
    sets: Sequence[TestSet],
    pretraining: PretrainConfig,
    finetuning: FinetuneConfig,
) -> dict[str, Any]:
    figures: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for test in sets:
        for figure, prefix in (("exact_match", ""), (RECALL, ZERO_SHOT)):
            found = {
                name: Figures({seed: read_leg(out / f"{name}-s{seed}", prefix + test.name) for seed in seeds})
                for name, seeds in done.items()
            }
            for part in ("all", PART) if test.in_kb else ("all",):
                draws = next(iter(found.values())).bootstrap(part)
                size = len(test.questions) if part == "all" else len(test.in_kb or ())
                about = {"set": test.name, "part": part, "questions": size, "figure": figure}
                for name, reports in found.items():
                    row = ROWS[name]
                    published = (row.exact_match if figure == "exact_match" else row.recall) / 100
                    interval = draws.interval(reports.values(figure, part))
                    if interval is not None:
                        mean, low, high = interval
                        measured = {"mean": mean, "low": low, "high": high, "by_seed": reports.by_seed(figure, part)}
                        figures.append({**about, "row": name, "published": published, **measured})
                    if "realm" in found and name != "realm":
                        gain = difference(found["realm"], reports, figure, part, draws)
                        if gain is not None:
                            said = {**about, "row": name, "minus": "realm", **gain._asdict(), "clear": gain.clear}
                            differences.append(said)
    return {
        "format": FORMAT,
        "format_version": 1,
        "rows": {name: {"title": ROWS[name].title, "seeds": list(seeds)} for name, seeds in done.items()},
        "sets": {test.name: {"questions": len(test.questions), "in_kb": len(test.in_kb or ())} for test in sets},
        "figures": figures,
        "differences": differences,
        "pretraining": to_json(pretraining),
        "finetuning": to_json(finetuning),
        "published": "Guu et al. 2020, table 2: the dev set of Natural Questions over Wikipedia, 200,000 steps",
        "intervals": "95%, bootstrap over seeds and over groups of questions that share a gold passage",
    }

"""Systems side by side: the same knowledge base, questions, reader, budget and judge; several seeds.

OUT/
  SYSTEM-sSEED/           a leg: where it is fine-tuned, an ordinary run of `realm finetune`
    evaluations/SET/      its report on a test set
  comparison.json         every figure with its interval, and every paired difference
  comparison.csv, differences.csv, comparison.txt, comparison.svg

The same command goes on from wherever it was stopped: finished legs and reports are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from realm import files
from realm.addresses import address_or_path
from realm.config import explain, from_json, override, to_json
from realm.errors import UsageError
from realm.knowledge.questions.files import read_questions
from realm.settings_finetune import FinetuneConfig
from realm.workflows.comparing.legs import PART, Figures, Judging, TestSet, difference, judge_leg, open_tests, read_leg
from realm.workflows.comparing.systems import Leg, System, find_system
from realm.workflows.comparing.tables import write_tables
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.workbench import Stop

FIGURES = ("exact_match", "f1", *(f"recall_string@{k}" for k in (1, 5, 20, 100)))
COMPARED = ("exact_match", "f1", "recall_string@5", "recall_string@20")
FORMAT = "realm comparison"


def compare_systems(
    kb_path: Path,
    questions: Path,
    tests: Mapping[str, Path],
    systems: Sequence[str],
    out: Path,
    config: FinetuneConfig,
    *,
    starts: Mapping[str, str] | None = None,
    runs: Mapping[str, str] | None = None,
    seeds: Sequence[int] = (0,),
    dev: Path | None = None,
    judging: Judging | None = None,
    limit: int = 0,
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
) -> dict[str, Any]:
    """Train, judge and compare; returns what ``comparison.json`` holds.

    questions, dev: what every system learns from, and what chooses its best checkpoint. tests: name to file; records
    may say ``in_kb``, whether the knowledge base can answer them, and then figures are given for that part, too.
    systems: names of `systems.SYSTEMS`. starts: by system, what it starts from; ``{seed}`` stands for the seed.
    runs: fine-tuning runs that were trained elsewhere, by a name for each; they are judged as they are, and what of
    their settings differs is in the result. config: of every other fine-tuning, but for the seed. limit: of each test
    set, so many questions, spread evenly.

    Raises what fine-tuning raises; UsageError for a system, start or test set that is none; KeyboardInterrupt after
    `should_stop`, with everything saved.
    """
    reporter, how, runs = reporter or Silent(), judging or Judging(), dict(runs or {})
    systems = [*systems, *(name for name in runs if name not in systems)]
    _check(systems, seeds, starts or {}, runs)
    sets = open_tests(tests, limit)
    taught = taught_too(questions, sets)
    for name, count in taught.items():
        if count:
            reporter.note(f"{count:,} questions of {name} are learnt from, too: they flatter every system")
    legs = {
        (name, seed): Leg(
            folder=Path(runs[name].replace("{seed}", str(seed))) if name in runs else Path(out) / f"{name}-s{seed}",
            knowledge_base=Path(kb_path),
            questions=Path(questions),
            dev=dev,
            config=override(config, [f"loop.seed={seed}"]),
            start=_start(find_system(name, runs), name, dict(starts or {}), seed),
            reporter=reporter,
            should_stop=should_stop,
        )
        for seed in seeds
        for name in systems
        if find_system(name, runs).seeded or seed == seeds[0]
    }
    result: dict[str, Any] = {}
    done: dict[str, dict[int, Leg]] = {}
    for (name, seed), leg in legs.items():
        reporter.note(f"{name}, seed {seed}: {leg.folder}")
        system = find_system(name, runs)
        system.train(leg)
        facts = {"system": name, "seed": seed, "start": leg.start}
        facts["knowledge_base"] = address_or_path(leg.knowledge_base)
        place = Path(out) / f"{name}-s{seed}"
        judge_leg(place, system.fingerprint(leg), partial(system.open, leg), sets, how, reporter, facts)
        done.setdefault(name, {})[seed] = leg
        result = {
            "format": FORMAT,
            "format_version": 1,
            "knowledge_base": address_or_path(kb_path),
            "questions": str(Path(questions).absolute()),
            "systems": {n: {"title": find_system(n, runs).title, "seeds": list(found)} for n, found in done.items()},
            "taught_too": taught,
            **_figures(Path(out), done, sets, {n: find_system(n, runs).seeded for n in done}),
            "settings_that_differ": _differing({n: next(iter(found.values())) for n, found in done.items()}),
            "judging": {"k": how.k, "depth": how.depth, "batch_size": how.batch_size},
            "configuration": to_json(config),
            "intervals": "95%, bootstrap over seeds and over groups of questions that share a gold passage",
        }
        write_tables(Path(out), result)  # what there is so far: the next leg may take hours
    return result


def taught_too(questions: Path, sets: Sequence[TestSet]) -> dict[str, int]:
    """Questions of each test set that stand among those that are learnt from, by their texts."""
    taught = {question.text.strip().casefold() for question in read_questions(questions)}
    return {test.name: sum(q.text.strip().casefold() in taught for q in test.questions) for test in sets}


def _check(systems: Sequence[str], seeds: Sequence[int], starts: Mapping[str, str], runs: Mapping[str, str]) -> None:
    for what, given in (("systems", systems), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise UsageError(f"found {what} {', '.join(map(str, given)) or 'none'}: expected some, each once")
    for name in (*systems, *starts):
        find_system(name, runs)


def _start(system: System, name: str, starts: dict[str, str], seed: int) -> str | None:
    found = system.find_start(name, starts)
    return None if found is None else found.replace("{seed}", str(seed))


def _differing(legs: Mapping[str, Leg]) -> dict[str, dict[str, Any]]:
    """Settings by name that are not the same in all fine-tuning runs, each with its values by system."""
    found: dict[str, dict[str, Any]] = {}
    for name, leg in legs.items():
        if (leg.folder / "config.json").exists():
            # Through the class, so that a setting which came later has its default in older runs.
            config = from_json(FinetuneConfig, files.read_json(leg.folder / "config.json"))
            for setting in explain(config):
                found.setdefault(setting.name, {})[name] = setting.value
    kept = {name: values for name, values in found.items() if len({str(value) for value in values.values()}) > 1}
    return {name: {system: _plain(value) for system, value in values.items()} for name, values in kept.items()}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _figures(
    out: Path, done: Mapping[str, Mapping[int, Leg]], sets: Sequence[TestSet], seeded: Mapping[str, bool]
) -> dict[str, Any]:
    figures: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for test in sets:
        found = {
            name: Figures({seed: read_leg(out / f"{name}-s{seed}", test.name) for seed in seeds}, seeded=seeded[name])
            for name, seeds in done.items()
        }
        for part in ("all", PART) if test.in_kb else ("all",):
            draws = next(iter(found.values())).bootstrap(part)
            size = len(test.questions) if part == "all" else len(test.in_kb or ())
            about = {"set": test.name, "part": part, "questions": size}
            for name, reports in found.items():
                for figure in FIGURES:
                    interval = draws.interval(reports.values(figure, part))
                    if interval is not None:
                        mean, low, high = interval
                        row = {**about, "system": name, "figure": figure, "mean": mean, "low": low, "high": high}
                        figures.append({**row, "by_seed": reports.by_seed(figure, part)})
                latency = reports.latency()
                if part == "all" and latency is not None:
                    figures.append({**about, "system": name, "figure": "latency_p50_ms", "mean": latency})
            for (one, before), (other, after) in combinations(found.items(), 2):
                for figure in COMPARED:
                    gain = difference(before, after, figure, part, draws)
                    if gain is not None:
                        row = {**about, "system": other, "minus": one, "figure": figure, **gain._asdict()}
                        differences.append({**row, "clear": gain.clear})
    about_sets = {test.name: {"questions": len(test.questions), "in_kb": len(test.in_kb or ())} for test in sets}
    return {"sets": about_sets, "figures": figures, "differences": differences}

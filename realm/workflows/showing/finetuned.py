"""What a fine-tuning run is, and what a table of them, for `realm show`."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from realm import files
from realm.config import from_json
from realm.settings_finetune import FinetuneConfig
from realm.training.metrics import read_metrics
from realm.workflows.run import FINETUNING, Run
from realm.workflows.showing.artefacts import Facts, read_object, rounded

SHOWN_SETTINGS = (
    *("encoder.model", "reader.model", "reader.layers", "qa.batch_size", "qa.num_passages", "qa.num_early", "qa.level"),
    *("qa.labelled", "qa.documents", "questions.match"),
)
"""What tells one run from another at a glance; config.json holds all."""


TABLES = ("comparison.json", "ablation.json")
"""What `realm compare` and `realm ablate` leave behind."""


def tables(path: Path) -> Facts:
    """Of the folder of a comparison or an ablation, as JSON values; empty of another folder."""
    place = next((path / name for name in TABLES if (path / name).exists()), None)
    if place is None:
        return {}
    found = read_object(place)
    legs = found.get("systems") or found.get("rows") or {}
    return {
        "kind": found.get("format"),
        "rows": [f"{about['title']} (seeds {', '.join(map(str, about['seeds']))})" for about in legs.values()],
        "sets": [f"{name}, {about['questions']:,} questions" for name, about in found.get("sets", {}).items()],
        "table": str(place.with_suffix(".txt")),
        "knowledge_base": found.get("knowledge_base"),
    }


def fine_tuning(path: Path) -> Facts:
    """Of a fine-tuning run, as JSON values."""
    run = Run(path, FINETUNING)
    facts, config = run.facts(), from_json(FinetuneConfig, files.read_json(path / "config.json"))
    parents = facts["parents"]
    events = [event for event in read_metrics(path / "metrics.jsonl") if event.get("kind") == "train"]
    curve = [files.read_json(place) for place in sorted(run.evaluations.glob("step-*.json"))]
    done, steps = (int(events[-1][name]) for name in ("step", "num_steps")) if events else (0, None)
    best = read_object(path / "model" / files.MANIFEST) if (path / "model" / files.MANIFEST).exists() else {}
    return {
        "stage": f"step {done:,} of {steps:,}" if steps else "before the first step",
        "newest": {name: rounded(value) for name, value in events[-1].items() if "loss" in name} if events else None,
        "dev_exact_match": {str(point["step"]): rounded(point.get("exact_match")) for point in curve} or None,
        "best_step": best.get("step"),
        "settings": {name: attrgetter(name)(config) for name in SHOWN_SETTINGS},
        "seed": facts.get("seed"),
        "command": " ".join(facts.get("command") or []),
        "created": facts.get("created"),
        "made_from": f"{parents.get('model')} ({parents.get('start')}), {parents.get('questions')}",
        "knowledge_base": f"{parents.get('knowledge_base')}, version {parents.get('knowledge_base_version')}",
        "git_commit": facts.get("git_commit"),
        "unfinished": None if done and done == steps else f"`realm finetune {path}` goes on from here",
    }

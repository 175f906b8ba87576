"""The HTML page of a run, from what the run folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realm.evaluation.report import Example, Table, curve_of, write_report
from realm.training.metrics import read_metrics
from realm.workflows.run import Run

CURVES: tuple[tuple[str, str, dict[str, str], str, str], ...] = (
    (
        "recall@5 on the probe",
        "How often the masked words of the first 1,000 probe sentences stand in one of the first five passages.",
        {"recall@5": "REALM"},
        "realm",
        "{:.1%}",
    ),
    (
        "Loss",
        "-log p(y|x): how surprising the masked words were with the retrieved passages at hand.",
        {"loss": "loss"},
        "realm",
        "{:.2f}",
    ),
    (
        "Retrieval utility",
        "log p(y|z,x) - log p(y|null,x): how much a passage helps; above 0 it helps.",
        {"retrieval_utility_top1": "best passage", "retrieval_utility": "mean of the passages"},
        "realm",
        "{:+.2f}",
    ),
    (
        "Null passage",
        "The share of belief that no passage is needed, before and after the answer is known.",
        {"null_prior": "p(null|x)", "null_posterior": "p(null|x,y)"},
        "realm",
        "{:.1%}",
    ),
    (
        "Index age",
        "Steps since the parameters of the index in use were published.",
        {"index_age_steps": "steps"},
        "realm",
        "{:.0f}",
    ),
    (
        "Warm start",
        "The inverse cloze task: how surprising the right passage was among those of the batch.",
        {"loss": "loss"},
        "ict",
        "{:.2f}",
    ),
)


def run_page(run: Run, comparison: dict[str, Any], examples: Sequence[Example], title: str) -> None:
    """Write ``report.html``: facts, the before/after table, curves, worked examples."""
    facts, config = run.facts(), run.config()
    events = read_metrics(run.path / "metrics.jsonl")
    curves = []
    for title_, meaning, names, stage, form in CURVES:
        kind = "refresh" if "recall@5" in names else "train"
        chosen = [event for event in events if event["kind"] == kind]
        curve = curve_of(chosen, names, stage=stage, title=title_, meaning=meaning, form=form)
        if curve.series:
            curves.append(curve)
    parents = facts["parents"]
    write_report(
        run.path / "report.html",
        title=title,
        subtitle=comparison["notes"][0],
        facts={
            "knowledge base": f"{parents['knowledge_base']}, version {parents['knowledge_base_version']}",
            "encoder": f"{config.encoder.model}, layers: {_layers(config.encoder.layers)}, "
            f"size {config.encoder.dim or 'its own'}",
            "reader": f"{config.reader.model}, layers: {_layers(config.reader.layers)}"
            + (", late" if config.reader.interaction == "late" else ", copy head" if config.reader.copy_head else ""),
            "warm start": f"{config.ict.steps} steps of {config.ict.batch_size} pairs",
            "REALM": f"{config.realm.steps} steps of {config.realm.batch_size} sentences, "
            f"{config.realm.num_candidates} candidates, {config.realm.marginal} marginal",
            "refresh": f"{config.refresh.mode}, every {config.refresh.every_steps} steps",
            "seed": str(facts["seed"]),
            "realm": facts["realm_version"] + (f" ({facts['git_commit'][:8]})" if facts["git_commit"] else ""),
        },
        curves=curves,
        table=Table(columns=comparison["columns"], rows=comparison["rows"], caption=comparison["title"], emphasis=2),
        examples=examples,
        notes=comparison["notes"],
    )


def _layers(count: int | None) -> str:
    return "all" if count is None else "none, the embedding layer alone" if count == 0 else str(count)

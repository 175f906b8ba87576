"""The HTML page of a run, from what the run folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realm.evaluation.report import Example, Table, write_report
from realm.workflows.run import Run
from realm.workflows.showing.curves import curves


def run_page(run: Run, comparison: dict[str, Any], examples: Sequence[Example], title: str) -> None:
    """Write ``report.html``: facts, the before/after table, curves, worked examples."""
    facts, config = run.facts(), run.config()
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
        curves=[curve for _, curve in curves(run.path)],
        table=Table(columns=comparison["columns"], rows=comparison["rows"], caption=comparison["title"], emphasis=2),
        examples=examples,
        notes=comparison["notes"],
    )


def _layers(count: int | None) -> str:
    return "all" if count is None else "none, the embedding layer alone" if count == 0 else str(count)

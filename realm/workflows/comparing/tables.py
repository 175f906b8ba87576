"""A comparison as files: text for people, CSV for a spreadsheet, JSON for programs, a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm import files
from realm.evaluation.dots import Dot, Panel, draw_dots

COLUMNS = {
    "exact_match": "EM",
    "f1": "F1",
    "recall_string@1": "R@1",
    "recall_string@5": "R@5",
    "recall_string@20": "R@20",
    "recall_string@100": "R@100",
    "latency_p50_ms": "ms",
}
"""Figures by name to what a table calls them."""
PARTS = {"all": "all questions", "in_kb": "questions the knowledge base can answer"}
ABOUT = ("set", "part", "questions", "system", "figure")
Row = Mapping[str, Any]


def write_tables(out: Path, result: Mapping[str, Any]) -> None:
    """``comparison.txt``, ``.csv``, ``.svg``, ``differences.csv``, and ``comparison.json`` last."""
    titles = {name: system["title"] for name, system in result["systems"].items()}
    files.write_text(out / "comparison.txt", as_text(result))
    files.write_text(out / "comparison.csv", as_csv((*ABOUT, "mean", "low", "high"), result["figures"]))
    gains = as_csv((*ABOUT, "minus", "difference", "low", "high", "clear"), result["differences"])
    files.write_text(out / "differences.csv", gains)
    panels = [
        Panel(
            title=f"{COLUMNS[figure]} on {name}, {PARTS[part]}, %",
            dots=[dot_of(row, titles[row["system"]]) for row in result["figures"]
                  if (row["set"], row["part"], row["figure"]) == (name, part, figure)],
        )
        for name in result["sets"]
        for part in PARTS
        for figure in ("exact_match", "recall_string@5")
    ]  # fmt: skip
    note = f"intervals: {result['intervals']}"
    files.write_text(out / "comparison.svg", draw_dots(panels, title="Systems side by side", note=note))
    files.write_json(out / "comparison.json", result)


def as_text(result: Mapping[str, Any]) -> str:
    """A table for each set and part, and what differs on it."""
    titles = {name: system["title"] for name, system in result["systems"].items()}
    lines = []
    for name in result["sets"]:
        for part in PARTS:
            rows = [row for row in result["figures"] if (row["set"], row["part"]) == (name, part)]
            if not rows:
                continue
            there = [figure for figure in COLUMNS if any(row["figure"] == figure for row in rows)]
            table = [["", *(COLUMNS[figure] for figure in there), "seeds"]]
            for system, title in titles.items():
                own = {row["figure"]: row for row in rows if row["system"] == system}
                seeds = len(result["systems"][system]["seeds"])
                table.append([title, *(cell(own.get(figure)) for figure in there), str(seeds)])
            lines += [f"{name}, {PARTS[part]} ({rows[0]['questions']:,})", *aligned(table)]
            lines += [f"  {said}" for said in _differences(result, name, part, titles)]
            lines.append("")
    if result["settings_that_differ"]:
        lines += ["settings that differ", *_settings(result["settings_that_differ"], titles), ""]
    together = result["judging"]["batch_size"]
    lines.append(f"EM, F1, R@k (an answer stands in one of k passages) in %, [{result['intervals']}]")
    lines.append(f"* the interval leaves out 0; ms: median a question, {together} asked together")
    return "\n".join(lines) + "\n"


def _settings(differing: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> list[str]:
    return [
        f"  {setting}: " + ", ".join(f"{titles[system]} {value}" for system, value in values.items())
        for setting, values in differing.items()
    ]


def _differences(result: Mapping[str, Any], name: str, part: str, titles: Mapping[str, str]) -> list[str]:
    found = [
        row
        for row in result["differences"]
        if (row["set"], row["part"]) == (name, part) and row["figure"] in ("exact_match", "recall_string@5")
    ]
    said = []
    for row in found:
        pair = f"{titles[row['system']]} minus {titles[row['minus']]}: {COLUMNS[row['figure']]}"
        said.append(f"{pair} {signed(row)}")
    return said


def cell(row: Row | None) -> str:
    """A figure with its interval, in per cent; milliseconds as they are."""
    if row is None:
        return "–"
    if row["figure"] == "latency_p50_ms":
        return f"{row['mean']:.1f}"
    return f"{100 * row['mean']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def signed(row: Row) -> str:
    """A difference with its interval, in points; a star where that leaves out 0."""
    gain, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    return f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]{' *' if row['clear'] else ''}"


def dot_of(row: Row, label: str) -> Dot:
    """A figure as a row of a plot, beside its published one where it has one."""
    reference = row.get("published")
    return Dot(
        label=label, mean=row["mean"], low=row["low"], high=row["high"], seeds=row["by_seed"], reference=reference
    )


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *others in table:
        cells = [value.rjust(width) for value, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def as_csv(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The columns of the rows; empty where a row lacks one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

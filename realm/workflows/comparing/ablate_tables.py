"""An ablation as files: published beside measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm import files
from realm.evaluation.dots import Dot, Panel, draw_dots
from realm.workflows.comparing.tables import PARTS, aligned, as_csv, cell, dot_of, signed

FIGURES = {"exact_match": "EM", "recall_string@5": "zero-shot R@5"}
ABOUT = ("set", "part", "questions", "row", "figure")


def write_tables(out: Path, result: Mapping[str, Any]) -> None:
    """``ablation.txt``, ``.csv``, ``.svg``, ``differences.csv``, and ``ablation.json`` last."""
    files.write_text(out / "ablation.txt", as_text(result))
    files.write_text(out / "ablation.csv", as_csv((*ABOUT, "published", "mean", "low", "high"), result["figures"]))
    gains = as_csv((*ABOUT, "minus", "difference", "low", "high", "clear"), result["differences"])
    files.write_text(out / "differences.csv", gains)
    panels = [
        Panel(title=f"{label} on {name}, {PARTS[part]}, % (published)", dots=dots)
        for name in result["sets"]
        for part in PARTS
        for figure, label in FIGURES.items()
        if (dots := _dots(result, name, part, figure))
    ]
    note = f"filled: measured; hollow: {result['published']}"
    files.write_text(out / "ablation.svg", draw_dots(panels, title="Published beside measured", note=note))
    files.write_json(out / "ablation.json", result)


def _dots(result: Mapping[str, Any], name: str, part: str, figure: str) -> list[Dot]:
    return [
        dot_of(row, result["rows"][row["row"]]["title"])
        for row in result["figures"]
        if (row["set"], row["part"], row["figure"]) == (name, part, figure)
    ]


def as_text(result: Mapping[str, Any]) -> str:
    """A table for each set and part: of every row published and measured, and what sets it apart from REALM."""
    lines = []
    for name in result["sets"]:
        for part in PARTS:
            here = [row for row in result["figures"] if (row["set"], row["part"]) == (name, part)]
            if not here:
                continue
            columns = [column for label in FIGURES.values() for column in (f"{label} published", f"{label} measured")]
            table = [["", *columns, "EM minus REALM", "seeds"]]
            for key, about in result["rows"].items():
                own = {row["figure"]: row for row in here if row["row"] == key}
                gain = next(
                    (
                        row
                        for row in result["differences"]
                        if (row["set"], row["part"], row["row"], row["figure"]) == (name, part, key, "exact_match")
                    ),
                    None,
                )
                cells = []
                for figure in FIGURES:
                    row = own.get(figure)
                    cells += ["–" if row is None else f"{100 * row['published']:.1f}", cell(row)]
                cells.append("–" if gain is None else signed(gain))
                table.append([about["title"], *cells, str(len(about["seeds"]))])
            lines += [f"{name}, {PARTS[part]} ({here[0]['questions']:,})", *aligned(table), ""]
    lines += [f"published: {result['published']}", f"measured in %, [intervals: {result['intervals']}]"]
    return "\n".join(lines) + "\n"

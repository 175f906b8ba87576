"""Figures and tables of what `runs` and `lines` left in OUT.

    python -m benchmarks.learning.figures OUT --to docs [--corpus vital] [--legs ict-realm,ict-only,supervised]

Draws learning-CORPUS.png and .svg (recall@5, RU and log-likelihood against examples, time and arithmetic) and
ru-predicts.png (recall@5 against RU and log-likelihood over checkpoints), and prints the tables as Markdown. Intervals
are 95%, by bootstrap over seeds and documents. Needs matplotlib; with --tables nothing is drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realm.errors import MissingLibraryError, RealmError

from . import tables
from .legs import CURVES
from .results import Judged, Results, pearson, read_results, spearman
from .tables import PREDICTORS

LABELS = {
    "ict-realm": "ICT, then REALM",
    "ict-only": "ICT alone",
    "realm-only": "REALM without ICT",
    "supervised": "supervised (SQuAD)",
}
COLOURS = ("#0b6e99", "#c2571a", "#4a7c2c", "#7a4fa3", "#a33a4f", "#6b6b6b", "#b8860b", "#2f8f83")
EFFORTS = {"examples": ("examples seen (thousands)", 1e3), "seconds": ("minutes", 60.0), "flops": ("TFLOP", 1e12)}
HEIGHTS = {"recall@5": ("recall@5", 100.0), "retrieval_utility_marginal": ("RU (released form)", 1.0),
           "log_likelihood": ("log p(y|x)", 1.0)}  # fmt: skip
FLAT = {"oracle": ":", "BM25 (k1 0.9, b 0.4)": "--", "sentence encoder": "-."}


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise MissingLibraryError("matplotlib", "dev", "drawing figures") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "svg.hashsalt": "realm", "savefig.bbox": "tight",
    })  # fmt: skip
    return pyplot


def mean_line(runs: Sequence[Judged], effort: str, figure: str) -> list[tuple[float, float]]:
    """Points that all seeds have, averaged, in the order of training."""
    by_point: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for run in runs:
        for point in run.points:
            if _shown(point, figure):
                by_point.setdefault((point["stage"], point["step"]), []).append((point[effort], point[figure]))
    whole = [np.mean(values, axis=0) for values in by_point.values() if len(values) == len(runs)]
    return sorted((float(x), float(y)) for x, y in whole)


def _shown(point: dict[str, Any], figure: str) -> bool:
    # A reader that nobody has taught yet has a likelihood that would hide all that follows.
    return figure in point and (figure == "recall@5" or point["step"] > 0)


def draw_curves(results: Results, legs: Sequence[str], path: Path) -> None:
    """Figures over efforts: seeds as thin lines, their mean as a thick one, what does not learn as flat lines."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(len(HEIGHTS), len(EFFORTS), figsize=(11, 8.5), sharex="col", sharey="row",
                                   height_ratios=[2, 1, 1])  # fmt: skip
    for row, (name, (label, scale)) in enumerate(HEIGHTS.items()):
        for column, (effort, (caption, unit)) in enumerate(EFFORTS.items()):
            axis = axes[row][column]
            for leg, colour in zip(legs, COLOURS, strict=False):
                runs = results.runs.get(leg, [])
                for run in runs:
                    seen = [(p[effort] / unit, p[name] * scale) for p in run.points if _shown(p, name)]
                    if seen:
                        axis.plot(*zip(*seen, strict=True), color=colour, linewidth=0.6, alpha=0.5)
                mean = mean_line(runs, effort, name) if runs else []
                if mean:
                    axis.plot(
                        [x / unit for x, _ in mean], [y * scale for _, y in mean], color=colour, linewidth=2,
                        marker="o", markersize=3, label=LABELS.get(leg, leg),
                    )  # fmt: skip
            if name == "recall@5":
                for line, style in FLAT.items():
                    values = [found[line]["recall@5"] for found in results.lines.values() if line in found]
                    if values:
                        axis.axhline(100 * np.mean(values), color="#444444", linewidth=1, linestyle=style,
                                     label=line.partition(" (")[0])  # fmt: skip
            if effort == "flops":  # a step of ICT with a bag of pieces is a thousandth of one of REALM
                axis.set_xscale("log", nonpositive="mask")
            if row == len(HEIGHTS) - 1:
                axis.set_xlabel(caption)
            if column == 0:
                axis.set_ylabel(f"{label}, %" if scale == 100 else label)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False, bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=130, metadata={"Date": None} if suffix == ".svg" else {})
    pyplot.close(figure)


def draw_prediction(results: Results, path: Path) -> None:
    """recall@5 of checkpoints against what can be known without labels."""
    points = tables.read_points(results)
    if not points:
        return
    pyplot = _pyplot()
    legs = list(dict.fromkeys(run.leg for run, _ in points))
    figure, axes = pyplot.subplots(1, len(PREDICTORS), figsize=(11, 3.8), sharey=True)
    recall = np.array([100 * point["recall@5"] for _, point in points])
    for axis, (name, label) in zip(axes, PREDICTORS.items(), strict=True):
        value = np.array([point[name] for _, point in points])
        for number, leg in enumerate(legs):
            mine = np.array([run.leg == leg for run, _ in points])
            colour, marker = COLOURS[number % len(COLOURS)], "osv^"[number // len(COLOURS) % 4]
            axis.scatter(value[mine], recall[mine], s=14, color=colour, marker=marker, alpha=0.8,
                         label=LABELS.get(leg, leg))  # fmt: skip
        axis.set_xlabel(label)
        axis.set_title(f"Pearson {pearson(value, recall):+.2f}, Spearman {spearman(value, recall):+.2f}", fontsize=9)
    axes[0].set_ylabel("recall@5, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=min(6, len(legs)), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.9 if len(legs) <= 6 else 0.84))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--to", type=Path, default=Path("docs"))
    parser.add_argument("--corpus", default="vital", help="the word in the file's name")
    parser.add_argument("--legs", default=",".join((*CURVES, "supervised")), help="legs of the curves")
    parser.add_argument("--tables", action="store_true", help="draw nothing")
    args = parser.parse_args()
    try:
        results = read_results(args.out)
        facts = next(iter(results.runs.values()))[0].probe
        print(f"{facts['sentences']:,} masked sentences a seed ({facts['sentences_told_elsewhere']:,} told elsewhere, "
              f"seed {next(iter(results.runs.values()))[0].seed}) over {facts['passages']:,} passages; the own "
              f"{facts['exclude']} is no hit. Intervals: 95%, bootstrap over seeds and documents.\n")  # fmt: skip
        for columns, rows in (
            (tables.LEG_COLUMNS, tables.leg_rows(results)),
            (tables.GAIN_COLUMNS, tables.gain_rows(results)),
            (tables.LINE_COLUMNS, tables.line_rows(results)),
            (tables.CORRELATION_COLUMNS, tables.correlation_rows(results)),
        ):
            print(tables.table(columns, rows), end="\n\n")
        for name in results.unfinished:
            print(f"unfinished, left out: {name}", file=sys.stderr)
        if not args.tables:
            args.to.mkdir(parents=True, exist_ok=True)
            draw_curves(results, args.legs.split(","), args.to / f"learning-{args.corpus}")
            draw_prediction(results, args.to / "ru-predicts.png")
    except RealmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

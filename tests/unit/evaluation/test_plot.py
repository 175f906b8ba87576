"""Curves laid out for the page."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.evaluation.plot import BOTTOM, HEIGHT, LEFT, MAX_POINTS, RIGHT, TOP, WIDTH, Curve, Series, curve_of, draw


def curve(*points: tuple[float, float], **facts: object) -> Curve:
    return Curve(title="t", meaning="m", series=[Series(label="a", points=points)], **facts)  # type: ignore[arg-type]


finite = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(st.integers(0, 10**6), finite), min_size=1, max_size=30), st.lists(finite, max_size=2))
def test_everything_stays_inside_the_frame(points: list[tuple[int, float]], baselines: list[float]) -> None:
    plot = draw(curve(*points, baselines=[("b", y) for y in baselines]))
    (line,) = plot.lines
    pairs = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line.path)[1:]]
    assert len(pairs) == len(points)
    for x, y in pairs:
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert all(TOP - 0.1 <= mark.at <= HEIGHT - BOTTOM + 0.1 for mark in plot.baselines)
    assert 2 <= len(plot.y_ticks) <= 9
    # The columns that react to the pointer tile the frame.
    assert sum(moment.width for moment in plot.moments) == pytest.approx(WIDTH - LEFT - RIGHT, abs=0.5)
    assert all(moment.left - 0.1 <= moment.x <= moment.left + moment.width + 0.1 for moment in plot.moments)


def test_higher_figures_stand_higher_and_later_steps_further_right() -> None:
    (line,) = draw(curve((10, 3.0), (0, 1.0))).lines
    assert line.path == f"M{LEFT:g} {HEIGHT - BOTTOM:g}L{WIDTH - RIGHT:g} {TOP:g}"
    assert (line.first, line.last) == ("1.00", "3.00")


def test_what_is_not_finite_is_left_out() -> None:
    plot = draw(curve((0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)))
    assert [moment.text for moment in plot.moments] == ["step 0: 1.00", "step 3: 2.00"]
    assert draw(curve((0, math.nan))).lines == []
    assert draw(curve()).lines == []


def test_one_point_and_a_flat_line_are_drawn() -> None:
    assert len(draw(curve((5, 0.0))).y_ticks) >= 2
    assert len(draw(curve((0, 7.0), (9, 7.0))).y_ticks) >= 2


def test_long_series_are_averaged_and_keep_their_last_figure() -> None:
    plot = draw(curve(*((step, float(step % 2)) for step in range(9_999)), (9_999, 42.0)))
    assert plot.averaged and len(plot.moments) <= MAX_POINTS + 1
    assert plot.lines[0].last == "42.00" and plot.lines[0].first == "0.50"
    assert not draw(curve(*((step, 1.0) for step in range(MAX_POINTS)))).averaged


def test_several_lines_share_a_moment() -> None:
    both = Curve(
        title="t",
        meaning="m",
        series=[Series(label="a", points=[(1, 0.25)]), Series(label="b", points=[(1, 0.5), (2, 1.0)])],
        form="{:.0%}",
    )
    assert [m.text for m in draw(both).moments] == ["step 1: a 25%, b 50%", "step 2: b 100%"]


def test_a_curve_is_gathered_from_events() -> None:
    events = [
        {"stage": "ict", "step": 1, "loss": 9.0},
        {"stage": "realm", "step": 1, "loss": 2.0},
        {"stage": "realm", "step": 2, "loss": None},
        {"stage": "realm", "step": 3, "loss": 1.0, "null_prior": 0.1},
        {"stage": "realm", "kind": "note"},
    ]
    found = curve_of(events, {"loss": "loss", "null_prior": "null", "absent": "x"}, title="t", meaning="m")
    assert [(s.label, list(s.points)) for s in found.series] == [("loss", [(1, 2.0), (3, 1.0)]), ("null", [(3, 0.1)])]

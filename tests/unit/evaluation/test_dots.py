"""The plot of dots: what stands where."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from realm.evaluation.dots import Dot, Panel, draw_dots

SVG = "{http://www.w3.org/2000/svg}"


def circles(text: str, fill: str) -> list[float]:
    found = ElementTree.fromstring(text).iter(f"{SVG}circle")
    return [float(circle.get("cx", "nan")) for circle in found if circle.get("fill") == fill]


def test_a_larger_figure_stands_further_right_and_the_interval_around_it() -> None:
    dots = [
        Dot(label="a <b>", mean=0.2, low=0.1, high=0.3, seeds=[0.15, 0.25], reference=0.4),
        Dot(label="c", mean=0.5),
    ]
    text = draw_dots([Panel(title="EM & more", dots=dots), Panel(title="empty", dots=[])], title="t", note="n")
    assert text == draw_dots([Panel(title="EM & more", dots=dots)], title="t", note="n")
    low, high = circles(text, "#0b6e99")
    first, second = circles(text, "#9a9a9a")
    (published,) = circles(text, "none")
    assert first < low < second < published < high
    root = ElementTree.fromstring(text)
    (line,) = [line for line in root.iter(f"{SVG}line") if line.get("stroke") == "#0b6e99"]
    assert float(line.get("x1", "nan")) < first < low < second < float(line.get("x2", "nan"))
    said = [str(node.text) for node in root.iter(f"{SVG}text")]
    assert {"a <b>", "c", "EM & more", "t", "n", "20.0 (40.0)", "50.0"} <= set(said)


def test_equal_figures_are_drawn_too() -> None:
    (x,) = set(circles(draw_dots([Panel(title="p", dots=[Dot(label="a", mean=0.0)] * 2)], title="t"), "#0b6e99"))
    assert x == 240 + 330 / 2

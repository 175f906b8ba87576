"""The page: whole, self-contained, and deaf to what documents would like it to do."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.evaluation.report import Curve, Example, Series, Table, render, write_report
from realm.types import Answer, Evidence, Passage

VOID = {"meta", "line", "rect", "circle", "path", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, tag: str | None = None) -> str:
        return "".join(data for where, data in self.texts if where != "style" and tag in (None, where))


def evidence(text: str, answer: str, **facts: Any) -> Evidence:
    at = text.find(answer)
    passage = Passage("d1", 0, facts.pop("title", "A title"), text, 0, len(text), ((0, len(text)),))
    span = (at, at + len(answer)) if at >= 0 else None
    values = {"score": 1.0, "prior": 0.6, "posterior": 0.93, "retrieval_utility": 3.4, "document_version": 2}
    return Evidence(passage=passage, span=span, **{**values, **facts})


def answer(*found: Evidence, question: str = "Guernica was painted by [MASK] [MASK].", **facts: Any) -> Answer:
    values: dict[str, Any] = {"text": "Pablo Picasso", "confidence": 0.8, "abstained": False, "null_prior": 0.05}
    return Answer(question=question, evidence=found, **{**values, **facts})


def page(**parts: Any) -> Page:
    return Page(render(**{"title": "A run", "facts": {}, **parts}))


def test_a_worked_example_shows_what_the_answer_rests_on() -> None:
    shown = page(
        examples=[Example(answer=answer(evidence("By Pablo Picasso, 1937.", "Pablo Picasso")), expected="Picasso")]
    )
    assert shown.text("mark") == "Pablo Picasso"
    for figure in ("60.0%", "93.0%", "+3.40", "80.0%", "5.0%", "expected: Picasso", "version 2"):
        assert figure in shown.text()
    assert [a["class"] for tag, a in shown.elements if a.get("class") == "blank"] == ["blank"], (
        "masks in a row are one blank"
    )
    assert "[MASK]" not in shown.text()
    assert {"prior", "posterior"} <= {word for _, a in shown.elements for word in (a.get("class") or "").split()}


def test_a_script_in_a_document_stays_text() -> None:
    attack = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
    shown = page(
        title=attack,
        subtitle=attack,
        facts={attack: attack},
        table=Table(columns=["", attack], rows=[[attack, attack]], caption=attack),
        curves=[
            Curve(
                title=attack,
                meaning=attack,
                series=[Series(label=attack, points=[(0, 1), (1, 2)])] * 2,
                baselines=[(attack, 1)],
            )
        ],
        examples=[
            Example(
                answer=answer(
                    evidence(
                        f"{attack} Picasso {attack}", attack, title=attack, source=attack, url=f"javascript:{attack}"
                    ),
                    question=attack,
                    text=attack,
                    alternatives=((attack, 0.1),),
                ),
                heading=attack,
                expected=attack,
                comment=attack,
            )
        ],
        notes=[attack],
    )
    assert {"script", "img"} & {tag for tag, _ in shown.elements} == set()
    assert shown.text().count(attack) >= 15
    assert [name for _, attributes in shown.elements for name in attributes if name.startswith("on")] == []
    assert [a for tag, a in shown.elements if tag == "a"] == []
    assert shown.text("mark") == attack


@settings(max_examples=25)
@given(st.text(max_size=60), st.integers(-5, 70), st.integers(-5, 70))
def test_any_text_is_shown_whole_whatever_the_span(text: str, start: int, end: int) -> None:
    found = dataclasses.replace(evidence(text, ""), span=(start, end))
    shown = page(examples=[Example(answer=answer(found, text="x", question="q"))])
    wanted = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    assert wanted in shown.text().replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def test_the_page_needs_nothing_from_outside_and_allows_nothing() -> None:
    found = evidence("Picasso", "Picasso", url="https://example.org/a?b=1&c=2")
    shown = page(examples=[Example(answer=answer(found))])
    assert {tag for tag, _ in shown.elements} & {"script", "link", "iframe", "img", "object", "embed", "base"} == set()
    policy = [a["content"] for tag, a in shown.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert [a["href"] for tag, a in shown.elements if tag == "a"] == ["https://example.org/a?b=1&c=2"]
    assert [a for _, a in shown.elements if "src" in a] == []


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", " javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", ""]
)
def test_only_web_addresses_become_links(url: str) -> None:
    shown = page(examples=[Example(answer=answer(evidence("Picasso", "Picasso", url=url)))])
    assert [tag for tag, _ in shown.elements if tag == "a"] == []


def test_the_table_and_the_curves_are_there() -> None:
    shown = page(
        table=Table(columns=["", "warm start", "REALM"], rows=[["recall@5", "27.0%", "31.5%"]], emphasis=2),
        curves=[
            Curve(title="Loss", meaning="Lower is better.", series=[Series(label="loss", points=[(0, 3.0), (9, 1.5)])])
        ],
    )
    assert shown.text("td") == "27.0%31.5%" and "recall@5" in shown.text("th")
    assert [a.get("class") for tag, a in shown.elements if tag == "td"] == [None, "strong"]
    (label,) = [a["aria-label"] for tag, a in shown.elements if tag == "svg"]
    assert label == "Loss over steps: loss from 3.00 to 1.50"
    assert "step 9: 1.50" in shown.text() and "3.00 → 1.50" in shown.text()


def test_a_run_without_figures_or_examples_still_has_a_page() -> None:
    shown = page(curves=[Curve(title="Loss", meaning="m", series=[])])
    assert "No figures were logged." in shown.text() and "Worked examples" not in shown.text()


def test_figures_that_are_not_finite_and_shares_out_of_range_are_drawn() -> None:
    found = evidence("x", "y", prior=float("nan"), posterior=1.0000001, retrieval_utility=float("-inf"))
    shown = page(examples=[Example(answer=answer(found, abstained=True, text=""))])
    assert "–" in shown.text() and "abstained" in shown.text() and "no answer" in shown.text()
    widths = [float(a["width"] or "") for tag, a in shown.elements if tag == "rect"]
    assert all(0 <= width <= 100 for width in widths)


def test_the_file_is_written_whole_and_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    for title in ("First", "조선 — second"):
        write_report(path, title=title, facts={"seed": "0"})
    assert "조선 — second" in Page(path.read_text(encoding="utf-8")).text("h1")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]

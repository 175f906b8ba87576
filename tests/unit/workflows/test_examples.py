"""The page of examples, on a small trained run: the right sentences, figures that add up, deaf to hostile text."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import story
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.config import override
from realm.errors import ArtefactError, RealmError, UsageError
from realm.evaluation.retrieval import answer_in_text
from realm.recipes import small
from realm.workflows.ingest import ingest_sources
from realm.workflows.pretraining.examples import (
    GROUPS,
    choose,
    collect_examples,
    cut,
    group_of,
    locate,
    render,
    summary,
)
from realm.workflows.pretraining.pretrain import pretrain

HOSTILE = "<script>alert(1)</script>"
TAIL = ' Its motto is <img src="http://evil.example/x" onerror=alert(2)> & {{ 7 * 7 }} "</style>".'


class Made(NamedTuple):
    folder: Path
    run: Path
    kb: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run over towns whose titles and texts would like to be part of the page."""
    folder = tmp_path_factory.mktemp("examples")
    rows = [{**row, "title": f"{row['title']} {HOSTILE}", "text": row["text"] + TAIL} for row in story.documents()]
    model = tiny.tiny_bert(folder / "model", [f"{row['title']} {row['text']}" for row in rows])
    kb, run = folder / "kb", folder / "run"
    ingest_sources([str(story.write_documents(folder / "towns.jsonl", rows))], kb, tokenizer=str(model))
    changed = {"realm__steps": "3", "realm__num_candidates": "6", "data__held_out_fraction": "0.5"}
    pretrain(kb, run, override(small(), story.settings(model, **changed)))
    return Made(folder, run, kb, collect_examples(run))


class Page(HTMLParser):
    """Elements and text of a page; fails on tags that don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open[-1:] == ["style"] else data


def test_the_counts_are_those_of_the_whole_probe(made: Made) -> None:
    probe = made.result["probe"]
    size = len(json.loads((made.run / "probe.json").read_text())["items"])
    assert sum(probe[name] for name in GROUPS) == probe["sentences"] == size == 20
    for name, side in (("warm-start", "recall_before"), ("realm", "recall_after")):
        report = json.loads((made.run / "evaluations" / name / "report.json").read_text())
        assert probe[side] == pytest.approx(report["figures"]["recall@5"])
    assert probe["won"] - probe["lost"] == pytest.approx((probe["recall_after"] - probe["recall_before"]) * size)


def test_twenty_sentences_and_the_same_at_every_call(made: Made) -> None:
    assert len({example["number"] for example in made.result["examples"]}) == 20
    assert collect_examples(made.run) == made.result


def test_beliefs_are_distributions_over_the_candidates(made: Made) -> None:
    """Six candidates, five passages shown and the null passage: shares of 1, differences that cancel."""
    assert made.result["candidates"] == 6
    for example in made.result["examples"]:
        for side in (example["before"], example["after"]):
            beliefs = [side["null"], *side["passages"]]
            assert len(beliefs) == 6
            assert sum(b["prior"] for b in beliefs) == pytest.approx(1, abs=1e-5)
            assert sum(b["posterior"] for b in beliefs) == pytest.approx(1, abs=1e-5)
            assert sum(b["r"] for b in beliefs) == pytest.approx(0, abs=1e-5)
            assert all(b["r"] == b["posterior"] - b["prior"] for b in beliefs)
            priors = [passage["prior"] for passage in side["passages"]]
            assert priors == sorted(priors, reverse=True)
            assert side["log_likelihood"] < 0


def test_beliefs_are_those_of_the_evaluation(made: Made) -> None:
    """The probe has twenty sentences here, so the means are of the same; the warm start was judged without a reader."""
    for name, side, figures in (
        ("warm-start", "before", ("null_prior",)),
        ("realm", "after", ("null_prior", "null_posterior", "log_likelihood")),
    ):
        report = json.loads((made.run / "evaluations" / name / "report.json").read_text())["figures"]
        found = [example[side] for example in made.result["examples"]]
        means = {
            "null_prior": np.mean([one["null"]["prior"] for one in found]),
            "null_posterior": np.mean([one["null"]["posterior"] for one in found]),
            "log_likelihood": np.mean([one["log_likelihood"] for one in found]),
        }
        assert {f: means[f] for f in figures} == pytest.approx({f: report[f] for f in figures}, rel=1e-4)


def test_as_many_candidates_as_are_shown_are_read(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["realm"]["num_candidates"] = 2
    (run / "config.json").write_text(json.dumps(config))
    found = collect_examples(run)
    assert [e["after"] for e in found["examples"]] == [e["after"] for e in made.result["examples"]]


def test_passages_are_those_of_the_evaluation(made: Made) -> None:
    for name, side in (("warm-start", "before"), ("realm", "after")):
        rows = json.loads((made.run / "evaluations" / name / "report.json").read_text())["rows"]
        for example in made.result["examples"]:
            assert [passage["row"] for passage in example[side]["passages"]] == rows[example["number"]]


def test_hits_groups_marks_and_ranks_agree(made: Made) -> None:
    hits = 0
    groups = [example["group"] for example in made.result["examples"]]
    assert groups == sorted(groups, key=list(GROUPS).index)
    for example in made.result["examples"]:
        before, after = example["before"]["passages"], example["after"]["passages"]
        assert example["group"] == group_of(any(p["hit"] for p in before), any(p["hit"] for p in after))
        assert example["sentence"][example["blank"] :].startswith("[MASK]")
        ranks = {p["row"]: p["rank"] for p in before}
        assert [p["rank"] for p in after] == [1, 2, 3, 4, 5]
        assert all(p["other_rank"] == ranks.get(p["row"]) for p in after)
        for passage in (*before, *after):
            hits += passage["hit"]
            assert passage["hit"] == (passage["hit_in"] is not None)
            if passage["marked"]:
                start, end = passage["marked"]
                assert answer_in_text(example["answer"], passage["snippet"][start:end])
    assert hits


def test_without_evaluations_the_probe_is_searched(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    shutil.rmtree(run / "evaluations")
    shutil.rmtree(run / "index")
    assert collect_examples(run) == {**made.result, "run": str(run)}


def test_hostile_text_stays_text(made: Made) -> None:
    page = Page(render(made.result))
    allowed = "html head meta title style body main h1 h2 h3 h4 p div dl dt dd table caption thead tbody tr th td"
    allowed += " article header section ol ul li span b mark svg rect a footer"
    assert {tag for tag, _ in page.elements} <= set(allowed.split())
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "onerror=alert(2)> & " in page.text


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=8)
def test_any_text_stays_text(made: Made, title: str, text: str) -> None:
    example = made.result["examples"][0]
    passage = {**example["after"]["passages"][0], "title": f"<i>{title}", "snippet": f"</li>{text}", "marked": None}
    one = {**example, "title": f"</p>{title}", "sentence": f"<u>[MASK]{text}", "blank": 3, "answer": f"<s>{text}"}
    one["after"] = {**example["after"], "passages": [passage]}
    page = Page(render({**made.result, "examples": [one]}))
    assert not {"i", "u", "s"} & {tag for tag, _ in page.elements}
    flat = page.text.replace("\r", "\n").replace("\0", "\ufffd")
    assert f"</li>{text}".replace("\r", "\n").replace("\0", "\ufffd") in flat


def test_the_command_writes_a_page_and_tells_where(made: Made) -> None:
    done = story.realm("show", made.run, "--examples")
    assert done.code == 0, done.err
    assert done.out == f"{summary(made.result)}\nthe page: {made.run / 'examples.html'}\n"
    assert (made.run / "examples.html").read_text("utf-8") == render(made.result)
    (made.run / "examples.html").unlink()
    assert story.result("show", made.run, "--examples") == json.loads(json.dumps(made.result))
    assert not (made.run / "examples.html").exists()


def test_a_knowledge_base_that_was_moved_is_named(made: Made, tmp_path: Path) -> None:
    moved, run = tmp_path / "elsewhere", shutil.copytree(made.run, tmp_path / "run")
    shutil.copytree(made.kb, moved)
    facts = json.loads((run / "run.json").read_text())
    facts["parents"]["knowledge_base"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ArtefactError, match="no longer there: name its place with --kb"):
        collect_examples(run)
    assert collect_examples(run, kb=moved)["examples"] == made.result["examples"]
    shutil.rmtree(moved / "snapshots")
    with pytest.raises(UsageError, match="found no snapshot"):
        collect_examples(run, kb=moved)


def spoil(run: Path, what: str) -> Path:
    if what == "probe":
        (run / "probe.json").unlink()
    elif what == "realm":
        shutil.rmtree(run / "checkpoints")
    elif what == "warm start":
        shutil.rmtree(run / "warm-start")
    elif what == "run":
        (run / "run.json").unlink()
    elif what == "steps":
        shutil.rmtree(run / "checkpoints")
        config = json.loads((run / "config.json").read_text())
        config["realm"]["steps"] = 0
        (run / "config.json").write_text(json.dumps(config))
    else:
        shutil.rmtree(run)
    return run


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("probe", "has no probe.json"),
        ("realm", "no trained checkpoint of REALM.*go on"),
        ("steps", "no trained checkpoint of REALM.*its realm.steps is 0"),
        ("warm start", "no checkpoint of its warm start"),
        ("run", "is no run, found no run.json"),
        ("all", "is no run, found nothing there"),
    ],
)
def test_what_is_missing_is_told_in_one_line(made: Made, tmp_path: Path, what: str, message: str) -> None:
    run = spoil(shutil.copytree(made.run, tmp_path / "run"), what)
    before = sorted(run.rglob("*"))
    with pytest.raises(RealmError, match=message) as caught:
        collect_examples(run)
    assert "\n" not in str(caught.value)
    assert sorted(run.rglob("*")) == before  # nothing is made on the way to an error


def test_kb_belongs_to_examples(made: Made) -> None:
    code, line = story.error("show", made.run, "--kb", made.kb)
    assert code == 2
    assert "--kb without --examples" in line


# ---------------------------------------------------------------- choosing and cutting


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80), st.integers(0, 30), st.integers(0, 5))
def test_choice_is_even_without_repeats_and_as_long_as_it_can_be(
    found: list[tuple[bool, bool]], sentences: int, seed: int
) -> None:
    before, after = (np.array([pair[side] for pair in found], bool) for side in (0, 1))
    chosen = choose(before, after, sentences, seed)
    assert chosen == choose(before, after, sentences, seed)
    assert len(set(chosen)) == len(chosen) == min(sentences, len(found))
    groups = [group_of(*pair) for pair in found]
    for name, part in GROUPS.items():
        there = groups.count(name)
        assert sum(groups[p] == name for p in chosen) >= min(there, part * sentences // 20)


def test_another_seed_chooses_others() -> None:
    before, after = np.zeros(200, bool), np.arange(200) % 2 == 0
    assert choose(before, after, 20, 0) != choose(before, after, 20, 1)


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("St. Louis", "He was born in st louis, Missouri.", "st louis"),
        ("Lennon", "It is Lennon's, not Lennonism.", "Lennon"),
        ("art", "The artist's art is old.", "art"),
        ("서울", "수도는 서울에서 옮겨졌다.", "서울"),
        ("東京", "首都は東京です", "東京"),
        ("C++", "C and C++ are languages.", "C++"),
        ("the 1960s", "In THE 1960s it rained.", "THE 1960s"),
    ],
)
def test_an_answer_is_located(answer: str, text: str, found: str) -> None:
    assert answer_in_text(answer, text)
    start, end = locate(answer, text) or (0, 0)
    assert text[start:end] == found


def test_an_answer_is_located_as_a_whole_word_first() -> None:
    assert locate("art", "The artist's art is old.") == (13, 16)
    assert locate("...", "Nothing. To find...") is None


@given(st.text(alphabet="ab \n.", max_size=400), st.integers(0, 400), st.integers(0, 300), st.integers(20, 120))
def test_a_cut_keeps_what_is_marked(text: str, start: int, length: int, width: int) -> None:
    start = min(start, len(text))
    end = min(start + length, len(text))
    piece, marked = cut(text, (start, end), width)
    assert marked is not None
    assert piece[marked[0] : marked[1]] == text[start:end]
    assert len(piece) <= max(width, end - start) + 2
    assert piece.strip("…") in text
    beginning, none = cut(text, None, width)
    assert none is None
    assert text.startswith(beginning.rstrip("…"))

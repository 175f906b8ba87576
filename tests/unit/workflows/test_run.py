"""What a run folder refuses, and what it goes on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realm.config import PretrainConfig, override
from realm.errors import ArtefactError, MismatchError
from realm.workflows.run import Run

PARENTS = {"knowledge_base": "/here", "snapshot": "a", "corpus": None, "corpus_snapshot": "a", "corpus_spans": "s"}


def test_a_run_killed_while_it_was_made_is_made_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    (run.path / "config.json").write_text("{")
    (run.path / ".run.json.1234").write_text("{")
    assert not run.create_or_resume(PretrainConfig(), PARENTS)
    assert run.config() == PretrainConfig()
    assert run.create_or_resume(PretrainConfig(), PARENTS)


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtefactError, match="no run"):
        Run(tmp_path).create_or_resume(PretrainConfig(), PARENTS)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["snapshot", "corpus_snapshot", "corpus_spans"])
def test_other_text_or_spans_are_refused(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path / "run")
    run.create_or_resume(PretrainConfig(), PARENTS)
    before = run.facts()
    with pytest.raises(MismatchError, match=f"{name} .*: found other"):
        run.create_or_resume(PretrainConfig(), {**PARENTS, name: "other"})
    assert run.facts() == before


def test_the_same_text_in_another_place_is_the_same(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.create_or_resume(PretrainConfig(), PARENTS)
    created = run.facts()["created"]
    assert run.create_or_resume(PretrainConfig(), {**PARENTS, "knowledge_base": "/there"})
    assert run.facts()["parents"]["knowledge_base"] == "/there"
    assert run.facts()["created"] == created


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.create_or_resume(PretrainConfig(), PARENTS)
    with pytest.raises(MismatchError, match=r"realm\.steps=200000: found realm\.steps=7"):
        run.create_or_resume(override(PretrainConfig(), ["realm.steps=7"]), PARENTS)
    assert json.loads((run.path / "config.json").read_text())["realm"]["steps"] == 200_000

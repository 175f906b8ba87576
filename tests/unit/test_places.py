"""Where a command may write: refused in one line, before any work, where no folder can be."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from story import error

from realm.errors import ArtefactError
from realm.files import check_folder, place_refused

VERBS: dict[str, Sequence[str]] = {
    "ingest": ("ingest", "docs", "--kb"),
    "pretrain": ("pretrain", "--kb", "kb", "--out"),
    "finetune": ("finetune", "--model", "m", "--kb", "kb", "--qa", "q", "--out"),
    "questions": ("questions", "--kb", "kb", "--out"),
    "evaluate": ("evaluate", "--suite", "q", "--kb", "kb", "--out"),
    "compare": ("compare", "--kb", "kb", "--train", "q", "--test", "t=q", "--out"),
    "ablate": ("ablate", "--kb", "kb", "--train", "q", "--test", "t=q", "--out"),
    "edit-test": ("edit-test", "--model", "m", "--kb", "kb", "--qa", "q", "--out"),
    "export": ("export", "run", "--out"),
    "demo": ("demo", "--out"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_written_below_a_file(verb: str, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    for place in ("letter/x", "letter/deep/x.jsonl"):
        code, line = error(*VERBS[verb], tmp_path / place)
        assert code == 1 and f"{tmp_path / 'letter'} is a file: expected a folder" in line
    assert (tmp_path / "letter").read_text() == "mine" and [*tmp_path.iterdir()] == [tmp_path / "letter"]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("questions", "export")])
def test_a_file_is_no_folder(verb: str, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    assert "letter is a file: expected a folder" in error(*VERBS[verb], tmp_path / "letter")[1]


def test_a_folder_that_is_not_there_yet_may_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, tmp_path / "a" / "b", Path("a"), Path("a/b"), Path(".")):
        check_folder(place)
    (tmp_path / "a").touch()
    with pytest.raises(ArtefactError, match="a is a file"):
        check_folder(Path("a/b"))


def test_what_the_operating_system_refuses_is_no_defect(tmp_path: Path) -> None:
    """A dangling link is nothing yet, and still no place for a folder."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "who ?", "answers": ["me"]}\n')
    code, line = error("evaluate", "--suite", questions, "--kb", tmp_path / ("k" * 300), "--out", tmp_path / "out")
    assert code == 1 and "File name too long" in line and "defect" not in line
    assert place_refused(FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), "x"))
    assert not place_refused(FileNotFoundError(errno.ENOENT, "gone")) and not place_refused(ValueError("no"))

"""Every file is small, quiet and safe to read; what `realm.files` writes is whole or absent."""

from __future__ import annotations

import ast
import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from realm import files
from realm.errors import ArtefactError

MAX_LINES = 400


def python_files(repository: Path) -> list[Path]:
    folders = [repository / name for name in ("realm", "tests", "benchmarks", "examples")]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def too_long(repository: Path, decisions: str) -> list[str]:
    """Files above MAX_LINES that no decision names as `path`."""
    found = []
    for path in python_files(repository):
        name = path.relative_to(repository).as_posix()
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_LINES and f"`{name}`" not in decisions:
            found.append(f"{name}: {lines} lines")
    return found


def test_no_file_has_two_reasons(repository: Path) -> None:
    decisions = repository / "docs" / "decisions.md"
    assert too_long(repository, decisions.read_text(encoding="utf-8") if decisions.exists() else "") == []


def test_a_long_file_is_found_unless_a_decision_names_it(tmp_path: Path) -> None:
    (tmp_path / "realm").mkdir()
    (tmp_path / "realm" / "long.py").write_text("x = 1\n" * 401)
    (tmp_path / "realm" / "short.py").write_text("x = 1\n" * 400)
    assert too_long(tmp_path, "") == ["realm/long.py: 401 lines"]
    assert too_long(tmp_path, "`realm/long.py` is a table") == []


def test_what_was_cut_off_is_seen_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name, text in (("a", "one"), ("inner/b", "two"), (files.MANIFEST, "{}")):
        (tmp_path / name).write_text(text)
    sizes = files.sizes_of(tmp_path, tmp_path)
    assert sizes == {"a": 3, "inner/b": 3} and files.sizes_of(tmp_path / "a", tmp_path) == {"a": 3}
    (tmp_path / "more").touch()
    assert files.has_sizes(tmp_path, sizes) and not files.has_sizes(tmp_path, None)
    (tmp_path / "inner" / "b").write_text("tw")
    assert not files.has_sizes(tmp_path, sizes)
    (tmp_path / "inner" / "b").unlink()
    assert not files.has_sizes(tmp_path, sizes)


def test_the_library_prints_nothing_and_unpickles_nothing(repository: Path) -> None:
    found = []
    for path in sorted((repository / "realm").rglob("*.py")):
        name = path.relative_to(repository).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and name != "realm/cli.py":
                found.append(f"{name}:{node.lineno}: print")
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                found += [f"{name}:{node.lineno}: {m}" for m in modules if m in ("pickle", "cPickle", "dill", "joblib")]
            # torch.load reads pickles unless it is told not to.
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                found += [] if safe else [f"{name}:{node.lineno}: torch.load without weights_only=True"]
    assert found == []


# ---------------------------------------------------------------- realm.files


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_fingerprints_differ_exactly_when_the_parts_do(one: list[str], other: list[str]) -> None:
    assert (files.fingerprint(*one) == files.fingerprint(*other)) == (one == other)
    assert re.fullmatch("[0-9a-f]{16}", files.fingerprint(*one))


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"né": [1, None]})
    files.write_json(path, {"b": 2})
    assert files.read_json(path) == {"b": 2}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_not_a_number_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == 1


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ArtefactError, match=r"disk is full while writing .*a\.txt: free some space"):
            files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b""])
def test_torn_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "torn.json"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"torn\.json is not readable JSON"):
        files.read_json(path)


def test_a_staged_folder_appears_only_when_it_is_done(tmp_path: Path) -> None:
    place = tmp_path / "artefact"
    with pytest.raises(RuntimeError), files.staged_folder(place) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with files.staged_folder(place) as folder:
            (folder / "whole").write_text(text)
            assert not place.exists() or (place / "whole").read_text() == "first"
    assert (place / "whole").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    leftover = tmp_path / ".artefact.stage-dead"
    leftover.mkdir()
    with files.staged_folder(tmp_path / "artefact"):
        pass
    assert not leftover.exists()


def test_a_manifest_says_what_it_is_of(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no folder .*gone: expected a vector index"):
        files.read_manifest(tmp_path / "gone", format="vector index", version=1)
    with pytest.raises(ArtefactError, match=r"has no manifest\.json: expected a finished vector index"):
        files.read_manifest(tmp_path, format="vector index", version=1)
    files.write_manifest(tmp_path, format="snapshot", version=1, rows=3)
    assert files.read_manifest(tmp_path, format="snapshot", version=1)["rows"] == 3
    with pytest.raises(ArtefactError, match="holds snapshot: expected a vector index"):
        files.read_manifest(tmp_path, format="vector index", version=1)
    with pytest.raises(ArtefactError, match="of format version 1: this library reads version 2"):
        files.read_manifest(tmp_path, format="snapshot", version=2)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (SafetensorError("Error while deserializing header: header too large"), False),
    ],
    ids=str,
)
def test_a_full_disk_is_known_whoever_says_it(tmp_path: Path, error: Exception, full: bool) -> None:
    expected = ArtefactError if full else type(error)
    with pytest.raises(expected, match="disk is full" if full else None), files.staged_folder(tmp_path / "a") as staged:
        (staged / "part").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []

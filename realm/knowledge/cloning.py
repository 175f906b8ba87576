"""A knowledge base of one's own to try things on: another's, as it is now, and nothing done to it reaches the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from realm.errors import KnowledgeBaseError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table.store import CONFIG, TABLE

_PART = ".part"
_VERSIONS = "_versions"
"""Where Lance keeps the manifests of a table's versions."""


def clone(source: Path, target: Path, folders: Sequence[str] = ()) -> None:
    """Lay a knowledge base like the one at `source` at `target`: every version and vector, and of its folders those
    named.

    Files of the table are linked where the file system can, so that a large knowledge base takes a moment and next to
    no disk: Lance writes a file once and never into it again, so a commit to either reaches only its own folder. What
    is written in place (the configuration, `folders`) is copied. A commit to `source` meanwhile is in it or not, whole.

    KnowledgeBaseError when `source` is none, or `target` is there.
    """
    source, target = Path(source), Path(target)
    KnowledgeBase.splitter_of(source)
    if target.exists():
        raise KnowledgeBaseError(f"{target} is there already: give a place for the copy that is not")
    staged = target.with_name(target.name + _PART)
    shutil.rmtree(staged, ignore_errors=True)
    table = f"{TABLE}.lance"
    # Lance writes what a version needs before its manifest: with the manifests first, nothing they name is missing.
    versions = source / table / _VERSIONS
    for file in [*_files(versions), *(f for f in _files(source / table) if versions not in f.parents)]:
        _link(file, staged / file.relative_to(source))
    for name in folders:
        if (source / name).is_dir():
            shutil.copytree(source / name, staged / name)
    shutil.copyfile(source / CONFIG, staged / CONFIG)
    os.replace(staged, target)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except FileNotFoundError:  # a file of a commit that was given up
        return
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(file, place)

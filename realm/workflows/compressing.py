"""From an exact index, or the run that holds one, to a compressed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realm.errors import ArtefactError, UsageError
from realm.files import MANIFEST, read_json
from realm.search import compressed
from realm.search.exact import ExactIndex
from realm.search.shards import FORMAT
from realm.workflows.reporting import Reporter, Silent

NAME = "compressed"
"""Of the folder beside the vectors."""


def compress(
    place: Path, *, recall: float = 0.95, out: Path | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Make a compressed index of an exact one; what was chosen, and why.

    place: the folder of an exact index, or a run, whose newest one is taken. out: a folder of its own, with a copy of
    the vectors; None writes the codes alone, into the exact index's folder, and copies nothing.
    ArtefactError: there is no exact index. UsageError: an impossible recall, or a folder that holds something else.
    MissingLibraryError: faiss is not installed.
    """
    reporter = reporter or Silent()
    source = exact_index(Path(place))
    target = source / NAME if out is None else Path(out)
    if target.exists() and not _is(target, compressed.FORMAT):
        raise UsageError(f"{target} is there and is no compressed index: give another --out")
    if out is not None and target.absolute().is_relative_to(source.absolute()):
        raise UsageError(f"{target} lies in the index {source}: leave --out away, or give a place outside")
    exact = ExactIndex.open(source)
    with reporter.stage(f"try kinds of indexes on {len(exact):,} vectors", "kinds") as progress:
        index = compressed.CompressedIndex.build(exact, recall, progress=progress)
    with reporter.stage("write the index"):
        index.save(target, beside=out is None)
    on_disk = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return {
        "path": str(target),
        "made_from": str(source),
        "rows": len(index),
        "dim": index.dim,
        "bytes": on_disk,
        "vector_bytes_a_row": index.dim * {"float32": 4, "bfloat16": 2, "int8": 1}[exact.dtype],
        **index.chosen,
    }


def exact_index(place: Path) -> Path:
    """The folder of an exact index: `place`, or the newest of the run that it is. ArtefactError where there is none."""
    if _is(place, FORMAT):
        return place
    found = [folder for folder in (place / "index").glob("step-*") if _is(folder, FORMAT)]
    if not found:
        raise ArtefactError(
            f"no exact index in {place}: expected the folder of one (a run's index/step-...), or a run that has one"
        )
    return max(found, key=lambda folder: int(folder.name.removeprefix("step-")))


def _is(folder: Path, format: str) -> bool:
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_json(folder / MANIFEST)
    return isinstance(manifest, dict) and manifest.get("format") == format

"""A model as one small file, or as a name of the catalogue: both become a folder once, in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from realm import files
from realm.errors import ArtefactError
from realm.knowledge.catalog import CATALOG
from realm.knowledge.fetching import cache_folder, fetch, making, resolve_model
from realm.models.encoders import DenseEncoder
from realm.models.late import open_reader
from realm.models.packed import pack, read_facts, unpack
from realm.models.span import SpanReader

REALM_MODEL = "realm model"
ANSWERER = "realm question answerer"
VERSION = 1
PACKED = ".safetensors"
"""How the name of a packed model ends."""
_READERS: dict[str, Callable[[Path], Any]] = {REALM_MODEL: open_reader, ANSWERER: SpanReader.from_pretrained}


def model_folder(name: str | Path) -> Path:
    """Where the parts of a packed model lie, made anew where they are lost: of a file, or of a name of the catalogue.
    Any other path stays itself. UnavailableError when a catalogue entry can't be fetched."""
    path = Path(name).expanduser()
    if is_named(name):
        return _unpacked(fetch(str(name)), CATALOG[str(name)].sha256)
    if path.suffix == PACKED and path.is_file():
        return _unpacked(path, files.sha256_of(path))
    return path


def is_named(name: str | Path) -> bool:
    """Whether `name` is a model of the catalogue; something of that name lying here comes first."""
    entry = CATALOG.get(str(name))
    return entry is not None and entry.kind == "model" and not Path(name).exists()


def check_place(path: Path) -> None:
    """ArtefactError unless nothing, or an empty folder, is at `path` and a folder can be above it."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ArtefactError(f"{path} exists: expected a new name; nothing was written")
    files.check_folder(path.absolute().parent)


def pack_model(folder: Path, file: Path, base: str | None) -> int:
    """A model folder as one small file; its size in bytes.

    base: what training began with, by a name of the catalogue or the hub. What training left as it was there is left
    out of the file; of a folder here, which nobody else has, nothing is.
    """
    check_place(file)
    found = _base(base)
    named = found is not None and found.is_dir() and not Path(str(base)).expanduser().is_dir()
    return pack(folder, found if named else None, file, {"base": base if named else None})


def _base(name: str | None) -> Path | None:
    if name is None:
        return None
    return model_folder(name) if is_named(name) else Path(resolve_model(name))


def _unpacked(file: Path, sha256: str) -> Path:
    """The model folder of a packed file, made once and kept in the cache, and again when something of it was lost. Its
    tensors are rounded, so its fingerprints are not the original's."""
    folder = cache_folder() / "models" / f"{file.stem}-{sha256[:12]}"
    if _is_whole(folder):
        return folder
    with making(folder):
        if _is_whole(folder):  # another process was first
            return folder
        with files.staged_folder(folder) as staged:
            unpack(file, _base(read_facts(file).get("base")), staged)
            manifest = files.read_json(staged / files.MANIFEST) if (staged / files.MANIFEST).is_file() else None
            if not isinstance(manifest, dict) or manifest.get("format") not in _READERS:
                raise ArtefactError(f"{file} holds no model: expected what `realm export` wrote")
            manifest = files.read_manifest(staged, format=manifest["format"], version=VERSION)
            for part, open_part in (
                ("encoder", DenseEncoder.from_pretrained),
                ("reader", _READERS[manifest["format"]]),
            ):
                if (staged / part).is_dir():  # BM25 has no encoder
                    network = open_part(staged / part)
                    network.save_pretrained(staged / part)
                    manifest[part] = network.fingerprint()
            manifest |= {"packed": sha256[:16], "files": files.sizes_of(staged, staged)}
            files.write_json(staged / files.MANIFEST, manifest)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether an unpacked model has all its files, by their sizes; what is torn in another way counts as lost, too."""
    try:
        manifest = files.read_json(folder / files.MANIFEST) if (folder / files.MANIFEST).is_file() else {}
        return manifest.get("format") in _READERS and files.has_sizes(folder, manifest.get("files"))
    except ArtefactError:
        return False

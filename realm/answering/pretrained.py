"""A trained model as one folder, as one small file, or as a name of the catalogue.

MODEL/
  manifest.json   what it is, what it was made from
  config.json     the whole configuration of its training
  encoder/        the retriever      } each opens in transformers
  reader/         the reader         }
  README.md       the model card
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm import files
from realm.answering.answerer import is_answerer
from realm.config import PretrainConfig, from_json, to_json
from realm.errors import ArtefactError
from realm.knowledge.catalog import CATALOG
from realm.knowledge.fetching import cache_folder, fetch, making, resolve_model
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.models.late import open_reader
from realm.models.packed import pack, read_facts, unpack
from realm.training.state import latest_checkpoint

FORMAT = "realm model"
VERSION = 1
CARD = "README.md"
PACKED = ".safetensors"
"""How the name of a packed model ends."""


def save_model(
    folder: Path,
    encoder: DenseEncoder,
    reader: ClozeReader,
    config: PretrainConfig,
    *,
    card: str = "",
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder, whole or not at all. facts: JSON values for its manifest.

    ArtefactError when there is something in its place.
    """
    check_place(folder)
    with files.staged_folder(folder) as staged:
        encoder.save_pretrained(staged / "encoder")
        reader.save_pretrained(staged / "reader")
        files.write_json(staged / "config.json", to_json(config))
        if card:
            files.write_text(staged / CARD, card)
        about = {**(facts or {}), "encoder": encoder.fingerprint(), "reader": reader.fingerprint()}
        files.write_manifest(staged, format=FORMAT, version=VERSION, **about)


def check_place(path: Path) -> None:
    """ArtefactError unless nothing, or an empty folder, is at `path` and a folder can be above it."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ArtefactError(f"{path} exists: expected a new name; nothing was written")
    files.check_folder(path.absolute().parent)


def is_model(folder: Path) -> bool:
    """Whether a folder is one that `save_model` wrote."""
    place = folder / files.MANIFEST
    if not place.is_file():
        return False
    manifest = files.read_json(place)
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def locate(name: str | Path) -> tuple[Path, Path]:
    """Where a model's parts lie, and its config.json.

    name: a model folder, a packed model, a run (its newest checkpoint), a checkpoint of a run, or a model of the
    catalogue. ArtefactError when it is none of these; UnavailableError when a catalogue entry can't be fetched.
    """
    entry, path = CATALOG.get(str(name)), Path(name).expanduser()
    if entry is not None and entry.kind == "model" and not path.exists():
        path = _unpacked(fetch(entry.name), entry.sha256)
    elif path.suffix == PACKED and path.is_file():
        path = _unpacked(path, files.sha256_of(path))
    if is_answerer(path):
        raise ArtefactError(
            f"{path} was fine-tuned on questions: open it with realm.QuestionAnswering, or take what it began with"
        )
    if is_model(path):
        files.read_manifest(path, format=FORMAT, version=VERSION)
        return path, path / "config.json"
    checkpoint = latest_checkpoint(path / "checkpoints") if (path / "run.json").exists() else path
    if checkpoint is None:
        raise ArtefactError(
            f"{path} has no checkpoint of REALM: let `realm pretrain {path}` finish, with realm.steps above 0"
        )
    config = checkpoint.absolute().parent.parent / "config.json"
    if not (checkpoint / "reader").exists() or not config.exists():
        models = ", ".join(sorted(entry.name for entry in CATALOG.values() if entry.kind == "model"))
        raise ArtefactError(
            f"{path} is no run and no checkpoint of one: expected a folder with run.json, step-... inside it, what "
            f"`realm export` wrote, or a name of the catalogue ({models})"
        )
    return checkpoint, config


def open_parts(name: str | Path, device: str = "cpu") -> tuple[DenseEncoder, ClozeReader, PretrainConfig]:
    """The retriever, the reader and the configuration of what `locate` finds."""
    place, config = locate(name)
    encoder = DenseEncoder.from_pretrained(place / "encoder").to(device)
    return encoder, open_reader(place / "reader").to(device), from_json(PretrainConfig, files.read_json(config))


def pack_model(folder: Path, file: Path) -> int:
    """A model folder as one small file; its size in bytes.

    What training left as it was in an encoder that has a name, in the catalogue or on a hub, is left out of the file;
    of an encoder that is a folder here, which nobody else has, nothing is.
    """
    check_place(file)
    files.read_manifest(folder, format=FORMAT, version=VERSION)
    name = from_json(PretrainConfig, files.read_json(folder / "config.json")).encoder.model
    found = Path(resolve_model(name))
    base = found if found.is_dir() and not Path(name).expanduser().is_dir() else None
    return pack(folder, base, file, {"base": name if base else None})


def _unpacked(file: Path, sha256: str) -> Path:
    """The model folder of a packed file, made once and kept in the cache, and again when something of it was lost. Its
    tensors are rounded, so its fingerprints are not the original's."""
    folder = cache_folder() / "models" / f"{file.stem}-{sha256[:12]}"
    if _is_whole(folder):
        return folder
    with making(folder):
        if _is_whole(folder):  # another process was first
            return folder
        name = read_facts(file).get("base")
        with files.staged_folder(folder) as staged:
            unpack(file, Path(resolve_model(name)) if name else None, staged)
            manifest = files.read_manifest(staged, format=FORMAT, version=VERSION)
            encoder, reader, _ = open_parts(staged)
            encoder.save_pretrained(staged / "encoder")
            reader.save_pretrained(staged / "reader")
            manifest |= {"encoder": encoder.fingerprint(), "reader": reader.fingerprint(), "packed": sha256[:16]}
            manifest["files"] = files.sizes_of(staged, staged)
            files.write_json(staged / files.MANIFEST, manifest)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether an unpacked model has all its files, by their sizes; what is torn in another way counts as lost, too."""
    try:
        return is_model(folder) and files.has_sizes(folder, files.read_json(folder / files.MANIFEST).get("files"))
    except ArtefactError:
        return False

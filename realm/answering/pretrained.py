"""A trained model as one folder, or as a name of the catalogue.

MODEL/
  manifest.json   what it is, what it was made from
  config.json     the whole configuration of its training
  encoder/        the retriever      } each opens in transformers
  reader/         the reader         }
  README.md       the model card
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm import files
from realm.config import PretrainConfig, from_json, to_json
from realm.errors import ArtefactError
from realm.knowledge.catalog import CATALOG, CatalogEntry, cache_folder, fetch, resolve_model
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.models.late import open_reader
from realm.models.packed import pack, read_facts, unpack
from realm.training.state import latest_checkpoint

FORMAT = "realm model"
VERSION = 1
CARD = "README.md"


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

    ArtefactError when the folder holds something else, which is not ours to replace.
    """
    if folder.exists() and any(folder.iterdir()) and not is_model(folder):
        raise ArtefactError(f"{folder} is not empty and is no model: expected a new folder; nothing was written")
    with files.staged_folder(folder) as staged:
        encoder.save_pretrained(staged / "encoder")
        reader.save_pretrained(staged / "reader")
        files.write_json(staged / "config.json", to_json(config))
        if card:
            files.write_text(staged / CARD, card)
        about = {**(facts or {}), "encoder": encoder.fingerprint(), "reader": reader.fingerprint()}
        files.write_manifest(staged, format=FORMAT, version=VERSION, **about)


def is_model(folder: Path) -> bool:
    """Whether a folder is one that `save_model` wrote."""
    place = folder / files.MANIFEST
    return place.exists() and files.read_json(place).get("format") == FORMAT


def locate(name: str | Path) -> tuple[Path, Path]:
    """Where a model's parts lie, and its config.json.

    name: a model folder, a run (its newest checkpoint), a checkpoint of a run, or a model of the catalogue.
    ArtefactError when it is none of these; UnavailableError when a catalogue entry can't be fetched.
    """
    entry, path = CATALOG.get(str(name)), Path(name)
    if entry is not None and entry.kind == "model" and not path.exists():
        path = _from_catalogue(entry)
    if is_model(path):
        files.read_manifest(path, format=FORMAT, version=VERSION)
        return path, path / "config.json"
    checkpoint = latest_checkpoint(path / "checkpoints") if (path / "run.json").exists() else path
    if checkpoint is None:
        raise ArtefactError(
            f"{path} has no checkpoint of REALM: let `realm pretrain {path}` finish, with realm.steps above 0"
        )
    config = checkpoint.parent.parent / "config.json"
    if not (checkpoint / "reader").exists() or not config.exists():
        models = ", ".join(sorted(e.name for e in CATALOG.values() if e.kind == "model"))
        raise ArtefactError(
            f"{path} is no run and no checkpoint of one: expected a folder with run.json, step-... inside it, a model "
            f"folder, or a name of the catalogue ({models})"
        )
    return checkpoint, config


def open_parts(name: str | Path, device: str = "cpu") -> tuple[DenseEncoder, ClozeReader, PretrainConfig]:
    """The retriever, the reader and the configuration of what `locate` finds."""
    place, config = locate(name)
    encoder = DenseEncoder.from_pretrained(place / "encoder").to(device)
    return encoder, open_reader(place / "reader").to(device), from_json(PretrainConfig, files.read_json(config))


def pack_model(folder: Path, file: Path) -> int:
    """A model folder as one small file; its size in bytes. What its encoder was trained from is left out of it."""
    files.read_manifest(folder, format=FORMAT, version=VERSION)
    config = from_json(PretrainConfig, files.read_json(folder / "config.json"))
    base = config.encoder.model
    return pack(folder, Path(resolve_model(base)), file, {"base": base})


def unpack_model(file: Path, folder: Path) -> None:
    """The model folder of a packed file. Its tensors are rounded, so its fingerprints are not the original's."""
    base = str(read_facts(file)["base"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        parts = Path(place)
        unpack(file, Path(resolve_model(base)), parts)
        manifest = files.read_manifest(parts, format=FORMAT, version=VERSION)
        known = ("format", "format_version", "realm_version", "encoder", "reader")
        encoder, reader, config = open_parts(parts)
        card = parts / CARD
        save_model(
            folder,
            encoder,
            reader,
            config,
            card=card.read_text(encoding="utf-8") if card.exists() else "",
            facts={name: value for name, value in manifest.items() if name not in known},
        )


def _from_catalogue(entry: CatalogEntry) -> Path:
    """The unpacked model, made once and kept in the cache."""
    from filelock import FileLock

    folder = cache_folder() / "models" / f"{entry.name}-{entry.sha256[:12]}"
    if is_model(folder):
        return folder
    file = fetch(entry.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not is_model(folder):
            unpack_model(file, folder)
    return folder

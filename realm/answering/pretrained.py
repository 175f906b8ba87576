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
from realm.answering.packing import REALM_MODEL, VERSION, check_place, model_folder
from realm.config import PretrainConfig, from_json, to_json
from realm.errors import ArtefactError
from realm.knowledge.catalog import CATALOG
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.models.late import open_reader
from realm.training.state import latest_checkpoint

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
        files.write_manifest(staged, format=REALM_MODEL, version=VERSION, **about)


def is_model(folder: Path) -> bool:
    """Whether a folder is one that `save_model` wrote."""
    place = folder / files.MANIFEST
    if not place.is_file():
        return False
    manifest = files.read_json(place)
    return isinstance(manifest, dict) and manifest.get("format") == REALM_MODEL


def locate(name: str | Path) -> tuple[Path, Path]:
    """Where a model's parts lie, and its config.json.

    name: a model folder, a packed model, a run (its newest checkpoint), a checkpoint of a run, or a model of the
    catalogue. ArtefactError when it is none of these; UnavailableError when a catalogue entry can't be fetched.
    """
    path = model_folder(name)
    if is_answerer(path):
        raise ArtefactError(
            f"{path} was fine-tuned on questions: open it with realm.QuestionAnswering, or take what it began with"
        )
    if is_model(path):
        files.read_manifest(path, format=REALM_MODEL, version=VERSION)
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

"""What fine-tuning starts from: a run of REALM, the warm start of one (which makes it ORQA), a model, or an encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from realm.answering.packing import model_folder
from realm.answering.pretrained import is_model, locate
from realm.config import EncoderConfig, PretrainConfig, from_json
from realm.errors import ArtefactError, MismatchError
from realm.files import MANIFEST, fingerprint, read_json
from realm.knowledge.fetching import resolve_model
from realm.knowledge.snapshot import Snapshot
from realm.models.backbone import load_tokenizer
from realm.models.encoders import KIND, DenseEncoder
from realm.models.freezing import with_frozen_passages
from realm.models.late import LateReader
from realm.models.span import KIND as SPAN_READER
from realm.models.span import SpanReader
from realm.settings_finetune import FinetuneConfig
from realm.training.state import latest_checkpoint
from realm.workflows import parts


@dataclass(frozen=True)
class Start:
    """A starting point, found and described; nothing of it is loaded yet."""

    kind: str
    """"realm", "ict" (ORQA) or "encoder"."""
    encoder: str
    """Folder or hub id of the encoder."""
    trained: bool
    """Whether it is an encoder of ours, which brings its own settings."""
    reader: str
    """Where the reader begins if the settings name nothing else."""
    max_passage_tokens: int | None
    """What the encoder was trained to see; None where nobody knows."""
    encoder_config: EncoderConfig | None
    """Settings that a run made the encoder with."""
    fingerprint: str


def find_start(name: str) -> Start:
    """A starting point by name.

    name: a run (its newest checkpoint of REALM, else its warm start), the folder ``warm-start`` of a run (ORQA), one
    checkpoint, a model folder or a model of the catalogue, or any encoder: a folder, a catalogue name or a hub id.
    ArtefactError for a run without a checkpoint; UsageError for a name that is nothing.
    """
    path = model_folder(name).absolute()
    if (path / "checkpoints").is_dir() or (path / "run.json").exists():
        checkpoint = latest_checkpoint(path / "checkpoints") or latest_checkpoint(path / "warm-start" / "checkpoints")
        if checkpoint is None:
            raise ArtefactError(f"{path} has no checkpoint: let the run finish its warm start first")
        return _of_checkpoint(checkpoint)
    if (path / "encoder" / MANIFEST).exists() and not is_model(path):
        return _of_checkpoint(path)
    if is_model(path):
        place, settings = locate(path)
        return _of_parts(place, from_json(PretrainConfig, read_json(settings)))
    source = resolve_model(name)
    manifest = read_json(Path(source) / MANIFEST) if (Path(source) / MANIFEST).exists() else {}
    trained = manifest.get("format") == KIND
    return Start("encoder", source, trained, source, None, None, str(manifest.get("fingerprint") or fingerprint(name)))


def _of_checkpoint(checkpoint: Path) -> Start:
    """A checkpoint of a run of ours: its settings lie some folders above."""
    run = next((p for p in checkpoint.absolute().parents[:4] if (p / "config.json").exists()), None)
    settings = read_json(run / "config.json") if run else {}
    if run is None or "ict" not in settings:
        return _of_parts(checkpoint, None)
    return _of_parts(checkpoint, from_json(PretrainConfig, settings))


def _of_parts(place: Path, config: PretrainConfig | None) -> Start:
    """A folder with encoder, and reader unless it is a warm start."""
    made_from = read_json(place / "encoder" / MANIFEST).get("fingerprint")
    reader, kind = str(place / "encoder"), "ict"
    if (place / "reader" / MANIFEST).exists():
        kind = "realm"
        left = read_json(place / "reader" / MANIFEST)
        # A late reader's network has never seen a passage: it is no start for one that reads question and passage.
        late = left.get("format") == LateReader.KIND
        reader = config.reader.model if late and config is not None else str(place / "reader")
        made_from = fingerprint(str(made_from), str(left.get("fingerprint")))
    elif config is not None:
        reader = config.reader.model
    tokens = config.data.max_passage_tokens if config is not None else None
    encoder_config = config.encoder if config is not None else None
    return Start(kind, str(place / "encoder"), True, reader, tokens, encoder_config, str(made_from))


def settle(config: FinetuneConfig, start: Start) -> FinetuneConfig:
    """The configuration with what the start decides, so that a run's config.json says how things are."""
    questions, reader = config.questions, config.reader
    if start.max_passage_tokens is not None:
        questions = replace(questions, max_passage_tokens=start.max_passage_tokens)
    if reader.model is None:
        reader = replace(reader, model=start.reader)
    encoder = start.encoder_config or replace(config.encoder, model=start.encoder)
    return replace(config, questions=questions, reader=reader, encoder=encoder)


# ---------------------------------------------------------------- networks


def tokenizer_of(start: Start) -> Any:
    return load_tokenizer(start.encoder)


def open_encoder(
    start: Start | None, checkpoint: Path | None, config: FinetuneConfig, snapshot: Snapshot, device: torch.device
) -> DenseEncoder:
    """The retriever of a checkpoint of the run, or its start's; passages frozen where the settings say so."""
    if checkpoint is not None:
        found = DenseEncoder.from_pretrained(checkpoint / "encoder")
    else:
        assert start is not None, "a run without a checkpoint has a start"
        if start.trained:
            found = DenseEncoder.from_pretrained(start.encoder)
        else:
            tokens = config.questions.max_passage_tokens
            found = parts.build_encoder(config.encoder, snapshot, tokens, config.loop.seed)
    found = found.to(device)
    return with_frozen_passages(found) if config.qa.documents == "frozen" else found


def open_reader(
    checkpoint: Path | None, config: FinetuneConfig, snapshot: Snapshot, device: torch.device
) -> SpanReader:
    """The reader of a checkpoint of the run, or a new one. MismatchError when its word pieces are not the encoder's."""
    reader = config.reader
    changeable: dict[str, Any] = {
        "max_width": reader.max_width,
        "max_length": reader.max_tokens,
        "backbone_dropout": reader.dropout,
        "freeze_word_embeddings": reader.freeze_word_embeddings,
        "freeze_layers": reader.freeze_layers,
    }
    if checkpoint is not None:
        return SpanReader.from_pretrained(checkpoint / "reader", **changeable).to(device)
    torch.manual_seed(config.loop.seed + 1)
    assert reader.model is not None, "settled by the start"
    source = resolve_model(reader.model)
    manifest = Path(source) / MANIFEST
    of_answers = manifest.exists() and read_json(manifest).get("format") == SPAN_READER
    new: dict[str, Any] = {} if of_answers else {"span_size": reader.span_size}
    found = SpanReader.from_pretrained(source, layers=reader.layers, **new, **changeable)
    theirs, ours = (parts.pieces_fingerprint(t) for t in (found.tokenizer, snapshot.tokenizer))
    if theirs != ours:
        raise MismatchError(
            f"the reader {reader.model} has the word pieces {theirs}, the encoder's are {ours}: expected the same; "
            "give both from one family"
        )
    return found.to(device)

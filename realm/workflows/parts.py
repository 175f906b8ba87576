"""Configuration to parts: the one place where settings become plain arguments."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from realm.answering.pretrained import locate
from realm.config import DataConfig, EncoderConfig, PretrainConfig, ReaderConfig, from_json
from realm.errors import DataError, MismatchError, UsageError
from realm.files import MANIFEST, fingerprint, read_json, staged_folder
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.fetching import resolve_model
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.table.anywhere import place_of
from realm.knowledge.text.spans import SpanTable, find_spans
from realm.models.backbone import load_tokenizer
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.models.late import READERS
from realm.models.precision import multiplies_bfloat16
from realm.search.embed import ROWS_PER_SHARD, embed, embed_rows
from realm.search.exact import ExactIndex
from realm.search.postings import Bm25
from realm.training.ranks import Ranks
from realm.types import Progress
from realm.workflows.reporting import Reporter

SHAPING_ENCODER = ("layers", "dim", "pooling", "normalize", "tied", "segments", "temperature")
SHAPING_READER = ("interaction", "layers", "copy_head", "with_title")
"""Settings that say what a network is: a trained one must have them."""
PCA_VECTORS_PER_DIMENSION = 16
"""Passages that a projection's principal components are estimated from, for each dimension."""


@dataclass(frozen=True)
class Text:
    """A snapshot and what is salient in it."""

    snapshot: Snapshot
    spans: SpanTable


def tokenizer_fingerprint(tokenizer: Any) -> str:
    return fingerprint(tokenizer.backend_tokenizer.to_str())


def pieces_fingerprint(tokenizer: Any) -> str:
    """Fingerprint of what a text becomes. How long it may get is no part of it: saving a tokenizer changes that."""
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    return fingerprint(json.dumps({k: v for k, v in facts.items() if k not in ("truncation", "padding")}))


def prepare_snapshot(kb: KnowledgeBase, tokenizer: Any, reporter: Reporter) -> Snapshot:
    """The snapshot of a knowledge base's present version in a tokenizer's word pieces.

    Kept in the knowledge base's folder and found again by the next run; runs that begin at the same moment make it
    once. DataError when it is empty.
    """
    if kb.num_passages() == 0:
        raise DataError(f"{kb.address} holds no passages: ingest some documents first")
    # Embedding and housekeeping are versions too; the same text needs no second snapshot.
    kb = kb.at(kb.content_version)
    folder = kb.path / "snapshots" / f"v{kb.version:06d}-{tokenizer_fingerprint(tokenizer)[:8]}"
    with _alone(folder, reporter):
        if (folder / MANIFEST).exists():
            return Snapshot.open(folder)
        with reporter.stage("snapshot: word pieces to memory map", "passages") as progress:
            return Snapshot.build(kb, tokenizer, folder, progress=progress)


def prepare_text(kb: KnowledgeBase, model: str, data: DataConfig, reporter: Reporter) -> Text:
    """`prepare_snapshot` in the encoder's word pieces, and the salient spans of it, kept beside it."""
    snapshot = prepare_snapshot(kb, load_tokenizer(resolve_model(model)), reporter)
    place = snapshot.path.with_name(f"{snapshot.path.name}.spans-{data.spans_pipeline.replace('/', '_')}")
    with (
        _alone(snapshot.path, reporter),
        reporter.stage("salient spans: names and dates", "passages") as progress,
    ):
        spans = find_spans(snapshot, place, pipeline=data.spans_pipeline, progress=progress)
    return Text(snapshot, spans)


@contextmanager
def _alone(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Hold a snapshot against another process that would make it, too: each would clear away the other's work."""
    if folder.parent.exists() and not os.access(folder.parent, os.W_OK):  # read-only: nothing can be made here anyway
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.note(f"another process is making {folder}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def has_snapshot(kb_path: Path, fingerprint: str) -> bool:
    """Whether a snapshot of this fingerprint was made, on this machine, from the knowledge base at a path or an
    address."""
    place = place_of(kb_path)
    if not place.is_laid():
        return False
    manifests = (place.folder / "snapshots").glob(f"v*/{MANIFEST}")
    return any(read_json(path).get("fingerprint") == fingerprint for path in manifests)


def find_start(config: PretrainConfig, tokenizer: Any) -> Path:
    """The folder of the trained model `config.start`. MismatchError when it is another kind of model than the
    configuration describes, or has other word pieces than `tokenizer`."""
    place, saved_config = locate(str(config.start))
    saved = from_json(PretrainConfig, read_json(saved_config))
    for group, names in (("encoder", SHAPING_ENCODER), ("reader", SHAPING_READER)):
        for name in names:
            theirs, ours = (getattr(getattr(c, group), name) for c in (saved, config))
            if theirs != ours:
                raise MismatchError(
                    f"found {group}.{name}={ours} with start={config.start}, which has {theirs}: give the same, or "
                    "start=none"
                )
    theirs, ours = (pieces_fingerprint(t) for t in (load_tokenizer(str(place / "encoder")), tokenizer))
    if theirs != ours:
        raise MismatchError(
            f"start={config.start} has the word pieces {theirs}, the snapshot's are {ours}: expected the same"
        )
    return place


def start_fingerprint(place: Path) -> str:
    """Of the parameters of a trained model, as its parts' manifests tell them."""
    return fingerprint(*(str(read_json(place / part / MANIFEST)["fingerprint"]) for part in ("encoder", "reader")))


def keep_start(place: Path, folder: Path) -> None:
    """Copy a trained model into a run, so that the run stands on it whatever becomes of the original."""
    config = locate(place)[1]
    with staged_folder(folder) as staged:
        for part in ("encoder", "reader"):
            shutil.copytree(place / part, staged / part)
        shutil.copy(config, staged / "config.json")


def learnt_null(start: Path) -> bool:
    """Whether a kept start brings a level of the null passage."""
    saved = from_json(PretrainConfig, read_json(start / "config.json"))
    return saved.encoder.null_bias == "learned" and saved.realm.null_passage


def reader_settings(config: ReaderConfig, data: DataConfig) -> dict[str, Any]:
    """What a saved reader may be given anew."""
    return {
        "max_length": data.max_query_tokens + data.max_passage_tokens,
        "backbone_dropout": config.dropout,
        "freeze_word_embeddings": config.freeze_word_embeddings,
        "freeze_layers": config.freeze_layers,
    }


def build_encoder(config: EncoderConfig, snapshot: Snapshot, max_passage_tokens: int, seed: int) -> DenseEncoder:
    """An encoder before training: the checkpoint, pooling weights from the corpus, a projection from a PCA."""
    torch.manual_seed(seed)
    encoder = DenseEncoder.from_pretrained(
        resolve_model(config.model),
        layers=config.layers,
        dim=config.dim,
        pooling=config.pooling,
        normalize=config.normalize,
        temperature=config.temperature,
        learn_temperature=config.learn_temperature,
        learn_null_bias=config.null_bias == "learned",
        tied=config.tied,
        segments=config.segments,
        dropout=config.dropout,
        backbone_dropout=config.backbone_dropout,
        freeze_word_embeddings=config.freeze_word_embeddings,
    )
    encoder.eval()
    if config.pooling == "weighted-mean":
        encoder.set_token_weights(smooth_inverse_frequency(snapshot, config.frequency_a))
    if config.init == "pca" and config.dim is not None:
        rng = np.random.default_rng((seed, 7))
        count = min(len(snapshot), PCA_VECTORS_PER_DIMENSION * config.dim)
        if count >= 2:
            rows = torch.from_numpy(np.sort(rng.permutation(len(snapshot))[:count]))
            pooled_NH = embed_rows(_Pooled(encoder), snapshot, rows, max_tokens=max_passage_tokens)
            encoder.init_projection_from_pca(pooled_NH, whiten=config.whiten)
    return encoder


class _Pooled:
    """The encoder before its projection, as an `Encoder`."""

    def __init__(self, encoder: DenseEncoder) -> None:
        self.encoder = encoder
        self.dim = int(encoder.query_tower.backbone.config.hidden_size)
        self.device = encoder.device

    def encode_queries(self, tokens: Any) -> torch.Tensor:
        return self.encoder.pool_passages(tokens)

    encode_passages = encode_queries


def smooth_inverse_frequency(snapshot: Snapshot, a: float) -> torch.Tensor:
    """Weight of each token id, a / (a + p(token)) over the corpus (Arora, Liang & Ma 2017). Float[V].

    Specials get next to nothing: they stand in every text and say nothing about any.
    """
    counts = snapshot.token_counts().astype(np.float64)
    weight = a / (a + counts / max(1.0, counts.sum()))
    weight[list(snapshot.special_ids)] = 1e-4
    return torch.from_numpy(weight).float()


def build_bm25(snapshot: Snapshot) -> Bm25:
    """BM25 over titles and texts of all rows, in memory."""
    return Bm25.build((snapshot.title(row), snapshot.text(row)) for row in range(len(snapshot)))


def open_postings(snapshot: Snapshot, reporter: Reporter) -> Bm25:
    """BM25 over titles and texts of all rows, mapped from beside the snapshot; built there the first time."""
    folder = snapshot.path.with_name(f"{snapshot.path.name}.bm25")
    with _alone(folder, reporter):
        if not (folder / MANIFEST).exists():
            with reporter.stage("BM25 over the passages"):
                rows = range(len(snapshot))
                facts = {"snapshot": snapshot.fingerprint}
                Bm25.build(((snapshot.title(row), snapshot.text(row)) for row in rows), facts=facts).save(folder)
    return Bm25.open(folder, snapshot=snapshot.fingerprint)


def build_reader(config: ReaderConfig, data: DataConfig, snapshot: Snapshot, seed: int) -> ClozeReader:
    """A reader before any training. MismatchError when its word pieces are not the snapshot's."""
    torch.manual_seed(seed + 1)
    source = resolve_model(config.model)
    reader = READERS[config.interaction].from_pretrained(
        source,
        layers=config.layers,
        copy=config.copy_head,
        **reader_settings(config, data),
    )
    reader.set_token_counts(torch.from_numpy(snapshot.token_counts()))
    theirs, ours = tokenizer_fingerprint(reader.tokenizer), tokenizer_fingerprint(snapshot.tokenizer)
    if theirs != ours:
        raise MismatchError(
            f"the reader {config.model} has the word pieces {theirs}, the encoder's are {ours}: expected the same; "
            "give both from one family"
        )
    return reader


def choose_device(name: str, ranks: Ranks | None = None) -> torch.device:
    """The device of a setting. ranks: of several processes each takes the accelerator of its number on its machine;
    UsageError where there is none, or where the setting names one for all."""
    if name != "auto":
        device = torch.device(name)
    else:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = accelerator or torch.device("cpu")
    if ranks is None or ranks.size == 1 or device.type == "cpu":
        return device
    if name != "auto" and device.index is not None:
        raise UsageError(
            f"found loop.device={name} with {ranks.size} processes: expected auto, cpu or {device.type}; LOCAL_RANK "
            "chooses among a machine's devices"
        )
    if ranks.local_rank >= torch.accelerator.device_count():
        raise UsageError(
            f"found LOCAL_RANK={ranks.local_rank} on a machine of {torch.accelerator.device_count()} devices: start as "
            "many processes a machine as it has devices, or give loop.device=cpu"
        )
    torch.accelerator.set_device_index(ranks.local_rank)
    return torch.device(device.type, ranks.local_rank)


def choose_bf16(setting: Any, device: torch.device) -> bool:
    """bf16 on an accelerator that has it; on a CPU a training does what it is told."""
    if setting != "auto":
        return bool(setting)
    return device.type != "cpu" and multiplies_bfloat16(device)


def embed_into(
    encoder: DenseEncoder,
    snapshot: Snapshot,
    folder: Path,
    step: int,
    *,
    max_tokens: int,
    bf16: Any,
    device: torch.device,
    reporter: Reporter,
    ranks: Ranks | None = None,
) -> Path:
    """Vectors of a snapshot's passages by an encoder of `step`, or what is there of them gone on with; the folder.

    max_tokens: of a passage. bf16: the setting, see `choose_bf16`. ranks: share the work; each must call.
    """
    settings: dict[str, Any] = {"max_tokens": max_tokens, "bf16": choose_bf16(bf16, device)}
    title = f"embed the passages (step {step})" if step else "embed the passages"
    with reporter.stage(title, "passages") as progress:
        if ranks is not None and ranks.size > 1:
            share_embedding(encoder, snapshot, folder, ranks, **settings, progress=progress)
            settings["rows_per_shard"] = rows_per_shard(len(snapshot), ranks)
        if ranks is None or ranks.first:
            embed(encoder, snapshot, folder, **settings, progress=progress, facts=index_facts(encoder, step))
        if ranks is not None:
            ranks.wait("the index")
    return folder


def share_embedding(
    encoder: DenseEncoder,
    snapshot: Snapshot,
    folder: Path,
    ranks: Ranks,
    *,
    max_tokens: int,
    bf16: bool,
    progress: Progress | None = None,
) -> None:
    """Each rank's shards of an index that is still unfinished; whoever embeds it next finds them all."""
    embed(
        encoder,
        snapshot,
        folder,
        max_tokens=max_tokens,
        bf16=bf16,
        rows_per_shard=rows_per_shard(len(snapshot), ranks),
        progress=progress,
        facts={"encoder": encoder.fingerprint()},
        rank=ranks.rank,
        world_size=ranks.size,
    )
    ranks.wait("the passages that are embedded together")


def rows_per_shard(rows: int, ranks: Ranks) -> int:
    """As many as ever, but fewer where not every rank would have a shard."""
    return ROWS_PER_SHARD if ranks.size == 1 else min(ROWS_PER_SHARD, max(1, -(-rows // ranks.size)))


def embed_beside(
    encoder: DenseEncoder, snapshot: Snapshot, max_tokens: int, *, bf16: Any, device: torch.device, reporter: Reporter
) -> ExactIndex:
    """A snapshot's passages by an encoder that has no run to keep them: made once, kept beside the snapshot."""
    folder = snapshot.path.with_name(f"{snapshot.path.name}.vectors-{encoder.fingerprint()}-{max_tokens}")
    embed_into(encoder, snapshot, folder, 0, max_tokens=max_tokens, bf16=bf16, device=device, reporter=reporter)
    return ExactIndex.open(folder, snapshot=snapshot.fingerprint, device=device)


def open_for_refresh(
    parameters: Path, snapshot: Path, *, max_tokens: int, device: str
) -> tuple[DenseEncoder, Snapshot, int]:
    """What a refresher opens: the published encoder, the snapshot it embeds, and the budget of a passage."""
    return DenseEncoder.from_pretrained(parameters).to(device), Snapshot.open(snapshot), max_tokens


def index_facts(encoder: DenseEncoder, step: int) -> dict[str, Any]:
    return {"encoder": encoder.fingerprint(), "step": step, "published": time.time()}

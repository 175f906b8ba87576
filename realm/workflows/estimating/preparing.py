"""A knowledge base in small, made by the code that will make the real one: what bringing text in costs here.

Made with next to nothing in it, which tells what every store costs whatever its size, and twice with a megabyte: the
quicker one counts.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from realm.config import PretrainConfig
from realm.errors import DataError, MissingLibraryError, UnavailableError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.build import load_tokenizer
from realm.knowledge.formats.sources import read_documents
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.table.schema import quoted
from realm.knowledge.text.passages import SentenceSplitter
from realm.knowledge.text.spans import SHARD_ROWS, SpanTable, find_spans
from realm.knowledge.text.taggers import DROPPED_LABELS, PATTERN, load_tagger, tag_texts
from realm.training.batches import MaskedSentences
from realm.training.rarity import SpansByRarity
from realm.types import Document, Spans
from realm.workflows.estimating.measuring import BUDGET_SECONDS, once, rate_above, seconds_of
from realm.workflows.estimating.texts import Lengths, of_snapshot

PROCESS_SHARE = 0.85
"""What each of several processes does of what one does alone (two on two cores: 1.7 times one)."""
IDS_PER_QUERY = 4_096
"""Ids that an ingest asks for at once."""
_FEW = 12
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The small one, and what it took, a second."""

    snapshot: Snapshot
    lengths: Lengths
    """Of its passages."""
    spans: SpanTable
    ingested: float
    """Bytes of text read, cut and committed."""
    tidied: float
    """Bytes of text whose files are folded and whose words are indexed."""
    passed: float
    """Rows that no index covers, passed over while the ids of a batch are looked for."""
    laid: float
    """Word pieces laid out in the snapshot."""
    scanned: float
    """Passages looked through for what can be masked."""
    tagged: float | None
    """Bytes of text, by all processes; None where the tagger isn't on this machine."""
    tagger_note: str
    tokenizer_note: str


def prepare(
    folder: Path, documents: Sequence[Document], config: PretrainConfig, place: Path | None, vocabulary: int
) -> Prepared:
    """Make it under `folder`. place: the model's folder, where it is on this machine; vocabulary: its size.

    DataError: the documents hold no two passages.
    """
    tokenizer, note = tokenizer_of(place, documents, vocabulary)
    most = config.data.max_passage_tokens
    _fill(folder / "warm", documents[:_FEW], tokenizer, most)  # what the first call costs once is not counted
    fixed, few = _fill(folder / "few", documents[:_FEW], tokenizer, most)
    taken, snapshot = _fill(folder / "all", documents, tokenizer, most)
    again, _ = _fill(folder / "again", documents, tokenizer, most)
    taken = {part: min(seconds, again[part]) for part, seconds in taken.items()}
    if len(snapshot) < 4:
        raise DataError(f"found {len(snapshot)} passages to measure on: expected some; give more or longer documents")
    size = sum(len(one.text.encode()) for one in documents)
    pieces = int(snapshot.token_counts().sum())
    started = once(lambda: find_spans(few, folder / "few-spans", pipeline=PATTERN))
    by_pattern = once(lambda: find_spans(snapshot, folder / "spans", pipeline=PATTERN))
    spans = SpanTable.open(folder / "spans", snapshot)
    texts = [snapshot.text(row) for row in range(len(snapshot))]
    tagged, tagger_note = tagging_rate(config.data.spans_pipeline, texts)
    if config.data.spans_pipeline == PATTERN:
        tagged = rate_above(sum(len(text.encode()) for text in texts), by_pattern, started)
    return Prepared(
        snapshot=snapshot,
        lengths=of_snapshot(snapshot),
        spans=spans,
        ingested=rate_above(size, taken["ingest"], fixed["ingest"]),
        tidied=rate_above(size, taken["tidy"], fixed["tidy"]),
        passed=_passing(folder / "ids"),
        laid=rate_above(pieces, taken["snapshot"], fixed["snapshot"]),
        scanned=len(snapshot) / seconds_of(partial(_scan, snapshot, spans, config), _CPU),
        tagged=tagged,
        tagger_note=tagger_note,
        tokenizer_note=note,
    )


def processes(pipeline: str, passages: int, cores: int) -> int:
    """How many `find_spans` starts."""
    return 1 if pipeline == PATTERN or passages <= 2 * SHARD_ROWS else min(cores, 8)


def _fill(folder: Path, documents: Sequence[Document], tokenizer: Any, most: int) -> tuple[dict[str, float], Snapshot]:
    """Seconds of each part."""
    folder.mkdir()
    source = folder / "documents.jsonl"
    with open(source, "w", encoding="utf-8") as stream:
        for one in documents:
            stream.write(json.dumps({"id": one.id, "title": one.title, "text": one.text}) + "\n")
    kb = KnowledgeBase.create(folder / "kb", split=SentenceSplitter(tokenizer, most))
    taken = {
        "ingest": once(lambda: kb.upsert(read_documents(str(source)))),
        "tidy": once(kb.compact),
        "snapshot": once(lambda: Snapshot.build(kb, tokenizer, folder / "snapshot")),
    }
    return taken, Snapshot.open(folder / "snapshot")


def _passing(folder: Path) -> float:
    """Rows a second: an ingest asks for each of its batches which ids are there, and Lance reads what came before."""
    import lancedb
    import pyarrow as pa

    asked = quoted(f"new-{number}" for number in range(IDS_PER_QUERY))
    sizes, seconds = (2_000, 150_000), []
    for size in sizes:
        ids = [f"document-{number}" for number in range(size)]
        table = lancedb.connect(folder).create_table(f"of-{size}", pa.table({"document_id": ids}))
        query = partial(table.search().where(f"document_id IN ({asked})").to_arrow)
        seconds.append(seconds_of(query, _CPU))
    return rate_above(sizes[1] - sizes[0], seconds[1], seconds[0])


def _scan(snapshot: Snapshot, spans: SpanTable, config: PretrainConfig) -> MaskedSentences:
    """As a training does before its first step."""
    low, high = config.data.min_span_documents, config.data.max_span_documents
    wanted: Spans = spans if low == 1 and high is None else SpansByRarity(spans, snapshot, 1, None)
    return masked_sentences(snapshot, wanted, config, batch_size=1)


def masked_sentences(snapshot: Snapshot, spans: Spans, config: PretrainConfig, *, batch_size: int) -> MaskedSentences:
    """The batches of a training with this configuration."""
    return MaskedSentences(
        snapshot,
        spans,
        strategy=config.data.masking,
        batch_size=batch_size,
        max_query_tokens=config.data.max_query_tokens,
        max_targets=config.data.max_targets,
        seed=config.loop.seed,
        exclude=config.data.exclude,
        duplicates=config.data.exclude_duplicates,
    )


def tagging_rate(pipeline: str, texts: Sequence[str]) -> tuple[float | None, str]:
    """Bytes a second of one process, and the tagger's name."""
    try:
        tagger = load_tagger(pipeline)
    except (UnavailableError, MissingLibraryError):
        return None, f"the pipeline {pipeline} is not installed here"

    def tag(count: int) -> float:
        started = time.perf_counter()
        list(tag_texts(tagger, texts[:count], DROPPED_LABELS, use_dates=True))
        return time.perf_counter() - started

    tag(1)
    count, seconds = 4, tag(4)
    while seconds < 2 * BUDGET_SECONDS and count < len(texts):
        count = min(len(texts), 2 * count)
        seconds = tag(count)
    return sum(len(text.encode()) for text in texts[:count]) / seconds, tagger.name


def tokenizer_of(place: Path | None, documents: Sequence[Document], vocabulary: int) -> tuple[Any, str]:
    """The model's tokenizer, or one that knows the documents' words and has as many pieces; a word on it."""
    if place is not None and (place / "tokenizer.json").exists():
        return load_tokenizer(place), "the model's tokenizer"
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    counts = Counter(word for one in documents for word in one.text.lower().split() if word.isalpha())
    letters = sorted({letter for one in documents for letter in one.text.lower() if not letter.isspace()})
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces = list(dict.fromkeys([*known, *(word for word, _ in counts.most_common())]))[:vocabulary]
    backend = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named), "a stand-in for the tokenizer"

"""Bytes on disk and in memory, from formats and shapes."""

from __future__ import annotations

import math

from realm.config import PretrainConfig
from realm.knowledge.table.housekeeping import UNINDEXED
from realm.knowledge.table.writing import BATCH_CHARACTERS, BATCH_DOCUMENTS
from realm.workflows.estimating.indexes import index_cost
from realm.workflows.estimating.machine import Machine
from realm.workflows.estimating.steps import TARGET_PIECES, Work, masked_pieces, tokens_of_step
from realm.workflows.estimating.table import Table
from realm.workflows.estimating.texts import Lengths
from realm.workflows.showing.artefacts import size_text

STARTED, BATCH_HELD, HELD = 190e6, 8.0, 450.0
"""Bytes that the store's libraries take when they are used, for a byte of a batch, and for a passage: 216, 345, 471 and
558 MB above what was there before were seen at 7,884, 34,334, 107,036 and 270,164 passages of 265 to 283 bytes."""
KEPT = 1.25
"""Of what a step needs at its peak, while the C library keeps what is freed: 1.2 GB of a run were seen where 0.95 were
counted, 1.5 where 1.2."""
POINTED = 60.0
"""Bytes: five places of eight, logits and their sums of four."""
TOKENIZER = 23.5
"""Bytes of a word piece in a tokenizer's file."""
TOO_LITTLE = "TOO LITTLE"
DISTINCT = 0.35
"""Distinct spans of all."""
STORED, ROW = 0.62, 57.0
"""Bytes of the Lance table for a byte of text or title, and for a row besides: within a tenth on five knowledge bases
of 3,000 to 227,000 passages of encyclopaedia articles."""
WORDS, TITLE_WORDS = 0.34, 0.75
"""Bytes of the word index for a byte of text, and of title."""
KEYS = 30.0
"""Bytes of a row in the three indexes of its keys, and in the list of titles."""
COMMIT_PASSAGES, COMMITS, COMMIT_BYTES = 16_384, 8, 256 << 20
"""`KnowledgeBase.embed_missing` commits vectors of so many passages, or of so great a part of them all, or of so many
bytes."""
_MANY = 4096
FRAGMENT_ROWS = 1_048_576
"""Lance folds files up to so many rows."""


def knowledge_base_bytes(passages: int, lengths: Lengths) -> tuple[float, float]:
    """Of the table, and of its word index and keys, after one ingest.

    Files of several commits are folded into new ones behind it, and stay for the older versions; up to `UNINDEXED` rows
    nothing is indexed yet.
    """
    rows = passages * (1 + lengths.documents)
    text, titles = passages * lengths.bytes, rows * lengths.title_bytes
    data = STORED * (text + titles) + ROW * rows
    commits = max(passages * lengths.documents / BATCH_DOCUMENTS, text / BATCH_CHARACTERS)
    if rows <= UNINDEXED:
        return data, 0.0
    return (2 if commits > 1 else 1) * data, WORDS * text + TITLE_WORDS * titles + KEYS * rows


def vector_copies(passages: int, lengths: Lengths, dim: int) -> float:
    """How often the column of vectors is written, files of older versions counted.

    Each commit writes it anew for the whole files it touches, as far as they have vectors by then: a page of nulls
    takes no room.
    """
    if not passages:
        return 0.0
    commit = min(max(COMMIT_PASSAGES, passages // COMMITS), max(1, COMMIT_BYTES // (4 * dim)))
    passages = min(passages, _MANY * commit)  # what follows goes the same way
    of_a_file = FRAGMENT_ROWS / (1 + lengths.documents)
    written = 0.0
    for first in range(0, passages, commit):
        written += min(first + commit, passages) - first // of_a_file * of_a_file
    return written / passages


def snapshot_bytes(passages: int, lengths: Lengths, vocabulary: int) -> float:
    """Arrays of `knowledge.build`: of a passage text, ids, offsets, sentences and nine numbers; of a document more."""
    ids = 2 if vocabulary <= 1 << 16 else 4
    passage = lengths.bytes + lengths.pieces * (ids + 8) + 8 * lengths.sentences + 72
    document = lengths.title_bytes + lengths.id_bytes + lengths.title_pieces * ids + 48
    return passages * (passage + lengths.documents * document) + TOKENIZER * vocabulary


def spans_bytes(passages: int, lengths: Lengths, pipeline: str) -> float:
    """Two positions and a label of a span, and where each passage's begin."""
    return passages * (9 * lengths.spans(pipeline) + 8)


def rarity_bytes(passages: int, spans: float) -> float:
    """What `SpansByRarity` holds: a list and an array a passage, four dictionaries of the distinct spans."""
    return passages * (180 + 9 * spans + DISTINCT * 360 * spans)


def ingest_memory(passages: int, lengths: Lengths) -> float:
    """Bytes above the libraries': a batch of documents as rows, and what folding, indexing and laying out hold."""
    return STARTED + BATCH_HELD * min(passages * lengths.bytes, BATCH_CHARACTERS) + HELD * passages


def pointing_bytes(config: PretrainConfig, work: Work) -> float:
    """Of the late reader: for each masked piece, candidate and piece of its body five places and what stands there."""
    pairs = config.realm.batch_size * config.realm.num_candidates * min(TARGET_PIECES, config.data.max_targets)
    return pairs * work.body * POINTED


def kept_indexes(config: PretrainConfig) -> int:
    """How many indexes lie on disk at once, at most."""
    if config.refresh.mode == "off":
        return 2
    in_parts = 0 if config.refresh.partial is None else 2  # the newest part, and the one in the making
    return 2 + max(2, config.loop.keep_checkpoints) + in_parts


def disk(table: Table, passages: int, config: PretrainConfig, machine: Machine, lengths: Lengths, kind: str) -> None:
    """Rows of what lies on disk."""
    documents = passages * lengths.documents
    data, words = knowledge_base_bytes(passages, lengths)
    total = table.size(
        "knowledge_base",
        "disk: text and its word index",
        data + words + TOKENIZER * machine.vocabulary,
        f"{lengths.bytes:,.0f} bytes of text a passage; files as written and as folded (`docs compact` lets the first "
        f"go), {size_text(words)} of indexes",
    )
    total += table.size(
        "snapshot",
        "disk: snapshot and spans",
        snapshot_bytes(passages, lengths, machine.vocabulary)
        + spans_bytes(passages, lengths, config.data.spans_pipeline),
        f"{lengths.pieces:,.0f} word pieces a passage, 10 bytes each beside the text; 9 a span",
    )
    cost = index_cost(kind, passages, machine.dim, machine, documents=documents)
    one = passages * machine.dim * 4.0
    if kind == "exact":
        table.size("index", "disk: one index", one, f"4 bytes x {machine.dim} numbers a passage")
    else:
        total += table.size("index", f"disk: index {kind}", cost.disk, f"{cost.formula}, and the exact vectors")
    kept = kept_indexes(config)
    total += table.size(
        "indexes",
        f"disk: {kept} exact indexes of the training",
        kept * one,
        "the first, the newest, those that checkpoints name, the one in the making"
        + ("" if config.refresh.partial is None else "; two in parts"),
    )
    copies = vector_copies(passages, lengths, machine.dim)
    total += table.size(
        "answers",
        "disk: vectors for answering",
        (passages + documents) * (copies * machine.dim * 4.0 + KEYS),
        f"the last encoder's, in the knowledge base; written {copies:.2g} times, until `docs compact`",
    )
    saved = machine.encoder_parameters + machine.reader_parameters
    moments = 2 * (machine.encoder_trained + machine.reader_trained)
    warm = 4 * (machine.encoder_parameters + 2 * machine.encoder_trained)
    keep = config.loop.keep_checkpoints
    total += table.size(
        "checkpoints",
        f"disk: {keep} checkpoints and {keep} of the warm start",
        keep * (4 * (saved + moments) + warm),
        f"{saved / 1e6:,.1f}M parameters, two moments for each of the {moments / 2e6:,.1f}M trained",
    )
    table.size("disk", "disk: in all", total, "the rows above")


def memory(
    table: Table, passages: int, config: PretrainConfig, machine: Machine, work: Work, lengths: Lengths, kind: str
) -> None:
    """Rows of what is held."""
    mapped = machine.device == "cpu"
    cost = index_cost(kind, passages, machine.dim, machine)
    share = f", a {machine.workers}th on each worker" if machine.workers > 1 else ""
    vectors = table.size(
        "vectors",
        "memory: vectors" if kind == "exact" else f"memory: index {kind}",
        cost.memory / machine.workers,
        f"{cost.formula}{share}; "
        + ("mapped: the system's cache, given back when needed" if mapped else f"copied to {machine.device}"),
    )
    held = ingest_memory(passages, lengths)
    table.size(
        "ingest_memory",
        "memory: ingest and snapshot",
        machine.base_memory + held,
        f"the libraries and {size_text(STARTED)} that they take, {BATCH_HELD:g} bytes for each of up to "
        f"{BATCH_CHARACTERS / 1e6:,.0f} MB of text as rows, {HELD:,.0f} bytes a passage",
    )
    trained = machine.encoder_trained + machine.reader_trained
    parameters = 4 * (machine.encoder_parameters + machine.reader_parameters + 3 * trained)
    table.size("model", "memory: model and optimizer", parameters, "weights; gradients and two moments of the trained")
    encoder, reader = tokens_of_step(config, work)
    realm = (
        encoder * machine.encoder_activation
        + reader * machine.reader_activation
        + masked_pieces(config) * machine.vocabulary * 4 * 3  # logits, their softmax, its gradient
        + (pointing_bytes(config, work) if config.reader.interaction == "late" else 0)
    ) / machine.workers
    pairs = config.ict.batch_size * (work.query + work.passage)
    most = max(config.ict.chunk_tokens, work.passage) if machine.encoder.layers else math.inf  # a bag is not cut
    ict = min(pairs / machine.workers, most) * machine.encoder_activation
    ict = ict if config.ict.steps else 0.0
    activations = table.size(
        "activations",
        "memory: activations of a step",
        max(realm if config.realm.steps else 0.0, ict),
        f"{'ICT' if ict > realm else 'REALM'}: {machine.encoder_activation / 1e3:,.0f} kB a token of the encoder, "
        f"{machine.reader_activation / 1e3:,.0f} of the reader, counted here",
    )
    rare = 0.0
    if (config.data.min_span_documents, config.data.max_span_documents) != (1, None) and config.realm.steps:
        rare = rarity_bytes(passages, lengths.spans(config.data.spans_pipeline))
    table.size("rarity", "memory: which spans are rare", rare, "of the host; data.min_span_documents=1 needs none")
    # On a processor what a step frees is kept, and does not fit every size that the next one asks for.
    kept = STARTED + KEPT * activations + rare if mapped else activations + vectors
    peak = machine.base_memory + parameters + kept
    have = machine.memory
    verdict = (
        "" if have is None else f"; {machine.device} has {size_text(have)}" + ("" if peak < have else f": {TOO_LITTLE}")
    )
    table.size(
        "peak",
        "memory: peak",
        peak,
        "the libraries and the rows above"
        + (f", {KEPT:g} times the step's, mapped vectors apart" if mapped else "")
        + verdict,
    )

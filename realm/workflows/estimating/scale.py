"""Disk, memory, hours and machines for tens of millions of passages and more, as Markdown: each line with its formula.

Nothing is measured for it: sizes follow from formats, hours from published peak rates. What an `estimate` benchmark
measured on a machine may be handed in, and makes lines of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from realm.recipes import paper
from realm.workflows.estimating.hardware import Hardware, known
from realm.workflows.estimating.indexes import KINDS, index_cost
from realm.workflows.estimating.preparing import IDS_PER_QUERY
from realm.workflows.estimating.shapes import Shape
from realm.workflows.estimating.sizes import (
    COMMIT_BYTES,
    FRAGMENT_ROWS,
    KEYS,
    ROW,
    STORED,
    TITLE_WORDS,
    WORDS,
    knowledge_base_bytes,
    snapshot_bytes,
    spans_bytes,
    vector_copies,
)
from realm.workflows.estimating.steps import TARGET_PIECES
from realm.workflows.estimating.table import duration
from realm.workflows.estimating.texts import BYTES_A_PIECE, SPANS_A_PIECE, WIKIPEDIA, Lengths
from realm.workflows.estimating.times import looking_up
from realm.workflows.showing.artefacts import size_text

COUNTS = (13_353_718, 100_000_000, 1_000_000_000)
"""The paper's Wikipedia, and more."""
BERT, DIM, TOKENS, VOCABULARY = Shape(12, 768, 3072), 128, 288, 30_522
"""BERT-base, and the paper's vectors and longest passages."""
FILLED = 0.8
"""Share of a memory that an index may take."""
EIGHT = 8
"""Devices of one machine."""


def scale(lengths: Lengths = WIKIPEDIA, *, measured: Mapping[str, Any] | None = None) -> str:
    """The tables. measured: `measured` of an estimate (see `Machine.rates`), of the machine that it was made on."""
    counts = [_count(count) for count in COUNTS]
    parts = [
        f"Computed by `realm estimate --table` for passages of {lengths.pieces:,.0f} word pieces and "
        f"{lengths.bytes:,.0f} bytes ({lengths.pieces:,.0f} x {BYTES_A_PIECE} bytes a piece: Wikipedia's 2.1 billion "
        f"words in 13.35 million passages), {lengths.documents:g} documents a passage, and vectors of D = {DIM} "
        "numbers. N is the number of passages, R the rows of the table (passages and documents), T the bytes of text, "
        "T' with the title of each row, C the cells of an inverted file. Not measured at these sizes.",
        "**Disk**",
        _table(("what", *counts, "formula"), _disk(lengths)),
        "**Memory, by kind of index**",
        _table(("index", *counts, "formula"), _memory()),
        f"**Devices that hold it in {FILLED:.0%} of their memory** (ceil(bytes / ({FILLED:g} x memory)))",
        _table(("index", "device", *counts), _devices()),
        f"**A refresh** (embedding every passage): BERT-base at {TOKENS} tokens, "
        f"2 x {BERT.flops(TOKENS) / 6 / 1e6:,.0f}M operations a token. Hours = N x tokens x (operations / "
        "(share x peak) + bytes of activations / (share x bandwidth)) / 3600; the latter of GPUs alone, "
        "12 x (16 H + 4 I) x 2 bytes a token.",
        _table(
            ("machine", "passages/s, one", *(f"{c}, one" for c in counts), *(f"{c}, {EIGHT}" for c in counts), "from"),
            _refresh(),
        ),
        "**The paper's training**: 200,000 steps of 512 sentences with 8 passages each, forward and backward three "
        "times the forward, at the same shares; without refreshes, which run beside it.",
        _table(("machine", "one", str(EIGHT), "operations a step"), _training()),
    ]
    if measured is not None:
        parts += [
            f"**Bringing text in, at the rates measured on {measured['cores']} cores** (one process writes: it does "
            "not get faster with more machines)",
            _table(("what", "a second", *counts, "formula"), _bringing_in(measured, lengths)),
        ]
    return "\n\n".join(parts)


def _disk(lengths: Lengths) -> Iterator[Sequence[str]]:
    def line(what: str, of: Any, formula: str) -> Sequence[str]:
        return (what, *(size_text(of(count)) for count in COUNTS), formula)

    yield line("text", lambda n: n * lengths.bytes, f"T = {lengths.bytes:,.0f} N")
    yield line(
        "knowledge base, after an ingest",
        lambda n: knowledge_base_bytes(n, lengths)[0],
        f"2 ({STORED:g} T' + {ROW:g} R), R = {1 + lengths.documents:g} N; half after `docs compact`",
    )
    yield line(
        "index of words and keys",
        lambda n: knowledge_base_bytes(n, lengths)[1],
        f"{WORDS:g} T + {TITLE_WORDS:g} x {lengths.title_bytes:g} R + {KEYS:g} R",
    )
    yield line(
        "snapshot",
        lambda n: snapshot_bytes(n, lengths, VOCABULARY),
        f"T + {lengths.pieces:,.0f} x 10 N + {8 * lengths.sentences + 72:,.0f} N + {lengths.documents:g} N x 89",
    )
    yield line("salient spans", lambda n: spans_bytes(n, lengths, ""), f"(9 x {SPANS_A_PIECE:g} x pieces + 8) N")
    yield line("one index, float32", lambda n: 4.0 * n * DIM, "4 N D")
    yield line(
        "vectors in the knowledge base",
        lambda n: vector_copies(n, lengths, DIM) * 4.0 * n * (1 + lengths.documents) * DIM,
        f"4 R D for each {COMMIT_BYTES >> 20} MiB of vectors in a file of {FRAGMENT_ROWS:,} rows, as far as it has any "
        "by then: until `docs compact`",
    )


def _memory() -> Iterator[Sequence[str]]:
    for kind in KINDS:
        costs = [index_cost(kind, count, DIM, None) for count in COUNTS]
        yield (kind, *(size_text(cost.memory) for cost in costs), costs[0].formula)


def _devices() -> Iterator[Sequence[str]]:
    machines = known()
    for kind in ("exact", "bf16", "int8", "ivf-pq", "ivf-rabitq", "hnsw"):
        for name in ("h200", "cpu-64"):
            if kind == "hnsw" and name == "h200":
                continue  # a graph is walked on a processor
            room = FILLED * machines[name].memory
            needed = [math.ceil(index_cost(kind, count, DIM, None).memory / room) for count in COUNTS]
            yield (kind, f"{name} ({machines[name].memory / 1e9:,.0f} GB)", *map(str, needed))


def _refresh() -> Iterator[Sequence[str]]:
    for machine in known().values():
        rate = machine.embedded(BERT, TOKENS)
        hours = [duration(count / rate / by) for by in (1, EIGHT) for count in COUNTS]
        told = (
            f"{_flops_text(machine)} x {machine.flops_share:g}, "
            f"{machine.bandwidth / 1e12:,.2g} TB/s x {machine.bandwidth_share:g}; shares {_assumed(machine)}"
        )
        yield (machine.name, f"{rate:,.0f}" if rate >= 10 else f"{rate:,.1f}", *hours, told)


def _training() -> Iterator[Sequence[str]]:
    config = paper()
    batch, candidates, query = config.realm.batch_size, config.realm.num_candidates, config.data.max_query_tokens
    passages = batch * (candidates - 1) * TOKENS
    joint = query + TOKENS - 2
    pairs = batch * candidates * joint
    head = 6.0 * batch * candidates * TARGET_PIECES * BERT.hidden * VOCABULARY
    operations = batch * query * BERT.flops(query) + passages * BERT.flops(TOKENS) + pairs * BERT.flops(joint) + head
    for machine in known().values():
        rate = machine.flops * machine.flops_share
        seconds = (
            batch * query * machine.token_seconds(BERT, query, 3)
            + passages * machine.token_seconds(BERT, TOKENS, 3)
            + pairs * machine.token_seconds(BERT, joint, 3)
            + head / rate
        )
        times = [duration(config.realm.steps * seconds / by) for by in (1, EIGHT)]
        told = f"{operations:.2g}: {query} tokens a query, {TOKENS} a passage, {joint} a pair"
        yield (machine.name, *times, told)


def _bringing_in(measured: Mapping[str, Any], lengths: Lengths) -> Iterator[Sequence[str]]:
    ingest = 1 / (1 / measured["ingested_bytes_a_second"] + 1 / measured["tidied_bytes_a_second"])
    passed = measured["passed_rows_a_second"]
    seconds = [count * lengths.bytes / ingest + looking_up(count, lengths) / passed for count in COUNTS]
    formula = f"T / {ingest / 1e6:,.3g}M + (documents / {IDS_PER_QUERY:,}) (R / 2) / {passed / 1e6:,.3g}M"
    yield ("ingest", f"{ingest / 1e6:,.1f} MB", *map(duration, seconds), formula)
    for what, name, unit in (
        ("snapshot", "laid_pieces_a_second", lengths.pieces),
        ("salient spans, one process", "tagged_bytes_a_second", lengths.bytes),
    ):
        rate = measured.get(name)
        if rate:
            hours = [duration(count * unit / rate) for count in COUNTS]
            yield (what, f"{rate / unit:,.0f} passages", *hours, f"{unit:,.0f} N / {rate / 1e6:,.3g}M")


def _count(count: int) -> str:
    return f"{count / 1e9:g}B" if count >= 1e9 else f"{count / 1e6:.4g}M"


def _flops_text(machine: Hardware) -> str:
    return f"{machine.flops / 1e12:,.3g} TFLOP/s {machine.arithmetic}"


def _assumed(machine: Hardware) -> str:
    return "assumed" if machine.share_source == "assumed" else "measured on such a one"


def _table(head: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:-1]), "---" if head[-1] in ("formula", "from") else "---:"]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))

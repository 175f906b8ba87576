"""What a training will cost on this machine, before anything is built and without any download.

Sizes follow from formats and shapes. Times follow from short measurements of the very code that will run (encoding,
training, search, tokeniser, tagger), made here and now; nothing is carried over from another machine. What can't be
known yet, the length of the passages above all, is assumed, and said in the column "because".
"""

from __future__ import annotations

from typing import Any

from realm.config import PretrainConfig
from realm.errors import UsageError
from realm.workflows.estimating.machine import Machine, Work, calibrate
from realm.workflows.showing.artefacts import size_text

MAX_PASSAGES = 10**12
PASSAGE_PIECES = 160
"""Word pieces of a passage: sentences packed to at most 288, short documents and last passages well below."""
QUERY_PIECES = 32
"""Word pieces of a masked sentence."""
TARGET_PIECES = 3
"""Word pieces of a masked span."""
CHARACTERS_A_PIECE = 4.8
"""English under a vocabulary of 30,000."""
SENTENCES, SPANS = 6, 6
"""In a passage of that length."""
STORE_FACTOR = 2.0
"""Bytes of the Lance table for each byte of text: the text and its full-text index."""


def estimate(passages: int, config: PretrainConfig) -> dict[str, Any]:
    """Disk, memory and time for so many passages: `rows` of [what, estimate, because], and the figures as numbers.

    Bytes and seconds are in `numbers`, rates in `measured`, what was assumed in `assumed`; what can't be said here
    is None. Takes a few seconds. UsageError for a number of passages that is none, or settings that no model takes.
    """
    if type(passages) is not int or not 1 <= passages <= MAX_PASSAGES:
        raise UsageError(f"found {passages!r} passages: expected a whole number from 1 to {MAX_PASSAGES:,}")
    work = Work(
        passages=passages,
        passage=min(PASSAGE_PIECES + 7, config.data.max_passage_tokens),
        body=min(PASSAGE_PIECES, config.data.max_passage_tokens - 2),
        query=min(QUERY_PIECES, config.data.max_query_tokens),
        characters=round(PASSAGE_PIECES * CHARACTERS_A_PIECE),
    )
    machine = calibrate(config, work)
    table = _Table()
    _disk(table, passages, config, machine)
    _memory(table, passages, config, machine, work)
    _time(table, passages, config, machine, work)
    return {
        "passages": passages,
        "rows": table.rows,
        "numbers": table.numbers,
        "measured": machine.rates(),
        "assumed": {
            "pieces_of_a_passage": PASSAGE_PIECES,
            "pieces_of_a_sentence": work.query,
            "pieces_of_a_span": TARGET_PIECES,
            "characters_of_a_piece": CHARACTERS_A_PIECE,
        },
    }


class _Table:
    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.numbers: dict[str, float | None] = {}

    def size(self, name: str, what: str, amount: float, because: str) -> float:
        self.numbers[f"{name}_bytes"] = int(amount)
        self.rows.append([what, size_text(amount), because])
        return amount

    def time(self, name: str, what: str, seconds: float | None, because: str) -> float:
        self.numbers[f"{name}_seconds"] = None if seconds is None else float(f"{seconds:.4g}")
        self.rows.append([what, "not known" if seconds is None else duration(seconds), because])
        return seconds or 0.0


def duration(seconds: float) -> str:
    """Seconds for people: "3.1 ms", "42 s", "3.5 h"."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 259_200), ("days", 86_400, 63_072_000)):
        if seconds < most:
            return f"{seconds / length:.{0 if seconds / length >= 10 else 1}f} {unit}"
    return f"{seconds / 31_536_000:,.1f} years"


# ---------------------------------------------------------------- disk


def _disk(table: _Table, passages: int, config: PretrainConfig, machine: Machine) -> None:
    text = passages * PASSAGE_PIECES * CHARACTERS_A_PIECE
    dim = machine.dim
    total = table.size(
        "knowledge_base",
        "disk: text and its word index",
        text * STORE_FACTOR,
        f"{PASSAGE_PIECES} word pieces a passage assumed, {CHARACTERS_A_PIECE} letters a piece, "
        f"{STORE_FACTOR:g} bytes stored for each",
    )
    # layout.py: text, ids and offsets of every piece; sentences; nine columns of a row; spans beside it
    ids = 2 if machine.vocabulary <= 1 << 16 else 4
    row = PASSAGE_PIECES * (CHARACTERS_A_PIECE + ids + 8) + 8 * SENTENCES + 160 + 9 * SPANS + 8
    total += table.size(
        "snapshot",
        "disk: snapshot and spans",
        passages * row,
        f"{row:,.0f} bytes a passage: text, {ids} bytes an id, 8 an offset, {SPANS} spans",
    )
    one = passages * dim * 4
    table.size("index", "disk: one index", one, f"{dim} numbers of 4 bytes a passage")
    kept = kept_indexes(config)
    total += table.size(
        "indexes",
        f"disk: {kept} indexes",
        kept * one,
        "the first, the newest, those that checkpoints name, the one in the making",
    )
    total += table.size("answers", "disk: vectors for answering", one, "the last encoder's, in the knowledge base")
    saved = machine.encoder_parameters + machine.reader_parameters
    moments = 2 * (machine.encoder_trained + machine.reader_trained)
    checkpoint = 4 * (saved + moments)
    warm = 4 * (machine.encoder_parameters + 2 * machine.encoder_trained)
    keep = config.loop.keep_checkpoints
    total += table.size(
        "checkpoints",
        f"disk: {keep} checkpoints and {keep} of the warm start",
        keep * (checkpoint + warm),
        f"{saved / 1e6:,.1f}M parameters, two moments for each of the {moments / 2e6:,.1f}M trained",
    )
    table.size("disk", "disk: in all", total, "the rows above")


def kept_indexes(config: PretrainConfig) -> int:
    """How many indexes lie on disk at once, at most."""
    if config.refresh.mode == "off":
        return 2
    return 2 + max(2, config.loop.keep_checkpoints)


# ---------------------------------------------------------------- memory


def _memory(table: _Table, passages: int, config: PretrainConfig, machine: Machine, work: Work) -> None:
    mapped = machine.device == "cpu"
    vectors = table.size(
        "vectors",
        "memory: vectors",
        passages * machine.dim * 4,
        "mapped from disk: the system's cache, given back when needed" if mapped else f"copied to {machine.device}",
    )
    trained = machine.encoder_trained + machine.reader_trained
    parameters = 4 * (machine.encoder_parameters + machine.reader_parameters + 3 * trained)
    table.size("model", "memory: model and optimizer", parameters, "weights; gradients and two moments of the trained")
    encoder, reader = tokens_of_step(config, work)
    masked = masked_pieces(config)
    realm = (
        encoder * machine.encoder_activation
        + reader * machine.reader_activation
        + masked * machine.vocabulary * 4 * 3  # logits, their softmax, its gradient
    )
    ict = config.ict.batch_size * (work.query + work.passage) * machine.encoder_activation if config.ict.steps else 0
    activations = table.size(
        "activations",
        "memory: activations of a step",
        max(realm if config.realm.steps else 0, ict),
        f"{'ICT' if ict > realm else 'REALM'}: {machine.encoder_activation / 1e3:,.0f} kB a token of the encoder, "
        f"{machine.reader_activation / 1e3:,.0f} of the reader, counted here",
    )
    peak = machine.base_memory + parameters + activations + (0 if mapped else vectors)
    have = machine.memory
    verdict = (
        "" if have is None else f"; {machine.device} has {size_text(have)}" + ("" if peak < have else ": TOO LITTLE")
    )
    table.size(
        "peak",
        "memory: peak",
        peak,
        f"the libraries and the rows above{', mapped vectors apart' if mapped else ''}{verdict}",
    )


def tokens_of_step(config: PretrainConfig, work: Work) -> tuple[int, int]:
    """Tokens that go through the encoder and the reader with gradients, in one part of a step."""
    batch, candidates = config.realm.batch_size, config.realm.num_candidates
    real = min(candidates - 1, work.passages)
    encoder = batch * work.query + (1 + min(batch * real, work.passages)) * work.passage
    if config.reader.interaction == "late":  # the query once; pointing at a passage's pieces is not worth counting
        return encoder, batch * work.query
    return encoder, batch * (work.query + real * (work.query + work.body + 1))


def masked_pieces(config: PretrainConfig) -> int:
    """Masked pieces that go through the vocabulary in one part of a step."""
    reads = 1 if config.reader.interaction == "late" else config.realm.num_candidates
    return config.realm.batch_size * reads * min(TARGET_PIECES, config.data.max_targets)


# ---------------------------------------------------------------- time


def _time(table: _Table, passages: int, config: PretrainConfig, machine: Machine, work: Work) -> None:
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    times = [
        table.time(
            "snapshot",
            "time: snapshot",
            passages / machine.tokenised_a_second,
            f"{machine.tokenised_a_second:,.0f} passages/s through {machine.tokenizer_note}",
        )
    ]
    tagged = machine.tagged_a_second
    times.append(
        table.time(
            "spans",
            "time: salient spans",
            None if tagged is None else passages / tagged,
            machine.tagger_note if tagged is None else f"{tagged:,.0f} passages/s, {machine.tagger_note}",
        )
    )
    train = machine.train_rate
    pair = work.query * machine.encoder_flops(work.query) + work.passage * machine.encoder_flops(work.passage)
    ict_step = config.ict.batch_size * pair / train + machine.optimizer_seconds(machine.encoder_trained)
    ict = table.time(
        "ict",
        "time: warm start (ICT)",
        config.ict.steps * ict_step,
        f"{config.ict.steps:,} steps of {config.ict.batch_size:,} pairs, {duration(ict_step)} each, {threads}",
    )
    embed = table.time(
        "embed",
        "time: embedding once (a refresh)",
        passages / machine.embedded_a_second,
        f"{machine.embedded_a_second:,.0f} passages/s of {work.passage} pieces through {machine.encoder_note}, "
        f"{machine.embed_threads} thread{'s' if machine.embed_threads > 1 else ''}",
    )
    question = passages * machine.search_one
    table.time(
        "search_question",
        "time: exact search, a question",
        question,
        f"{1e9 * machine.search_one:.3g} ns a passage; memory bandwidth {machine.bandwidth / 1e9:.1f} GB/s allows "
        f"{duration(passages * machine.dim * 4 / machine.bandwidth)}",
    )
    search = config.realm.accumulation * passages * machine.search_batch
    table.time(
        "search_step",
        "time: exact search, a step",
        search,
        f"{config.realm.accumulation * config.realm.batch_size:,} queries; "
        f"{1e9 * machine.search_batch:.3g} ns a passage for {config.realm.batch_size:,}",
    )
    encoder, reader = tokens_of_step(config, work)
    queries = config.realm.batch_size * work.query
    flops = queries * machine.encoder_flops(work.query) + (encoder - queries) * machine.encoder_flops(work.passage)
    late = config.reader.interaction == "late"
    flops += reader * machine.reader_flops(work.query if late else work.query + work.body)
    compute = flops / train + machine.vocabulary_seconds(masked_pieces(config))
    if config.realm.over_retrieve > 1:
        again = config.realm.batch_size * (config.realm.num_candidates - 1) * config.realm.over_retrieve
        compute += min(again, passages) / machine.embedded_a_second
    if config.realm.ict_weight:
        compute += config.realm.ict_batch_size * pair / train
    trained = machine.encoder_trained + machine.reader_trained
    step = table.time(
        "realm_step",
        "time: REALM step",
        config.realm.accumulation * compute + search + machine.optimizer_seconds(trained),
        f"{config.realm.accumulation * (encoder + reader):,} tokens at {train / 1e9:,.1f} GFLOP/s forward and "
        f"backward, search, optimizer; {threads}",
    )
    steps = config.realm.steps
    realm = table.time("realm", "time: REALM without refresh", steps * step, f"{steps:,} steps")
    swaps = (max(steps - 1, 0) // config.refresh.every_steps) if config.refresh.mode != "off" else 0
    refreshing, because = _refreshing(config, machine, swaps, embed, step)
    table.time("refresh", "time: refreshes", refreshing, because)
    table.time(
        "total",
        "time: the whole training",
        sum(times) + ict + realm + refreshing + (2 if steps else 1) * embed,
        "the rows above, the first and the last embedding"
        + ("; without the spans, whose time is not known" if tagged is None else ""),
    )
    table.rows.append(
        [
            "this machine",
            f"{machine.matmul / 1e9:,.1f} GFLOP/s",
            f"matrix product, {threads} of {machine.cores} cores, measured now; a busy machine gives long times",
        ]
    )


def _refreshing(config: PretrainConfig, machine: Machine, swaps: int, embed: float, step: float) -> tuple[float, str]:
    """What refreshing adds to the training, in seconds, and why."""
    if not swaps:
        return 0.0, "none" if config.refresh.mode != "off" else "refresh.mode=off"
    if config.refresh.mode == "sync":
        return swaps * embed, f"{swaps:,} while the trainer waits (refresh.mode=sync)"
    age = embed / step if step else 0.0
    # Parameters that are outdated before they are embedded are dropped: no more refreshes than fit into the time.
    late = f", {age:,.0f} steps old when they come" + (
        "; slower than refresh.every_steps" if age > config.refresh.every_steps else ""
    )
    beside = machine.device != "cpu" or machine.cores >= machine.threads + config.refresh.threads
    if beside:
        return 0.0, f"{swaps:,} asked for, beside the trainer{late}"
    return min(swaps * embed, config.realm.steps * step), f"{swaps:,} asked for, on the trainer's cores{late}"

"""Seconds of every stage, from rates and amounts of work."""

from __future__ import annotations

from realm.config import PretrainConfig
from realm.workflows.estimating.indexes import index_cost
from realm.workflows.estimating.machine import Machine
from realm.workflows.estimating.preparing import IDS_PER_QUERY, PROCESS_SHARE, processes
from realm.workflows.estimating.steps import Work, masked_pieces, pair_flops, realm_flops, tokens_of_step
from realm.workflows.estimating.table import Table, duration
from realm.workflows.estimating.texts import Lengths
from realm.workflows.pretraining.comparison import LIVE_SENTENCES, READ_SENTENCES


def times(
    table: Table, passages: int, config: PretrainConfig, machine: Machine, work: Work, lengths: Lengths, kind: str
) -> None:
    """Rows of what takes time."""
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    size = passages * lengths.bytes
    looked = looking_up(passages, lengths) / machine.passed
    total = table.time(
        "ingest",
        "time: ingest",
        size / machine.ingested + size / machine.tidied + looked,
        f"{size / 1e6:,.0f} MB at {machine.ingested / 1e6:,.1f} MB/s, indexed at {machine.tidied / 1e6:,.1f} MB/s, "
        f"{duration(looked)} to see which documents are there",
    )
    laid = machine.laid / lengths.pieces
    total += table.time(
        "snapshot", "time: snapshot", passages / laid, f"{laid:,.0f} passages/s through {machine.tokenizer_note}"
    )
    total += _spans(table, passages, config, machine, lengths)
    total += table.time(
        "scan",
        "time: what can be masked",
        passages / machine.scanned,
        f"{machine.scanned:,.0f} passages/s looked through, once a run",
    )
    embedded = machine.embedded(work)
    # Vectors are hashed when they are stored, and parameters to be named by.
    stored = 4.0 * (passages * machine.dim + machine.encoder_parameters)
    embed = table.time(
        "embed",
        "time: embedding once (a refresh)",
        passages / embedded + stored / machine.hashed,
        f"{embedded:,.0f} passages/s of {work.passage:,.0f} pieces through {machine.encoder_note}, "
        f"{machine.embed_threads} thread{'s' if machine.embed_threads > 1 else ''}",
    )
    cost = index_cost(kind, passages, machine.dim, machine)
    built = table.time("index", f"time: index {kind}", cost.seconds, cost.building)
    ict = _ict(table, config, machine, work, threads)
    question = machine.search_one.at(passages / machine.workers)
    table.time(
        "search_question",
        "time: exact search, a question",
        question,
        f"{1e9 * machine.search_one.row:.3g} ns a passage; memory bandwidth {machine.bandwidth / 1e9:.1f} GB/s allows "
        f"{duration(passages * machine.dim * 4 / machine.bandwidth)}",
    )
    step, queries = _realm_step(table, passages, config, machine, work, threads)
    steps = config.realm.steps
    realm = table.time("realm", "time: REALM without refresh", steps * step, f"{steps:,} steps")
    swaps = (max(steps - 1, 0) // config.refresh.every_steps) if config.refresh.mode != "off" else 0
    refreshing, because = _refreshing(config, machine, swaps, embed, step)
    sentence = machine.judged + queries + work.query * machine.encoder.flops(work.query) / 3 / machine.embed_rate
    live = (swaps + 1) * 2 * min(LIVE_SENTENCES, config.probe.size) * sentence if steps else 0.0
    refreshing = table.time(
        "refresh",
        "time: refreshes",
        refreshing + live,
        f"{because}; {duration(live)} of it to look at the probe",
    )
    parts = realm_flops(config, machine, work).all / config.realm.batch_size / machine.realm_rate
    # Forward alone is a third of the arithmetic; with what is told of it, it took 0.7 of a step's time.
    reading = 4 * min(READ_SENTENCES, config.probe.size) * parts * 0.7
    judging = table.time(
        "judging",
        "time: judging before and after",
        2 * config.probe.size * sentence + reading,
        f"{config.probe.size:,} sentences of the probe: searched, and looked for in what was found",
    )
    unknown = [
        what
        for what, seconds in (("the spans", machine.tagged), (f"the index {kind}", cost.seconds))
        if seconds is None
    ]
    table.time(
        "total",
        "time: the whole training",
        total + built + ict + realm + refreshing + judging + (2 if steps else 1) * embed,
        "the rows above, the first and the last embedding"
        + (f"; without {' and '.join(unknown)}, whose time is not known" if unknown else ""),
    )


def looking_up(passages: int, lengths: Lengths) -> float:
    """Rows passed over by an ingest into an empty knowledge base: half of them all for each query of ids."""
    documents = passages * lengths.documents
    return documents / IDS_PER_QUERY * (passages + documents) / 2


def _spans(table: Table, passages: int, config: PretrainConfig, machine: Machine, lengths: Lengths) -> float:
    if machine.tagged is None:
        return table.time("spans", "time: salient spans", None, machine.tagger_note)
    count = processes(config.data.spans_pipeline, passages, machine.cores)
    rate = machine.tagged / lengths.bytes * (count * PROCESS_SHARE if count > 1 else 1)
    told = f"{machine.tagger_note}, {count} process{'es' if count > 1 else ''}"
    return table.time("spans", "time: salient spans", passages / rate, f"{rate:,.0f} passages/s, {told}")


def _ict(table: Table, config: PretrainConfig, machine: Machine, work: Work, threads: str) -> float:
    pairs = min(config.ict.batch_size, max(2, work.passages))
    step = pairs * pair_flops(machine, work) / machine.ict_rate + machine.ict_fixed
    step += machine.step_overhead(machine.encoder_trained)
    table.numbers["ict_step_seconds"] = float(f"{step:.4g}")
    return table.time(
        "ict",
        "time: warm start (ICT)",
        config.ict.steps * step,
        f"{config.ict.steps:,} steps of {pairs:,} pairs, {duration(step)} each, {threads}",
    )


def _realm_step(
    table: Table, passages: int, config: PretrainConfig, machine: Machine, work: Work, threads: str
) -> tuple[float, float]:
    """Seconds of a step, and of one query of a batch's search."""
    part = machine.search_batch.at(passages / machine.workers)
    search = table.time(
        "search_step",
        "time: exact search, a step",
        config.realm.accumulation * part,
        f"{config.realm.accumulation * config.realm.batch_size:,} queries; "
        f"{1e9 * machine.search_batch.row:.3g} ns a passage for {config.realm.batch_size:,}",
    )
    compute = realm_flops(config, machine, work).all / machine.realm_rate + machine.realm_fixed
    if config.realm.over_retrieve > 1:
        again = config.realm.batch_size * (config.realm.num_candidates - 1) * config.realm.over_retrieve
        compute += min(again, passages) / machine.embedded(work)
    if config.realm.ict_weight:
        compute += config.realm.ict_batch_size * pair_flops(machine, work) / machine.ict_rate
    tokens = sum(tokens_of_step(config, work))
    step = table.time(
        "realm_step",
        "time: REALM step",
        config.realm.accumulation * compute
        + search
        + machine.step_overhead(machine.encoder_trained + machine.reader_trained),
        f"{config.realm.accumulation * tokens:,.0f} tokens, {masked_pieces(config):,} masked, at "
        f"{machine.realm_rate / 1e9:,.1f} GFLOP/s; search, optimizer; {threads}",
    )
    return step, part / config.realm.batch_size


def _refreshing(config: PretrainConfig, machine: Machine, swaps: int, embed: float, step: float) -> tuple[float, str]:
    """What refreshing adds to the training, in seconds, and why."""
    if not swaps:
        return 0.0, "none" if config.refresh.mode != "off" else "refresh.mode=off"
    # How often an index drifts too far, only training shows.
    told = f"{swaps:,}" if config.refresh.drift is None else f"at least {swaps:,}"
    if config.refresh.mode == "sync":
        return swaps * embed, f"{told} while the trainer waits (refresh.mode=sync)"
    age = embed / step if step else 0.0
    # Parameters that are outdated before they are embedded are dropped: no more refreshes than fit into the time.
    late = f", {age:,.0f} steps old when they come" + (
        "; slower than refresh.every_steps" if age > config.refresh.every_steps else ""
    )
    elsewhere = machine.device != "cpu" or config.refresh.mode == "ray"
    beside = elsewhere or machine.cores >= machine.threads + config.refresh.threads
    if beside:
        return 0.0, f"{told} asked for, beside the trainer{late}"
    return min(swaps * embed, config.realm.steps * step), f"{told} asked for, on the trainer's cores{late}"

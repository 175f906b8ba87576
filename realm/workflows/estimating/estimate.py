"""What a training will cost, before anything is built and without any download: here, and on named hardware.

Sizes follow from formats and shapes. Times follow from short measurements of the very code that will run, made here and
now; those of named hardware are computed from published peak rates (see `hardware`). What can't be known yet, the
length of the passages above all, is assumed, or read off documents of one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realm.config import PretrainConfig
from realm.errors import UsageError
from realm.workflows.estimating import texts
from realm.workflows.estimating.hardware import computed, named, shared
from realm.workflows.estimating.indexes import KINDS
from realm.workflows.estimating.machine import Machine, calibrate
from realm.workflows.estimating.sizes import TOO_LITTLE, disk, memory
from realm.workflows.estimating.steps import TARGET_PIECES, Work
from realm.workflows.estimating.table import Table
from realm.workflows.estimating.texts import Text
from realm.workflows.estimating.times import times

MAX_PASSAGES = 10**12
ETHERNET = 1.25e9
"""Bytes a second between workers where nobody says otherwise: 10 gigabits."""


def estimate(
    passages: int,
    config: PretrainConfig,
    *,
    text: Text | None = None,
    index: str = "exact",
    hardware: Sequence[str] = (),
    workers: int = 1,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """Disk, memory and time for so many passages: `rows` of [what, estimate, because], and the figures as numbers.

    text: documents like those to come, whose lengths are taken; made ones of assumed lengths when None.
    index: one of `KINDS`. hardware: names of hardware.json; `rows` then have a column of each, and `hardware` tells
    their numbers, computed and not measured. workers: machines, or devices of the named hardware, that share the work.
    machine: what `calibrate` measured before for this configuration and text; measured now when None.

    Bytes and seconds are in `numbers`, rates in `measured`, what was assumed in `assumed`; what can't be said here
    is None. Takes some seconds. UsageError for a number of passages that is none, a kind of index or hardware that
    isn't known, or settings that no model takes.
    """
    if type(passages) is not int or not 1 <= passages <= MAX_PASSAGES:
        raise UsageError(f"found {passages!r} passages: expected a whole number from 1 to {MAX_PASSAGES:,}")
    if index not in KINDS:
        raise UsageError(f"found the index {index!r}: expected one of {', '.join(KINDS)}")
    asked = {name: named(name) for name in hardware}
    text = text or texts.assumed()
    work = Work.of(passages, text.lengths, config)
    if workers < 1:
        raise UsageError(f"found {workers} workers: expected at least 1")
    here = machine or calibrate(config, text)
    table = _table(shared(here, workers, ETHERNET), work, config, text, index)
    table.rows.append(
        [
            "this machine",
            f"{here.matmul / 1e9:,.1f} GFLOP/s",
            f"matrix product, {here.threads} of {here.cores} cores, measured now; a busy machine gives long times"
            + (f"; {workers} such, {ETHERNET / 1e9:g} GB/s between them" if workers > 1 else ""),
        ]
    )
    others = {}
    for name, one in asked.items():
        there = shared(computed(here, one, work, config), workers, one.exchange)
        others[name] = _table(there, work, config, text, index)
        others[name].rows.append(
            ["this machine", f"{one.flops / 1e12:,.3g} TFLOP/s", f"published; {one.flops_share:.0%} of it reckoned"]
        )
    return {
        "passages": passages,
        "columns": ["what", "this machine" if asked else "estimate", *(f"{n}, computed" for n in asked), "because"],
        "rows": _joined(table, list(others.values())),
        "numbers": table.numbers,
        "hardware": {
            name: {
                "computed": True,
                "numbers": others[name].numbers,
                "source": one.source,
                "shares": {"flops": one.flops_share, "bandwidth": one.bandwidth_share, "source": one.share_source},
            }
            for name, one in asked.items()
        },
        "measured": here.rates(work, text.lengths),
        "assumed": {
            "lengths": text.lengths.source,
            "pieces_of_a_passage": round(text.lengths.pieces, 1),
            "bytes_of_a_passage": round(text.lengths.bytes, 1),
            "documents_of_a_passage": round(text.lengths.documents, 3),
            "pieces_of_a_sentence": round(work.query, 1),
            "pieces_of_a_span": TARGET_PIECES,
        },
    }


def _table(machine: Machine, work: Work, config: PretrainConfig, text: Text, index: str) -> Table:
    table, lengths, passages = Table(), text.lengths, work.passages
    disk(table, passages, config, machine, lengths, index)
    memory(table, passages, config, machine, work, lengths, index)
    times(table, passages, config, machine, work, lengths, index)
    return table


def _joined(here: Table, others: list[Table]) -> list[list[str]]:
    """A column of each; the reasons are this machine's."""
    found = []
    for at, (what, amount, because) in enumerate(here.rows):
        there = []
        for other in others:
            name, value, why = other.rows[at]
            assert name == what, f"{name} beside {what}"
            there.append(value + (" (too little)" if TOO_LITTLE in why else ""))
        found.append([what, amount, *there, because])
    return found

"""The systems that `realm compare` puts side by side, each one small file.

A system joins by a file here and a line in `SYSTEMS`. It is an object with the members of `base.System`:

    title, seeded       how a table calls it, and whether a seed changes it
    find_start          what it begins with, of the caller's ``--start SYSTEM=...``
    train(leg)          make ``OUT/SYSTEM-sSEED`` whole or go on with it; nothing to do when it is
    fingerprint(leg)    of all that its answers depend on, so that only stale reports are made again
    open(leg)           a context with `answer`: (questions, k) to answers, and `search`: (texts, k) to passages

A run of `realm finetune` that was trained elsewhere is a system, too, under any name (``--run NAME=RUN``, `taken`).

A leg brings the knowledge base, the questions, the settings with the seed, and a reporter; everything it writes goes
into its folder. Who reads spans of retrieved passages calls `tuned.train_tuned` and is done in thirty lines, as `orqa`
is; who needs another retriever gives `methods.open_qa.OpenQA` one (see `methods.retrievers`); who generates answers, or
searches some other way, trains in `train` whatever there is to train with `training.loop.train`, which resumes bit for
bit, and hands back two callables. Judging, intervals, tables and plots are the comparison's: a system never judges
itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from realm.errors import UsageError
from realm.workflows.comparing.systems.base import Leg, Opened, System
from realm.workflows.comparing.systems.bm25 import Bm25Reader
from realm.workflows.comparing.systems.closed_book import ClosedBook
from realm.workflows.comparing.systems.fused import Fused
from realm.workflows.comparing.systems.orqa import ORQA
from realm.workflows.comparing.systems.realm import REALM
from realm.workflows.comparing.systems.taken import Taken

SYSTEMS: Mapping[str, System] = {
    "closed-book": ClosedBook(),
    "bm25": Bm25Reader(),
    "orqa": ORQA,
    "realm": REALM,
    "fused": Fused(),
}


def find_system(name: str, runs: Mapping[str, str] | None = None) -> System:
    """A system by name. runs: those that were trained elsewhere, by name, which may be any, and where they lie;
    ``{seed}`` there stands for the seed. UsageError when there is none."""
    if runs and name in runs:
        return Taken(SYSTEMS[name].title if name in SYSTEMS else name, seeded="{seed}" in runs[name])
    if name not in SYSTEMS:
        raise UsageError(f"found system {name!r}: expected one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


__all__ = ["SYSTEMS", "Leg", "Opened", "System", "find_system"]

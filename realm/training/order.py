"""In which order examples come, and which of them are whose: functions of seed, epoch, step and place alone."""

from __future__ import annotations

import numpy as np

from realm.errors import UsageError
from realm.training.masking import IntArray

MASKED, CLOZE, PROBE, DRAWN, CROPS = 1, 2, 3, 4, 5
"""Set kinds of draws apart, so that one seed does not give two of them the same order of rows."""


class Order:
    """The order of an epoch. Remembers the last permutation, which is only a saving: it is a function of its key."""

    def __init__(self, rows: int, steps: int) -> None:
        self.rows, self.steps = rows, steps
        self._key: tuple[int, ...] | None = None
        self._permutation: IntArray = np.zeros(0, np.int64)

    def locate(self, step: int, batch_size: int) -> tuple[int, int]:
        """(epoch, place of the batch's first example in the epoch)"""
        if step < 0:
            raise UsageError(f"batch {step}: expected a step of 0 or more")
        return step // self.steps, step % self.steps * batch_size

    def permutation(self, key: tuple[int, ...]) -> IntArray:
        if key != self._key:
            self._permutation = np.random.default_rng(key).permutation(self.rows)
            self._key = key
        return self._permutation


def share(batch_size: int, rank: int, world_size: int) -> range:
    """The places of the global batch that are this rank's: as many as any other's, or one fewer or more."""
    return range(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


def check_ranks(batch_size: int, rank: int, world_size: int, seed: int) -> None:
    """Raises UsageError when a batch can't be shared as asked."""
    facts = {"batch_size": batch_size, "rank": rank, "world_size": world_size, "seed": seed}
    found = ", ".join(f"{name}={value}" for name, value in facts.items())
    if world_size < 1 or not 0 <= rank < world_size:
        raise UsageError(f"{found}: expected 0 <= rank < world_size")
    if batch_size < world_size:
        raise UsageError(f"{found}: expected a batch size of at least world_size, one example for each process")
    if seed < 0:
        raise UsageError(f"{found}: expected a seed of 0 or more")

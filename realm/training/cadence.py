"""When parameters are published: every so many steps (Guu et al. 2020, section 3.3), or when the index has drifted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

HORIZON = 8
"""Steps over which the measured drift is smoothed; fewer where the index is younger than that."""


class Cadence:
    """Says when it is time. With a threshold it is a function of the drifts that it was told of, and so of the run."""

    def __init__(
        self,
        every_steps: int,
        *,
        drift: float | None = None,
        min_steps: int = 1,
        published: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """every_steps: without `drift`, publish at its multiples; with it, the longest wait between two publications.
        drift: publish when the smoothed drift of the index in use reaches this (see `search.drift`).
        min_steps: the shortest wait, for `drift`. published: step of the last publication. facts: of `facts`.
        """
        self.every_steps, self.drift, self.min_steps = every_steps, drift, min_steps
        facts = facts or {}
        self.published = int(facts.get("published", published))
        self.measured = float(facts.get("measured", 0.0))
        """Smoothed drift of the index in use."""
        self.count = int(facts.get("count", 0))
        """Measurements of it."""

    def observe(self, drift: float) -> None:
        """The drift that one batch shows, 0 to 1; one that is no number counts for nothing."""
        if drift == drift:
            self.count += 1
            self.measured += (drift - self.measured) / min(self.count, HORIZON)

    def swapped(self) -> None:
        """Another index is in use: what was measured was the old one's."""
        self.measured, self.count = 0.0, 0

    def due(self, step: int, pending: Callable[[], object]) -> bool:
        """Whether to publish before `step`. pending: whether what was published last has not come back yet; then more
        drift is no news, and only the longest wait counts."""
        if self.drift is None:
            return step > 0 and step % self.every_steps == 0
        waited = step - self.published
        if waited >= self.every_steps:
            return True
        return waited >= self.min_steps and self.count > 0 and self.measured >= self.drift and not pending()

    def facts(self) -> dict[str, Any]:
        """For a checkpoint, so that a run which goes on publishes when the uninterrupted one would."""
        return {"published": self.published, "measured": self.measured, "count": self.count}

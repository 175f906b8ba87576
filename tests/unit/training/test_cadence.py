"""When parameters go out: at multiples, or by the drift that steps measured."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from realm.training.cadence import Cadence


def run(cadence: Cadence, drifts: list[float], first: int = 0) -> list[int]:
    """Steps before which it published, where an index is back at once, as with mode=sync."""
    found = []
    for step, drift in enumerate(drifts, first):
        if cadence.due(step, lambda: False):
            found.append(step)
            cadence.published = step
            cadence.swapped()
        cadence.observe(drift)
    return found


def test_without_a_threshold_it_is_the_multiples() -> None:
    assert run(Cadence(3), [1.0] * 10) == [3, 6, 9]


def test_drift_calls_for_a_refresh_within_both_bounds() -> None:
    assert run(Cadence(6, drift=0.5), [0.0] * 20) == [6, 12, 18], "the longest wait"
    assert run(Cadence(6, drift=0.5, min_steps=2), [1.0] * 9) == [2, 4, 6, 8], "the shortest wait"
    assert run(Cadence(100, drift=0.5), [0.1, 0.2, 0.9, 0.9, 0.1, 0.1, 0.1]) == [4], "0.4 after three steps, then 0.525"


def test_what_is_on_its_way_is_waited_for() -> None:
    cadence = Cadence(10, drift=0.5)
    cadence.observe(1.0)
    assert cadence.due(3, lambda: False) and not cadence.due(3, lambda: True)
    assert cadence.due(10, lambda: True), "but no longer than the longest wait"


def test_what_is_no_number_counts_for_nothing() -> None:
    cadence = Cadence(10, drift=0.5)
    cadence.observe(math.nan)
    assert cadence.count == 0 and not cadence.due(1, lambda: False)


@given(
    drifts=st.lists(st.floats(0, 1), min_size=2, max_size=40),
    cut=st.integers(0, 40),
    threshold=st.floats(0.05, 1),
    bounds=st.tuples(st.integers(1, 4), st.integers(4, 12)),
)
def test_interrupted_and_resumed_equals_uninterrupted(
    drifts: list[float], cut: int, threshold: float, bounds: tuple[int, int]
) -> None:
    cut = min(cut, len(drifts))

    def fresh(facts: dict[str, float] | None = None) -> Cadence:
        return Cadence(bounds[1], drift=threshold, min_steps=bounds[0], facts=facts)

    whole, first = fresh(), fresh()
    before = run(first, drifts[:cut])
    again = fresh(json.loads(json.dumps(first.facts())))  # as a checkpoint keeps it
    assert before + run(again, drifts[cut:], cut) == run(whole, drifts)
    assert again.facts() == whole.facts()

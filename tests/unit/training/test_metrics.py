from __future__ import annotations

from pathlib import Path

import pytest

from realm.training.metrics import Metrics, read_metrics


def test_what_came_after_the_checkpoint_of_a_step_is_forgotten_with_it(tmp_path: Path) -> None:
    """Step 4 is logged, saved, and then, before the next step is taken, a new index comes into use."""
    with Metrics(tmp_path) as metrics:
        kept = [
            {"stage": "realm", "kind": "refresh", "step": 0, "index_step": 0},
            {"stage": "realm", "kind": "refresh", "step": 3, "index_step": 2},
            {"stage": "realm", "kind": "train", "step": 4, "loss": 1.0},
            {"stage": "ict", "kind": "refresh", "step": 9, "index_step": 9},
        ]
        again = {"stage": "realm", "kind": "refresh", "step": 4, "index_step": 4}
        for event in (*kept, again, {"stage": "realm", "kind": "train", "step": 5, "loss": 1.0}):
            metrics.write(event)
        metrics.rewind("realm", 4, lambda event: int(event.get("index_step", 0)) > 2)
    assert read_metrics(metrics.path) == kept


def test_redone_steps_stand_once_in_tensorboard(tmp_path: Path) -> None:
    """A run is killed after step 6 and goes on from a checkpoint at 4; the other stage is left alone."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Metrics(tmp_path, tensorboard=True) as metrics:
        for stage, step in (("ict", 5), ("realm", 2), ("realm", 4), ("realm", 6)):
            metrics.write({"stage": stage, "kind": "train", "step": step, "loss": float(step)})
    with Metrics(tmp_path, tensorboard=True) as metrics:
        metrics.rewind("realm", 4)
        metrics.write({"stage": "realm", "kind": "train", "step": 6, "loss": 7.0})
    found = {}
    for stage in ("ict", "realm"):
        events = reading.EventAccumulator(str(tmp_path / "tensorboard" / stage))
        events.Reload()
        found[stage] = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == {"ict": [(5, 5.0)], "realm": [(2, 2.0), (4, 4.0), (6, 7.0)]}

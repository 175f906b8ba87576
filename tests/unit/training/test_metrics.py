from __future__ import annotations

from pathlib import Path

import pytest

from realm.training.metrics import Metrics


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

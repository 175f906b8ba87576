"""``metrics.jsonl``: one object an event, and the same scalars for TensorBoard when it is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from realm import files


class Metrics:
    """Appends events to ``folder/metrics.jsonl``. An event has at least `stage`, `step` and `kind`."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self._open = _tensorboard(folder / "tensorboard") if tensorboard else None
        self._writers: dict[str, Any] = {}

    def rewind(self, stage: str, step: int, again: Callable[[dict[str, Any]], bool] = lambda event: False) -> None:
        """Forget the events of `stage` after `step`: they will happen again. again: tells those up to `step` that will,
        too, because they came after the checkpoint of that step."""
        events = [
            e for e in read_metrics(self.path) if e.get("stage") != stage or (e.get("step", 0) <= step and not again(e))
        ]
        files.write_text(self.path, "".join(json.dumps(e) + "\n" for e in events))
        if self._open is not None:
            self._writers[stage] = self._open(stage, step + 1)

    def write(self, event: dict[str, Any]) -> None:
        """Append one event. Non-finite numbers become null, which JSON can hold."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.items()}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(clean) + "\n")
        if self._open is not None:
            stage = str(event["stage"])
            if stage not in self._writers:
                self._writers[stage] = self._open(stage, None)
            for name, value in clean.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                    self._writers[stage].add_scalar(f"{event['kind']}/{name}", value, event["step"])

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole events; a line torn by a kill is the last one and is dropped."""
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def _tensorboard(folder: Path) -> Callable[[str, int | None], Any] | None:
    """Opens the writer of a stage, a run of its own to TensorBoard: steps from `purge_step` on are struck out there."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra `track` is not installed; metrics.jsonl holds the same figures
        return None
    return lambda stage, purge_step: SummaryWriter(str(folder / stage), purge_step=purge_step)

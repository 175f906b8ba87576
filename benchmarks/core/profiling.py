"""A profile of a hot path: a trace, the stacks for a flame graph, and what it came to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_WORK = ("torch/profiler/", "torch/autograd/profiler.py", "threading.py", "selectors.py", "asyncio/")
"""The profiler itself, and threads that wait."""


def profile(run: Callable[[], object], folder: Path, name: str) -> list[list[Any]]:
    """[operation, share of the processor's time], largest first, of one call.

    Written below `folder`: NAME.trace.json.gz (for ui.perfetto.dev), NAME.txt (the table), and NAME.collapsed, the
    Python stacks with their microseconds, a line each, as flamegraph.pl and speedscope.app read them.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    folder.mkdir(parents=True, exist_ok=True)
    run()
    base = re.sub(r"[^\w.-]+", "-", name).strip("-").lower()
    with torch_profile(activities=[ProfilerActivity.CPU], with_stack=True) as found:
        run()
    found.export_chrome_trace(str(folder / f"{base}.trace.json.gz"))
    events = [event for event in found.key_averages() if not any(name in event.key for name in NOT_WORK)]
    (folder / f"{base}.txt").write_text(
        found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25), "utf-8"
    )
    lines = _collapsed(found.events())
    (folder / f"{base}.collapsed").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    total = sum(event.self_cpu_time_total for event in events) or 1.0
    shares = sorted(((event.key, event.self_cpu_time_total / total) for event in events), key=lambda one: -one[1])
    return [[key, round(share, 4)] for key, share in shares[:12]]


def _collapsed(events: Any) -> list[str]:
    """Stacks with their own time. Parents are those of the trace, Python functions and operations alike."""
    totals: dict[str, int] = {}
    for event in events:
        own = int(event.self_cpu_time_total)
        if own <= 0:
            continue
        names, at = [], event
        while at is not None:
            names.append(str(at.name).replace(";", ","))
            at = at.cpu_parent
        stack = ";".join(reversed(names))
        totals[stack] = totals.get(stack, 0) + own
    return [f"{stack} {own}" for stack, own in sorted(totals.items())]

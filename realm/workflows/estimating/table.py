"""The rows of an estimate: each once in words and once as a number."""

from __future__ import annotations

from realm.workflows.showing.artefacts import size_text


class Table:
    """`rows` of [what, estimate, because], and `numbers` by name: bytes, seconds, None where one can't be said."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.numbers: dict[str, float | None] = {}

    def size(self, name: str, what: str, amount: float, because: str) -> float:
        self.numbers[f"{name}_bytes"] = int(amount)
        self.rows.append([what, size_text(amount), because])
        return amount

    def time(self, name: str, what: str, seconds: float | None, because: str) -> float:
        self.numbers[f"{name}_seconds"] = None if seconds is None else float(f"{seconds:.4g}")
        self.rows.append([what, "not known" if seconds is None else duration(seconds), because])
        return seconds or 0.0


def duration(seconds: float) -> str:
    """Seconds for people: "3.1 ms", "42 s", "3.5 h"."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 259_200), ("days", 86_400, 63_072_000)):
        if seconds < most:
            return f"{seconds / length:.{0 if seconds / length >= 10 else 1}f} {unit}"
    return f"{seconds / 31_536_000:,.1f} years"

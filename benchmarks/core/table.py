"""A record on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.core.figures import figure, memory, ratio_text, size_text, spread_text, verdict
from benchmarks.core.record import Record, exponents, groups, ratio


def show(record: Record, console: Console) -> None:
    """Every row with its ratios: realm's speed over the row's own, so that above 1 realm is faster."""
    machine = record.machine
    load = machine.get("load", {})
    console.print(f"{record.suite}{' (quick: for a look, not for a figure)' if record.quick else ''}  {record.when}")
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, {memory(machine['memory_bytes'])}; load average "
        f"{load.get('load_average')}, cores busy with others {load.get('busy_with_others')}"
    )
    console.print(", ".join(f"{name} {version}" for name, version in record.versions.items()))
    console.print("sizes: " + ", ".join(f"{name}={value}" for name, value in record.sizes.items()))
    if record.limits:
        console.print("limits: " + ", ".join(f"{name} {value / 1e9:.1f} G/s" for name, value in record.limits.items()))
    for group in groups(record.rows):
        ours = group.ours
        table = Table(title=size_text(group), title_justify="left", title_style="bold")
        for name in ("", "median", "quartiles", "rounds", "realm / this", "", "peak memory"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for row in group.rows:
            against = None if ours is None or row is ours else ratio(ours, row)
            table.add_row(
                row.who + {"limit": " (limit)", "variant": " (variant)"}.get(row.role, ""),
                figure(row),
                spread_text(row),
                str(len(row.seconds)),
                "" if against is None else ratio_text(against),
                "" if against is None or row.role != "peer" else verdict(against),
                memory(row.peak_bytes),
            )
        console.print(table)
        for row in group.rows:
            if row.facts:
                console.print(f"  {row.who}: " + ", ".join(f"{name} {value}" for name, value in row.facts.items()))
    for (work, who), (slope, points) in exponents(record.rows).items():
        console.print(f"growth of {work}, {who}: size^{slope:.2f} over {len(points)} sizes")
    for name, shares in record.profiles.items():
        console.print(f"profile of {name}: " + ", ".join(f"{what} {share:.0%}" for what, share in shares[:6]))
    if record.printed:
        console.print(record.printed)
    for who, why in record.missing.items():
        console.print(f"{who}: {why}")
    for note in record.notes:
        console.print(note)

"""What a person sees while work goes on: bars with rate and time left, a live line of training, tables."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from realm.types import Answer, Evidence

PLAIN_INTERVAL_SECONDS = 10.0
"""How often a bar reports when standard error is a file."""
PASSED_ON_SECONDS = 2.0
"""Two interrupts so close to each other are one, where a launcher passes them on."""

LIVE = (
    ("loss", "loss", "{:.2f}"),
    ("retrieval_utility_marginal", "RU", "{:+.2f}"),
    ("null_prior", "null", "{:.0%}"),
    ("recall@5", "recall@5", "{:.1%}"),
    ("accuracy", "acc", "{:.0%}"),
    ("index_age_steps", "index age", "{:.0f} steps"),
    ("index_age_seconds", "", "{:.0f} s"),
)
"""Figures of the live line: name in metrics.jsonl, label, format."""


class Terminal:
    """A `Reporter` that draws on standard error, so that standard output stays for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self._figures: dict[str, float] = {}
        self._bar: Progress | None = None
        self._live: Any = None
        self.stepping = False
        """Whether the present stage is training, which can be stopped between two steps."""

    def note(self, text: str) -> None:
        self.console.print(escape(text))

    @contextmanager
    def stage(self, title: str, unit: str = "") -> Iterator[Callable[[int, int | None], None]]:
        outer, self.stepping = self.stepping, unit == "steps"
        try:
            with self._draw(title, unit) as progress:
                yield progress
        finally:
            self.stepping = outer

    @contextmanager
    def _draw(self, title: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
        started = time.monotonic()
        self._figures.clear()  # those of the stage before
        if self.console.is_terminal:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                _Rate(unit),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[live]}"),
                console=self.console,
                transient=True,
            ) as bar:
                task = bar.add_task(title, total=None, live="")
                self._bar, self._live = bar, task
                try:
                    yield lambda done, total: bar.update(task, completed=done, total=total)
                finally:
                    self._bar = None
        else:
            last = started
            first: tuple[float, int] | None = None

            def plain(done: int, total: int | None) -> None:
                nonlocal last, first
                now = time.monotonic()
                # Counted from the first call: what was done before an interruption says nothing of the pace.
                first = first or (now, done)
                if now - last >= PLAIN_INTERVAL_SECONDS and done:
                    last = now
                    rate = (done - first[1]) / max(now - first[0], 1e-9)
                    left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
                    pace = f" ({rate:,.2g}/s{left})" if rate else ""
                    self.note(f"  {title}: {done:,}{f' of {total:,}' if total else ''} {unit}{pace}{self._line()}")

            yield plain
        self.console.print(f"[green]✓[/] {escape(title)} [dim]{time.monotonic() - started:.1f} s[/]")

    def event(self, event: Mapping[str, Any]) -> None:
        if event["kind"] == "non-finite":
            self.note(
                f"  step {event['step']}: loss or gradient not finite, step left out; queries: {event['queries']}"
            )
            return
        if event["kind"] == "refresh":
            self._figures.pop("index_age_steps", None)
        self._figures.update({k: v for k, v in event.items() if isinstance(v, int | float)})
        if self._bar is not None:
            self._bar.update(self._live, live=self._line())

    def _line(self) -> str:
        parts = []
        for name, label, form in LIVE:
            if name in self._figures:
                parts.append(f"{label} {form.format(self._figures[name])}".strip())
        return ("  " + "  ".join(parts)) if parts else ""


class _Rate(ProgressColumn):
    """ "1,234/5,000 passages 340/s"."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        total = f"/{int(task.total):,}" if task.total else ""
        rate = f" {task.speed:,.0f}/s" if task.speed and task.speed >= 1 else ""
        return Text(f"{int(task.completed):,}{total} {self.unit}{rate}", style="dim")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = (0,)) -> None:
    """Print a table on standard output; the columns numbered in `text` to the left, figures to the right."""
    view = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for i, name in enumerate(columns):
        view.add_column(name, justify="left" if i in text else "right")
    for row in rows:
        view.add_row(*(escape(str(cell)) for cell in row))
    Console(highlight=False).print(view)


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print the before/after table of a run and its notes on standard output."""
    table(result["title"], result["columns"], result["rows"])
    for note in result.get("notes", []):
        sys.stdout.write(f"{note}\n")


def print_part(kind: str, value: Any) -> None:
    """Print a part of the demo's story as it comes: a "table", an "answer", or a line."""
    if kind == "table":
        print_comparison(value)
    elif kind == "answer":
        print_answer(value)
    else:
        sys.stdout.write(f"{value}\n")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values on standard output, a line each; objects and lists without their brackets."""
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{part} {figure}" for part, figure in value.items())
        elif isinstance(value, list):
            value = "; ".join(map(str, value))
        sys.stdout.write(f"{name:>22}  {value}\n")


def print_answer(answer: Answer) -> None:
    """Print an answer and its evidence on standard output; the answer is marked in the passages."""
    out = Console(highlight=False, soft_wrap=True)
    others = ", ".join(f"{text} {share:.0%}" for text, share in answer.alternatives)
    if answer.abstained:
        instead = f"  [dim]the likeliest would be {escape(others)}[/]" if others else ""
        out.print(f"{escape(answer.question)}\n  [yellow]no answer in these documents[/]{instead}")
        _print_conflicts(out, answer)
        return
    out.print(
        f"{escape(answer.question)}\n  [bold green]{escape(answer.text)}[/] {answer.confidence:.0%}"
        + (f"  [dim]then {escape(others)}[/]" if others else "")
    )
    _print_conflicts(out, answer)
    if answer.now is not None:
        out.print(f"  [dim]as of {answer.now.isoformat(sep=' ', timespec='minutes')}[/]")
    # Without a null passage (a span reader has none) RU is not defined, and is not shown.
    read_alone = not all(math.isnan(evidence.retrieval_utility) for evidence in answer.evidence)
    null = f"null passage: p(z|x) {answer.null_prior:.3f}" if read_alone else ""
    out.print(f"  [dim]p(z|x)  p(z|x,y)      {'RU' if read_alone else '  '}[/]   [dim]{null}[/]".rstrip())
    for evidence in answer.evidence:
        utility = evidence.retrieval_utility
        out.print(
            f"   {evidence.prior:.3f}     {evidence.posterior:.3f}  {f'{utility:+6.2f}' if read_alone else ' ' * 6}   "
            f"{_source(evidence)}\n                            {_marked(evidence.passage.text, evidence.span)}"
        )


def _print_conflicts(out: Console, answer: Answer) -> None:
    """Which passages disagree, newest first."""
    if not answer.conflicts:
        return
    mark = "  (the likeliest)" if answer.abstained else "  (the answer given)"
    out.print(f"  [yellow]{escape(answer.conflict or '')}[/]")
    for side in answer.conflicts:
        day = f"  {side.date or 'no date'}"
        out.print(f"    [bold]{escape(side.text)}[/] {side.mass:.0%}{day}{mark if side.preferred else ''}")
        for evidence in side.evidence:
            out.print(f"      {_source(evidence)}\n        {_marked(evidence.passage.text, evidence.span)}")


def _source(evidence: Evidence) -> str:
    """Title, document (once where both are the same), version, and what is known of date, source and the answer's
    place."""
    title, document_id = evidence.passage.title, evidence.passage.document_id
    parts = [] if document_id == (title or document_id) else [document_id]
    parts += [f"version {evidence.document_version}"]
    parts += [str(known) for known in (evidence.date, evidence.source) if known is not None]
    if evidence.recency is not None:
        dated = evidence.date is not None
        parts += [f"recency ×{math.exp(evidence.recency):.2g}" if dated else "without a date: recency does not count"]
    parts += [f"characters {evidence.span[0]} to {evidence.span[1]}"] if evidence.span else []
    return f"[bold]{escape(title or document_id)}[/] [dim]{escape(', '.join(parts))}[/]"


def _marked(text: str, span: tuple[int, int] | None, width: int = 160) -> str:
    """A stretch of the passage around the answer, the answer marked."""
    if span is None:
        return escape(" ".join(text[:width].split())) + ("…" if len(text) > width else "")
    start = max(0, span[0] - width // 2)
    end = min(len(text), span[1] + width // 2)
    left, answer, right = (
        " ".join(part.split()) for part in (text[start : span[0]], text[span[0] : span[1]], text[span[1] : end])
    )
    glue = " " if text[max(0, span[0] - 1) : span[0]].isspace() else ""
    after = " " if text[span[1] : span[1] + 1].isspace() else ""
    return (
        ("…" if start else "")
        + escape(left)
        + glue
        + f"[black on yellow]{escape(answer)}[/]"
        + after
        + escape(right)
        + ("…" if end < len(text) else "")
    )


def print_change(change: Mapping[str, Any], around: int = 60, longest: int = 300) -> None:
    """Print one change of a document, as `workflows.history` gives it, on standard output.

    around: characters of unchanged text shown beside a change. longest: of a changed stretch.
    """
    out = Console(highlight=False, soft_wrap=True)
    restored = f", the same as version {change['same_as']}" if change["same_as"] is not None else ""
    out.print(f"[bold]version {change['version']}[/]  {change['time']}  {change['change']}{restored}")
    lines = [(field["name"], _both(field["old"], field["new"])) for field in change["fields"]]
    if any(kind != "same" for kind, _ in change["difference"]):
        lines.append(("text", change["difference"]))
    for name, pieces in lines:
        line = Text(f"  {name}: ", style="dim")
        for number, (kind, text) in enumerate(pieces):
            last = number == len(pieces) - 1
            if kind == "same":
                head, tail = (0 if number == 0 else around), (0 if last else around)
                line.append(_shortened(" ".join(f"|{text}|".split())[1:-1], head, tail), style="default")
            else:
                form, style = ("[-{}-]", "red") if kind == "removed" else ("{{+{}+}}", "green")
                shown = _shortened(text.replace("\n", "¶"), longest // 2, longest // 2)
                line.append(form.format(shown), style=style)
        out.print(line)


def _both(old: object, new: object) -> list[tuple[str, str]]:
    pairs = (("removed", old), ("added", new))
    return [(kind, str(value)) for kind, value in pairs if value is not None and value != ""]


def _shortened(text: str, head: int, tail: int) -> str:
    """A text without its middle, where it is long enough for that."""
    if len(text) <= head + tail + 1:
        return text
    return text[:head] + "…" + text[len(text) - tail :]


@contextmanager
def finish_step_on_interrupt(terminal: Terminal, *, passed_on: bool = False) -> Iterator[Callable[[], bool]]:
    """Ctrl-C in training asks the loop to finish its step and save; a second one, or one elsewhere, stops at once.

    Yields a function that says whether to stop. passed_on: a launcher passes on to its processes what they got from the
    terminal already; of signals that come together one counts.
    """
    asked = False
    last = -math.inf

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked, last
        before, last = last, time.monotonic()
        if passed_on and last - before < PASSED_ON_SECONDS:
            return
        # Other stages have no step to finish: they keep what is done at any moment, and nothing there would ask.
        if asked or not terminal.stepping:
            raise KeyboardInterrupt
        asked = True
        terminal.note(
            "stopping after this step (press Ctrl-C again to stop at once); the same command goes on from here"
        )

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)

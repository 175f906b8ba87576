"""What an interrupt does: in training the step is finished, elsewhere work stops at once. And the pace that is told."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from realm import console
from realm.console import Terminal, finish_step_on_interrupt


def interrupt() -> None:
    """Ctrl-C, as this process gets it from a terminal."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def main_thread() -> None:
    assert threading.current_thread() is threading.main_thread()


def test_training_is_asked_to_finish_its_step_and_a_second_interrupt_stops_it() -> None:
    terminal = Terminal(quiet=True)
    with finish_step_on_interrupt(terminal) as should_stop, terminal.stage("train", "steps"):
        assert not should_stop()
        interrupt()
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            interrupt()


@pytest.mark.parametrize("unit", ["passages", ""])
def test_other_stages_stop_at_once(unit: str) -> None:
    terminal = Terminal(quiet=True)
    with finish_step_on_interrupt(terminal):
        with terminal.stage("train", "steps"):
            pass
        with pytest.raises(KeyboardInterrupt), terminal.stage("embed", unit):
            interrupt()
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_the_handler_of_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), finish_step_on_interrupt(Terminal(quiet=True)):
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_the_pace_is_that_of_this_session(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 0.0, 10.0, 15.0, 20.0, 30.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with Terminal().stage("train", "steps") as progress:
        progress(100, 300)  # where the interrupted run stopped
        progress(105, 300)
        progress(107, 300)
        progress(120, 300)
    assert capsys.readouterr().err.splitlines() == [
        "  train: 105 of 300 steps (0.5/s, 390 s left)",
        "  train: 120 of 300 steps (1/s, 180 s left)",
        "✓ train 30.0 s",
    ]


def test_there_is_no_pace_before_the_second_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 12.0, 24.0, 24.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with Terminal().stage("read", "files") as progress:
        progress(1, None)
        progress(7, None)
    assert capsys.readouterr().err.splitlines()[:2] == ["  read: 1 files", "  read: 7 files (0.5/s)"]

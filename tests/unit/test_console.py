"""What an interrupt does: in training the step is finished, elsewhere work stops at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

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

"""Questions that come at the same time are answered together, and none is lost, mixed up or starved."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.service.batching import Batcher


class Recording:
    """Work that remembers its batches; the first waits until it is let go."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[tuple[str, list[str]]] = []
        self.begun, self.let_go = threading.Event(), threading.Event()
        if not held:
            self.let_go.set()

    def __call__(self, key: str, items: Sequence[str]) -> list[str]:
        self.batches.append((key, list(items)))
        self.begun.set()
        assert self.let_go.wait(30)
        if any("bad" in item for item in items):
            raise ValueError("a bad item")
        return [f"{key}:{item}" for item in items]


@contextmanager
def batcher(run: Recording, *, window: float = 0.0, size: int = 4) -> Iterator[Batcher[str, str, str]]:
    made = Batcher(run, window=window, size=size, name="test")
    try:
        yield made
    finally:
        run.let_go.set()
        made.close()


def held_back(run: Recording, made: Batcher[str, str, str], items: Sequence[tuple[str, str]]) -> list[Future[str]]:
    """Submitted while the thread is busy with one item."""
    first = made.submit("busy", "first")
    assert run.begun.wait(30)
    found = [first, *(made.submit(key, item) for key, item in items)]
    run.let_go.set()
    return found


def test_what_gathers_while_a_batch_is_answered_is_the_next_batch() -> None:
    run = Recording(held=True)
    with batcher(run) as made:
        futures = held_back(run, made, [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")])
        assert [future.result(30) for future in futures] == ["busy:first", "a:1", "b:2", "a:3", "a:4"]
    assert run.batches == [("busy", ["first"]), ("a", ["1", "3", "4"]), ("b", ["2"])]


def test_no_batch_is_larger_than_its_size_and_no_key_starves() -> None:
    run = Recording(held=True)
    with batcher(run, size=2) as made:
        futures = held_back(run, made, [*(("a", str(i)) for i in range(5)), ("b", "x")])
        assert [future.result(30) for future in futures[1:]] == [*(f"a:{i}" for i in range(5)), "b:x"]
    assert run.batches[1:] == [("a", ["0", "1"]), ("b", ["x"]), ("a", ["2", "3"]), ("a", ["4"])]


def test_the_first_waits_for_others_and_not_longer_than_it_has_to() -> None:
    run = Recording()
    with batcher(run, window=20.0, size=2) as made:
        began = time.monotonic()
        first, second = made.submit("a", "1"), made.submit("a", "2")
        assert [first.result(30), second.result(30)] == ["a:1", "a:2"]
        assert time.monotonic() - began < 10, "a full batch does not wait"
    assert run.batches == [("a", ["1", "2"])]
    with batcher(run, window=0.01) as made:
        assert made.submit("b", "1").result(30) == "b:1"


def test_a_faulty_item_fails_alone() -> None:
    run = Recording(held=True)
    with batcher(run) as made:
        _, good, bad, other = held_back(run, made, [("a", "1"), ("a", "bad"), ("a", "3")])
        assert (good.result(30), other.result(30)) == ("a:1", "a:3")
        with pytest.raises(ValueError, match="a bad item"):
            bad.result(30)
        assert made.submit("a", "after").result(30) == "a:after"


def test_results_that_do_not_fit_are_an_error_and_not_the_end() -> None:
    made: Batcher[str, str, str] = Batcher(lambda key, items: ["only one"], window=0.2, size=2, name="test")
    pair = [made.submit("a", "1"), made.submit("a", "2")]
    assert [future.result(30) for future in pair] == ["only one", "only one"], "asked again one by one"
    none: Batcher[str, str, str] = Batcher(lambda key, items: [], window=0.0, size=2, name="test")
    with pytest.raises(RuntimeError, match="0 results for 1"):
        none.submit("a", "1").result(30)
    made.close()
    none.close()


def test_a_result_is_there_before_those_behind_it() -> None:
    let_go, tries = threading.Event(), []

    def run(key: str, items: Sequence[str]) -> Iterator[str]:
        tries.append(list(items))
        for number, item in enumerate(items):
            if number:
                assert let_go.wait(30)
            if item == "bad":
                raise ValueError("a bad item")
            yield item

    made: Batcher[str, str, str] = Batcher(run, window=5.0, size=4, name="test")
    first, second, bad, last = (made.submit("a", item) for item in ("1", "2", "bad", "4"))
    assert first.result(30) == "1" and not second.done()
    let_go.set()
    assert (second.result(30), last.result(30)) == ("2", "4")
    assert isinstance(bad.exception(30), ValueError)
    made.close()
    assert tries == [["1", "2", "bad", "4"], ["bad"], ["4"]], "what was answered is not asked again"


def test_what_was_cancelled_is_not_asked() -> None:
    run = Recording(held=True)
    with batcher(run) as made:
        first = made.submit("busy", "first")
        assert run.begun.wait(30)
        gone, stays, alone = made.submit("a", "1"), made.submit("a", "2"), made.submit("b", "3")
        assert gone.cancel() and alone.cancel() and not first.cancel()
        run.let_go.set()
        assert stays.result(30) == "a:2"
        with pytest.raises(CancelledError):
            gone.result(0)
    assert run.batches == [("busy", ["first"]), ("a", ["2"])]


def test_closing_works_off_what_waits() -> None:
    run = Recording(held=True)
    told: list[int] = []
    made = Batcher(run, window=60.0, size=8, name="test", on_batch=lambda items, seconds: told.append(items))
    futures = [made.submit("a", str(i)) for i in range(3)]
    run.let_go.set()
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 30
    assert [future.result(0) for future in futures] == ["a:0", "a:1", "a:2"] and told == [3]
    with pytest.raises(RuntimeError):
        made.submit("a", "late")


def test_a_lone_question_never_waits_and_several_are_waited_for() -> None:
    run = Recording()
    with batcher(run, window=20.0, size=3) as made:
        first = [made.submit("a", item) for item in ("1", "2", "3")]  # a full batch
        assert [future.result(30) for future in first] == ["a:1", "a:2", "a:3"]
        began = time.monotonic()
        again = [made.submit("a", item) for item in ("4", "5", "6")]
        assert [future.result(30) for future in again] == ["a:4", "a:5", "a:6"]
        assert run.batches == [("a", ["1", "2", "3"]), ("a", ["4", "5", "6"])], "several came lately"
    run = Recording()
    made = Batcher(run, window=0.3, size=3, name="test")
    assert made.submit("a", "1").result(30) == "a:1", "at first nobody knows"
    made._window = 20.0
    for item in ("2", "3"):
        began = time.monotonic()
        assert made.submit("a", item).result(30) == f"a:{item}"
        assert time.monotonic() - began < 10, "nobody else asked"
    made.close()


def test_who_waits_while_a_lone_question_is_answered_is_joined_by_others() -> None:
    run = Recording()
    made = Batcher(run, window=0.0, size=2, name="test")
    made.submit("a", "1").result(30)
    run.begun.clear()
    run.let_go.clear()
    made._window = 20.0
    lone = made.submit("a", "2")
    assert run.begun.wait(30), "not kept waiting"
    waiting = made.submit("a", "3")
    run.let_go.set()
    lone.result(30)
    joins = made.submit("a", "4")
    assert (waiting.result(30), joins.result(30)) == ("a:3", "a:4")
    made.close()
    assert run.batches[1:] == [("a", ["2"]), ("a", ["3", "4"])]


def test_the_same_item_is_run_once_for_all() -> None:
    run = Recording(held=True)
    with batcher(run, size=8) as made:
        futures = held_back(run, made, [("a", "1"), ("a", "bad"), ("a", "1"), ("b", "1"), ("a", "bad"), ("a", "2")])
        assert [futures[at].result(30) for at in (1, 3, 4, 6)] == ["a:1", "a:1", "b:1", "a:2"]
        assert all(isinstance(futures[at].exception(30), ValueError) for at in (2, 5))
    assert run.batches[1] == ("a", ["1", "bad", "2"])


def test_a_batch_is_answered_in_parts_side_by_side() -> None:
    meet = threading.Barrier(3, timeout=30)
    told: list[tuple[int, str]] = []
    batches: list[list[str]] = []

    def run(key: str, items: Sequence[str]) -> list[str]:
        if len(items) > 1:
            meet.wait()  # all three are at work at the same time
        batches.append(list(items))
        if "bad" in items:
            raise ValueError("a bad item")
        return [item.upper() for item in items]

    made: Batcher[str, str, str] = Batcher(
        run,
        window=20.0,
        size=7,
        name="test",
        threads=3,
        parts=lambda key: 1 if key == "whole" else 9,
        on_part=lambda count: told.append((count, threading.current_thread().name)),
    )
    futures = [made.submit("a", item) for item in ("p", "q", "r", "s", "bad", "t", "u")]
    assert [f.result(30) for f in futures if f is not futures[4]] == ["P", "Q", "R", "S", "T", "U"]
    assert isinstance(futures[4].exception(30), ValueError)
    assert {tuple(batch) for batch in batches if len(batch) > 1} == {("p", "q"), ("r", "s"), ("bad", "t", "u")}
    assert {count for count, _ in told} == {3} and len({name for _, name in told}) == 3
    told.clear()
    made._window = 0.0
    assert made.submit("whole", "x").result(30) == "X" and told == [(1, "test")]
    made.close()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "bad"])), max_size=30), st.integers(1, 5))
def test_every_item_gets_its_own_result(items: list[tuple[str, str]], size: int) -> None:
    run = Recording(held=True)
    with batcher(run, size=size) as made:
        for (key, item), future in zip(items, held_back(run, made, items)[1:], strict=True):
            if item == "bad":
                assert isinstance(future.exception(30), ValueError)
            else:
                assert future.result(30) == f"{key}:{item}"
    assert all(len(batch) <= size for _, batch in run.batches)

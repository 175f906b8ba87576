"""Processes that wait for each other: in order, with what rank 0 says, and no longer than the missing one lives.

The ranks are threads over one store here; two real processes stand in tests/whole/test_torchrun.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.distributed import HashStore

from realm.errors import DataError, TrainingError, UsageError
from realm.training.launch import Place, find_place, one_process
from realm.training.ranks import Patience, Ranks

QUICK = Patience(meeting=0.5, silence=1.0, beat=0.05)
LONG = Patience(meeting=30, silence=30, beat=0.02)
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def opened() -> Iterator[Callable[..., Ranks]]:
    """Opens ranks over one store, and ends them."""
    store, found = HashStore(), []

    def make(rank: int, size: int = 2, patience: Patience = LONG) -> Ranks:
        ranks = Ranks(store, rank, size, patience=patience)
        found.append(ranks)
        return ranks

    yield make
    for ranks in found:
        ranks.leave()


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """What each job returns or raises, all at once."""
    results: list[Any] = [None] * len(jobs)

    def work(place: int) -> None:
        try:
            results[place] = jobs[place]()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a rank hangs"
    return results


# ---------------------------------------------------------------- who one is


@pytest.mark.parametrize("environ", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}, {"RANK": ""}])
def test_a_process_is_alone_unless_it_is_told_otherwise(environ: dict[str, str]) -> None:
    assert find_place(environ) is None
    ranks = one_process("work", environ)
    assert ranks.first and ranks.size == 1
    assert ranks.tell(lambda: [1, "a"]) == [1, "a"]
    ranks.wait("nothing")
    with ranks.rank_0_first("nothing"):
        pass
    error = DataError("x")
    assert ranks.fail(error) is error


def test_a_launcher_tells_who_one_is() -> None:
    assert find_place(TORCHRUN) == Place(1, 4, 1, "localhost", 29500)
    with pytest.raises(UsageError, match=r"WORLD_SIZE=4: indexing runs in one process"):
        one_process("indexing", TORCHRUN)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": None}, r"and no RANK: expected all of them; start with torchrun"),
        ({"WORLD_SIZE": None}, r"and no WORLD_SIZE"),
        ({"LOCAL_RANK": None, "MASTER_PORT": ""}, r"and no LOCAL_RANK, MASTER_PORT"),
        ({"RANK": "4"}, r"RANK=4, WORLD_SIZE=4.*expected LOCAL_RANK <= RANK < WORLD_SIZE"),
        ({"RANK": "0"}, r"expected LOCAL_RANK <= RANK < WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE=two.*expected a whole number for WORLD_SIZE"),
        ({"WORLD_SIZE": "1"}, r"RANK=1, WORLD_SIZE=1"),
        ({"RANK": "-1"}, r"expected a whole number for RANK"),
        ({"MASTER_PORT": "99999"}, r"a port below 65536"),
    ],
)
def test_what_contradicts_itself_is_refused(changed: dict[str, str | None], words: str) -> None:
    environ = {name: value for name, value in {**TORCHRUN, **changed}.items() if value is not None}
    with pytest.raises(UsageError, match=words):
        find_place(environ)


# ---------------------------------------------------------------- waiting


def test_rank_0_goes_first_and_tells(opened: Callable[..., Ranks]) -> None:
    order: list[str] = []
    ranks = [opened(rank, 3) for rank in range(3)]

    def work(rank: int) -> list[Any]:
        one = ranks[rank]
        with one.rank_0_first("the first"):
            order.append(f"a{rank}")
        told = [one.tell(lambda: {"found": rank, "of": None}), one.tell(lambda: (rank, "x"))]
        order.append(f"b{rank}")
        one.wait("all")
        order.append(f"c{rank}")
        return told

    found = together(*(lambda rank=rank: work(rank) for rank in (2, 1, 0)))
    assert found == [[{"found": 0, "of": None}, [0, "x"]]] * 3
    assert order[0] == "a0"
    assert {entry[0] for entry in order[-3:]} == {"c"}, "nobody goes on before all are there"


def test_one_who_lives_is_waited_for(opened: Callable[..., Ranks]) -> None:
    """Longer than the silence that would be too long: rank 1 is busy."""
    first, second = opened(0, patience=QUICK), opened(1, patience=QUICK)
    busy = threading.Event()
    threading.Timer(2.0, busy.set).start()
    assert together(lambda: first.wait("work"), lambda: busy.wait(10) and second.wait("work")) == [None, None]


def test_one_who_is_gone_is_named(opened: Callable[..., Ranks]) -> None:
    first, second = opened(0, patience=QUICK), opened(1, patience=QUICK)
    second._stop()  # as a process that was killed: it says nothing
    with pytest.raises(TrainingError, match=r"rank 1 of 2 on \S+ gave no sign of life for 1 seconds, .* the index"):
        first.wait("the index")
    second_again = opened(1, patience=QUICK)
    first._stop()
    with pytest.raises(TrainingError, match=r"rank 0 of 2 .* rank 1 waits for its decision"):
        second_again.tell(lambda: 1)


def test_one_who_never_came_is_named(opened: Callable[..., Ranks]) -> None:
    first = opened(0, 3, QUICK)
    opened(2, 3, QUICK)
    with pytest.raises(TrainingError, match=r"rank 1 of 3 gave no sign .* all processes to start"):
        first.meet()


# ---------------------------------------------------------------- failing


def test_an_error_ends_all_and_is_told_once(opened: Callable[..., Ranks]) -> None:
    ranks = [opened(rank, 3) for rank in range(3)]
    error = DataError("found nothing: expected something")

    def follow(rank: int) -> Any:
        try:
            ranks[rank].wait("rank 1")
        except TrainingError as reason:
            return str(reason), ranks[rank].fail(reason)

    first, told, third = together(lambda: follow(0), lambda: ranks[1].fail(error), lambda: follow(2))
    assert told is error
    assert str(error).startswith("rank 1 of 3 on ") and str(error).endswith(": found nothing: expected something")
    for reason, silent in (first, third):
        assert "failed: found nothing: expected something" in reason and reason.startswith("ended, because rank 1 of 3")
        assert silent is None


def test_the_same_error_everywhere_is_told_once(opened: Callable[..., Ranks]) -> None:
    ranks = [opened(rank) for rank in range(2)]
    found = together(*(lambda one=one: one.fail(UsageError("no such setting")) for one in ranks))
    assert sum(error is not None for error in found) == 1


def test_what_torch_says_of_a_lost_process_becomes_who_was_lost(opened: Callable[..., Ranks]) -> None:
    first, second = opened(0), opened(1)
    second._stop()
    told = first.fail(RuntimeError("Connection closed by peer [127.0.0.1]:1"))
    assert isinstance(told, TrainingError) and "rank 1 of 2" in str(told)


def test_a_fault_of_one_s_own_stays_what_it_is(opened: Callable[..., Ranks]) -> None:
    patience = Patience(beat=0.4)  # it waits a little for the error of another
    first, _ = opened(0, patience=patience), opened(1, patience=patience)
    error = RuntimeError("shapes do not match")
    assert first.fail(error) is error


def test_a_sum_that_never_came_says_who_is_behind(opened: Callable[..., Ranks]) -> None:
    patience = Patience(beat=0.4, collective=7)
    ranks = [opened(rank, 3, patience) for rank in range(3)]
    for rank, step in enumerate((37, 36, 37)):
        ranks[rank].at = f"step {step} of REALM"
    time.sleep(1.0)  # a beat tells
    told = ranks[0].fail(RuntimeError("Timed out waiting 7000ms for recv operation to complete"))
    assert isinstance(told, TrainingError)
    assert "within 7 seconds" in str(told)
    assert "found rank 0, 2 at step 37 of REALM; rank 1 at step 36 of REALM" in str(told)

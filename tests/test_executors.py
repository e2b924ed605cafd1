"""Work on many cases: every item has its outcome, and one that fails costs only itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from autoseg.errors import TooLargeError
from autoseg.executors import Executor, SerialExecutor, ThreadExecutor, usable_cpus
from autoseg.machine import Memory

EXECUTORS = [SerialExecutor, lambda: ThreadExecutor(1), lambda: ThreadExecutor(4)]
every_executor = pytest.mark.parametrize("make", EXECUTORS, ids=["serial", "one thread", "four threads"])


def half(number: int) -> float:
    if number % 3 == 0:
        raise ValueError(f"{number} is a multiple of three")
    return number / 2


@every_executor
def test_every_item_has_one_outcome_and_errors_stop_nobody(make: Callable[[], Executor]) -> None:
    outcomes = {outcome.item: outcome for outcome in make().run(half, range(50))}
    assert sorted(outcomes) == list(range(50))
    for number, outcome in outcomes.items():
        if number % 3 == 0:
            assert outcome.result is None
            assert str(outcome.error) == f"{number} is a multiple of three"
        else:
            assert (outcome.result, outcome.error) == (number / 2, None)


def test_one_after_another_keeps_the_order_and_does_nothing_ahead() -> None:
    done: list[int] = []
    run = SerialExecutor().run(done.append, [3, 1, 2])
    assert done == []
    assert [outcome.item for outcome in run] == [3, 1, 2]
    assert done == [3, 1, 2]


@every_executor
def test_no_items_give_no_outcomes(make: Callable[[], Executor]) -> None:
    assert list(make().run(half, [])) == []


def test_threads_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=20)  # passes only if three are there together
    outcomes = list(ThreadExecutor(3).run(lambda item: meeting.wait(), range(3)))
    assert all(outcome.error is None for outcome in outcomes)


def test_an_outcome_comes_as_soon_as_it_is_done() -> None:
    release = threading.Event()

    def work(item: str) -> str:
        if item == "slow":
            assert release.wait(timeout=20)
        return item

    run = ThreadExecutor(2).run(work, ["slow", "fast"])
    assert next(run).item == "fast"
    release.set()
    assert next(run).item == "slow"


def test_threads_do_not_run_far_ahead_of_who_listens() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    run = ThreadExecutor(2).run(half, items())  # type: ignore[arg-type]
    next(run)
    assert len(taken) <= 5  # two at work, two waiting, one in hand
    assert len(list(run)) == 99


def test_a_listener_who_leaves_stops_what_has_not_begun() -> None:
    begun: list[int] = []

    def listen(run: Iterator[object]) -> None:
        for _ in run:
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    run = ThreadExecutor(2).run(begun.append, range(100))
    with pytest.raises(KeyboardInterrupt):
        listen(run)
    run.close()
    stopped = len(begun)
    assert stopped < 10
    assert set(threading.enumerate()) <= before
    assert len(begun) == stopped


@every_executor
def test_what_is_no_ordinary_error_is_not_swallowed(make: Callable[[], Executor]) -> None:
    def interrupt(item: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(make().run(interrupt, range(3)))


def test_threads_are_as_many_as_processors_by_default() -> None:
    assert ThreadExecutor().workers == usable_cpus() >= 1


def test_costs_beyond_every_number_are_refused_by_name() -> None:
    executor = ThreadExecutor(2, memory=lambda: Memory(limit=2**32, used=0))
    costs = [1.0, 1e300, float("inf"), float("nan"), 10**400]
    told = {outcome.item: outcome for outcome in executor.run(abs, list(range(5)), costs=costs)}
    assert told.pop(0).result == 0
    assert {type(outcome.error) for outcome in told.values()} == {TooLargeError}

"""Admission: never more memory than there is, nobody starves, and the order of the cases does not matter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.admission import Admission

costs_and_budget = st.tuples(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 250), st.integers(0, 2**32))


class Play:
    """Cases that run and end in a random order; writes down who started when."""

    def __init__(
        self, costs: list[int], budget: int | None, seed: int, *, patience: int = 8, workers: int = 10**6
    ) -> None:
        self.admission = Admission(costs, budget, patience=patience)
        self.refused = self.admission.refused(budget)
        self.started: list[int] = []
        self.most = 0
        running: list[int] = []
        chance = random.Random(seed)
        while running or self.admission.waiting:
            while len(running) < workers and (index := self.admission.next()) is not None:
                running.append(index)
                self.started.append(index)
                self.most = max(self.most, self.admission.running)
            assert running, "something waits, nothing runs, and nothing may start"
            self.admission.finished(running.pop(chance.randrange(len(running))))


@given(costs_and_budget)
def test_what_runs_together_never_needs_more_than_there_is(play) -> None:
    costs, budget, seed = play
    assert Play(costs, budget, seed).most <= budget


@given(costs_and_budget, st.integers(1, 5))
def test_every_case_is_started_once_or_refused(play, workers: int) -> None:
    costs, budget, seed = play
    done = Play(costs, budget, seed, workers=workers)
    assert sorted(done.started + done.refused) == list(range(len(costs)))
    assert done.refused == [index for index in done.refused if costs[index] > budget]
    assert all(costs[index] <= budget for index in done.started)


@given(costs_and_budget, st.integers(0, 4))
def test_nobody_is_overtaken_more_often_than_patience_allows(play, patience: int) -> None:
    costs, budget, seed = play
    started = Play(costs, budget, seed, patience=patience).started
    for place, index in enumerate(started):
        smaller_before = [other for other in started[:place] if (-costs[other], other) > (-costs[index], index)]
        # each larger one before it was overtaken at most that often, too, while this one waited behind it
        larger = sum((-cost, other) < (-costs[index], index) for other, cost in enumerate(costs))
        assert len(smaller_before) <= patience * (larger + 1)


@given(
    st.lists(st.integers(0, 100), max_size=30, unique=True), st.integers(100, 250), st.randoms(use_true_random=False)
)
def test_the_order_of_the_cases_does_not_matter(costs: list[int], budget: int, chance: random.Random) -> None:
    mixed = list(costs)
    chance.shuffle(mixed)
    one, other = Play(costs, budget, 1), Play(mixed, budget, 1)
    assert [costs[index] for index in one.started] == [mixed[index] for index in other.started]


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(0, 2**32))
def test_where_memory_is_not_known_everything_fits(costs: list[int], seed: int) -> None:
    admission = Admission(costs, None)
    assert [admission.next() for _ in costs] == sorted(range(len(costs)), key=lambda index: (-costs[index], index))


def test_the_largest_goes_first_and_small_ones_fill_the_room() -> None:
    admission = Admission([10, 60, 70, 20], 100)
    assert [admission.next() for _ in range(4)] == [2, 3, 0, None]  # 70, then 20 and 10 overtake 60
    assert admission.at_once() == 1  # only the 60 waits
    admission.finished(2)
    assert admission.next() == 1


def test_a_case_that_needs_more_than_is_free_but_not_more_than_there_is_runs_alone() -> None:
    admission = Admission([150, 20, 20], 100)
    assert admission.refused(200) == []
    assert (admission.next(), admission.next()) == (0, None)
    admission.finished(0)
    assert (admission.next(), admission.next()) == (1, 2)


def test_one_that_failed_for_want_of_memory_runs_alone() -> None:
    admission = Admission([30, 20, 10], 100)
    assert [admission.next(), admission.next()] == [0, 1]
    admission.again(0, alone=True)
    assert admission.next() is None  # the 20 still runs, and the 10 does not overtake
    admission.finished(1)
    assert admission.next() == 0
    assert admission.next() is None
    admission.finished(0)
    assert admission.next() == 2


def test_less_room_holds_back_only_while_something_runs() -> None:
    admission = Admission([30, 30], 100)
    assert admission.next(room=10) == 0
    assert admission.next(room=10) is None
    assert admission.next(room=60) == 1


@pytest.mark.parametrize(("budget", "largest", "smallest"), [(100, 1, 3), (150, 2, 4), (20, 0, 1), (10**6, 5, 5)])
def test_how_many_fit_at_once(budget: int, largest: int, smallest: int) -> None:
    admission = Admission([20, 80, 30, 40, 60], budget)
    assert (admission.at_once(), admission.at_once(smallest=True)) == (largest, smallest)

"""What every executor plug promises: see ``autoseg.executors.Executor``."""

from __future__ import annotations

import pytest

from autoseg import plugins
from autoseg.executors import Executor

each = pytest.mark.parametrize("name", plugins.available("executor"))


def reciprocal(number: int) -> float:
    return 1 / number


@pytest.fixture
def executor(name: str) -> Executor:
    return plugins.load("executor", name)()


@each
@pytest.mark.parametrize("count", [0, 1, 2, 37])
def test_every_item_has_exactly_one_outcome(executor: Executor, count: int) -> None:
    outcomes = list(executor.run(reciprocal, range(1, count + 1)))
    assert sorted(outcome.item for outcome in outcomes) == list(range(1, count + 1))
    assert all((outcome.result, outcome.error) == (1 / outcome.item, None) for outcome in outcomes)


@each
def test_an_error_of_one_item_comes_with_it_and_stops_no_other(executor: Executor) -> None:
    outcomes = {outcome.item: outcome for outcome in executor.run(reciprocal, range(-5, 6))}
    assert len(outcomes) == 11
    assert isinstance(outcomes[0].error, ZeroDivisionError)
    assert outcomes[0].result is None
    assert all(outcomes[item].result == 1 / item for item in outcomes if item)


@each
def test_an_executor_can_be_used_again(executor: Executor) -> None:
    for _ in range(2):
        assert sorted(outcome.item for outcome in executor.run(reciprocal, [1, 2, 3])) == [1, 2, 3]


@each
def test_equal_items_have_an_outcome_each(executor: Executor) -> None:
    assert [outcome.result for outcome in executor.run(reciprocal, [2, 2, 2])] == [0.5] * 3


@each
def test_who_listens_may_leave(executor: Executor) -> None:
    run = iter(executor.run(reciprocal, range(1, 50)))
    assert next(run).error is None
    del run
    assert len(list(executor.run(reciprocal, [1, 2]))) == 2

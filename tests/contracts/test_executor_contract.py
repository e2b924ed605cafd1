"""What every executor plug promises: see ``autoseg.executors.Executor``. The task is a value, so that it can travel."""

from __future__ import annotations

import pytest

from autoseg import plugins
from autoseg.errors import UnreadableFileError
from autoseg.executors import Executor
from autoseg.values import Value

each = pytest.mark.parametrize("name", plugins.available("executor"))


class Reciprocal(Value, frozen=True, kw_only=True):
    numerator: float = 1.0

    def __call__(self, item: int) -> float:
        return self.numerator / item


class Refusal(Value, frozen=True, kw_only=True):
    def __call__(self, item: str) -> str:
        raise UnreadableFileError("no image", case=item, file="x.png", found=3, expected=4, remedy="Draw one.")


reciprocal = Reciprocal()


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


@each
def test_a_task_keeps_its_fields(executor: Executor) -> None:
    assert [outcome.result for outcome in executor.run(Reciprocal(numerator=3.0), [2])] == [1.5]


@each
def test_an_error_of_ours_keeps_what_it_says(executor: Executor) -> None:
    (outcome,) = executor.run(Refusal(), ["a"])
    assert isinstance(outcome.error, UnreadableFileError)
    told = (outcome.error.case, outcome.error.file, outcome.error.found, outcome.error.expected, outcome.error.remedy)
    assert told == ("a", "x.png", 3, 4, "Draw one.")
    assert str(outcome.error) == "case a: no image; found 3, expected 4 [x.png]. Draw one."


@each
def test_costs_change_the_order_at_most(executor: Executor) -> None:
    costs = [2**20, 3 * 2**20, 2 * 2**20]
    outcomes = list(executor.run(reciprocal, [1, 2, 4], costs=costs))
    assert sorted(outcome.result for outcome in outcomes if outcome.result) == [0.25, 0.5, 1.0]

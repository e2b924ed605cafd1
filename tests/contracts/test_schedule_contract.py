"""What every installed learning-rate schedule must do: a pure function whose largest value the plan states."""

from __future__ import annotations

import math

import msgspec
import pytest

from autoseg import plugins
from autoseg.training.optimization import Schedule
from autoseg.values import TrainingSpec

SPEC = TrainingSpec(
    iterations_per_epoch=25,
    epochs=40,
    validation_iterations=0,
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=0.0,
    schedule="none",
    warmup_iterations=50,
)
lengths = pytest.mark.parametrize("iterations", [1, 2, 9, 10, 26, 1000])


@pytest.fixture(params=plugins.available("schedule"))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """A schedule plug."""
    return plugins.load("schedule", request.param)


def rates(schedule: Schedule, iterations: int, spec: TrainingSpec = SPEC) -> list[float]:
    return [schedule(spec, iteration, iterations) for iteration in range(iterations)]


def test_there_are_schedules() -> None:
    assert {"warmup_polynomial", "polynomial_per_epoch"} <= set(plugins.available("schedule"))


@lengths
def test_rates_are_positive_up_to_the_last_iteration(schedule: Schedule, iterations: int) -> None:
    assert all(math.isfinite(rate) and rate > 0 for rate in rates(schedule, iterations))


@lengths
def test_the_largest_rate_is_that_of_the_plan(schedule: Schedule, iterations: int) -> None:
    assert max(rates(schedule, iterations)) == pytest.approx(SPEC.learning_rate)


@lengths
def test_rates_depend_on_the_iteration_alone(schedule: Schedule, iterations: int) -> None:
    """In any order, so that a resumed training goes on with the same rates."""
    backwards = [schedule(SPEC, iteration, iterations) for iteration in reversed(range(iterations))]
    assert backwards[::-1] == rates(schedule, iterations)


def test_a_training_ends_with_smaller_steps_than_it_had(schedule: Schedule) -> None:
    made = rates(schedule, 1000)
    assert made[-1] < 0.2 * max(made)


def test_rates_are_proportional_to_the_learning_rate(schedule: Schedule) -> None:
    doubled = msgspec.structs.replace(SPEC, learning_rate=2 * SPEC.learning_rate)
    assert rates(schedule, 100, doubled) == pytest.approx([2 * rate for rate in rates(schedule, 100)])


def test_no_warm_up_is_legal(schedule: Schedule) -> None:
    cold = msgspec.structs.replace(SPEC, warmup_iterations=0)
    assert all(0 < rate <= SPEC.learning_rate * (1 + 1e-9) for rate in rates(schedule, 100, cold))

"""How far a training goes: rates without a jump, ends that are decided once, and plateaus that are none too early."""

from __future__ import annotations

import itertools
import math
import random

import msgspec
import pytest

from autoseg.errors import DocumentError
from autoseg.training.length import (
    asked_to_end,
    begins_unlearned,
    extended,
    fixed_length,
    has_learned,
    is_plateau,
    kept_from,
    learning_rate,
    out_of_time,
    same_past,
    with_plateau,
)
from autoseg.training.optimization import polynomial_per_epoch, warmup_polynomial
from autoseg.values import Length, TrainingSpec, decode, encode
from autoseg.values.json_form import BrokenRuleError

SPEC = TrainingSpec(
    iterations_per_epoch=50,
    epochs=20,
    validation_iterations=0,
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=0.01,
    schedule="warmup_polynomial",
    warmup_iterations=50,
)
OPEN = Length(hours=1.0)


def rates(length: Length, schedule=warmup_polynomial) -> list[float]:
    return [learning_rate(schedule, SPEC, length, iteration) for iteration in range(length.end)]


def leap(values: list[float]) -> float:
    """The largest rise from one iteration to the next, beside that of the warm-up."""
    return max(after - before for before, after in itertools.pairwise(values[60:]))


@pytest.mark.parametrize("schedule", [warmup_polynomial, polynomial_per_epoch])
def test_a_training_of_known_length_has_the_rates_of_the_plans_schedule(schedule) -> None:
    assert rates(fixed_length(1000), schedule) == [schedule(SPEC, iteration, 1000) for iteration in range(1000)]


def test_an_open_training_warms_up_stays_and_cools_down_to_almost_nothing() -> None:
    length = with_plateau(OPEN, 1000)
    assert (length.cooldown_from, length.end) == (1000, 1250)
    made = rates(length)
    assert made[:50] == pytest.approx([2e-3 * (iteration + 1) / 50 for iteration in range(50)])
    assert set(made[50:1001]) == {2e-3}
    assert made[1000:] == pytest.approx([2e-3 * (1 - math.sqrt(step / 250)) for step in range(250)])
    assert 0 < made[-1] < 0.01 * 2e-3


@pytest.mark.parametrize("done", [1, 30, 100, 600, 900])
def test_asked_to_end_the_rate_falls_from_where_it_is_within_a_twentieth(done: int) -> None:
    length = asked_to_end(fixed_length(1000), done, "asked")
    lasting = max(25, math.ceil(done / 20))
    assert (length.cooldown_from, length.end) == (done, done + lasting)
    made = rates(length)
    assert made[: done + 1] == [warmup_polynomial(SPEC, iteration, 1000) for iteration in range(done + 1)]
    assert all(before > after > 0 for before, after in itertools.pairwise(made[done:]))


@pytest.mark.parametrize("done", [953, 980, 999])
def test_a_training_that_ends_as_soon_by_itself_is_left_alone(done: int) -> None:
    assert asked_to_end(fixed_length(1000), done, "asked") == fixed_length(1000)


def test_a_cooldown_that_has_begun_is_not_begun_again() -> None:
    length = asked_to_end(OPEN, 500, "asked")
    for done in (500, 501, 524):
        assert asked_to_end(length, done, "again") == with_plateau(length, done) == length
        assert out_of_time(length, done, seconds=1e9, seconds_per_iteration=1, scoring_seconds=0) == length


def test_hours_run_out_when_cooldown_and_scoring_just_fit() -> None:
    """At a second an iteration and 100 s of scoring: n + n/4 + 100 = 3600, so n = 2800."""

    def decided(done: int) -> Length:
        return out_of_time(OPEN, done, seconds=done, seconds_per_iteration=1.0, scoring_seconds=100.0)

    first = next(done for done in range(1, 3600) if decided(done) != OPEN)
    assert first == 2800
    assert decided(first).end == 3500
    assert decided(2799) == OPEN


def test_hours_that_are_too_short_end_after_the_shortest_cooldown() -> None:
    length = out_of_time(OPEN, 1, seconds=4000.0, seconds_per_iteration=10.0, scoring_seconds=0.0)
    assert (length.cooldown_from, length.end) == (1, 26)


@pytest.mark.parametrize(
    "length",
    [fixed_length(1000), fixed_length(7), with_plateau(OPEN, 1000), asked_to_end(fixed_length(1000), 300, "asked")],
    ids=["known", "short", "plateau", "asked"],
)
@pytest.mark.parametrize("by", [1, 40, 500, 5000])
def test_extended_the_rate_goes_on_without_a_leap_and_falls_again(length: Length, by: int) -> None:
    longer = extended(length, by)
    kept = kept_from(length)
    assert longer.end == length.end + by
    made = rates(longer)
    assert made[:kept] == rates(length)[:kept]
    assert same_past(length, longer, kept)
    assert not same_past(length, longer, length.end) or length.end - kept == 1
    assert set(made[kept : longer.cooldown_from]) <= {learning_rate(warmup_polynomial, SPEC, length, kept)}
    assert made[-1] < made[kept] or longer.end - longer.cooldown_from == 1
    assert length.end < 60 or leap(made) <= 1e-12


@pytest.mark.parametrize("by", [1, 40, 500, 5000])
@pytest.mark.parametrize(
    "length",
    [asked_to_end(OPEN, 5, "asked"), with_plateau(OPEN, 30), asked_to_end(fixed_length(1000), 5, "asked")],
    ids=["hours", "plateau", "known"],
)
def test_a_warm_up_that_a_cooldown_cut_short_is_finished_when_the_training_is_extended(length: Length, by: int) -> None:
    longer = extended(length, by)
    kept, made = kept_from(length), rates(longer)
    warm = [SPEC.learning_rate * min(1.0, (iteration + 1) / 50) for iteration in range(longer.cooldown_from)]
    assert kept < 50
    assert made[: longer.cooldown_from] == pytest.approx(warm)
    assert made[: kept + 1] == rates(length)[: kept + 1]
    assert same_past(length, longer, kept)
    assert max(made) == pytest.approx(SPEC.learning_rate) or longer.cooldown_from < 50
    assert made[-1] < made[longer.cooldown_from]
    twice = extended(longer, by)
    assert rates(twice)[: longer.cooldown_from + 1] == made[: longer.cooldown_from + 1]


def test_a_training_shorter_than_the_warm_up_of_the_plan_is_extended_at_the_rate_where_it_began_to_end() -> None:
    """Its own warm-up was a tenth of it, and over."""
    for iterations in (7, 20, 49, 51, 60):
        length = fixed_length(iterations)
        longer = extended(length, 100)
        held = set(rates(longer)[kept_from(length) : longer.cooldown_from])
        assert held == {learning_rate(warmup_polynomial, SPEC, length, kept_from(length))}


def test_a_training_can_be_extended_again_and_again() -> None:
    length = fixed_length(1000)
    once = extended(length, 500)
    twice = extended(once, 500)
    assert (twice.held_from, twice.end, twice.extended_by) == (800, 2000, 500)
    assert kept_from(once) == once.cooldown_from == 1200
    assert same_past(once, twice, 1200)
    assert not same_past(once, twice, 1202)
    assert set(rates(twice)[800:1601]) == {learning_rate(warmup_polynomial, SPEC, length, 800)}


def test_rates_do_not_depend_on_when_the_end_was_decided() -> None:
    """A state of an iteration belongs to every length that was decided at it or later."""
    random.seed(1)
    for _ in range(200):
        done = random.randrange(1, 900)
        before = random.choice([OPEN, fixed_length(1000)])
        after = asked_to_end(before, done, "asked")
        assert same_past(before, after, done)
        assert same_past(before, after, done - 1)
        earlier = [learning_rate(warmup_polynomial, SPEC, before, iteration) for iteration in range(done)]
        assert earlier == rates(after)[:done] if after.end else True
        if after != before and before.end:
            assert not same_past(before, after, done + 2)


@pytest.mark.parametrize("nothing", [0.0, 0.02, 0.04])
def test_what_has_not_begun_to_learn_is_no_plateau_and_that_is_known_once(nothing: float) -> None:
    flat = [nothing] * 30
    assert not any(is_plateau(flat[:length]) for length in range(31))
    assert not has_learned(flat)
    assert [length for length in range(31) if begins_unlearned(flat[:length])] == [9]
    late = flat + [0.1 * epoch for epoch in range(9)] + [0.8] * 20
    assert has_learned(late)
    assert not is_plateau(late[:45])
    assert is_plateau(late)
    assert not begins_unlearned(late)


def test_one_lucky_estimate_is_nothing_learned() -> None:
    assert not has_learned([0.0] * 5 + [0.14] + [0.0] * 5)
    assert not has_learned([])
    assert has_learned([0.2] * 3)


RISING = [1 - 0.8**epoch for epoch in range(40)]


def test_a_curve_that_rises_is_no_plateau_and_one_that_does_not_is() -> None:
    assert not any(is_plateau([0.5 + 0.01 * epoch for epoch in range(length)]) for length in range(40))
    found = next(length for length in range(1, 60) if is_plateau([0.9] * length))
    assert found == 9
    found = next(length for length in range(1, 41) if is_plateau(RISING[:length]))
    assert RISING[found - 1] - RISING[found - 8] < 0.02
    assert 20 < found < 40


def test_one_lucky_estimate_does_not_make_a_plateau_of_a_rising_curve() -> None:
    curve = [0.5 + 0.005 * epoch for epoch in range(30)]
    curve[10] += 0.05
    assert not any(is_plateau(curve[:length]) for length in range(31))


def test_late_gains_count_within_a_quarter_of_the_training() -> None:
    """After 40 epochs without a gain, a training of 100 has one in its last quarter, and goes on."""
    assert is_plateau([0.8] * 100)
    assert not is_plateau([0.8] * 90 + [0.81] * 10)


@pytest.mark.parametrize(
    "wrong", [{"hours": -1.0}, {"hours": 0}, {"iterations": 5}, {"cooldown_from": 5, "end": 5}, {"cooldown_from": 3}]
)
def test_a_document_that_cannot_be_is_refused(wrong: dict) -> None:
    document = {"schema": "autoseg.length/1", **wrong}
    with pytest.raises(DocumentError):
        decode(Length, msgspec.json.encode(document))


def test_hours_without_an_end_are_refused() -> None:
    """JSON has no infinity: it would be read back as no limit at all."""
    for hours in (math.inf, math.nan):
        with pytest.raises(BrokenRuleError, match="hours must be positive and have an end"):
            Length(hours=hours)


def test_the_document_is_read_as_it_was_written() -> None:
    length = extended(with_plateau(OPEN, 100), 50)
    assert decode(Length, encode(length)) == length

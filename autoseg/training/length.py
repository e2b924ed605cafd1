"""How far a training goes, and the learning rate of each of its iterations.

The rate is a pure function of the iteration and of a ``Length``, a small document in the training's folder. What is decided
while a training runs (the cooldown begins here, for this long) is written there before it takes effect, so that a training
that was killed and gone on with sees the same rates as one that was not.

The main part of a training follows the plan's schedule if its length is known, else it warms up and stays at the plan's
rate. A cooldown is 1 - sqrt(share of it that has passed): of the shapes that Haegele et al. compare (Scaling laws and
compute-optimal training beyond fixed training durations, NeurIPS 2024), the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from autoseg.training.optimization import Schedule
from autoseg.values import Length, TrainingSpec

__all__ = [
    "LEARNED",
    "asked_to_end",
    "begins_unlearned",
    "extended",
    "fixed_length",
    "has_learned",
    "is_plateau",
    "kept_from",
    "learning_rate",
    "out_of_time",
    "same_past",
    "with_plateau",
]

#: A cooldown that somebody waits for takes this share of the iterations done: 3 minutes after an hour of training.
SHARE_WAITED_FOR = 1 / 20
#: One that is foreseen takes a fifth of the whole, so a quarter of what was done: longer ones gain little (ibid.).
SHARE_FORESEEN = 1 / 4
#: No cooldown is shorter, so that the rate falls in more than a few leaps.
LEAST_ITERATIONS = 25
#: Estimates are averaged over so many. A plateau: no such mean of the last quarter of all epochs, nor of the last six,
#: is higher by this than the best before.
SMOOTHED, LEAST_PATIENCE, SHARE_OF_PATIENCE, GAIN = 3, 6, 1 / 4, 0.002
#: A network whose mean estimates have never been above this has not begun to learn: small structures take a while.
LEARNED = 0.05


def fixed_length(iterations: int) -> Length:
    """Of a training whose length is known from the beginning."""
    return Length(iterations=iterations, end=iterations)


def learning_rate(schedule: Schedule, spec: TrainingSpec, length: Length, iteration: int) -> float:
    """The rate of an iteration, counted from 0; never 0 itself.

    Args:
        schedule: of the plan.
        spec: the plan's training.
        length: how far the training goes.
        iteration: before ``length.end``.
    """
    if length.cooldown_from is None or length.end is None or iteration < length.cooldown_from:
        return _main_rate(schedule, spec, length, iteration)
    passed = (iteration - length.cooldown_from) / (length.end - length.cooldown_from)
    return _main_rate(schedule, spec, length, length.cooldown_from) * (1 - math.sqrt(passed))


def _main_rate(schedule: Schedule, spec: TrainingSpec, length: Length, iteration: int) -> float:
    def rate(iteration: int) -> float:
        if length.iterations is not None:
            return schedule(spec, iteration, length.iterations)
        return spec.learning_rate * min(1.0, (iteration + 1) / max(1, spec.warmup_iterations))

    held = length.held_from
    if held is None or iteration <= held:
        return rate(iteration)
    warm = min(iteration, spec.warmup_iterations, *([length.iterations - 1] if length.iterations is not None else []))
    return max(map(rate, range(held, warm + 1)), default=rate(held))  # a warm-up that the cooldown cut short goes on


def kept_from(length: Length) -> int | None:
    """The iteration from which the rate falls to zero for good: the state there is kept, so that more can be added.

    Without a cooldown, that is the last fifth of the plan's schedule. None while it is not decided.
    """
    if length.cooldown_from is not None or length.end is None:
        return length.cooldown_from
    return length.end - max(1, length.end // 5)


def asked_to_end(length: Length, done: int, reason: str) -> Length:
    """The length when somebody asks for the end after so many iterations; the same if the end is as near already."""
    return _cooled_down(length, done, max(LEAST_ITERATIONS, math.ceil(done * SHARE_WAITED_FOR)), reason)


def with_plateau(length: Length, done: int) -> Length:
    """The length when the plateau is reached after so many iterations."""
    lasting = _foreseen(done)
    return _cooled_down(length, done, lasting, f"no gain on held-out cases any more after {done} iterations")


def out_of_time(
    length: Length, done: int, *, seconds: float, seconds_per_iteration: float, scoring_seconds: float
) -> Length:
    """The length if the hours would run out with a cooldown that began now, and the scoring after it; else the same.

    Args:
        length: so far.
        done: iterations.
        seconds: that the training has taken.
        seconds_per_iteration: that the cooldown will take.
        scoring_seconds: that the held-out cases will take.
    """
    lasting = _foreseen(done)
    if length.hours is None or seconds + lasting * seconds_per_iteration + scoring_seconds < length.hours * 3600:
        return length
    return _cooled_down(length, done, lasting, f"{length.hours:g} h run out, cooldown and scoring included")


def extended(length: Length, by: int) -> Length:
    """The length of a training that has ended, with more iterations, at the rate where it had begun to fall to zero."""
    held = kept_from(length)
    assert held is not None
    assert length.end is not None
    end = length.end + by
    lasting = min(max(LEAST_ITERATIONS, end // 5), end - held)
    return msgspec.structs.replace(
        length,
        hours=None,
        until_plateau=False,
        held_from=held if length.held_from is None else length.held_from,
        cooldown_from=end - lasting,
        end=end,
        decided=False,
        reason=f"extended by {by} iterations",
        extended_by=by,
    )


def same_past(one: Length, other: Length, iteration: int) -> bool:
    """Whether two lengths have the same rates before an iteration, so that a state of one belongs to the other, too."""

    def past(length: Length) -> tuple[int | None, ...]:
        begin = length.cooldown_from
        cooling = (begin, length.end) if begin is not None and begin < iteration else (None, None)
        held = iteration if length.held_from is None else min(length.held_from, iteration)
        return (length.iterations, held, *cooling)

    return past(one) == past(other)


def is_plateau(dice: Sequence[float]) -> bool:
    """Whether the estimates, one for each epoch, no longer rise, after they rose."""
    return has_learned(dice) and _is_flat(dice)


def has_learned(dice: Sequence[float]) -> bool:
    """Whether the estimates have been clearly above 0."""
    return max(_means(dice), default=0.0) > LEARNED


def begins_unlearned(dice: Sequence[float]) -> bool:
    """Whether it is since the last estimate that they would be a plateau if anything had been learned."""
    return not has_learned(dice) and _is_flat(dice) and not _is_flat(dice[:-1])


def _is_flat(dice: Sequence[float]) -> bool:
    means = _means(dice)
    patience = max(LEAST_PATIENCE, int(len(dice) * SHARE_OF_PATIENCE))
    return len(means) > patience and max(means[-patience:]) < max(means[:-patience]) + GAIN


def _means(dice: Sequence[float]) -> list[float]:
    return [sum(dice[at - SMOOTHED : at]) / SMOOTHED for at in range(SMOOTHED, len(dice) + 1)]


def _foreseen(done: int) -> int:
    return max(LEAST_ITERATIONS, math.ceil(done * SHARE_FORESEEN))


def _cooled_down(length: Length, done: int, lasting: int, reason: str) -> Length:
    under_way = length.cooldown_from is not None and length.cooldown_from <= done
    if length.decided or under_way or (length.end is not None and length.end - done <= lasting):
        return length
    return msgspec.structs.replace(length, cooldown_from=done, end=done + lasting, decided=True, reason=reason)

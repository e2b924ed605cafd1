"""Answers in words, made from contrasts and claiming no more than their intervals carry."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.comparison.contrasts import FEWEST_PATIENTS
from autoseg.errors import counted
from autoseg.values import Contrast

__all__ = ["bounds", "difference_answer", "listed", "loss_answer", "points"]

SHOWN = 5


def points(dice: float) -> str:
    """Dice in points: 0.912 is 91.20."""
    return f"{100 * dice:.2f}"


def listed(names: Sequence[str]) -> str:
    """Not all of very many."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def bounds(measured: Contrast) -> str:
    """``-0.20 to 1.30, 20 cases``; or that there are too few patients for bounds."""
    interval = measured.interval
    cases = counted(interval.cases, "case")
    if interval.lower is None or interval.upper is None:
        return f"{cases} of {counted(interval.patients, 'patient')}: of fewer than {FEWEST_PATIENTS} nothing is sure"
    return f"{points(interval.lower)} to {points(interval.upper)}, {cases}"


def loss_answer(who: str, measured: Contrast, *, then: str, not_shown: str) -> str:
    """What a network loses, and what follows from that.

    Args:
        who: begins the sentence, and names what was done: ``With its slices in another order, 3d_fullres``.
        measured: its Dice minus that after the change.
        then: what a loss shows.
        not_shown: what cannot be said if there may be none.
    """
    loss, upper = measured.interval.mean, measured.interval.upper
    assert loss is not None, "nothing was measured"
    told = f"{points(abs(loss))} Dice points ({bounds(measured)})"
    if measured.claim > 0:
        return f"{who} loses {told}: {then}."
    if measured.claim < 0:
        return f"{who} gains {told}: what it loses sight of did it harm, or the change helps it otherwise."
    told = f"{points(loss)} Dice points ({bounds(measured)})"
    if upper is None:
        return f"{who} loses {told}."
    return f"{who} loses {told}, which may be nothing: {not_shown}; if it does, that is at most {points(upper)} points."


def difference_answer(terms: str, one: str, other: str, measured: Contrast) -> str:
    """Which of two is better, if that can be told.

    Args:
        terms: begins the sentence: ``After 250 iterations each``.
        one: name of the first.
        other: name of the second.
        measured: Dice of the first minus that of the second.
    """
    difference = measured.interval.mean
    assert difference is not None, "nothing was measured"
    if measured.claim:
        better = "better" if measured.claim > 0 else "worse"
        return f"{terms}, {one} is {points(abs(difference))} Dice points {better} than {other} ({bounds(measured)})."
    told = f"{points(difference)} Dice points ({bounds(measured)})"
    return f"{terms}, {one} minus {other} is {told}: neither is shown to be better."

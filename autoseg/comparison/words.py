"""Sentences made from numbers; none of them claims more than its interval and its test carry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from autoseg.comparison.contrasts import FEWEST_PATIENTS
from autoseg.errors import counted
from autoseg.values import Comparison, Contrast, Experiment, Interval, SelectionRule

__all__ = [
    "Outcome",
    "answer_of",
    "cost_text",
    "difference_answer",
    "outcome_of",
    "patients_needed",
    "points",
    "span",
    "told",
]

#: Less than that is no difference, in Dice; the same as in the selection.
MARGIN = SelectionRule().margin
#: Fewer can never differ by a p value below 0.05: there are 2 ** patients ways to exchange, and two of them count.
FEWEST_FOR_TEST = 6
#: Who is better; nobody by as much as the margin; or what these cases cannot tell.
Outcome = Literal["first", "second", "equal", "undecided", "too few"]


def points(dice: float) -> str:
    """A Dice, or a difference, in points: 0.912 is 91.20."""
    text = f"{100 * dice:.2f}"
    return "0.00" if text == "-0.00" else text


def cost_text(cost: float) -> str:
    """Three digits, and none of a large number is left out: ``0.412``, ``12500``."""
    return f"{cost:.0f}" if cost >= 1000 else f"{cost:.3g}"


def span(interval: Interval, *, turned: bool = False) -> str:
    """A mean with its bounds, in Dice points.

    Args:
        interval: that is told.
        turned: of the opposite: second minus first.
    """
    if interval.mean is None:
        return "not defined in any case"
    sign = -1 if turned else 1
    if interval.lower is None or interval.upper is None:
        return f"{points(sign * interval.mean)} points, of {counted(interval.patients, 'patient')}, no interval"
    low, high = sorted((sign * interval.lower, sign * interval.upper))
    level = f"{100 * interval.level:.3g} % interval"
    return f"{points(sign * interval.mean)} points ({level} {points(low)} to {points(high)})"


def told(contrast: Contrast, positive: str, negative: str, neither: str) -> str:
    """The one of three sentences that a contrast carries, with its numbers in the place of ``{span}``; ``{turned}`` is the
    same with the sign changed.
    """
    sentence = {1: positive, -1: negative, 0: neither}[contrast.claim]
    text = sentence.replace("{span}", span(contrast.interval)).replace("{turned}", span(contrast.interval, turned=True))
    if contrast.sign and not contrast.claim:
        text += f" The interval leaves out zero, but the test does not (p = {contrast.p_value:.2g})."
    return text


def outcome_of(contrast: Contrast, margin: float = MARGIN) -> Outcome:
    """What a difference of two configurations says; a sure difference below the margin is none."""
    lower, upper = contrast.interval.lower, contrast.interval.upper
    if lower is None or upper is None:
        return "too few"
    if -margin < lower and upper < margin:
        return "equal"
    outcomes: dict[int, Outcome] = {1: "first", -1: "second", 0: "undecided"}
    return outcomes[contrast.claim]


def patients_needed(interval: Interval, margin: float = MARGIN) -> int | None:
    """About how many patients would decide, if mean and scatter stay: intervals shrink with the root of their number.

    To decide is to see that there is a difference, or that it is below the margin, whichever takes fewer. None without an
    interval.
    """
    if interval.mean is None or interval.lower is None or interval.upper is None:
        return None
    reach = max(interval.mean - interval.lower, interval.upper - interval.mean)
    target = max(abs(interval.mean), margin - abs(interval.mean))
    needed = max(interval.patients * (reach / target) ** 2, interval.patients + 1, FEWEST_FOR_TEST)
    step = 10 ** max(0, int(math.log10(needed)) - 1)  # two digits: it is a rough number
    return math.ceil(needed / step) * step


def difference_answer(contrast: Contrast, first: str, second: str) -> str:
    """Who is better, or why that is not known."""
    interval, outcome = contrast.interval, outcome_of(contrast)
    mean = interval.mean or 0.0
    better, other = (first, second) if mean >= 0 else (second, first)
    number = span(interval, turned=mean < 0)
    if outcome == "too few":
        return f"Undecided: {better} is ahead of {other} by {number}; of fewer than {FEWEST_PATIENTS} nothing is sure."
    if outcome == "equal":
        return (
            f"A tie: {first} minus {second} is {span(interval)}, surely less than {points(MARGIN)} points either way."
        )
    if outcome == "undecided":
        return f"Undecided: {better} is ahead of {other} by {number}, {_why_undecided(contrast)}."
    effects = contrast.effects
    assert effects is not None
    counts = (effects.better, effects.worse) if outcome == "first" else (effects.worse, effects.better)
    cases = counted(sum((effects.better, effects.worse, effects.equal)), "case")
    p_value = "" if contrast.p_value is None else f", p = {contrast.p_value:.2g}"
    return (
        f"{better} is better than {other} here, by {number}{p_value}; it is better in {counts[0]} of {cases} and worse in "
        f"{counts[1]}."
    )


def _why_undecided(contrast: Contrast) -> str:
    interval = contrast.interval
    assert interval.lower is not None
    assert interval.upper is not None
    why = "and zero is within"
    if contrast.sign:
        why = f"but by exchanging the two in patients as much comes about by chance (p = {contrast.p_value:.2g})"
    return (
        f"{why}. The interval is {points(interval.upper - interval.lower)} points wide; if difference and scatter stay as "
        f"they are, it takes about {patients_needed(interval)} patients to decide, here are {interval.patients}"
    )


def answer_of(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """The whole answer as a paragraph: who is better, for which labels, at what cost, and what goes with it.

    Args:
        comparison: all but its own answer.
        notes: sentences about the basis: folds, how the pair was chosen.
    """
    first, second = comparison.first, comparison.second
    difference, *labels = comparison.difference.contrasts
    parts = [f"{comparison.difference.question} {_yes_or_no(difference)}{comparison.difference.answer}"]
    if len(labels) > 1:
        parts += _labels(labels, first, second)
    absent = [each.label for each in labels if each.interval.mean is None]
    if absent:
        parts.append(f"In no case is there a score of {', '.join(absent)}.")
    parts += _costs(comparison.costs, first, second)
    parts += _reasons(comparison.experiments)
    return " ".join([*parts, *notes])


def _yes_or_no(difference: Contrast) -> str:
    return {"first": "Yes: ", "second": "No: "}.get(outcome_of(difference), "")


def _labels(labels: Sequence[Contrast], first: str, second: str) -> list[str]:
    sides = {1: first, -1: second}
    sentences = []
    for sign, name in sides.items():
        better = [f"{each.label} ({points(sign * (each.interval.mean or 0))})" for each in labels if each.claim == sign]
        if better:
            sentences.append(f"Label by label, {name} is surely better for {', '.join(better)}.")
    open_ones = [each.label for each in labels if each.claim == 0 and each.interval.mean is not None]
    if sentences and open_ones:
        sentences.append(f"Nothing is sure of {', '.join(open_ones)}.")
    return sentences or ["Of no label alone anything is sure."]


def _costs(costs: Mapping[str, Mapping[str, float | None]], first: str, second: str) -> list[str]:
    """What the first costs instead of the second, of what is known of both and is not the same."""
    known = [
        (quantity, cost_text(one), cost_text(other))
        for quantity, one in costs[first].items()
        if one is not None and (other := costs[second].get(quantity)) is not None
    ]
    listed = [f"{one} instead of {other} {quantity}" for quantity, one, other in known if one != other]
    if known and not listed:
        return ["Both cost the same."]
    return [f"{first} costs {', '.join(listed)}."] if listed else ["What the two cost was not measured."]


def _reasons(experiments: Sequence[Experiment]) -> list[str]:
    """Answers of the experiments that carry a claim; the names of the others."""
    made = [each for each in experiments if each.contrasts]
    sentences = [each.answer for each in made if each.contrasts[0].claim]
    silent = [_topic(each) for each in made if not each.contrasts[0].claim]
    missing = [_topic(each) for each in experiments if not each.contrasts]
    if silent:
        sentences.append(f"These cases do not carry a claim about: {', '.join(silent)}.")
    if missing:
        sentences.append(f"Not measured: {', '.join(missing)}.")
    return sentences


def _topic(experiment: Experiment) -> str:
    return experiment.name.replace("_", " ")

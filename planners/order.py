"""Order: axes along which two labels always lie the same way round, so that a mirrored image shows what no patient has.

Where one label lies in front of the other in every case, place tells them apart. An image mirrored along that axis shows
them the wrong way round, and a network that is to label it rightly must tell them by their looks alone, in training and, as
flips are averaged, in prediction. Measured on the two ends of the hippocampus, that costs most of a short training: see
docs/benchmarks.md.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec

from autoseg.values import Fingerprint
from autoseg.values.fingerprint import Orientation
from autoseg.values.json_form import Value
from planners.places import Place, places_of
from planners.presets import Preset
from planners.sides import LEFT_RIGHT_AXIS, Sides, find_sides

__all__ = ["FixedOrder", "find_order", "fixed_axes", "sides_and_order", "told"]

#: So many cases must hold both labels; more than so many are not asked, nor more labels than so many.
FEWEST_CASES, MOST_CASES, MOST_LABELS = 5, 100, 128
#: The order is fixed if the distance is so many times its standard deviation, in the mean.
BEYOND_SPREAD = 2.0
#: Where canonical axes run to.
DIRECTIONS = ("from inferior to superior", "from anterior to posterior", "from right to left")


class FixedOrder(Value, frozen=True, kw_only=True):
    """An axis along which two labels lie in a fixed order.

    Attributes:
        axis: of arrays, before the plan's axis order.
        first: name of the label that lies first.
        second: of the other.
        distance_mm: between their centroids along the axis, in the mean.
        cases: that hold both and were asked.
        orientation: of the axis.
    """

    axis: int
    first: str
    second: str
    distance_mm: float
    cases: int
    orientation: Orientation

    def __str__(self) -> str:
        along = DIRECTIONS[self.axis] if self.orientation == "canonical" else f"along axis {self.axis}"
        return f"{self.second!r} follows {self.first!r} {along} ({self.distance_mm:.1f} mm in {self.cases} cases)"


def find_order(fingerprint: Fingerprint, orientation: Orientation, sides: Sides) -> tuple[FixedOrder, ...]:
    """The axes along which nothing is to be mirrored, each with the pair of labels that lies apart most clearly.

    Labels that are the two sides of the patient change places when the left-right axis is mirrored; what is right after
    that forbids nothing.

    Args:
        fingerprint: with the centroids of labels.
        orientation: of arrays.
        sides: labels that mirroring exchanges, or would if they were confirmed.
    """
    labels = fingerprint.labels
    if not 2 <= len(labels.foreground) <= MOST_LABELS:
        return ()
    places = {label.name: places_of(fingerprint.cases, label, orientation) for label in labels.foreground}
    partner = {name: name for name in places}
    for each in sides.pairs:
        partner |= {each.left: each.right, each.right: each.left}
    found: list[FixedOrder] = []
    steps = {pair: _steps(places[pair[0]], places[pair[1]]) for pair in itertools.combinations(places, 2)}
    for axis in range(3):
        clear = {pair: clearness for pair, each in steps.items() if (clearness := _clearness(each, axis))}
        if axis == LEFT_RIGHT_AXIS:
            clear = {pair: clearness for pair, clearness in clear.items() if not _mirrors(pair, clear, partner)}
        if clear:
            pair = max(clear, key=lambda pair: abs(clear[pair]))
            first, second = pair if clear[pair] > 0 else pair[::-1]
            distances = [each[axis] for each in steps[pair]]
            found.append(
                FixedOrder(
                    axis=axis,
                    first=first,
                    second=second,
                    distance_mm=abs(statistics.fmean(distances)),
                    cases=len(distances),
                    orientation=orientation,
                )
            )
    return tuple(found)


def fixed_axes(order: Sequence[FixedOrder], axis_order: Sequence[int], dimensions: int) -> tuple[int, ...]:
    """The axes of a patch along which labels lie in a fixed order.

    Args:
        order: that was found.
        axis_order: of the plan.
        dimensions: of the patch; one of two lies in the last two axes.
    """
    places = [axis_order.index(each.axis) - (3 - dimensions) for each in order]
    return tuple(sorted(place for place in places if place >= 0))


def told(order: Sequence[FixedOrder]) -> str:
    """For the reader of the plan: what lies in a fixed order, and what follows; empty if nothing does."""
    if not order:
        return ""
    return (
        f"{'; '.join(map(str, order))}: nothing is mirrored along "
        f"{'this axis' if len(order) == 1 else 'these axes'}, and slices that hold one are turned by 30 degrees at most, "
        "for else the labels would lie the wrong way round, in training and in prediction"
    )


def _steps(one: Mapping[str, Place], other: Mapping[str, Place]) -> list[tuple[float, ...]]:
    """From the centroid of one label to that of the other, in the cases that hold both, or some of them."""
    both = [case for case in one if case in other]
    both = both[:: math.ceil(len(both) / MOST_CASES) or 1]
    return [tuple(b - a for a, b in zip(one[case].centre, other[case].centre, strict=True)) for case in both]


def _clearness(steps: Sequence[Sequence[float]], axis: int) -> float:
    """The mean distance in standard deviations, with its sign; 0 if the order is not fixed."""
    if len(steps) < FEWEST_CASES:
        return 0.0
    distances = [each[axis] for each in steps]
    mean, spread = statistics.fmean(distances), statistics.pstdev(distances)
    if abs(mean) <= BEYOND_SPREAD * spread or abs(mean) < 1e-6:
        return 0.0
    return mean / max(spread, 1e-6)


def _mirrors(pair: tuple[str, str], clear: Mapping[tuple[str, str], float], partner: Mapping[str, str]) -> bool:
    """Whether the labels that take the places of these when sides are exchanged lie the other way round."""
    one, other = partner[pair[0]], partner[pair[1]]
    counterpart = clear.get((one, other)) or -clear.get((other, one), 0.0)
    return counterpart * clear[pair] < 0


def sides_and_order(
    preset: Preset, fingerprint: Fingerprint, orientation: Orientation | None = None
) -> tuple[Sides, tuple[FixedOrder, ...]]:
    """Sides of the patient and fixed orders of labels, which agree on what is mirrored from left to right.

    Args:
        preset: of the planner; nnU-Net mirrors whatever lies where.
        fingerprint: of the data.
        orientation: of arrays; the preset's by default.
    """
    sides = find_sides(fingerprint)
    if preset.as_nnunet:
        return sides, ()
    order = find_order(fingerprint, orientation or preset.orientation, sides)
    if any(each.axis == LEFT_RIGHT_AXIS for each in order):
        sides = msgspec.structs.replace(sides, swapped_labels=(), one_way=True)
    return sides, order

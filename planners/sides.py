"""Left and right: which labels are the two sides of the patient, by name and confirmed by where they lie.

A patient mirrored from left to right is a believable patient only if the labels of the two sides change places, too. Names
say which labels these are; that the left one really lies on the patient's left says that the files know their orientation.
Where it cannot be confirmed, nothing is mirrored along that axis.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from autoseg.values import Fingerprint, Labels
from autoseg.values.json_form import Value
from planners.places import Place, places_of

__all__ = ["LEFT_RIGHT_AXIS", "SidePair", "Sides", "find_sides", "left_right_pairs"]

#: Canonical array axes are (z, y, x); x runs from the patient's right to left.
LEFT_RIGHT_AXIS = 2
#: One case in so many may disagree; and how many cases there must be where no name helps.
ONE_EXCEPTION_IN, CASES_WITHOUT_NAMES = 10, 3
#: Without names, sides lie this many times farther apart along the left-right axis than along the others, and one is not
#: more than this many times larger than the other.
MAINLY_SIDEWAYS, LARGER = 2.0, 2.0
#: A suggestion is worth seconds, not minutes: among more labels than this none is looked for, and no more cases are asked.
MOST_LABELS, MOST_CASES = 128, 100
EXAMPLES = 3

#: Where a word begins within ``LeftKidney`` or ``KidneyL``.
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[LR])(?=[A-Z][a-z])")
_SIDE = re.compile(r"(?<![a-z])(left|right|l|r|lt|rt)(?![a-z])")
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l", "lt": "rt", "rt": "lt"}

#: confirmed: left lies on the patient's left; contradicted: in most cases it does not; doubtful: in too many it does not;
#: unknown: no case holds both; absent: no case holds either.
Evidence = Literal["confirmed", "contradicted", "doubtful", "unknown", "absent"]


class SidePair(Value, frozen=True, kw_only=True):
    """Two labels whose names differ only in the side, and what the cases say about them.

    Attributes:
        left: name of the label.
        right: name of its partner.
        present: any case holds one of them.
        cases: how many hold both.
        against: ids of those in which the left one does not lie on the patient's left.
    """

    left: str
    right: str
    present: bool
    cases: int
    against: tuple[str, ...]

    @property
    def evidence(self) -> Evidence:
        """What is known about the pair."""
        if self.cases == 0:
            return "unknown" if self.present else "absent"
        if len(self.against) * ONE_EXCEPTION_IN <= self.cases:
            return "confirmed"
        return "contradicted" if len(self.against) * 2 > self.cases else "doubtful"

    def __str__(self) -> str:
        agreeing = self.cases - len(self.against)
        told = {
            "confirmed": f"confirmed by where they lie in {agreeing} of {self.cases} cases",
            "contradicted": f"contradicted by where they lie in {len(self.against)} of {self.cases} cases",
            "doubtful": f"where they lie agrees in {agreeing} of {self.cases} cases only",
            "unknown": "no case holds both",
            "absent": "no case holds either",
        }
        return f"{self.left} / {self.right} ({told[self.evidence]})"


class Sides(Value, frozen=True, kw_only=True):
    """What is known about left and right in a data set.

    Attributes:
        pairs: found by name.
        swapped_labels: pairs of positions in ``Labels.integers`` that mirroring exchanges; empty if it must not.
        lookalikes: pairs of labels that lie like two sides of the patient and are not named so.
        one_way: other labels lie in a fixed order from right to left, so no exchange makes a mirrored patient believable.
    """

    pairs: tuple[SidePair, ...] = ()
    swapped_labels: tuple[tuple[int, int], ...] = ()
    lookalikes: tuple[tuple[str, str], ...] = ()
    one_way: bool = False

    @property
    def forbid_mirroring(self) -> bool:
        """Whether nothing may be mirrored along the left-right axis."""
        return bool(self.pairs) and not self.swapped_labels

    def reason(self, *, mirrored_anyway: bool = False) -> str:
        """For the reader of the plan: what was found and what is done; empty if there is nothing to say.

        Args:
            mirrored_anyway: the preset mirrors whatever the labels mean, as nnU-Net does.
        """
        told = []
        if self.pairs:
            what = ", and this preset mirrors them as nnU-Net does" if mirrored_anyway else f": {self._decision()}"
            told.append(f"the labels {', '.join(map(str, self.pairs))} are sides of the patient by their names{what}")
        if self.lookalikes and not mirrored_anyway and not self.one_way:
            named = ", ".join(f"{one!r} and {other!r}" for one, other in self.lookalikes)
            told.append(
                f"the labels {named} look like the two sides of the patient; if they are, name them left … and right …: "
                "mirroring takes no heed of them until then"
            )
        return "; ".join(told)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Cases in which a label does not lie on the side that its name says."""
        return tuple(_warning(pair) for pair in self.pairs if pair.against)

    def _decision(self) -> str:
        if self.one_way:
            return "nothing is mirrored along the left-right axis, because other labels lie in a fixed order along it"
        if self.swapped_labels:
            return "mirroring along the left-right axis exchanges them"
        if _confirmed(self.pairs):
            return "nothing is mirrored along the left-right axis, because outputs that are regions cannot be exchanged"
        return "nothing is mirrored along the left-right axis until all of them are confirmed"


def _warning(pair: SidePair) -> str:
    examples = ", ".join(pair.against[:EXAMPLES]) + (", …" if len(pair.against) > EXAMPLES else "")
    return (
        f"{pair.left!r} lies on the patient's right of {pair.right!r} in {len(pair.against)} of {pair.cases} cases "
        f"({examples}): their files have lost their orientation or state a wrong one, or the names are exchanged"
    )


def _confirmed(pairs: Sequence[SidePair]) -> bool:
    """Whether the cases confirm all pairs; what no case holds has no say, as long as there is another."""
    evidence = {pair.evidence for pair in pairs}
    return "confirmed" in evidence and evidence <= {"confirmed", "absent"}


def find_sides(fingerprint: Fingerprint) -> Sides:
    """Which labels are sides of the patient, and whether mirroring may exchange them."""
    labels = fingerprint.labels
    by_name = {label.name: label for label in labels.foreground}
    places = {label.name: places_of(fingerprint.cases, label) for label in labels.foreground}
    named = left_right_pairs(labels)
    pairs = tuple(_side_pair(left, right, places) for left, right in named)
    swapped: list[tuple[int, int]] = []
    if _confirmed(pairs) and not labels.has_regions:
        swapped = [
            (labels.integers.index(by_name[left].values[0]), labels.integers.index(by_name[right].values[0]))
            for left, right in named
        ]
    paired = {name for pair in named for name in pair}
    unpaired = [name for name in by_name if name not in paired]
    return Sides(pairs=pairs, swapped_labels=tuple(swapped), lookalikes=_lookalikes(unpaired, places))


def left_right_pairs(labels: Labels) -> list[tuple[str, str]]:
    """Pairs of labels whose names differ only in the side: ``left kidney`` and ``right kidney``, ``lung_L``, ``lung_R``."""
    names = {_CAMEL.sub(" ", label.name).casefold(): label.name for label in labels.foreground}
    pairs = []
    for name in sorted(names):
        if _side(name) in ("left", "l", "lt"):
            partner = _SIDE.sub(lambda match: _OTHER_SIDE[match[0]], name)
            if partner in names:
                pairs.append((names[name], names[partner]))
    return pairs


def _side(name: str) -> str | None:
    match = _SIDE.search(name)
    return match[0] if match else None


def _side_pair(left: str, right: str, places: Mapping[str, Mapping[str, Place]]) -> SidePair:
    lefts, rights = places[left], places[right]
    both = [case for case in lefts if case in rights]
    against = tuple(
        case for case in both if lefts[case].centre[LEFT_RIGHT_AXIS] <= rights[case].centre[LEFT_RIGHT_AXIS]
    )
    return SidePair(left=left, right=right, present=bool(lefts or rights), cases=len(both), against=against)


def _lookalikes(names: Sequence[str], places: Mapping[str, Mapping[str, Place]]) -> tuple[tuple[str, str], ...]:
    """Pairs of labels that lie like two sides, each label with the partner that lies most exactly beside it."""
    if len(names) > MOST_LABELS:
        return ()
    offsets = {}
    for one, other in itertools.combinations(names, 2):
        offset = _offset_of_sides(places[one], places[other])
        if offset is not None:
            offsets[one, other] = offset
    chosen: list[tuple[str, str]] = []
    for pair in sorted(offsets, key=lambda pair: offsets[pair]):
        if not any(name in taken for taken in chosen for name in pair):
            chosen.append(pair)
    return tuple(sorted(chosen))


def _offset_of_sides(one: Mapping[str, Place], other: Mapping[str, Place]) -> float | None:
    """Median distance along the other axes, as a share of that from side to side; None if these do not lie like sides."""
    both = [case for case in one if case in other]
    if len(both) < CASES_WITHOUT_NAMES:
        return None
    both = both[:: math.ceil(len(both) / MOST_CASES)]
    ratio = statistics.median(one[case].voxels / other[case].voxels for case in both)
    if not 1 / LARGER <= ratio <= LARGER:
        return None
    exceptions = len(both) // ONE_EXCEPTION_IN
    shares, sides = [], {True: 0, False: 0}
    for case in both:
        share, is_left = _sideways(one[case], other[case])
        shares.append(share)
        sides[is_left] += share * MAINLY_SIDEWAYS <= 1
        if len(shares) - max(sides.values()) > exceptions:
            return None
    return statistics.median(shares)


def _sideways(one: Place, other: Place) -> tuple[float, bool]:
    """Distance along the other axes as a share of that from side to side, and whether the first is the left one.

    Labels that lie within each other are not beside each other: their distance is nothing that counts.
    """
    steps = [a - b for a, b in zip(one.centre, other.centre, strict=True)]
    apart = abs(steps[LEFT_RIGHT_AXIS])
    if apart < max(one.radius_mm, other.radius_mm):
        return math.inf, False
    return max(abs(step) for step in steps[:LEFT_RIGHT_AXIS]) / apart, steps[LEFT_RIGHT_AXIS] > 0

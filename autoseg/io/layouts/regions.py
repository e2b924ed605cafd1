"""The order in which overlapping regions are written, and the integer that each gets, from how they lie in one another.

A region within another is written after it, over it. The integer that stands for a region in a label map is one of its own:
one that no region within it has. So what is written means the same as what was learned from.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from autoseg.values import Finding, Label, Labels

__all__ = ["ONLY_PARTS", "in_writing_order", "order_findings", "parts_findings"]

ONLY_PARTS = "labels that are only parts of regions get no output of their own"

EXAMPLE = (
    'Regions must lie in one another or apart, and each needs an integer of its own, as in "labels": {"background": 0, '
    '"edema": 1, "necrosis": 2, "enhancing": 3}, "regions": {"whole tumour": ["edema", "necrosis", "enhancing"], '
    '"tumour core": ["necrosis", "enhancing"], "enhancing": ["enhancing"]}; or say how to write them with '
    "regions_class_order"
)


def in_writing_order(regions: Sequence[Label]) -> tuple[tuple[Label, ...], tuple[int, ...]]:
    """The regions, larger ones first, and the integer that each is written as.

    Args:
        regions: names and integers; single labels are regions of one integer. Equally large ones keep their order.

    Raises:
        ValueError: two regions overlap and neither lies within the other, two are equal, or one has no integer of its own.
    """
    for one, other in itertools.combinations(regions, 2):
        mine, theirs = set(one.values), set(other.values)
        if mine == theirs:
            raise ValueError(f"the regions {one.name!r} and {other.name!r} are the same. {EXAMPLE}")
        if mine & theirs and not (mine < theirs or theirs < mine):
            raise ValueError(
                f"the regions {one.name!r} {sorted(mine)} and {other.name!r} {sorted(theirs)} overlap, and neither lies "
                f"within the other, so that it is not clear what to write where both are. {EXAMPLE}"
            )
    ordered = sorted(regions, key=lambda region: -len(region.values))
    return tuple(ordered), tuple(_own_integer(region, regions) for region in ordered)


def _own_integer(region: Label, regions: Sequence[Label]) -> int:
    """The smallest integer of a region that no region within it has. With several it does not matter which: all of them
    belong to the same regions."""
    within = [other for other in regions if set(other.values) < set(region.values)]
    own = set(region.values).difference(*(other.values for other in within))
    if not own:
        parts = ", ".join(repr(other.name) for other in within)
        raise ValueError(
            f"the region {region.name!r} has no integer of its own: all of it belongs to {parts}, so that it is not clear "
            f"what to write where it is found and they are not. {EXAMPLE}"
        )
    return min(own)


def order_findings(labels: Labels) -> list[Finding]:
    """Warnings where a stated order does not fit the regions: a label map written so would say something else."""
    findings = []
    for place, (region, value) in enumerate(zip(labels.foreground, labels.region_values, strict=False)):
        if value not in region.values:
            findings.append(
                Finding(
                    severity="warning",
                    what=f"regions_class_order writes the region {region.name!r} as an integer that is not one of its own",
                    found=str(value),
                    expected=f"one of {', '.join(map(str, region.values))}",
                    remedy="Correct it, or leave out regions_class_order: the order then follows from the regions.",
                )
            )
        for later in labels.foreground[place + 1 :]:
            if set(region.values) < set(later.values):
                findings.append(
                    Finding(
                        severity="warning",
                        what=f"regions_class_order writes {later.name!r} after {region.name!r}, which lies within it and is "
                        "overwritten",
                        remedy="Declare larger regions first, or leave out regions_class_order.",
                    )
                )
    return findings


def parts_findings(declared: Sequence[Label], labels: Labels) -> list[Finding]:
    """A note about the declared labels that nothing is learned for but the regions that they are parts of."""
    own = {label.values for label in labels.foreground}
    parts = [label.name for label in declared if label.values not in own]
    if not parts:
        return []
    return [
        Finding(
            severity="note",
            what=ONLY_PARTS,
            found=", ".join(parts),
            remedy='Nothing is to be done, unless one is wanted by itself: add it to the regions then, as in "liver": '
            '["liver"]. A region needs one integer that no region within it has.',
        )
    ]

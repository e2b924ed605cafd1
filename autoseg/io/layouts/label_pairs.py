"""Which predicted label map belongs to which reference, told by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from autoseg.io.layouts.names import SEPARATORS, bare_forms, plain_id
from autoseg.io.layouts.pairing import divisions

__all__ = ["pairs_by_name"]

#: Words for a side of the body.
SIDES = {"left", "right", "l", "r", "lt", "rt", "lh", "rh", "sin", "dex", "links", "rechts"}


def pairs_by_name(predictions: Iterable[str], references: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Case id to the stems of a prediction and its reference; what is not unambiguous is left out.

    Equal stems belong together. Of the others, those that are equal without words for images and label maps do; and then
    those that differ by one ending or beginning more, the same for all of them, such as a channel: ``Pat 00_ct`` and
    ``Pat 00_gt``. A side of the body is never left away: it tells which of two things a file is about.
    """
    predicted, wanted = set(predictions), set(references)
    equal = predicted & wanted
    pairs = {stem: (stem, stem) for stem in equal}
    pairs.update(_unambiguous(_forms(predicted - equal), _forms(wanted - equal), taken=pairs))
    left, alone = (
        ({*side} - {pair[place] for pair in pairs.values()}) for place, side in enumerate((predicted, wanted))
    )
    shorter: dict[str, dict[str, set[str]]] = {}  # what is left away -> prediction -> what remains
    for stem in left:
        for form in _forms([stem])[stem]:
            for base, rest in divisions(form):
                if rest and not rest.isdecimal() and not _tells_side(rest):
                    shorter.setdefault(rest.casefold(), {}).setdefault(stem, set()).add(base)
    found = [_unambiguous(forms, _forms(alone), taken=pairs) for forms in shorter.values() if forms.keys() == left]
    complete = [each for each in found if each]
    return {**pairs, **complete[0]} if len(complete) == 1 else pairs


def _tells_side(rest: str) -> bool:
    return not SIDES.isdisjoint(re.split(f"[{SEPARATORS}]+", rest.casefold()))


def _forms(stems: Iterable[str]) -> dict[str, set[str]]:
    """Each stem with what may remain of it without words for label maps and images."""
    return {stem: {bare for form in bare_forms(stem, "label") for bare in bare_forms(form, "image")} for stem in stems}


def _unambiguous(
    predicted: Mapping[str, set[str]], wanted: Mapping[str, set[str]], *, taken: Mapping[str, object]
) -> dict[str, tuple[str, str]]:
    """Pairs that share a form, if neither shares one with any other."""
    shared = [
        (max(forms & others, key=len), prediction, reference)
        for prediction, forms in sorted(predicted.items())
        for reference, others in sorted(wanted.items())
        if forms & others
    ]
    counted = Counter(("prediction", prediction) for _, prediction, _ in shared)
    counted.update(("reference", reference) for _, _, reference in shared)
    names = Counter(plain_id(name) for name, _, _ in shared)
    return {
        plain_id(name) if names[plain_id(name)] == 1 and plain_id(name) not in taken else prediction: (
            prediction,
            reference,
        )
        for name, prediction, reference in shared
        if counted["prediction", prediction] == counted["reference", reference] == 1
    }

"""Normalization of each channel, chosen by the channel's name or by the user."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from autoseg.errors import InputError, UnknownNameError
from autoseg.values import Fingerprint, NormalizationSpec

__all__ = ["normalization"]

_BY_NAME = {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
#: If cropping keeps less of the image than this, what is outside it would distort the statistics.
MASK_BELOW = 0.75


def normalization(fingerprint: Fingerprint, wishes: Sequence[tuple[str, str]] = ()) -> tuple[NormalizationSpec, ...]:
    """One scheme per channel: what the user wants, else the name's own where it has one, else z-score per image.

    Args:
        fingerprint: channels and their intensities.
        wishes: pairs of a channel, by name or place, and a scheme.

    Raises:
        UnknownNameError: a wish for a channel that does not exist.
        InputError: the scheme ``ct`` is wanted, and no case has any foreground to measure.
    """
    wanted = {_channel(fingerprint, name): scheme for name, scheme in wishes}
    kept = statistics.median(case.size_kept_by_crop for case in fingerprint.cases)
    specs = []
    for place, (name, properties) in enumerate(zip(fingerprint.channels, fingerprint.intensities, strict=True)):
        scheme = wanted.get(place) or _BY_NAME.get(name.casefold(), "zscore")
        use_mask = scheme == "zscore" and kept < MASK_BELOW
        reason = "as asked for" if place in wanted else f"the channel is named {name!r}"
        if scheme == "zscore" and place not in wanted:
            reason += ", which has no scheme of its own: zero mean, unit deviation per image"
        if use_mask:
            reason += f"; only inside the non-zero region, which is {kept:.0%} of the images"
        if scheme == "ct" and properties is None:
            raise InputError(
                f"the channel {name!r} cannot be normalized as CT: no case has any foreground to take statistics from",
                remedy=f"Ask for another scheme: --normalization {name}=zscore",
            )
        specs.append(
            NormalizationSpec(
                scheme=scheme, use_mask=use_mask, properties=properties if scheme == "ct" else None, reason=reason
            )
        )
    return tuple(specs)


def _channel(fingerprint: Fingerprint, name: str) -> int:
    """Place of a channel that is given by its name, or by its place."""
    folded = [channel.casefold() for channel in fingerprint.channels]
    if name.casefold() in folded:
        return folded.index(name.casefold())
    if name.isdecimal() and int(name) < len(folded):
        return int(name)
    raise UnknownNameError(f"there is no channel {name!r}", expected=" or ".join(fingerprint.channels))

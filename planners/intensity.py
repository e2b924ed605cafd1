"""Normalization of each channel, chosen by the channel's name."""

from __future__ import annotations

import statistics

from autoseg.values import Fingerprint, NormalizationSpec

__all__ = ["normalization"]

_BY_NAME = {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
#: If cropping keeps less of the image than this, what is outside it would distort the statistics.
MASK_BELOW = 0.75


def normalization(fingerprint: Fingerprint) -> tuple[NormalizationSpec, ...]:
    """One scheme per channel: the name's own where it has one, else z-score per image."""
    kept = statistics.median(case.size_kept_by_crop for case in fingerprint.cases)
    specs = []
    for name, properties in zip(fingerprint.channels, fingerprint.intensities, strict=True):
        scheme = _BY_NAME.get(name.casefold(), "zscore")
        use_mask = scheme == "zscore" and kept < MASK_BELOW
        reason = f"the channel is named {name!r}"
        if scheme == "zscore":
            reason += ", which has no scheme of its own: zero mean, unit deviation per image"
        if use_mask:
            reason += f"; only inside the non-zero region, which is {kept:.0%} of the images"
        specs.append(
            NormalizationSpec(
                scheme=scheme, use_mask=use_mask, properties=properties if scheme == "ct" else None, reason=reason
            )
        )
    return tuple(specs)

"""Several tests at once: among twenty labels, one differs by chance alone."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.errors import InputError

__all__ = ["holm"]


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """P values corrected by Holm's step-down rule (1979), in the order given.

    Calling those below a level different errs anywhere, in the whole family, with at most that probability, however the
    tests depend on each other. A test that was not made (None) stays None and does not count.

    Raises:
        InputError: one is not within 0..1.
    """
    for p_value in p_values:
        if p_value is not None and not 0 <= p_value <= 1:
            raise InputError("a p value is out of range", found=p_value, expected="0 to 1")
    corrected: list[float | None] = [None] * len(p_values)
    made = sorted((p_value, place) for place, p_value in enumerate(p_values) if p_value is not None)
    least = 0.0
    for rank, (p_value, place) in enumerate(made):
        least = max(least, min(1.0, (len(made) - rank) * p_value))
        corrected[place] = least
    return tuple(corrected)

"""Mean and variance in float64 of arrays that are too large to be copied to float64."""

from __future__ import annotations

import numpy as np

__all__ = ["mean_and_variance"]

#: Numbers that are converted to float64 together.
AT_ONCE = 2**17


def mean_and_variance(values: np.ndarray, where: np.ndarray | None = None) -> tuple[float, float]:
    """Mean and population variance of a contiguous array, in two passes; (nan, nan) of nothing.

    Args:
        values: of any shape and number type.
        where: bool, of the same shape; None for all values.
    """
    flat, chosen = values.reshape(-1), None if where is None else where.reshape(-1)

    def total(centre: float | None) -> tuple[float, int]:
        sums, count = [], 0
        for begin in range(0, flat.size, AT_ONCE):
            part = flat[begin : begin + AT_ONCE]
            if chosen is not None:
                part = part[chosen[begin : begin + AT_ONCE]]
            if centre is None:
                sums.append(part.sum(dtype=np.float64))
            else:
                apart = part.astype(np.float64)
                apart -= centre
                np.square(apart, out=apart)  # not a dot product: BLAS would start threads for it
                sums.append(apart.sum())
            count += part.size
        return float(np.sum(sums)), count

    whole, count = total(None)
    if not count:
        return float("nan"), float("nan")
    mean = whole / count
    return mean, total(mean)[0] / count

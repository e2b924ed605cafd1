"""Tables applied to large integer arrays in pieces: NumPy converts indices to 64 bits, which would be the largest array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["any_of", "look_up"]

#: Indices that are converted together.
AT_ONCE = 2**18


def look_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """``table[indices]`` for indices ``(*spatial)`` of any memory layout; contiguous."""
    result = np.empty(indices.shape, table.dtype)
    planes, rows, columns = indices.shape
    several, some = max(1, AT_ONCE // max(1, rows * columns)), max(1, AT_ONCE // max(1, columns))
    for plane in range(0, planes, several):
        for row in range(0, rows, some):
            part = slice(plane, plane + several), slice(row, row + some)
            result[part] = table[indices[part]]
    return result


def any_of(array: np.ndarray, integers: Sequence[int]) -> np.ndarray:
    """Where an array ``(*spatial)`` of integers from -1 up holds one of a few that are not below 0; bool."""
    if len(integers) == 1:
        return array == integers[0]
    most = max(int(array.max(initial=0)), *integers)
    table = np.zeros(most + 2, bool)  # the last entry is that of -1
    table[list(integers)] = True
    return look_up(table, array)

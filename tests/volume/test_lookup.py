"""Tables looked up in pieces, in any memory layout."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.volume import lookup
from autoseg.volume.lookup import any_of, look_up


@pytest.mark.parametrize("at_once", [1, 50, 2**18])
@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 30, 7), (40, 1, 1), (2, 3, 0)])
def test_pieces_and_layouts_change_nothing(shape: tuple, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "AT_ONCE", at_once)
    table = np.arange(9, dtype=np.int8)[::-1].copy()
    indices = np.random.default_rng(0).integers(0, 9, shape, np.int32)
    for view in (indices, indices.transpose(2, 0, 1)[:, ::-1]):
        found = look_up(table, view)
        np.testing.assert_array_equal(found, table[view])
        assert found.dtype == np.int8
        assert found.flags.c_contiguous


@pytest.mark.parametrize("integers", [[0], [3], [1, 4], [0, 2, 200]])
def test_any_of_some_integers_is_what_numpy_finds(integers: list[int]) -> None:
    array = np.random.default_rng(0).choice(np.array([-1, 0, 1, 2, 3, 4], np.int16), (5, 6, 7))
    np.testing.assert_array_equal(any_of(array, integers), np.isin(array, integers))

"""Boxes around labels, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from autoseg.evaluation.boxes import joined, label_boxes
from autoseg.values import Label, Labels

LABELS = Labels(foreground=tuple(Label(name=str(value), values=(value,)) for value in (1, 4, 6)))


@pytest.mark.parametrize("columns", [8, 13], ids=["whole words", "rows across words"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.int64])
def test_they_are_scipys(kind: type, columns: int) -> None:
    random = np.random.default_rng(columns)
    shape = (9, 7, columns)
    maps = [(random.random(shape) < 0.02) * random.choice([1, 4, 9], shape).astype(kind) for _ in range(2)]
    boxes = label_boxes(*maps, LABELS)
    both = [ndimage.find_objects(array) for array in maps]
    for value in (1, 4):
        expected = joined([found[value - 1] for found in both if len(found) >= value and found[value - 1]])
        assert boxes[value] == expected
    assert set(boxes) == {1, 4}  # 6 is nowhere, 9 is not declared


def test_nothing_has_no_box() -> None:
    nothing = np.zeros((2, 3, 5), np.uint8)
    assert label_boxes(nothing, nothing, LABELS) == {}
    assert joined([]) is None

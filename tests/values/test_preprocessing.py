"""The record of preprocessing gives its box as slices."""

from __future__ import annotations

import numpy as np

from autoseg.values import AxisMap, Geometry, PreprocessRecord


def test_the_crop_cuts_the_recorded_box() -> None:
    record = PreprocessRecord(
        case_id="a",
        key="k",
        source=Geometry(shape=(5, 6, 7), spacing=(1.0, 1.0, 1.0)),
        axes=AxisMap(),
        crop_start=(1, 0, 4),
        crop_shape=(2, 6, 3),
        spacing=(1.0, 1.0, 1.0),
        shape=(2, 6, 3),
        target_spacing=(1.0, 1.0, 1.0),
    )
    whole = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    np.testing.assert_array_equal(whole[record.crop], whole[1:3, 0:6, 4:7])

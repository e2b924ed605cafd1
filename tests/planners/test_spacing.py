"""Target spacing, axis order and sizes against numpy and nnU-Net's rule."""

from __future__ import annotations

import numpy as np
import pytest

from planners.spacing import axis_order, median_shape, percentile, target_spacing


@pytest.mark.parametrize("percent", [0, 10, 33.3, 50, 99.5, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_percentile_equals_numpy(percent, count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_median_without_anisotropy():
    spacings = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (3.0, 1.0, 1.0)]
    assert target_spacing(spacings, [(100, 100, 100)] * 3).spacing == (2.0, 1.0, 1.0)


def test_coarse_axis_takes_the_tenth_percentile_only_if_it_is_short():
    spacings = [(float(thickness), 1.0, 1.0) for thickness in (2, 4, 5, 6, 8)]
    assert target_spacing(spacings, [(20, 100, 100)] * 5).spacing == (pytest.approx(2.8), 1.0, 1.0)
    assert target_spacing(spacings, [(50, 100, 100)] * 5).spacing == (5.0, 1.0, 1.0)


def test_coarse_axis_never_gets_finer_than_the_others():
    spacings = [(0.5, 1.0, 1.0)] * 2 + [(5.0, 1.0, 1.0)] * 8
    assert target_spacing(spacings, [(20, 100, 100)] * 10).spacing == (pytest.approx(1.0 + 1e-5), 1.0, 1.0)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [((1, 1, 1), (0, 1, 2)), ((1, 2, 1), (1, 0, 2)), ((1, 1, 3), (2, 0, 1)), ((2, 2, 1), (0, 1, 2))],
)
def test_coarsest_axis_first_and_the_first_of_equals(spacing, order):
    assert axis_order(spacing) == order


def test_median_shape_rounds_each_case_before_the_median():
    spacings, shapes = [(1.0, 1.0, 1.5), (1.0, 1.0, 1.0)], [(100, 101, 33), (50, 40, 31)]
    assert median_shape(spacings, shapes, (0.8, 1.0, 1.0)) == (round((125 + 62) / 2, 1), 70.5, (50 + 31) / 2)

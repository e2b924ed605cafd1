"""Target spacing, axis order and sizes against numpy and nnU-Net's rule."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from autoseg.errors import InputError
from autoseg.planning import Budget, Wishes
from autoseg.values import AxisMap
from planners.spacing import axis_order, common_grid, large_after_resampling, median_shape, percentile, target_spacing
from planners.unet import DefaultPlanner
from tests.planners.synthetic import GPU_COST, fingerprint


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
    assert axis_order(spacing, (40, 40, 40)) == order


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 1, 1), (0.2, 1, 1), (1, 1, 8)])
def test_a_single_slice_is_the_first_axis_however_thin_it_is(spacing):
    assert axis_order(spacing, (1, 40, 40)) == (0, 1, 2)
    assert axis_order(spacing, (40, 1, 40)) == (1, 0, 2)
    assert axis_order(spacing, (40, 40, 1)) == (2, 0, 1)


def test_median_shape_rounds_each_case_before_the_median():
    spacings, shapes = [(1.0, 1.0, 1.5), (1.0, 1.0, 1.0)], [(100, 101, 33), (50, 40, 31)]
    assert median_shape(spacings, shapes, (0.8, 1.0, 1.0)) == (round((125 + 62) / 2, 1), 70.5, (50 + 31) / 2)


@pytest.mark.parametrize("thicknesses", [(3.0, 6.0, 12.0), (0.2, 3.3), (1.0, 5.0, 5.0, 9.0)])
def test_single_slices_of_mixed_thickness_stay_single(thicknesses):
    """Their thickness is not that of a grid: thin slices cannot be made from thick ones."""
    data = fingerprint([((thickness, 0.5, 0.5), (1, 200, 200), 10) for thickness in thicknesses])
    grid = common_grid(data, "canonical")
    assert (grid.order, grid.shape) == ((0, 1, 2), (1.0, 200.0, 200.0))


@pytest.mark.parametrize("spacing", [(5.0, 0.5, 0.7), (0.5, 5.0, 0.7), (0.5, 0.7, 5.0)])
def test_the_grid_stands_in_the_order_of_the_plan(spacing):
    shape = tuple(round(200 / step) for step in spacing)
    grid = common_grid(fingerprint([(spacing, shape, 4)]), "canonical")
    assert grid.spacing == (5.0, 0.5, 0.7)
    assert grid.shape == (40.0, 400.0, 286.0)
    assert grid.dataset_voxels == 4 * 40 * 400 * 286


def test_the_canonical_grid_does_not_depend_on_how_files_are_stored():
    stored = AxisMap(order=(1, 2, 0), flipped=(True, False, True))
    back = stored.inverse()
    plain = fingerprint([((5.0, 0.5, 0.7), (40, 400, 286), 4)])
    turned = fingerprint([(back.reorder((5.0, 0.5, 0.7)), back.reorder((40, 400, 286)), 4)], to_canonical=stored)
    assert common_grid(turned, "canonical") == common_grid(plain, "canonical")
    assert common_grid(turned, "as_stored").order != common_grid(plain, "as_stored").order


def test_a_wished_spacing_is_given_in_the_order_that_the_plan_would_have():
    data = fingerprint([((0.5, 0.7, 5.0), (400, 286, 40), 4)])
    grid = common_grid(data, "canonical", (4.0, 1.0, 1.4))
    assert (grid.order, grid.spacing) == ((2, 0, 1), (4.0, 1.0, 1.4))
    assert grid.shape == (50.0, 200.0, 143.0)
    assert grid.spacing_reason.startswith("as asked for; median of the cases")
    assert grid.spacing_reason.endswith("would be 5 x 0.5 x 0.7")


def test_a_wished_spacing_may_make_another_axis_the_coarsest():
    grid = common_grid(fingerprint([((5.0, 0.5, 0.5), (30, 300, 400), 4)]), "canonical", (1.0, 2.0, 3.0))
    assert (grid.order, grid.spacing) == ((2, 0, 1), (3.0, 1.0, 2.0))


@pytest.mark.parametrize("wanted", [(2.0, 3.0), (0.4, 2.0, 3.0), (9.0, 2.0, 3.0)], ids=["two", "thinner", "thicker"])
@pytest.mark.parametrize("thickness", [0.2, 1.0, 30.0])
def test_2d_images_are_wished_for_by_their_plane_alone(wanted, thickness):
    """A slice stays one slice, and the plane stays the plane, whatever the numbers."""
    grid = common_grid(fingerprint([((thickness, 1.0, 1.0), (1, 300, 400), 4)]), "canonical", wanted)
    assert grid.order == (0, 1, 2)
    assert grid.spacing == (thickness, 2.0, 3.0)
    assert grid.shape == (1.0, 150.0, 133.0)


def test_two_numbers_are_not_enough_for_volumes():
    with pytest.raises(InputError, match="three numbers; found 2 x 3"):
        common_grid(fingerprint([((5.0, 0.5, 0.5), (30, 300, 400), 4)]), "canonical", (2.0, 3.0))


def warnings_of(groups, wanted=()):
    data = fingerprint(groups)
    return large_after_resampling(data, "canonical", common_grid(data, "canonical", wanted))


FINE, COARSE = ((1.0, 1.0, 1.0), (50, 50, 50), 7), ((2.0, 2.0, 2.0), (25, 25, 25), 2)


def test_cases_that_grow_over_three_times_are_named_with_the_remedy():
    (warning,) = warnings_of([FINE, COARSE])
    assert "gives 2 of 9 cases over 3 times their voxels" in warning
    assert "case_0007 (8.0 times), case_0008 (8.0 times). If" in warning
    assert "--spacing 1.39,1.39,1.39" in warning  # the third root of 8 / 3, rounded up


def test_the_largest_three_are_named_first():
    (warning,) = warnings_of([FINE, *(((1.5 + i / 10,) * 3, (20, 20, 20), 1) for i in range(5))])
    assert "gives 5 of 12 cases" in warning
    assert "case_0011 (6.9 times), case_0010 (5.8 times), case_0009 (4.9 times) …" in warning


@pytest.mark.parametrize("times", [1.0, 2.9, 3.0])
def test_cases_that_grow_less_are_not(times):
    assert warnings_of([FINE, ((times, 1.0, 1.0), (30, 50, 50), 2)]) == []


@pytest.mark.parametrize(
    "groups", [[FINE, COARSE], [((5.0, 0.7, 0.7), (30, 300, 300), 9), ((9.0, 1.5, 1.5), (17, 140, 140), 1)]]
)
def test_the_remedy_helps(groups):
    (warning,) = warnings_of(groups)
    suggested = tuple(float(step) for step in warning.rsplit("--spacing ", 1)[1].split(","))
    assert warnings_of(groups, suggested) == []


def test_of_2d_images_only_the_plane_grows():
    thick = [((1.0, 1.0, 1.0), (1, 300, 300), 5), ((20.0, 1.0, 1.0), (1, 300, 300), 1)]
    assert warnings_of(thick) == []
    (warning,) = warnings_of([*thick, ((1.0, 3.0, 2.0), (1, 100, 150), 1)])
    assert "gives 1 of 7 cases over 3 times" in warning
    suggested = warning.rsplit("--spacing ", 1)[1].split(",")
    assert [float(step) for step in suggested] == pytest.approx([math.sqrt(2)] * 2, abs=0.01)


def test_the_plan_carries_the_warning_and_follows_the_wish():
    data = fingerprint([FINE, COARSE])
    plan = DefaultPlanner().plan(data, Budget(), GPU_COST, name="grown")
    assert any("over 3 times" in warning for warning in plan.warnings)
    budget = msgspec.structs.replace(Budget(), wishes=Wishes(spacing=(1.5, 1.5, 1.5)))
    plan = DefaultPlanner().plan(data, budget, GPU_COST, name="coarse")
    assert plan.warnings == ()
    assert plan.configuration("3d_fullres").spacing == (1.5, 1.5, 1.5)
    assert plan.configuration("2d").spacing == (None, 1.5, 1.5)

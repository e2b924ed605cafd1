"""When there is a low resolution, and on what grid; nnU-Net's known answers stand in ``test_known_answers``."""

from __future__ import annotations

import math

import pytest

from autoseg.planning import GIBIBYTE, Budget, Wishes
from planners.lowres import LowResolution, low_resolution
from planners.memory import FittedPatch, Room, fit_count
from planners.presets import NNUNET
from planners.topology import network_topology
from planners.unet import DefaultPlanner, ResidualPlanner
from tests.planners.synthetic import CPU_COST, GPU_COST, fingerprint

Triple = tuple[float, float, float]
ONES = (1.0, 1.0, 1.0)


def fit(spacing: Triple, shape: Triple) -> FittedPatch:
    room = Room(spacing=spacing, shape=shape, dataset_voxels=1e9, memory_bytes=8 * GIBIBYTE)
    return fit_count(room, NNUNET.count_rule, "plain_unet", 2)


def found_for(spacing: Triple, shape: Triple, patch: Triple, **options: float) -> LowResolution | None:
    return low_resolution(spacing, shape, patch, fit, **options)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        (ONES, (432.0, 512.0, 512.0)),
        ((5.0, 0.78, 0.78), (95.0, 512.0, 512.0)),
        ((0.3, 0.7, 0.2), (900.0, 400.0, 990.0)),
    ],
)
def test_a_patch_covers_a_quarter_of_the_image_and_one_step_finer_does_not(spacing, shape):
    low = found_for(spacing, shape, fit(spacing, shape).topology.patch_size)
    assert low is not None
    assert low.shape == pytest.approx([a * b / c for a, b, c in zip(shape, spacing, low.spacing, strict=True)])
    covered = math.prod(low.fitted.topology.patch_size)
    assert covered >= 0.25 * math.prod(low.shape)
    assert covered < 0.25 * math.prod(low.shape) * 1.03**3 * 1.3  # its size may have jumped by a step of the patch
    assert math.prod(shape) / math.prod(low.shape) >= 2


def test_the_finer_axes_grow_coarser_first():
    low = found_for((5.0, 0.78, 0.78), (95.0, 512.0, 512.0), (40, 224, 192))
    assert low.spacing[0] == 5.0
    assert low.spacing[1] == low.spacing[2] > 0.78


def test_what_a_patch_covers_needs_no_low_resolution():
    assert found_for(ONES, (200.0, 200.0, 200.0), (128, 128, 128)) is None


def test_a_grid_that_is_hardly_coarser_is_not_worth_it() -> None:
    """The patch covers a quarter as soon as the grid is a little coarser: no low resolution."""
    assert found_for(ONES, (210.0, 210.0, 210.0), (128, 128, 128)) is None


def test_grids_that_cannot_do_are_skipped_and_the_answer_stays() -> None:
    """At equal memory no patch is three times another: only grids within that reach are fitted."""
    spacing, shape = (1.0, 0.7676, 0.7676), (432.0, 512.0, 512.0)
    asked: list[Triple] = []

    def noted(coarse: Triple, size: Triple) -> FittedPatch:
        asked.append(coarse)
        return fit(coarse, size)

    patch = fit(spacing, shape).topology.patch_size
    whole = low_resolution(spacing, shape, patch, noted)
    every = len(asked)
    asked.clear()
    assert low_resolution(spacing, shape, patch, noted, at_most_times=3.0) == whole
    assert 0 < len(asked) < every


@pytest.mark.parametrize("planner", [DefaultPlanner(), ResidualPlanner()], ids=["default", "residual"])
@pytest.mark.parametrize("gibibytes", [4, 8, 24, 80])
def test_a_plan_has_a_cascade_exactly_where_full_resolution_covers_less_than_a_quarter(planner, gibibytes) -> None:
    for shape in ((100, 140, 120), (250, 300, 300), (432, 512, 512)):
        data = fingerprint([((1.0, 0.8, 0.8), shape, 60)], labels=4)
        plan = planner.plan(data, Budget(memory_bytes=gibibytes * GIBIBYTE), GPU_COST, name="low")
        covered = math.prod(plan.configuration("3d_fullres").patch_size) / math.prod(shape)
        assert ("3d_lowres" in plan.names) == ("3d_cascade_fullres" in plan.names)
        if "3d_lowres" in plan.names:
            low = plan.configuration("3d_lowres")
            assert (
                covered < 0.25 <= math.prod(low.patch_size) / math.prod(low.median_shape) * 1.02
            )  # its size is rounded
        else:
            assert covered > 0.125  # a grid of half the voxels would not have been worth it
        assert plan.configuration("3d_fullres").training.batch_dice is ("3d_lowres" in plan.names)


def test_an_axis_of_few_voxels_keeps_one_at_low_resolution() -> None:
    """Little memory and three slices: a patch covers a quarter only where the slices have become one."""
    data = fingerprint([(ONES, (3, 151, 557), 1)])
    plan = ResidualPlanner().plan(data, Budget(memory_bytes=GIBIBYTE // 2), CPU_COST, name="thin")
    assert plan.configuration("3d_lowres").median_shape[0] == 1
    assert plan.configuration("3d_lowres").patch_size[0] == 1


def test_a_cascade_is_fitted_with_its_own_inputs_and_wishes() -> None:
    """It has 60 more input channels, so that under the default planner less of a patch fits than without."""
    data = fingerprint([((1.0, 0.8, 0.8), (432, 512, 512), 60)], labels=61)
    wishes = Wishes(batch_sizes=(("3d_cascade_fullres", 5),))
    for budget in (Budget(), Budget(wishes=wishes)):
        plan = DefaultPlanner().plan(data, budget, GPU_COST, name="cascade")
        full, cascade = plan.configuration("3d_fullres"), plan.configuration("3d_cascade_fullres")
        assert cascade.network.input_channels == 61
        assert math.prod(cascade.patch_size) <= math.prod(full.patch_size)
        assert (cascade.inherits_from, cascade.previous_stage) == ("3d_fullres", "3d_lowres")
    assert (full.batch_size, cascade.batch_size) == (2, 5)


def test_a_network_of_the_low_grid_fits_its_spacing() -> None:
    low = found_for((5.0, 0.78, 0.78), (95.0, 512.0, 512.0), (40, 224, 192))
    assert low.fitted.topology == network_topology(low.spacing, low.fitted.topology.patch_size)

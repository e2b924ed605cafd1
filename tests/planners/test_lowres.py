"""The low resolution: nnU-Net's known answers, and what they mean for the training of full resolution."""

from __future__ import annotations

import math

import pytest

from autoseg.planning import GIBIBYTE, Budget
from planners.lowres import low_resolution
from planners.memory import fit_patch
from planners.unet import NnunetPlanner
from tests.planners.synthetic import fingerprint
from tests.planners.test_known_answers import PLANS

#: name of a plan: spacing, patch and batch of its low resolution; None: it has none
LOW_RESOLUTIONS = {
    "hippocampus": None,
    "brain": None,
    "prostate": None,
    "liver": ((2.4273, 1.8632, 1.8632), (128, 128, 128), 2),
    "lung": ((2.376, 1.5041, 1.5041), (80, 192, 160), 2),
    "pancreas": ((2.575, 1.2881, 1.2881), (56, 224, 192), 2),
    "colon": ((5, 1.3677, 1.3677), (56, 192, 192), 2),
}


@pytest.mark.parametrize("name", LOW_RESOLUTIONS)
def test_known_answers(name: str) -> None:
    groups, labels, _, _, (patch, _) = PLANS[name]
    ((spacing, shape, cases),) = groups

    def fit(coarse, size):
        return fit_patch(
            coarse,
            [round(edge) for edge in size],
            dataset_voxels=math.prod(size) * cases,
            label_count=labels,
            memory_bytes=8 * GIBIBYTE,
            scale_2d_elements=True,
        )

    found = low_resolution(spacing, shape, patch, fit)
    if LOW_RESOLUTIONS[name] is None:
        assert found is None
    else:
        coarse, patch_size, batch_size = LOW_RESOLUTIONS[name]
        assert found.spacing == pytest.approx(coarse, abs=1e-4)
        assert (found.fitted.topology.patch_size, found.fitted.batch_size) == (patch_size, batch_size)
        assert found.shape == pytest.approx([a * b / c for a, b, c in zip(shape, spacing, found.spacing, strict=True)])


@pytest.mark.parametrize("name", LOW_RESOLUTIONS)
def test_full_resolution_takes_dice_over_the_batch_where_there_is_a_low_one(name: str) -> None:
    groups, labels, channels, *_ = PLANS[name]
    data = fingerprint(groups, labels=labels, channels=["MRI"] * channels)
    plan = NnunetPlanner().plan(data, Budget(), lambda *_: 0, name="golden")
    assert plan.configuration("2d").training.batch_dice
    assert plan.configuration("3d_fullres").training.batch_dice is (LOW_RESOLUTIONS[name] is not None)


def test_a_grid_that_is_hardly_coarser_is_not_worth_it() -> None:
    """The patch covers a quarter as soon as the grid is a little coarser: no low resolution."""

    def fit(coarse, size):
        return fit_patch(coarse, size, dataset_voxels=1e9, label_count=2, memory_bytes=8 * GIBIBYTE)

    assert low_resolution((1.0, 1.0, 1.0), (210.0, 210.0, 210.0), (128, 128, 128), fit) is None

"""How long a configuration is trained by default: a law of the data and the plan, with limits."""

from __future__ import annotations

import itertools
import math

import pytest

from autoseg.planning import Budget
from planners.training import EPOCH, ON_CPU, ON_GPU, length
from planners.unet import DefaultPlanner, NnunetPlanner
from tests.planners.synthetic import CPU_COST, GPU_COST, fingerprint

PATCH = (40, 56, 40)


def epochs(voxels: float, *, device: str = "cpu", batch_size: int = 2, as_nnunet: bool = False) -> int:
    return length(
        as_nnunet=as_nnunet, device=device, dataset_voxels=voxels, patch_size=PATCH, batch_size=batch_size
    ).epochs


@pytest.mark.parametrize(("device", "rule"), [("cpu", ON_CPU), ("cuda", ON_GPU), ("mps", ON_GPU)])
def test_more_data_is_trained_for_longer_within_the_limits(device, rule):
    lengths = [epochs(10.0**power, device=device) for power in range(3, 14)]
    assert all(before <= after for before, after in itertools.pairwise(lengths))
    assert (lengths[0], lengths[-1]) == (rule.fewest, rule.most)


def test_a_length_between_the_limits_sees_so_many_times_the_data():
    voxels = 13e6
    patches = 2 * math.prod(PATCH)
    assert ON_CPU.fewest < epochs(voxels) < ON_CPU.most
    assert epochs(voxels) == math.ceil(ON_CPU.passes * voxels / patches / EPOCH)
    assert epochs(voxels, batch_size=4) <= epochs(voxels)


def test_the_reason_tells_how_often_the_data_is_seen():
    told = length(as_nnunet=False, device="cpu", dataset_voxels=13e6, patch_size=PATCH, batch_size=2)
    seen = told.epochs * EPOCH * 2 * math.prod(PATCH) / 13e6
    assert f"sees {seen:.0f} times the voxels" in told.reason


@pytest.mark.parametrize("voxels", [1e4, 1e12])
def test_nnunets_length_is_the_same_for_all_data(voxels):
    assert epochs(voxels, as_nnunet=True) == 1000


@pytest.mark.parametrize("planner", [DefaultPlanner, NnunetPlanner])
def test_a_plan_holds_the_length_of_its_own_data(planner):
    for cases, device, cost in itertools.product((20, 200, 2000), ("cpu", "cuda"), (CPU_COST, GPU_COST)):
        data = fingerprint([((1.0, 1.0, 1.0), (36, 50, 35), cases)])
        plan = planner().plan(data, Budget(device=device), cost, name="long")
        for each in plan.configurations:
            expected = length(
                as_nnunet=planner is NnunetPlanner,
                device=device,
                dataset_voxels=math.prod(each.median_shape) * cases,
                patch_size=each.patch_size,
                batch_size=each.batch_size,
            )
            assert (each.training.epochs, each.reasons["length"]) == (expected.epochs, expected.reason)

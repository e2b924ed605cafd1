"""What a plan tells its reader: why each configuration exists, and what does not keep the budget."""

from __future__ import annotations

import re

import msgspec
import pytest

from autoseg.planning import GIBIBYTE, Budget, Wishes
from autoseg.values import Plan
from planners.reasons import over_budget
from planners.unet import DefaultPlanner, NnunetPlanner, ResidualPlanner
from tests.planners.synthetic import CPU_COST, GPU_COST, fingerprint

LARGE = [((1.0, 0.7676, 0.7676), (432, 512, 512), 131)]
THICK = [((3.6, 0.625, 0.625), (20, 320, 320), 32)]
SMALL = [((1.0, 1.0, 1.0), (36, 50, 35), 200)]


def plan_of(groups, planner=DefaultPlanner, cost=GPU_COST, **budget) -> Plan:
    return planner().plan(fingerprint(groups), Budget(**budget), cost, name="told")


def share_told(plan: Plan, name: str) -> int:
    return int(re.search(r"covers (\d+)% of the median image", plan.configuration(name).reasons["purpose"])[1])


def test_every_configuration_says_what_it_is_for():
    plan = plan_of(LARGE)
    purposes = {each.name: each.reasons["purpose"] for each in plan.configurations}
    assert "slices" in purposes["2d"]
    assert "full resolution" in purposes["3d_fullres"]
    assert "more coarsely" in purposes["3d_lowres"]
    assert "refines the prediction of 3d_lowres" in purposes["3d_cascade_fullres"]


@pytest.mark.parametrize("gibibytes", [4, 8, 24])
def test_the_share_that_a_patch_covers_is_in_millimetres_and_at_most_everything(gibibytes):
    plan = plan_of(LARGE, memory_bytes=gibibytes * GIBIBYTE)
    for name in ("3d_fullres", "3d_lowres"):
        each, share = plan.configuration(name), 1.0
        for edge, step, size, own in zip(
            each.patch_size, each.spacing, (432, 512, 512), (1.0, 0.7676, 0.7676), strict=True
        ):
            share *= min(1.0, edge * step / (size * own))
        assert share_told(plan, name) == round(100 * share)
    assert share_told(plan, "3d_fullres") < 25 <= share_told(plan, "3d_lowres")
    assert share_told(plan_of(SMALL), "3d_fullres") == 100


def test_patch_and_batch_say_what_bounds_them():
    small = plan_of(SMALL, device="cuda").configuration("3d_fullres")
    large = plan_of(LARGE, device="cuda").configuration("3d_fullres")
    assert small.reasons["patch size"] == "covers the median image, padded to the network's poolings"
    assert "5% of the data set's voxels (memory would allow" in small.reasons["batch size"]
    assert "fits the memory" in large.reasons["patch size"]
    slices = plan_of(LARGE, device="cuda").configuration("2d")
    assert slices.reasons["batch size"] == f"as many as fit the memory ({slices.batch_size})"


def test_on_a_cpu_batches_are_small_and_say_so():
    plan = plan_of(SMALL, device="cpu")
    assert [each.batch_size for each in plan.configurations] == [16, 2]
    assert all("on a CPU" in each.reasons["batch size"] for each in plan.configurations)
    wished = plan_of(SMALL, device="cpu", wishes=Wishes(batch_sizes=(("", 5),)))
    assert [each.batch_size for each in wished.configurations] == [5, 5]
    tight = plan_of(LARGE, device="cpu", memory_bytes=2 * GIBIBYTE).configuration("2d")
    assert tight.batch_size < 16
    assert tight.reasons["batch size"] == f"as many as fit the memory ({tight.batch_size})"
    batches = [
        [each.batch_size for each in plan_of(SMALL, NnunetPlanner, device=device).configurations]
        for device in ("cpu", "cuda")
    ]
    assert batches[0] == batches[1]


def test_wishes_are_named_as_such():
    wishes = Wishes(patch_sizes=(("", (100, 64, 64)), ("2d", (64, 64))), batch_sizes=(("", 3),), spacing=(2, 1, 1))
    for each in plan_of(LARGE, wishes=wishes).configurations:
        asked = (
            "as asked for" if each.name == "2d" else "asked for 100 x 64 x 64; the nearest that the poolings divide is"
        )
        assert each.reasons["patch size"].startswith(asked)
        assert each.reasons["batch size"] == "as asked for"
        assert each.name == "3d_lowres" or each.reasons["spacing"].startswith("as asked for; median of the cases would")


@pytest.mark.parametrize("planner", [DefaultPlanner, ResidualPlanner, NnunetPlanner])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_and_length_are_those_of_the_budget(planner, device):
    for each in plan_of(THICK, planner, memory_bytes=6 * GIBIBYTE, device=device).configurations:
        assert "planned for 6 GiB" in each.reasons["memory"]
        assert ("nnU-Net's count" in each.reasons["memory"]) == (planner is NnunetPlanner)
        told = (
            "nnU-Net's length" if planner is NnunetPlanner else "for a CPU" if device == "cpu" else "50,000 iterations"
        )
        assert told in each.reasons["length"]


def test_thick_slices_are_told_apart_from_cubes():
    assert "a factor of 5.8" in plan_of(THICK).configuration("3d_fullres").reasons["anisotropy"]
    assert "all axes are treated alike" in plan_of(SMALL).configuration("3d_fullres").reasons["anisotropy"]
    flat = plan_of([((1.0, 1.0, 1.0), (1, 300, 300), 20)])
    assert flat.configuration("2d").reasons["anisotropy"] == "the images are 2D"


def test_what_takes_more_than_planned_for_is_warned_about():
    """nnU-Net supposes 16 bits: in fp32 on a CPU its plans take more than their count says."""
    plan = plan_of(LARGE, NnunetPlanner, CPU_COST)
    over = [each.name for each in plan.configurations if each.expected_memory_bytes > plan.budget_bytes]
    assert "3d_fullres" in over
    assert [warning.split()[0] for warning in plan.warnings] == over
    for warning in plan.warnings:
        assert "more than the 8 GiB planned for" in warning
        assert "preset default keeps its budget" in warning


def test_what_keeps_the_budget_exactly_is_not():
    plan = plan_of(SMALL)
    for more, warnings in ((0, 0), (1, 1)):
        takes = msgspec.structs.replace(plan.configurations[0], expected_memory_bytes=8 * GIBIBYTE + more)
        assert len(over_budget(NnunetPlanner().preset, Budget(), [takes])) == warnings

"""What every planner plug promises: see ``autoseg.planning.Planner``."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence

import msgspec
import pytest

from autoseg import plugins
from autoseg.errors import InputError, UnknownNameError
from autoseg.planning import GIBIBYTE, Budget, MemoryCost, Planner, Wishes
from autoseg.values import AxisMap, Fingerprint, Label, Labels, NetworkSpec, Plan, TrainingSpec, decode, encode
from tests.conftest import TINY_PRESET
from tests.planners.synthetic import CPU_COST, fingerprint

ISOTROPIC = [((1.0, 1.0, 1.0), (36, 50, 35), 20)]
THICK = [((3.6, 0.625, 0.625), (20, 320, 320), 32)]
MIXED = [
    ((10.0, 1.5, 1.5), (9, 256, 216), 14),
    ((5.0, 1.5, 1.5), (18, 256, 216), 6),
    ((1.0, 1.0, 1.0), (80, 90, 99), 3),
]
FLAT = [((1.0, 0.5, 0.5), (1, 300, 420), 24)]
LARGE = [((2.0, 0.8, 0.8), (200, 512, 512), 40)]
TUMOUR = (Label(name="tumour", values=(1, 2)), Label(name="core", values=(2,)))


def with_labels(labels: Labels) -> Fingerprint:
    return msgspec.structs.replace(fingerprint(ISOTROPIC), labels=labels)


DATA = {
    "isotropic": fingerprint(ISOTROPIC),
    "thick slices": fingerprint(THICK),
    "mixed cases": fingerprint(MIXED),
    "planar": fingerprint(FLAT, channels=["rgb_to_0_1"] * 3),
    "several channels": fingerprint(ISOTROPIC, channels=["CT", "T1", "noNorm", "PET"]),
    "large": fingerprint(LARGE, labels=4),
    "sides": fingerprint(ISOTROPIC, names=["left kidney", "right kidney"]),
    "regions": with_labels(Labels(foreground=TUMOUR, region_values=(1, 2))),
    "ignore label": with_labels(Labels(foreground=TUMOUR[1:], ignore=3)),
    "stored otherwise": fingerprint(THICK, to_canonical=AxisMap(order=(1, 2, 0), flipped=(True, False, True))),
    "no foreground": msgspec.structs.replace(fingerprint(ISOTROPIC), intensities=(None,)),
}
NAMES = (*plugins.available("planner"), TINY_PRESET)
each_name = pytest.mark.parametrize("name", NAMES)
each = pytest.mark.parametrize("planner", [pytest.param(plugins.load("planner", name)(), id=name) for name in NAMES])
#: The others plan by nnU-Net's count of feature maps, as their plans say.
KEEP_THE_BUDGET = [name for name in NAMES if not name.startswith("nnunet")]
each_that_keeps_the_budget = pytest.mark.parametrize(
    "planner", [pytest.param(plugins.load("planner", name)(), id=name) for name in KEEP_THE_BUDGET]
)
each_that_counts = pytest.mark.parametrize(
    "planner", [pytest.param(plugins.load("planner", name)(), id=name) for name in NAMES if name not in KEEP_THE_BUDGET]
)
any_data = pytest.mark.parametrize("data", DATA.values(), ids=DATA)


def plan_of(planner: Planner, data: Fingerprint, name: str = "mine", **budget: object) -> Plan:
    return planner.plan(data, Budget(**budget), CPU_COST, name=name)


def dear(network: NetworkSpec, patch_size: Sequence[int], batch_size: int, training: TrainingSpec) -> int:
    """A device on which everything takes half as much again."""
    return 3 * CPU_COST(network, patch_size, batch_size, training) // 2


@each_name
@any_data
def test_the_same_question_has_the_same_answer(name: str, data: Fingerprint) -> None:
    planner, again = (plugins.load("planner", name)() for _ in range(2))
    assert encode(plan_of(planner, data)) == encode(plan_of(planner, data)) == encode(plan_of(again, data))


@each
@any_data
def test_the_plan_survives_its_json_form(planner: Planner, data: Fingerprint) -> None:
    """So it holds values only."""
    plan = plan_of(planner, data)
    assert type(plan) is Plan
    assert decode(Plan, encode(plan)) == plan
    assert decode(Plan, encode(plan)).id == plan.id


@each
@any_data
def test_the_plan_is_for_this_data_and_budget(planner: Planner, data: Fingerprint) -> None:
    plan = plan_of(planner, data, "my plan", seed=7, memory_bytes=6 * GIBIBYTE)
    assert (plan.name, plan.seed, plan.budget_bytes) == ("my plan", 7, 6 * GIBIBYTE)
    assert (plan.dataset, plan.channels, plan.file_ending) == (data.dataset, data.channels, data.file_ending)
    assert plan.labels == data.labels
    for each in plan.configurations:
        before = len(data.labels.foreground) if each.previous_stage else 0
        assert each.network.input_channels == len(data.channels) + before
        assert each.network.output_channels == data.labels.output_count


@each
@any_data
def test_every_patch_is_divisible_by_the_strides(planner: Planner, data: Fingerprint) -> None:
    for each in plan_of(planner, data).configurations:
        assert not any(edge % step for edge, step in zip(each.patch_size, each.network.divisor, strict=True))


@each
@any_data
def test_every_name_in_the_plan_is_an_installed_plug(planner: Planner, data: Fingerprint) -> None:
    plan = plan_of(planner, data)
    assert {spec.scheme for spec in plan.normalization} <= set(plugins.available("normalizer"))
    for each in plan.configurations:
        for kind, name in {
            "network": each.network.architecture,
            "resampler": each.resampling.resampler,
            "recipe": each.augmentation.recipe,
            "loss": each.training.loss,
            "schedule": each.training.schedule,
        }.items():
            assert name in plugins.available(kind)


@each_that_keeps_the_budget
@any_data
@pytest.mark.parametrize("cost", [CPU_COST, dear])
@pytest.mark.parametrize("gibibytes", [1, 3, 16])
def test_every_configuration_is_within_the_budget(
    planner: Planner, data: Fingerprint, cost: MemoryCost, gibibytes: int
) -> None:
    plan = planner.plan(data, Budget(memory_bytes=gibibytes * GIBIBYTE), cost, name="mine")
    for each in plan.configurations:
        taken = cost(each.network, each.patch_size, each.batch_size, each.training)
        assert taken <= gibibytes * GIBIBYTE


@each_that_counts
@any_data
@pytest.mark.parametrize("gibibytes", [1, 8])
def test_what_exceeds_the_budget_is_warned_about(planner: Planner, data: Fingerprint, gibibytes: int) -> None:
    plan = planner.plan(data, Budget(memory_bytes=gibibytes * GIBIBYTE), CPU_COST, name="mine")
    for each in plan.configurations:
        over = each.expected_memory_bytes > plan.budget_bytes
        assert any(warning.startswith(f"{each.name} will take about") for warning in plan.warnings) == over


@each
@any_data
def test_the_expected_memory_is_the_cost_of_what_was_planned(planner: Planner, data: Fingerprint) -> None:
    """TinyPlanner cuts the networks of a plan after it was made, so it expects too much."""
    for each in plan_of(planner, data).configurations:
        taken = CPU_COST(each.network, each.patch_size, each.batch_size, each.training)
        assert each.expected_memory_bytes == taken or (type(planner).__name__ == "TinyPlanner" and taken > 0)


@each
@any_data
def test_a_stage_before_another_and_what_it_inherits_from_are_in_the_plan(planner: Planner, data: Fingerprint) -> None:
    names = plan_of(planner, data).names
    for each in plan_of(planner, data).configurations:
        assert {each.previous_stage, each.inherits_from} <= {None, *names}
        assert each.name not in (each.previous_stage, each.inherits_from)


@each
@any_data
def test_wishes_are_granted_or_refused(planner: Planner, data: Fingerprint) -> None:
    """What is wished for one configuration changes that alone."""
    wishes = Wishes(batch_sizes=(("2d", 3),), patch_sizes=(("2d", (32, 48)),), normalization=(("0", "none"),))
    plan, usual = plan_of(planner, data, wishes=wishes), plan_of(planner, data)
    assert plan.normalization[0].scheme == "none"
    assert plan.normalization[1:] == usual.normalization[1:]
    assert plan.configurations[1:] == usual.configurations[1:]
    flat = plan.configuration("2d")
    assert flat.patch_size == (32, 48)
    assert flat.batch_size == 3 or type(planner).__name__ == "TinyPlanner"
    for nowhere in (
        {"batch_sizes": (("4d", 3),)},
        {"patch_sizes": (("4d", (8, 8)),)},
        {"normalization": (("4d", "none"),)},
    ):
        with pytest.raises(UnknownNameError, match="'4d'"):
            plan_of(planner, data, wishes=Wishes(**nowhere))


@each
def test_ct_without_any_foreground_is_refused_with_the_remedy(planner: Planner) -> None:
    """There is nothing to take its statistics from; another scheme can be wished."""
    data = msgspec.structs.replace(fingerprint(ISOTROPIC, channels=["CT"]), intensities=(None,))
    with pytest.raises(InputError, match="--normalization CT=zscore"):
        plan_of(planner, data)
    wished = plan_of(planner, data, wishes=Wishes(normalization=(("CT", "zscore"),)))
    assert wished.normalization[0].scheme == "zscore"


@each
@any_data
def test_only_wanted_configurations_are_planned_and_as_among_all(planner: Planner, data: Fingerprint) -> None:
    whole = plan_of(planner, data)
    for name in whole.names:
        part = plan_of(planner, data, configurations=(name,))
        assert set(part.names) == {name} | ({"3d_fullres", "3d_lowres"} if name == "3d_cascade_fullres" else set())
        assert all(part.configuration(each) == whole.configuration(each) for each in part.names)
    assert set(plan_of(planner, data, configurations=whole.names[::-1]).names) == set(whole.names)


@each
@any_data
def test_an_unknown_configuration_is_refused_by_name(planner: Planner, data: Fingerprint) -> None:
    known = plan_of(planner, data).names
    with pytest.raises(UnknownNameError, match=r"4d_hyper.*" + known[0]):
        plan_of(planner, data, configurations=(known[0], "4d_hyper"))


@each
@any_data
def test_the_order_of_the_cases_does_not_matter(planner: Planner, data: Fingerprint) -> None:
    for seed in range(3):
        cases = random.Random(seed).sample(data.cases, len(data.cases))
        assert plan_of(planner, msgspec.structs.replace(data, cases=tuple(cases))) == plan_of(planner, data)


@each
def test_flat_images_get_flat_patches(planner: Planner) -> None:
    assert {each.dimensions for each in plan_of(planner, DATA["planar"]).configurations} == {2}


@each
@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((1.0, 1.0, 1.0), (7, 7, 7)), ((0.5, 1.2, 1.2), (10, 200, 200)), ((3.0, 0.5, 3.0), (30, 8, 40))],
    ids=["tiny", "thin and fine", "small and fine"],
)
def test_images_too_small_to_pool_are_planned_for_or_refused_as_input(planner: Planner, spacing, shape) -> None:
    with contextlib.suppress(InputError):
        assert plan_of(planner, fingerprint([(spacing, shape, 9)])).names

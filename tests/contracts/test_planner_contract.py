"""What every planner plug promises: see ``autoseg.planning.Planner``."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest

from autoseg import plugins
from autoseg.errors import InputError, UnknownNameError
from autoseg.planning import GIBIBYTE, Budget, MemoryCost, Planner
from autoseg.values import AxisMap, Fingerprint, Label, Labels, Plan, decode, encode
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
TUMOUR = (Label(name="tumour", values=(1, 2)), Label(name="core", values=(2,)))


def with_labels(labels: Labels) -> Fingerprint:
    return msgspec.structs.replace(fingerprint(ISOTROPIC), labels=labels)


DATA = {
    "isotropic": fingerprint(ISOTROPIC),
    "thick slices": fingerprint(THICK),
    "mixed cases": fingerprint(MIXED),
    "planar": fingerprint(FLAT, channels=["rgb_to_0_1"] * 3),
    "several channels": fingerprint(ISOTROPIC, channels=["CT", "T1", "noNorm", "PET"]),
    "sides": fingerprint(ISOTROPIC, names=["left kidney", "right kidney"]),
    "regions": with_labels(Labels(foreground=TUMOUR, region_values=(1, 2))),
    "ignore label": with_labels(Labels(foreground=TUMOUR[1:], ignore=3)),
    "stored otherwise": fingerprint(THICK, to_canonical=AxisMap(order=(1, 2, 0), flipped=(True, False, True))),
    "no foreground": msgspec.structs.replace(fingerprint(ISOTROPIC, channels=["CT"]), intensities=(None,)),
}
NAMES = (*plugins.available("planner"), TINY_PRESET)
each = pytest.mark.parametrize("planner", [pytest.param(plugins.load("planner", name)(), id=name) for name in NAMES])
#: nnunet plans by nnU-Net's count of feature maps instead, as its plans say.
each_that_keeps_the_budget = pytest.mark.parametrize(
    "planner", [pytest.param(plugins.load("planner", name)(), id=name) for name in NAMES if name != "nnunet"]
)
any_data = pytest.mark.parametrize("data", DATA.values(), ids=DATA)


def plan_of(planner: Planner, data: Fingerprint, name: str = "mine", **budget: object) -> Plan:
    return planner.plan(data, Budget(**budget), CPU_COST, name=name)


def dear(network, patch_size, batch_size):
    """A device on which everything takes three times as much."""
    return 3 * CPU_COST(network, patch_size, batch_size)


@each
@any_data
def test_the_same_question_has_the_same_answer(planner: Planner, data: Fingerprint) -> None:
    again = plugins.load("planner", f"{type(planner).__module__}:{type(planner).__name__}")()
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
        assert each.network.input_channels == len(data.channels)
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
        assert cost(each.network, each.patch_size, each.batch_size) <= gibibytes * GIBIBYTE


@each
@any_data
def test_only_wanted_configurations_are_planned_and_as_among_all(planner: Planner, data: Fingerprint) -> None:
    whole = plan_of(planner, data)
    for name in whole.names:
        assert plan_of(planner, data, configurations=(name,)).configurations == (whole.configuration(name),)
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

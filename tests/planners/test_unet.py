"""The default planner: laws that its plans keep."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import msgspec
import pytest

from autoseg.errors import InputError, UnknownNameError
from autoseg.planning import GIBIBYTE, Budget, Wishes
from autoseg.values import AxisMap, Plan, decode, encode
from planners.unet import DefaultPlanner, NnunetPlanner, ResidualPlanner
from tests.planners.synthetic import CPU_COST, GPU_COST, fingerprint

GOLDEN = Path(__file__).parent / "golden"
ISOTROPIC = [((1.0, 1.0, 1.0), (36, 50, 35), 200)]
LARGE = [((1.0, 0.7676, 0.7676), (432, 512, 512), 131)]
THICK = [((3.6, 0.625, 0.625), (20, 320, 320), 32)]


def plan_of(groups, budget=None, **options):
    return DefaultPlanner().plan(fingerprint(groups, **options), budget or Budget(), CPU_COST, name="default")


@pytest.mark.parametrize(
    ("planner", "groups", "cost", "name"),
    [
        (DefaultPlanner, THICK, CPU_COST, "DefaultPlanner"),
        (ResidualPlanner, THICK, GPU_COST, "ResidualPlanner"),
        (DefaultPlanner, LARGE, GPU_COST, "Cascade"),
        (NnunetPlanner, THICK, CPU_COST, "NnunetPlanner"),
    ],
)
def test_plan_equals_the_golden_document(planner, groups, cost, name):
    """The whole plan.json; after an intended change, write it anew (AUTOSEG_WRITE_GOLDEN=1) and read the difference."""
    plan = planner().plan(fingerprint(groups, labels=3), Budget(), cost, name=name)
    file = GOLDEN / f"{name}.json"
    if os.environ.get("AUTOSEG_WRITE_GOLDEN"):
        file.write_bytes(encode(plan))
    expected = file.read_bytes()
    assert encode(plan) == expected
    assert decode(Plan, expected) == plan


@pytest.mark.parametrize("groups", [ISOTROPIC, LARGE, THICK])
@pytest.mark.parametrize("gibibytes", [4, 8, 11, 24, 80])
def test_no_plan_exceeds_its_budget(groups, gibibytes):
    plan = plan_of(groups, Budget(memory_bytes=gibibytes * GIBIBYTE))
    for configuration in plan.configurations:
        assert configuration.expected_memory_bytes <= gibibytes * GIBIBYTE
        assert configuration.batch_size >= 2


@pytest.mark.parametrize("groups", [LARGE, THICK])
def test_more_memory_never_means_less(groups):
    """The voxels of a batch do not decrease with the budget."""

    def voxels(gibibytes):
        plan = plan_of(groups, Budget(memory_bytes=gibibytes * GIBIBYTE))
        sizes = [configuration.patch_size for configuration in plan.configurations]
        batches = [configuration.batch_size for configuration in plan.configurations]
        products = [size[0] * size[1] * (size[2] if len(size) == 3 else 1) for size in sizes]
        return [product * batch for product, batch in zip(products, batches, strict=True)]

    steps = [voxels(gibibytes) for gibibytes in (4, 8, 16, 32, 64)]
    assert all(
        more >= less for fewer, greater in itertools.pairwise(steps) for less, more in zip(fewer, greater, strict=True)
    )


def test_every_patch_suits_its_network():
    for groups, configuration in itertools.product([ISOTROPIC, LARGE, THICK], ["2d", "3d_fullres"]):
        planned = plan_of(groups).configuration(configuration)
        assert all(edge % step == 0 for edge, step in zip(planned.patch_size, planned.network.divisor, strict=True))


def test_orientation_of_files_does_not_matter():
    """Cases stored with their axes permuted give the same configurations as canonical ones."""
    (spacing, shape, count) = THICK[0]
    stored = AxisMap(order=(1, 2, 0), flipped=(True, False, True))  # canonical axis i is stored axis order[i]
    back = stored.inverse()
    permuted = [(back.reorder(spacing), back.reorder(shape), count)]
    assert plan_of(permuted, to_canonical=stored).configurations == plan_of(THICK).configurations


def test_left_and_right_are_not_exchanged():
    paired = plan_of(ISOTROPIC, names=["left kidney", "right kidney"])
    unpaired = plan_of(ISOTROPIC, names=["left atrium", "myocardium"])
    for name, axis in (("2d", 1), ("3d_fullres", 2)):  # x is the last array axis
        assert axis not in paired.configuration(name).augmentation.mirror_axes
        assert axis in unpaired.configuration(name).augmentation.mirror_axes
    assert "left kidney / right kidney" in paired.reasons["left and right"]


def with_centres(fingerprint_, left, right):
    """Every case holds both kidneys, with these centres in millimetres along z, y, x."""
    cases = tuple(
        msgspec.structs.replace(case, label_counts={"0": 9, "1": 90, "2": 90}, label_centres={"1": left, "2": right})
        for case in fingerprint_.cases
    )
    return msgspec.structs.replace(fingerprint_, cases=cases)


ON_THE_LEFT, ON_THE_RIGHT = (18.0, 20.0, 30.0), (18.0, 20.0, 5.0)


@pytest.mark.parametrize(
    ("spacing", "flat", "full"),
    [((1.0, 1.0, 1.0), 1, 2), ((1.0, 3.0, 1.0), 1, 2), ((1.0, 1.0, 4.0), None, 0)],
    ids=["axial", "coronal", "sagittal"],
)
def test_confirmed_sides_change_places_along_the_axis_that_is_left_to_right_in_each_patch(spacing, flat, full):
    """Between sagittal slices 2d does not mirror at all: there is nothing to exchange."""
    data = fingerprint([(spacing, (60, 64, 62), 20)], names=["left kidney", "right kidney"])
    plan = DefaultPlanner().plan(with_centres(data, ON_THE_LEFT, ON_THE_RIGHT), Budget(), CPU_COST, name="sides")
    for name, axis in (("2d", flat), ("3d_fullres", full)):
        spec = plan.configuration(name).augmentation
        assert spec.mirror_axes == tuple(range(plan.configuration(name).dimensions))
        assert (spec.swap_axis, spec.swapped_labels) == (axis, () if axis is None else ((1, 2),))
    assert "exchanges them" in plan.reasons["left and right"]


def test_contradicted_sides_are_not_mirrored_and_nnunet_mirrors_whatever_they_are():
    data = with_centres(fingerprint(ISOTROPIC, names=["left kidney", "right kidney"]), ON_THE_RIGHT, ON_THE_LEFT)
    ours, theirs = (
        planner().plan(data, Budget(), CPU_COST, name="sides") for planner in (DefaultPlanner, NnunetPlanner)
    )
    assert ours.configuration("3d_fullres").augmentation.mirror_axes == (0, 1)
    assert theirs.configuration("3d_fullres").augmentation.mirror_axes == (0, 1, 2)
    assert any("lies on the patient's right" in warning for warning in ours.warnings)
    assert "nothing is mirrored along the left-right axis" in ours.reasons["left and right"]
    assert "as nnU-Net does" in theirs.reasons["left and right"]
    confirmed = with_centres(data, ON_THE_LEFT, ON_THE_RIGHT)
    theirs = NnunetPlanner().plan(confirmed, Budget(), CPU_COST, name="sides")
    assert theirs.configuration("3d_fullres").augmentation.swap_axis is None


def test_normalization_follows_the_channel_name():
    plan = plan_of(ISOTROPIC, channels=["CT", "T1", "noNorm", "rescale_to_0_1", "RGB_to_0_1"])
    schemes = [spec.scheme for spec in plan.normalization]
    assert schemes == ["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"]
    assert plan.normalization[0].properties is not None


def test_mask_is_used_where_cropping_removed_much():
    assert plan_of(ISOTROPIC, crop=0.5).normalization[0].use_mask
    assert not plan_of(ISOTROPIC, crop=0.9).normalization[0].use_mask


def test_only_wanted_configurations_are_planned():
    assert plan_of(ISOTROPIC, Budget(configurations=("2d",))).names == ("2d",)
    with pytest.raises(UnknownNameError, match=r"3d_superres.*2d or 3d_fullres"):
        plan_of(ISOTROPIC, Budget(configurations=("3d_superres",)))


def test_flat_images_get_a_2d_plan_only():
    plan = plan_of([((1.0, 1.0, 1.0), (1, 512, 512), 24)])
    assert plan.names == ("2d",)
    assert plan.configuration("2d").patch_size == (512, 512)
    with pytest.raises(UnknownNameError, match="cannot be planned"):
        plan_of([((1.0, 1.0, 1.0), (1, 512, 512), 24)], Budget(configurations=("3d_fullres",)))


def test_every_choice_has_a_reason():
    for configuration in plan_of(THICK).configurations:
        expected = {"spacing", "anisotropy", "patch size", "pooling", "batch size", "memory", "length"}
        assert expected <= configuration.reasons.keys()
        assert all(configuration.reasons.values())


def test_what_is_not_wanted_need_not_fit():
    """Where volumes are more than the memory, slices can still be planned."""

    def dear_in_3d(network, patch_size, batch_size, training):
        return CPU_COST(network, patch_size, batch_size, training) * (100 if len(patch_size) == 3 else 1)

    data, budget = fingerprint(ISOTROPIC), Budget(configurations=("2d",))
    assert DefaultPlanner().plan(data, budget, dear_in_3d, name="flat").names == ("2d",)
    with pytest.raises(InputError, match="too small for any network"):
        DefaultPlanner().plan(data, Budget(), dear_in_3d, name="all")


@pytest.mark.parametrize("wishes", [Wishes(), Wishes(patch_sizes=(("", (128, 128, 128)),))], ids=["none", "a patch"])
def test_the_budget_that_is_named_does_for_what_did_not_fit_first_and_for_the_rest(wishes):
    """Slices come first; volumes need more, and a cascade with its sixty further inputs most."""
    data = fingerprint(LARGE, labels=61)

    def dear_in_3d(network, patch_size, batch_size, training):
        return CPU_COST(network, patch_size, batch_size, training) * (4 if len(patch_size) == 3 else 1)

    def planned(gibibytes: float) -> Plan:
        budget = Budget(memory_bytes=int(gibibytes * GIBIBYTE), wishes=wishes)
        return DefaultPlanner().plan(data, budget, dear_in_3d, name="all")

    with pytest.raises(InputError, match=r"\b0\.3 GiB") as refused:
        planned(0.3)
    enough = float(re.search(r"--gpu-memory ([0-9.]+)\.$", str(refused.value))[1])
    assert "3d_cascade_fullres" in planned(enough).names
    with pytest.raises(InputError, match=f"--gpu-memory {enough}"):
        planned(enough - 0.11)


@pytest.mark.parametrize(
    ("wishes", "groups", "message"),
    [
        ({"batch_sizes": (("3d_lowres", 4),)}, ISOTROPIC, "'3d_lowres' cannot be planned.*less than a quarter"),
        ({"patch_sizes": (("3d_superres", (8, 8, 8)),)}, ISOTROPIC, "'3d_superres' cannot be planned"),
        ({"patch_sizes": (("3d_fullres", (64, 64)),)}, ISOTROPIC, "3d_fullres has patches of 3 axes; found 64 x 64"),
        ({"patch_sizes": (("", (64, 64, 64)),)}, [((1.0, 1.0, 1.0), (1, 99, 99), 9)], "2d has patches of 2 axes"),
        ({"patch_sizes": (("", (512, 512, 512)),)}, LARGE, "does not fit the memory"),
    ],
    ids=["no low resolution", "unknown", "another dimension", "3D for 2D images", "over budget"],
)
def test_a_wish_that_cannot_be_granted_is_refused(wishes, groups, message):
    with pytest.raises(InputError, match=message):
        plan_of(groups, Budget(wishes=Wishes(**wishes)))


def test_wishes_hold_for_the_configurations_that_they_name():
    wishes = Wishes(
        patch_sizes=(("", (64, 64, 64)), ("3d_lowres", (32, 32, 32))), batch_sizes=(("", 4), ("3d_cascade_fullres", 3))
    )
    plan = plan_of(LARGE, Budget(wishes=wishes))
    usual = plan_of(LARGE)
    planned = {each.name: (each.patch_size, each.batch_size) for each in plan.configurations}
    assert planned == {
        "2d": (planned["2d"][0], 4),
        "3d_fullres": ((64, 64, 64), 4),
        "3d_lowres": ((32, 32, 32), 4),
        "3d_cascade_fullres": ((64, 64, 64), 3),
    }
    assert plan.configuration("2d").patch_size > usual.configuration("2d").patch_size  # a third of the usual batch


def test_a_cpu_gets_half_of_the_features_on_the_same_patches():
    data = fingerprint(THICK)
    wide, narrow = (
        DefaultPlanner().plan(data, Budget(device=device), CPU_COST, name="p") for device in ("cuda", "cpu")
    )
    for of_gpu, of_cpu in zip(wide.configurations, narrow.configurations, strict=True):
        assert of_gpu.network.features[:3] == (32, 64, 128)
        assert of_cpu.network.features == tuple(features // 2 for features in of_gpu.network.features)
        assert of_cpu.patch_size == of_gpu.patch_size
        assert of_cpu.expected_memory_bytes < of_gpu.expected_memory_bytes


@pytest.mark.parametrize("planner", [NnunetPlanner, ResidualPlanner])
def test_only_the_plain_default_is_narrow_on_a_cpu(planner):
    plan = planner().plan(fingerprint(THICK), Budget(device="cpu"), CPU_COST, name="p")
    assert all(each.network.features[:3] == (32, 64, 128) for each in plan.configurations)

"""Known answers of nnU-Net's planner: topologies, counts and plans of its four presets."""

from __future__ import annotations

import pytest

from autoseg.planning import GIBIBYTE, Budget
from autoseg.values import Fingerprint, NetworkSpec, Plan
from planners.architecture import blocks_per_stage
from planners.memory import feature_elements
from planners.topology import network_topology
from planners.unet import NnunetPlanner, NnunetResencLPlanner, NnunetResencMPlanner, NnunetResencXLPlanner
from tests.planners.synthetic import fingerprint

TWO, IN_PLANE = (2, 2, 2), (1, 2, 2)


@pytest.mark.parametrize(
    ("spacing", "patch", "padded", "pools", "strides", "kernels_not_full"),
    [
        ((1, 1, 1), (128,) * 3, (128,) * 3, (5, 5, 5), [TWO] * 5, []),
        ((1, 1, 1), (160, 160, 80), (160, 160, 80), (5, 5, 4), [TWO] * 4 + [(2, 2, 1)], []),
        ((3, 1, 1), (32, 192, 192), (32, 192, 192), (3, 5, 5), [IN_PLANE, TWO, TWO, TWO, IN_PLANE], [(1, 3, 3)]),
        (
            (5, 1, 1),
            (20, 256, 256),
            (20, 256, 256),
            (2, 6, 6),
            [IN_PLANE, IN_PLANE, TWO, TWO, IN_PLANE, IN_PLANE],
            [(1, 3, 3)] * 2,
        ),
        ((0.5, 1.2, 1.2), (64,) * 3, (64,) * 3, (4, 4, 4), [(2, 1, 1), TWO, TWO, TWO, IN_PLANE], [(3, 1, 1)]),
        ((2, 1, 1), (64, 128, 128), (64, 128, 128), (4, 5, 5), [IN_PLANE] + [TWO] * 4, [(1, 3, 3)]),
        ((1.999, 1, 1), (64, 128, 128), (64, 128, 128), (4, 5, 5), [TWO] * 4 + [IN_PLANE], []),
        (
            (6, 1, 1),
            (10, 200, 200),
            (10, 224, 224),
            (1, 5, 5),
            [IN_PLANE, IN_PLANE, TWO, IN_PLANE, IN_PLANE],
            [(1, 3, 3)] * 2,
        ),
        ((1, 1, 1), (7, 50, 50), (7, 56, 56), (0, 3, 3), [IN_PLANE] * 3, []),
        ((1, 1), (37, 53), (40, 56), (3, 3), [(2, 2)] * 3, []),
        ((1, 1), (512, 512), (512, 512), (7, 7), [(2, 2)] * 7, []),
        ((1, 1, 1), (8, 8, 8), (8, 8, 8), (1, 1, 1), [TWO], []),
        ((1, 1, 1), (12, 12, 12), (12, 12, 12), (1, 1, 1), [TWO], []),
    ],
)
def test_topology(spacing, patch, padded, pools, strides, kernels_not_full):
    topology = network_topology(spacing, patch)
    full = (3,) * len(spacing)
    assert topology.patch_size == padded
    assert topology.pools == pools
    assert list(topology.strides[1:]) == strides
    assert [kernel for kernel in topology.kernel_sizes if kernel != full] == kernels_not_full


CUBE, SQUARE = ((1, 1, 1), (128,) * 3), ((1, 1), (512,) * 2)


@pytest.mark.parametrize(
    ("image", "architecture", "elements"),
    [
        (CUBE, "plain_unet", 452_796_416),
        (SQUARE, "plain_unet", 82_886_656),
        (CUBE, "residual_encoder_unet", 557_420_544),
        (SQUARE, "residual_encoder_unet", 129_703_936),
    ],
)
def test_feature_elements(image, architecture, elements):
    topology = network_topology(*image)
    assert feature_elements(topology, topology.patch_size, 3, architecture) == elements


def test_blocks_per_stage():
    assert blocks_per_stage("plain_unet", 6) == ((2,) * 6, (2,) * 5)
    assert blocks_per_stage("residual_encoder_unet", 8) == ((1, 3, 4, 6, 6, 6, 6, 6), (1,) * 7)
    assert blocks_per_stage("residual_encoder_unet", 2) == ((1, 3), (1,))


#: name: groups of (spacing, shape, count); labels with background; channels
DATA = {
    "hippocampus": ([((1, 1, 1), (36, 50, 35), 260)], 3, 1),
    "heart": ([((1.37, 1.25, 1.25), (115, 320, 232), 20)], 2, 1),
    "brain": ([((1, 1, 1), (138, 169, 138), 484)], 4, 4),
    "liver": ([((1, 0.7676, 0.7676), (432, 512, 512), 131)], 3, 1),
    "prostate": ([((3.6, 0.625, 0.625), (20, 320, 320), 32)], 3, 2),
    "mixed thickness": ([((10, 1.5625, 1.5625), (9, 256, 216), 140), ((5, 1.5625, 1.5625), (18, 256, 216), 60)], 4, 1),
    "lung": ([((1.24, 0.785, 0.785), (252, 512, 512), 63)], 2, 1),
    "pancreas": ([((2.5, 0.8027, 0.8027), (93, 512, 512), 281)], 3, 1),
    "colon": ([((5, 0.78, 0.78), (95, 512, 512), 126)], 2, 1),
    "coarse last axis": ([((0.8, 0.8, 4), (400, 400, 40), 50)], 2, 1),
    "two-dimensional": ([((999, 1, 1), (1, 1500, 1500), 100)], 2, 3),
    "small cubes": ([((1, 1, 1), (64, 64, 64), 12)], 2, 1),
}
PRESETS = {
    "nnunet": NnunetPlanner(),
    "nnunet_resenc_m": NnunetResencMPlanner(),
    "nnunet_resenc_l": NnunetResencLPlanner(),
    "nnunet_resenc_xl": NnunetResencXLPlanner(),
}
#: Patch and batch under each preset, in the order of ``PRESETS``.
FLAT_PATCHES = {
    "hippocampus": [((56, 40), batch) for batch in (366, 1618, 4554, 6711)],
    "heart": [((320, 256), batch) for batch in (40, 40, 113, 166)],
    "brain": [((192, 160), batch) for batch in (105, 107, 301, 444)],
    "liver": [((512, 512), batch) for batch in (12, 12, 35, 52)],
    "prostate": [((320, 320), batch) for batch in (32, 32, 90, 133)],
    "mixed thickness": [((256, 224), batch) for batch in (56, 57, 161, 238)],
    "lung": [((512, 512), batch) for batch in (12, 13, 35, 52)],
    "pancreas": [((512, 512), batch) for batch in (12, 12, 35, 52)],
    "colon": [((512, 512), batch) for batch in (12, 13, 35, 52)],
    "coarse last axis": [((448, 448), batch) for batch in (16, 16, 46, 68)],
    "two-dimensional": [((1280, 1024), 2), ((512, 512), 13), ((896, 768), 13), ((1024, 1024), 13)],
    "small cubes": [((64, 64), batch) for batch in (38, 768, 768, 768)],
}
FULL_PATCHES = {
    "hippocampus": [((40, 56, 40), batch) for batch in (9, 58, 178, 183)],
    "heart": [((80, 192, 160), 2), ((80, 192, 160), 2), ((112, 288, 224), 2), ((128, 320, 256), 3)],
    "brain": [((128, 128, 128), 2), ((128, 128, 128), 2), ((160, 192, 160), 3), ((160, 192, 160), 5)],
    "liver": [((128, 128, 128), 2), ((128, 128, 128), 2), ((160, 224, 192), 2), ((192, 256, 256), 2)],
    "prostate": [((20, 320, 256), 2), ((20, 256, 256), 2), ((20, 320, 320), 5), ((20, 320, 320), 8)],
    "mixed thickness": [((20, 256, 224), batch) for batch in (4, 3, 10, 17)],
    "lung": [((80, 192, 160), 2), ((80, 192, 160), 2), ((112, 256, 256), 2), ((128, 320, 320), 2)],
    "pancreas": [((40, 224, 224), 2), ((40, 224, 192), 2), ((56, 320, 256), 2), ((64, 384, 384), 2)],
    "colon": [((40, 224, 192), 2), ((40, 192, 192), 2), ((56, 320, 256), 2), ((64, 384, 320), 2)],
    "coarse last axis": [((28, 256, 256), 2), ((24, 256, 256), 2), ((32, 384, 384), 2), ((40, 448, 448), 2)],
    "small cubes": [((64, 64, 64), batch) for batch in (2, 12, 12, 12)],
}
#: spacing, patch and batch; None: there is no low resolution and no cascade. Data sets that are not named have none.
LOW_RESOLUTIONS = {
    "liver": [
        ((2.4273, 1.8632, 1.8632), (128, 128, 128), 2),
        ((2.4273, 1.8632, 1.8632), (128, 128, 128), 2),
        ((1.6047, 1.2318, 1.2318), (160, 224, 192), 2),
        ((1.3439, 1.0316, 1.0316), (192, 256, 256), 2),
    ],
    "lung": [
        ((2.376, 1.5041, 1.5041), (80, 192, 160), 2),
        ((2.376, 1.5041, 1.5041), (80, 192, 160), 2),
        ((1.6665, 1.055, 1.055), (112, 256, 256), 2),
        None,
    ],
    "pancreas": [
        ((2.575, 1.2881, 1.2881), (56, 224, 192), 2),
        ((2.575, 1.2881, 1.2881), (56, 224, 192), 2),
        None,
        None,
    ],
    "colon": [((5, 1.3677, 1.3677), (56, 192, 192), 2), ((5, 1.5394, 1.5394), (64, 160, 160), 2), None, None],
}
any_preset = pytest.mark.parametrize("preset", PRESETS)
any_data = pytest.mark.parametrize("data", DATA)


def data_set(name: str) -> Fingerprint:
    groups, labels, channels = DATA[name]
    return fingerprint(groups, labels=labels, channels=["MRI"] * channels)


def plan_of(data: str, preset: str = "nnunet") -> Plan:
    """With the memory that the preset is made for; bytes do not matter to its count."""
    planner = PRESETS[preset]
    budget = Budget(memory_bytes=planner.default_memory_bytes)
    return planner.plan(data_set(data), budget, lambda *_: 0, name="golden")


def low_resolution_of(data: str, preset: str):
    return LOW_RESOLUTIONS.get(data, [None] * 4)[list(PRESETS).index(preset)]


@pytest.mark.parametrize(("preset", "gibibytes"), list(zip(PRESETS, (8, 8, 24, 40), strict=True)))
def test_each_preset_is_made_for_a_size_of_memory(preset, gibibytes):
    assert PRESETS[preset].default_memory_bytes == gibibytes * GIBIBYTE


@any_preset
@any_data
def test_which_configurations_there_are(data, preset):
    low = low_resolution_of(data, preset)
    full = data in FULL_PATCHES
    expected = ["2d", *["3d_fullres"] * full, *["3d_lowres", "3d_cascade_fullres"] * (low is not None)]
    assert plan_of(data, preset).names == tuple(expected)


@any_preset
@any_data
def test_patch_and_batch_of_2d_and_full_resolution(data, preset):
    plan, place = plan_of(data, preset), list(PRESETS).index(preset)
    for name, answers in {"2d": FLAT_PATCHES, "3d_fullres": FULL_PATCHES}.items():
        if data in answers:
            planned = plan.configuration(name)
            assert (planned.patch_size, planned.batch_size) == answers[data][place]


@any_preset
@pytest.mark.parametrize("data", LOW_RESOLUTIONS)
def test_low_resolution(data, preset):
    low = low_resolution_of(data, preset)
    if low is not None:
        planned = plan_of(data, preset).configuration("3d_lowres")
        assert planned.spacing == pytest.approx(low[0], abs=1e-4)
        assert (planned.patch_size, planned.batch_size) == low[1:]


@any_preset
@any_data
def test_the_cascade_is_full_resolution_after_the_low_one(data, preset):
    plan = plan_of(data, preset)
    for each in plan.configurations:
        cascade = each.name == "3d_cascade_fullres"
        assert (each.inherits_from, each.previous_stage) == (("3d_fullres", "3d_lowres") if cascade else (None, None))
        if cascade:
            full = plan.configuration("3d_fullres")
            for same in ("spacing", "median_shape", "patch_size", "batch_size", "training", "resampling"):
                assert getattr(each, same) == getattr(full, same), same
            inputs = len(plan.channels) + len(plan.labels.foreground)
            assert (full.network.input_channels, each.network.input_channels) == (len(plan.channels), inputs)


@any_preset
@any_data
def test_dice_over_the_batch_in_2d_and_where_there_is_a_low_resolution(data, preset):
    low = low_resolution_of(data, preset) is not None
    expected = {"2d": True, "3d_fullres": low, "3d_lowres": False, "3d_cascade_fullres": True}
    for each in plan_of(data, preset).configurations:
        assert each.training.batch_dice is expected[each.name]


@any_preset
@any_data
def test_the_network_is_that_of_the_preset(data, preset):
    for each in plan_of(data, preset).configurations:
        architecture = "plain_unet" if preset == "nnunet" else "residual_encoder_unet"
        stages = len(each.network.features)
        assert each.network.architecture == architecture
        assert (each.network.encoder_blocks, each.network.decoder_blocks) == blocks_per_stage(architecture, stages)
        most = 512 if each.name == "2d" else 320
        assert each.network.features == tuple(min(most, 32 * 2**stage) for stage in range(stages))


@pytest.mark.parametrize("times", [0.5, 2, 3])
def test_another_budget_scales_the_count(times):
    budget = Budget(memory_bytes=int(times * 8 * GIBIBYTE))
    plan = PRESETS["nnunet_resenc_m"].plan(data_set("prostate"), budget, lambda *_: 0, name="golden")
    full = plan.configuration("3d_fullres")
    topology = network_topology((3.6, 0.625, 0.625), full.patch_size)
    count = feature_elements(topology, full.patch_size, 3, "residual_encoder_unet")
    assert count <= times * 680e6
    assert full.batch_size == max(2, round(times * 680e6 / count * 2))


def test_coarse_last_axis_comes_first():
    plan = plan_of("coarse last axis")
    assert plan.axis_order == (2, 0, 1)
    assert plan.configuration("3d_fullres").spacing == (4, 0.8, 0.8)


def test_tenth_percentile_along_a_coarse_axis():
    plan = plan_of("mixed thickness")
    assert plan.configuration("3d_fullres").spacing == (5, 1.5625, 1.5625)


def test_preset_keeps_nnunets_choices():
    """Section 7 to 16: arrays as stored, nearest along a coarse axis, SGD for 1000 epochs, clipping at 12."""
    plan = plan_of("prostate")
    flat, full = plan.configurations
    assert plan.orientation == "as_stored"
    assert full.resampling.separate_axis_order == 0
    assert (full.training.epochs, full.training.iterations_per_epoch) == (1000, 250)
    assert (full.training.optimizer, full.training.learning_rate, full.training.momentum) == ("sgd", 0.01, 0.99)
    assert (full.training.weight_decay, full.training.gradient_clip_norm) == (3e-5, 12)
    assert (flat.training.batch_dice, full.training.batch_dice) == (True, False)
    assert full.augmentation.in_plane
    assert full.augmentation.rotation_degrees == (180.0,)
    assert flat.augmentation.rotation_degrees == (180.0,)
    assert isinstance(full.network, NetworkSpec)
    assert full.network.features == (32, 64, 128, 256, 320, 320, 320)

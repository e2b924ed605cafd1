"""Known answers of nnU-Net's planner: topologies and plans of its plain U-Net (preset ``nnunet``)."""

from __future__ import annotations

import pytest

from autoseg.planning import Budget
from autoseg.values import NetworkSpec
from planners.memory import feature_elements
from planners.topology import network_topology
from planners.unet import NnunetPlanner
from tests.planners.synthetic import fingerprint

ONE_POOL, TWO, IN_PLANE = (2, 2, 2), (2, 2, 2), (1, 2, 2)


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


@pytest.mark.parametrize(
    ("spacing", "patch", "elements"), [((1, 1, 1), (128,) * 3, 452_796_416), ((1, 1), (512,) * 2, 82_886_656)]
)
def test_feature_elements(spacing, patch, elements):
    topology = network_topology(spacing, patch)
    assert feature_elements(topology, topology.patch_size, 3) == elements


#: groups of (spacing, shape, count); labels with background; channels; 2d (patch, batch); 3d_fullres (patch, batch)
PLANS = {
    "hippocampus": ([((1, 1, 1), (36, 50, 35), 260)], 3, 1, ((56, 40), 366), ((40, 56, 40), 9)),
    "heart": ([((1.37, 1.25, 1.25), (115, 320, 232), 20)], 2, 1, ((320, 256), 40), ((80, 192, 160), 2)),
    "brain": ([((1, 1, 1), (138, 169, 138), 484)], 4, 4, ((192, 160), 105), ((128, 128, 128), 2)),
    "liver": ([((1, 0.7676, 0.7676), (432, 512, 512), 131)], 3, 1, ((512, 512), 12), ((128, 128, 128), 2)),
    "prostate": ([((3.6, 0.625, 0.625), (20, 320, 320), 32)], 3, 2, ((320, 320), 32), ((20, 320, 256), 2)),
    "mixed thickness": (
        [((10, 1.5625, 1.5625), (9, 256, 216), 140), ((5, 1.5625, 1.5625), (18, 256, 216), 60)],
        4,
        1,
        ((256, 224), 56),
        ((20, 256, 224), 4),
    ),
    "lung": ([((1.24, 0.785, 0.785), (252, 512, 512), 63)], 2, 1, ((512, 512), 12), ((80, 192, 160), 2)),
    "pancreas": ([((2.5, 0.8027, 0.8027), (93, 512, 512), 281)], 3, 1, ((512, 512), 12), ((40, 224, 224), 2)),
    "colon": ([((5, 0.78, 0.78), (95, 512, 512), 126)], 2, 1, ((512, 512), 12), ((40, 224, 192), 2)),
    "coarse last axis": ([((0.8, 0.8, 4), (400, 400, 40), 50)], 2, 1, ((448, 448), 16), ((28, 256, 256), 2)),
    "two-dimensional": ([((999, 1, 1), (1, 1500, 1500), 100)], 2, 3, ((1280, 1024), 2), None),
    "small cubes": ([((1, 1, 1), (64, 64, 64), 12)], 2, 1, ((64, 64), 38), ((64, 64, 64), 2)),
}


@pytest.mark.parametrize("name", PLANS)
def test_plan(name):
    groups, labels, channels, flat, full = PLANS[name]
    data = fingerprint(groups, labels=labels, channels=["MRI"] * channels)
    plan = NnunetPlanner().plan(data, Budget(), lambda network, patch, batch: 0, name="golden")
    planned = {each.name: (each.patch_size, each.batch_size) for each in plan.configurations}
    assert planned == {"2d": flat} | ({"3d_fullres": full} if full else {})


def test_coarse_last_axis_comes_first():
    groups, labels, *_ = PLANS["coarse last axis"]
    plan = NnunetPlanner().plan(fingerprint(groups, labels=labels), Budget(), lambda *_: 0, name="golden")
    assert plan.axis_order == (2, 0, 1)
    assert plan.configuration("3d_fullres").spacing == (4, 0.8, 0.8)


def test_tenth_percentile_along_a_coarse_axis():
    groups, labels, *_ = PLANS["mixed thickness"]
    plan = NnunetPlanner().plan(fingerprint(groups, labels=labels), Budget(), lambda *_: 0, name="golden")
    assert plan.configuration("3d_fullres").spacing == (5, 1.5625, 1.5625)


def test_preset_keeps_nnunets_choices():
    """Section 7 to 16: arrays as stored, nearest along a coarse axis, SGD for 1000 epochs, clipping at 12."""
    groups, labels, *_ = PLANS["prostate"]
    plan = NnunetPlanner().plan(fingerprint(groups, labels=labels), Budget(), lambda *_: 0, name="golden")
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

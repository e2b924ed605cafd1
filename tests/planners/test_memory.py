"""Laws of the fit to a budget; known answers stand in ``test_known_answers``."""

from __future__ import annotations

import itertools
import math

import pytest

from autoseg.planning import GIBIBYTE
from planners.memory import feature_elements, features_per_stage, fit_patch
from planners.topology import network_topology

#: spacing and median shape
IMAGES = {
    "isotropic": ((1.0, 1.0, 1.0), (432, 512, 512)),
    "thick slices": ((3.6, 0.625, 0.625), (20, 320, 320)),
    "long": ((1.2, 0.8, 0.8), (900, 200, 150)),
    "flat": ((0.5, 0.5), (1500, 1100)),
}
any_image = pytest.mark.parametrize(("spacing", "shape"), IMAGES.values(), ids=IMAGES)


def fit(spacing, shape, gibibytes=8.0, **options):
    return fit_patch(
        spacing,
        shape,
        **{"dataset_voxels": 1e12, "label_count": 3, "memory_bytes": int(gibibytes * GIBIBYTE)} | options,
    )


def patch_voxels(fitted):
    return math.prod(fitted.topology.patch_size)


def batch_voxels(fitted):
    return fitted.batch_size * patch_voxels(fitted)


def ascending(values):
    return all(less <= more for less, more in itertools.pairwise(values))


@any_image
@pytest.mark.parametrize("scale", [False, True])
def test_more_memory_never_gives_a_smaller_patch_or_batch_of_patches(spacing, shape, scale):
    """Of patches in a batch up to rounding: a number that is rounded up may meet one that is rounded down."""
    fitted = [fit(spacing, shape, 1 + step / 2, scale_2d_elements=scale) for step in range(80)]
    assert ascending(map(patch_voxels, fitted))
    for less, more in itertools.pairwise(fitted):
        assert batch_voxels(more) >= batch_voxels(less) - (patch_voxels(less) + patch_voxels(more)) / 2


def test_more_memory_never_gives_less_for_an_odd_image_either():
    spacing, shape = (3.34, 0.89, 3.9), (170, 20, 377)
    assert batch_voxels(fit(spacing, shape, 1)) <= batch_voxels(fit(spacing, shape, 1.5))


@any_image
def test_a_dearer_device_never_gets_more_and_its_budget_is_kept(spacing, shape):
    def cost_of(factor):
        return lambda topology, batch: int(factor * batch * 4 * feature_elements(topology, topology.patch_size, 3))

    costs = [cost_of(factor) for factor in (0.1, 1, 2, 5, 10)]
    fitted = [fit(spacing, shape, cost=cost) for cost in costs]
    assert ascending(map(patch_voxels, fitted[::-1]))
    assert fitted[0] == fit(spacing, shape)
    for each, cost in zip(fitted, costs, strict=True):
        assert cost(each.topology, each.batch_size) <= 8 * GIBIBYTE


@any_image
def test_a_batch_sees_a_share_of_the_data_set_but_never_less_than_two_patches(spacing, shape):
    sizes = [fit(spacing, shape, 80, dataset_voxels=cases * math.prod(shape)) for cases in (1, 10, 100, 1000)]
    assert ascending(each.batch_size for each in sizes)
    assert sizes[0].batch_size == 2
    for each, cases in zip(sizes, (1, 10, 100, 1000), strict=True):
        share = 0.05 * cases * math.prod(shape) + 0.5 * patch_voxels(each)  # it is rounded to a whole batch
        assert each.batch_size == 2 or batch_voxels(each) <= share
        assert ("data set" in each.batch_reason) == (2 < each.batch_size < fit(spacing, shape, 80).batch_size)


@any_image
def test_a_patch_reaches_beyond_the_image_by_its_padding_only(spacing, shape):
    whole = fit(spacing, shape, 10_000).topology
    for edge, size, step in zip(whole.patch_size, shape, whole.divisor, strict=True):
        assert edge < size + step


@any_image
def test_more_labels_never_give_a_larger_patch(spacing, shape):
    assert ascending(patch_voxels(fit(spacing, shape, label_count=labels)) for labels in (200, 50, 3, 2))


@pytest.mark.parametrize(("dimensions", "most"), [(2, 512), (3, 320)])
def test_features_double_up_to_a_cap(dimensions, most):
    features = features_per_stage(8, dimensions)
    assert all(later == min(2 * earlier, most) for earlier, later in itertools.pairwise(features))
    assert (features[0], features[-1]) == (32, most)


@any_image
def test_the_count_is_proportional_to_the_patch_and_grows_by_one_map_per_label(spacing, shape):
    topology = network_topology(spacing, [min(edge, 96) for edge in shape])
    patch = topology.patch_size
    count = feature_elements(topology, patch, 3)
    assert feature_elements(topology, [2 * edge for edge in patch], 3) == 2 ** len(patch) * count
    assert feature_elements(topology, patch, 5) - count == 2 * math.prod(patch)

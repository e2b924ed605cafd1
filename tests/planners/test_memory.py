"""Laws of the fit to a budget; known answers stand in ``test_known_answers``."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from autoseg.errors import InputError
from autoseg.planning import GIBIBYTE
from planners.architecture import features_per_stage
from planners.memory import MARGIN, FittedPatch, Room, feature_elements, fit_count, fit_memory
from planners.presets import NNUNET, NNUNET_RESENC_M
from planners.topology import Topology, network_topology

#: spacing and median shape
IMAGES = {
    "isotropic": ((1.0, 1.0, 1.0), (432.0, 512.0, 512.0)),
    "thick slices": ((3.6, 0.625, 0.625), (20.0, 320.0, 320.0)),
    "long": ((1.2, 0.8, 0.8), (900.0, 200.0, 150.0)),
    "flat": ((0.5, 0.5), (1500.0, 1100.0)),
}
any_image = pytest.mark.parametrize(("spacing", "shape"), IMAGES.values(), ids=IMAGES)
#: Bytes of weights and of what is there beside tensors, in a cost of this file's own.
FIXED = 2**29


def elements(topology: Topology) -> int:
    return feature_elements(topology, topology.patch_size, 3)


def cost(topology: Topology, batch_size: int) -> int:
    """Bytes that grow with the feature maps, as those of a training do."""
    return FIXED + 8 * batch_size * elements(topology)


def room_of(spacing, shape, gibibytes=8.0, **options) -> Room:
    known = {"dataset_voxels": 1e12, "memory_bytes": int(gibibytes * GIBIBYTE)}
    return Room(spacing=spacing, shape=shape, **known | options)


def fit(spacing, shape, gibibytes=8.0, *, predicted=cost, **options) -> FittedPatch:
    return fit_memory(room_of(spacing, shape, gibibytes, **options), predicted)


def counted(spacing, shape, gibibytes=8.0, *, preset=NNUNET, labels=3, **options) -> FittedPatch:
    return fit_count(room_of(spacing, shape, gibibytes, **options), preset.count_rule, preset.architecture, labels)


def patch_voxels(fitted: FittedPatch) -> int:
    return math.prod(fitted.topology.patch_size)


def batch_voxels(fitted: FittedPatch) -> int:
    return fitted.batch_size * patch_voxels(fitted)


def ascending(values) -> bool:
    return all(less <= more for less, more in itertools.pairwise(values))


# By predicted bytes


@any_image
def test_the_budget_is_kept_with_its_margin_and_the_next_larger_batch_would_break_it(spacing, shape):
    for gibibytes in (1, 2, 4, 8, 11, 24, 80):
        fitted = fit(spacing, shape, gibibytes)
        usable = gibibytes * GIBIBYTE / MARGIN
        assert cost(fitted.topology, fitted.batch_size) <= usable
        assert cost(fitted.topology, fitted.batch_size + 1) > usable or batch_voxels(fitted) * 20 >= 1e12


@any_image
def test_more_memory_never_gives_a_smaller_patch_up_to_a_step(spacing, shape):
    """A patch moves in steps along several axes, so that another way there may end one step lower."""
    fitted = [fit(spacing, shape, 1 + step / 2) for step in range(80)]
    for less, more in itertools.combinations(fitted, 2):
        patch, divisor = less.topology.patch_size, less.topology.divisor
        step = max(math.prod(patch) * part // edge for edge, part in zip(patch, divisor, strict=True))
        assert patch_voxels(more) >= patch_voxels(less) - step
    assert patch_voxels(fitted[-1]) > patch_voxels(fitted[0])


@any_image
def test_a_dearer_device_never_gets_more(spacing, shape):
    fitted = [
        fit(spacing, shape, predicted=lambda topology, batch, times=times: int(times * cost(topology, batch)))
        for times in (0.1, 1, 2, 5, 10)
    ]
    assert ascending(map(batch_voxels, fitted[::-1]))


@any_image
def test_a_patch_of_usual_size_fits_in_a_usual_batch(spacing, shape):
    """In 3D two at least, in 2D a dozen."""
    assert fit(spacing, shape, 8).batch_size >= {2: 12, 3: 2}[len(shape)]


@pytest.mark.parametrize("gibibytes", [0.75, 0.8, 1])
def test_where_a_dozen_never_fit_two_must_do(gibibytes):
    """With hardly any memory beyond what is fixed a batch of 12 may not fit at any patch."""

    def steep(topology: Topology, batch_size: int) -> int:
        return FIXED + batch_size * 100 * 2**20 + elements(topology)

    fitted = fit(*IMAGES["flat"], gibibytes, predicted=steep)
    assert 2 <= fitted.batch_size < 12
    assert steep(fitted.topology, fitted.batch_size) * MARGIN <= gibibytes * GIBIBYTE


@any_image
def test_a_budget_that_is_too_small_is_refused_with_the_smallest_that_works(spacing, shape):
    with pytest.raises(InputError, match="too small for any network") as refused:
        fit(spacing, shape, 0.5)
    enough = float(re.search(r"--gpu-memory ([0-9.]+)\.$", str(refused.value))[1])
    fitted = fit(spacing, shape, enough)
    assert cost(fitted.topology, fitted.batch_size) * MARGIN <= enough * GIBIBYTE
    with pytest.raises(InputError):
        fit(spacing, shape, enough - 0.11)  # it is rounded up to a tenth


@any_image
def test_a_wished_patch_is_taken_and_the_batch_fills_the_memory(spacing, shape):
    fitted = fit(spacing, shape, 8, patch_size=(64,) * len(shape))
    assert fitted.topology.patch_size == (64,) * len(shape)
    assert fitted.patch_reason == "as asked for"
    assert cost(fitted.topology, fitted.batch_size) * MARGIN <= 8 * GIBIBYTE
    assert cost(fitted.topology, fitted.batch_size + 1) * MARGIN > 8 * GIBIBYTE


def test_a_wished_patch_that_is_not_legal_says_what_it_became():
    fitted = fit(*IMAGES["isotropic"], patch_size=(100, 60, 33))
    assert fitted.topology.patch_size == (96, 56, 32)
    assert "asked for 100 x 60 x 33; the nearest that the poolings divide is 96 x 56 x 32" in fitted.patch_reason


@any_image
def test_the_largest_patch_is_found_for_a_wished_batch(spacing, shape):
    small, large = (fit(spacing, shape, 8, batch_size=batch) for batch in (64, 4))
    assert (small.batch_size, large.batch_size) == (64, 4)
    assert small.batch_reason == "as asked for"
    assert patch_voxels(small) < patch_voxels(large)
    for each in (small, large):
        assert cost(each.topology, each.batch_size) * MARGIN <= 8 * GIBIBYTE


def test_a_wished_batch_may_be_one_and_more_than_the_data_set_would_allow():
    image = IMAGES["isotropic"]
    assert fit(*image, batch_size=1).batch_size == 1
    assert fit(*image, 80, batch_size=5, dataset_voxels=math.prod(image[1])).batch_size == 5


def test_patch_and_batch_can_be_wished_together():
    fitted = fit(*IMAGES["isotropic"], patch_size=(64, 64, 64), batch_size=3)
    assert (fitted.topology.patch_size, fitted.batch_size) == ((64, 64, 64), 3)
    assert (fitted.patch_reason, fitted.batch_reason) == ("as asked for", "as asked for")


@pytest.mark.parametrize(
    "wishes",
    [{"patch_size": (512, 512, 512)}, {"batch_size": 60_000}, {"patch_size": (256, 256, 256), "batch_size": 64}],
    ids=["patch", "batch", "both"],
)
def test_a_wish_over_the_budget_is_refused_with_what_it_takes(wishes):
    with pytest.raises(InputError, match=r"does not fit the memory.*8 GiB to plan for") as refused:
        fit(*IMAGES["isotropic"], **wishes)
    enough = float(re.search(r"--gpu-memory ([0-9.]+)\.$", str(refused.value))[1])
    fitted = fit(*IMAGES["isotropic"], enough, **wishes)
    assert fitted.batch_size == wishes.get("batch_size", fitted.batch_size)


@any_image
@pytest.mark.parametrize("rule", [fit, counted])
def test_a_batch_sees_a_share_of_the_data_set_but_never_less_than_two_patches(rule, spacing, shape):
    numbers = (1, 10, 100, 1000)
    sizes = [rule(spacing, shape, 80, dataset_voxels=cases * math.prod(shape)) for cases in numbers]
    assert ascending(each.batch_size for each in sizes)
    assert sizes[0].batch_size == 2
    most = rule(spacing, shape, 80).batch_size
    for each, cases in zip(sizes, numbers, strict=True):
        share = 0.05 * cases * math.prod(shape) + 0.5 * patch_voxels(each)  # it is rounded to a whole batch
        assert each.batch_size == 2 or batch_voxels(each) <= share
        assert "data set" in each.batch_reason or each.batch_size in (2, most)


# By nnU-Net's count


@any_image
@pytest.mark.parametrize("preset", [NNUNET, NNUNET_RESENC_M], ids=["plain", "residual"])
def test_more_counted_memory_never_gives_a_smaller_patch_or_batch_of_patches(spacing, shape, preset):
    """Of patches in a batch up to rounding: a number that is rounded up may meet one that is rounded down."""
    fitted = [counted(spacing, shape, 1 + step / 2, preset=preset) for step in range(80)]
    assert ascending(map(patch_voxels, fitted))
    for less, more in itertools.pairwise(fitted):
        assert batch_voxels(more) >= batch_voxels(less) - (patch_voxels(less) + patch_voxels(more)) / 2


def test_more_counted_memory_never_gives_less_for_an_odd_image_either():
    spacing, shape = (3.34, 0.89, 3.9), (170.0, 20.0, 377.0)
    assert batch_voxels(counted(spacing, shape, 1)) <= batch_voxels(counted(spacing, shape, 1.5))


@any_image
def test_more_labels_never_give_a_larger_counted_patch(spacing, shape):
    assert ascending(patch_voxels(counted(spacing, shape, labels=labels)) for labels in (200, 50, 3, 2))


def test_the_plain_count_prefers_patches_in_2d_and_the_residual_one_batches():
    """Section 24, quirk 5."""
    plain, residual = (counted(*IMAGES["flat"], preset=preset) for preset in (NNUNET, NNUNET_RESENC_M))
    assert patch_voxels(plain) > patch_voxels(residual)
    assert (plain.batch_size, residual.batch_size >= 12) == (2, True)


def test_wishes_are_taken_by_the_count_too():
    fitted = counted(*IMAGES["isotropic"], patch_size=(100, 60, 33), batch_size=7)
    assert (fitted.topology.patch_size, fitted.batch_size) == ((96, 56, 32), 7)


# What both build on


@any_image
@pytest.mark.parametrize("rule", [fit, counted])
def test_a_patch_reaches_beyond_the_image_by_its_padding_only(rule, spacing, shape):
    fitted = rule(spacing, shape, 10_000)
    for edge, size, step in zip(fitted.topology.patch_size, shape, fitted.topology.divisor, strict=True):
        assert edge < size + step


@pytest.mark.parametrize(("dimensions", "most"), [(2, 512), (3, 320)])
def test_features_double_up_to_a_cap(dimensions, most):
    features = features_per_stage(8, dimensions)
    assert all(later == min(2 * earlier, most) for earlier, later in itertools.pairwise(features))
    assert (features[0], features[-1]) == (32, most)


@any_image
@pytest.mark.parametrize("architecture", ["plain_unet", "residual_encoder_unet"])
def test_the_count_is_proportional_to_the_patch_and_grows_by_one_map_per_label(spacing, shape, architecture):
    topology = network_topology(spacing, [min(edge, 96) for edge in shape])
    patch = topology.patch_size
    count = feature_elements(topology, patch, 3, architecture)
    twice = [2 * edge for edge in patch]
    assert feature_elements(topology, twice, 3, architecture) == 2 ** len(patch) * count
    assert feature_elements(topology, patch, 5, architecture) - count == 2 * math.prod(patch)

"""Resampling against scipy, and label maps against a plain float64 reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from autoseg.values import ResamplingSpec
from autoseg.volume.resample import SeparableResampler, separate_axis, target_shape
from autoseg.volume.spline import axis_operator, resample_spline

ISOTROPIC = (1.0, 1.0, 1.0)
CUBIC = SeparableResampler(ResamplingSpec())
NEAREST_APART = SeparableResampler(ResamplingSpec(separate_axis_order=0))
SHAPES = [
    ((7, 9, 11), (14, 5, 11)),
    ((7, 9, 11), (3, 4, 5)),
    ((6, 5, 8), (17, 13, 19)),
    ((10, 3, 4), (7, 30, 4)),
    ((1, 12, 9), (1, 7, 20)),
    ((2, 2, 2), (5, 3, 1)),
]


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 40, shape).astype(np.float32)


def zoomed(array: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """Scipy's zoom in float64."""
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)


def nearest_along(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Nearest neighbour along one axis at (i + 0.5) * old / new - 0.5."""
    places = [np.arange(old, dtype=float) for old in array.shape]
    places[axis] = (np.arange(size) + 0.5) * array.shape[axis] / size - 0.5
    return ndimage.map_coordinates(array, np.meshgrid(*places, indexing="ij"), order=0, mode="nearest")


def label_reference(labels: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Largest linear indicator in float64, and by how much it leads (0: a tie)."""
    integers = np.unique(labels)
    shares = np.stack([zoomed(labels == integer, shape, 1) for integer in integers])
    ordered = np.sort(shares, axis=0)
    lead = ordered[-1] - ordered[-2] if len(integers) > 1 else np.ones(shape)
    return integers[shares.argmax(0)], lead


def blobs(shape: tuple[int, int, int], count: int = 4, seed: int = 0) -> np.ndarray:
    """A label map with smooth borders and gaps between its integers."""
    fields = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((count, *shape)), (0, 1.5, 1.5, 1.5))
    return (fields.argmax(0) * 3).astype(np.int16)


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_images_equal_scipys_zoom_clipped_to_their_range(old: tuple, new: tuple) -> None:
    image = np.stack([noise(old, 0), 1000 * noise(old, 1)])
    result = CUBIC.image(image, new, ISOTROPIC, ISOTROPIC)
    assert result.dtype == np.float32
    for channel, found in zip(image, result, strict=True):
        expected = np.clip(zoomed(channel, new, 3), channel.min(), channel.max())
        assert np.abs(found - expected).max() < 1e-5 * np.ptp(channel)


@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("order", [1, 3])
def test_a_spline_equals_scipys_zoom(old: tuple, new: tuple, order: int) -> None:
    array = noise(old)
    found = resample_spline(array, new, (order,) * 3)
    assert np.abs(found - zoomed(array, new, order)).max() < 1e-5 * np.ptp(array)


@pytest.mark.parametrize("apart", [0, 1, 2])
@pytest.mark.parametrize("resampler", [CUBIC, NEAREST_APART], ids=["linear apart", "nearest apart"])
def test_with_a_coarse_axis_slices_are_resized_in_plane_and_clipped_one_by_one(
    apart: int, resampler: SeparableResampler
) -> None:
    old, new = [9, 8, 10], [13, 17, 6]
    old[apart], new[apart] = 4, 7
    spacing = tuple(5.0 if axis == apart else 1.0 for axis in range(3))
    image = noise(tuple(old))
    within = tuple(new[axis] for axis in range(3) if axis != apart)
    slices = [np.take(image, index, apart) for index in range(old[apart])]
    resized = np.stack([np.clip(zoomed(each, within, 3), each.min(), each.max()) for each in slices], apart)
    stepped = resampler is NEAREST_APART
    expected = nearest_along(resized, new[apart], apart) if stepped else zoomed(resized, tuple(new), 1)
    found = resampler.image(image[None], tuple(new), spacing, ISOTROPIC)[0]
    assert np.abs(found - expected).max() < 1e-5 * np.ptp(image)


def test_resampled_images_stay_within_their_range() -> None:
    image = (noise((1, 8, 8, 8)) > 100).astype(np.float32)
    assert resample_spline(image[0], (19, 19, 19), (3, 3, 3)).max() > 1.01  # a cubic spline overshoots
    result = CUBIC.image(image, (19, 19, 19), ISOTROPIC, ISOTROPIC)
    assert (result.min(), result.max()) == (0.0, 1.0)


@pytest.mark.parametrize("new", [(3, 20, 5), (16, 2, 9)])
@pytest.mark.parametrize("spacing", [ISOTROPIC, (5.0, 1.0, 1.0)])
def test_a_constant_image_stays_constant(new: tuple, spacing: tuple) -> None:
    result = CUBIC.image(np.full((1, 6, 7, 8), 1234.5, np.float32), new, spacing, ISOTROPIC)
    np.testing.assert_array_equal(result, np.full((1, *new), 1234.5))


def test_the_same_shape_gives_the_input_back() -> None:
    image, labels = noise((2, 3, 4, 5)), blobs((3, 4, 5))
    assert CUBIC.image(image, (3, 4, 5), ISOTROPIC, (2.0, 1.0, 1.0)) is image
    assert CUBIC.logits(image, (3, 4, 5), ISOTROPIC, ISOTROPIC) is image
    assert CUBIC.labels(labels, (3, 4, 5), ISOTROPIC, ISOTROPIC) is labels


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((3, 1, 1), (3, 1, 1), None),
        ((3.01, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (4, 1, 1), 0),
        ((0.24, 1.25, 1.25), (1, 1, 1), None),  # two axes are equally coarse
        ((1, 1, 1), (0.2, 1, 1), None),
        ((1, 5, 1), (1, 1, 1), 1),
        ((1, 1, 1), (1, 1, 3.5), 2),
        ((5, 5, 1), (4, 1, 1), None),  # decided by the current spacing alone
    ],
)
def test_which_axis_is_resampled_apart(spacing: tuple, target: tuple, axis: int | None) -> None:
    assert separate_axis(spacing, target) == axis


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_axis_apart_follows_a_permutation_of_the_axes(order: tuple[int, int, int]) -> None:
    spacing, target = (4.5, 1.0, 1.2), (2.0, 1.0, 1.0)
    turned = separate_axis([spacing[axis] for axis in order], [target[axis] for axis in order])
    assert order[turned] == 0


def test_the_threshold_of_anisotropy_is_a_choice() -> None:
    assert separate_axis((2.5, 1.0, 1.0), ISOTROPIC, 2.0) == 0
    assert separate_axis((2.5, 1.0, 1.0), ISOTROPIC, 3.0) is None


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "expected"),
    [
        ((100, 101, 99), (1, 1.5, 0.7), (0.8, 1, 1), (125, 152, 69)),
        ((10, 20, 30), (3, 1, 1), (None, 0.5, None), (10, 40, 30)),
        ((5, 5, 5), (0.5, 0.5, 1.5), (1, 1, 1), (2, 2, 8)),  # halves go to even
        ((3, 3, 3), (0.1, 1, 1), (1, 1, 1), (1, 3, 3)),  # never nothing
    ],
)
def test_the_new_shape(shape: tuple, spacing: tuple, target: tuple, expected: tuple) -> None:
    assert target_shape(shape, spacing, target) == expected


def test_nearest_slices_are_those_at_half_pixel_centres() -> None:
    for old, new in itertools.product(range(1, 13), range(1, 25)):
        positions = (np.arange(new) + 0.5) * old / new - 0.5
        chosen = axis_operator(old, new, 0) @ np.arange(old, dtype=np.float32)
        assert (np.abs(chosen - positions) <= 0.5 + 1e-9).all()
        clear = np.abs(positions - np.round(positions)) < 0.499  # halves may go either way
        expected = ndimage.map_coordinates(np.arange(old, dtype=float), positions[None], order=0, mode="nearest")
        np.testing.assert_array_equal(chosen[clear], expected[clear])


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), [(1, 5), (5, 1), (4, 9), (9, 4), (7, 7), (300, 157)])
def test_an_operator_is_a_partition_of_unity_with_mirror_symmetry(old: int, new: int, order: int) -> None:
    operator = axis_operator(old, new, order)
    assert operator.shape == (new, old)
    np.testing.assert_allclose(operator.sum(1), 1, atol=3e-6)
    if order:
        np.testing.assert_allclose(operator[::-1, ::-1], operator, atol=1e-6)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_cached_operator_cannot_be_changed_by_its_users(order: int) -> None:
    assert not axis_operator(4, 7, order).flags.writeable


@pytest.mark.parametrize("order", [1, 3])
def test_smooth_fields_survive_the_way_up_and_down(order: int) -> None:
    index = np.indices((12, 14, 16))
    smooth = np.sin(index[0] / 5) + np.cos(index[1] / 6) + np.sin(index[2] / 7 + 1)
    up = resample_spline(smooth, (24, 28, 32), (order,) * 3)
    down = resample_spline(up, (12, 14, 16), (order,) * 3)
    assert np.abs(down - smooth).max() < (0.01 if order == 3 else 0.1)


@pytest.mark.parametrize(("old", "new"), [((8, 9, 10), (13, 5, 17)), ((10, 12, 9), (6, 7, 5)), ((5, 6, 7), (9, 9, 9))])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_label_with_the_largest_linear_indicator_wins(old: tuple, new: tuple, seed: int) -> None:
    labels = blobs(old, seed=seed)
    found = CUBIC.labels(labels, new, ISOTROPIC, ISOTROPIC)
    expected, lead = label_reference(labels, new)
    clear = lead > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert found.dtype == labels.dtype


@pytest.mark.parametrize("spacing", [ISOTROPIC, (5.0, 1.0, 1.0)])
def test_only_labels_that_occurred_occur(spacing: tuple) -> None:
    labels = np.random.default_rng(0).choice(np.array([-1, 0, 5, 100], np.int16), (6, 7, 8))
    for new in ((15, 16, 17), (3, 3, 3), (6, 14, 4)):
        found = CUBIC.labels(labels, new, spacing, ISOTROPIC)
        assert set(np.unique(found)) <= {-1, 0, 5, 100}
        assert found.shape == new


def test_a_uniform_label_map_stays_uniform() -> None:
    for value in (-1, 0, 7):
        found = CUBIC.labels(np.full((3, 4, 5), value, np.int8), (7, 2, 9), ISOTROPIC, ISOTROPIC)
        np.testing.assert_array_equal(found, np.full((7, 2, 9), value))


def test_a_tie_goes_to_the_nearest_voxel_if_it_is_tied() -> None:
    """Down by an odd factor the nearest voxel is the middle one; down by two, two voxels have one half each."""
    labels = np.array([5, 5, 2, 2], np.int8).reshape(1, 1, 4)
    # three samples at 1/6, 3/2, 17/6: the middle one lies exactly between 5 and 2; halves go up, to the 2
    np.testing.assert_array_equal(CUBIC.labels(labels, (1, 1, 3), ISOTROPIC, ISOTROPIC).ravel(), [5, 2, 2])
    mirrored = labels[..., ::-1]
    np.testing.assert_array_equal(CUBIC.labels(mirrored, (1, 1, 3), ISOTROPIC, ISOTROPIC).ravel(), [2, 5, 5])


def test_a_tie_without_the_nearest_voxels_label_goes_to_the_smallest() -> None:
    """At a point between eight voxels 9 has one eighth, and 3 and 4 share the rest unequally or equally."""
    corner = np.array([[[4, 4], [3, 3]], [[4, 3], [7, 9]]], np.int8)  # nearest (halves up) is the 9; 3 and 4: 3/8 each
    np.testing.assert_array_equal(CUBIC.labels(corner, (1, 1, 1), ISOTROPIC, ISOTROPIC).ravel(), [3])


def cone() -> np.ndarray:
    """A label map whose radius grows by 2.3 voxels from slice to slice."""
    z, y, x = np.indices((5, 40, 40))
    return ((y - 20) ** 2 + (x - 18) ** 2 < (6 + 2.3 * z) ** 2).astype(np.int8)


def repeated_slices(labels: np.ndarray) -> list[bool]:
    """For each slice between the outermost whether it equals the next one; beyond the outermost, edges are repeated."""
    return [np.array_equal(labels[index], labels[index + 1]) for index in range(1, len(labels) - 2)]


@pytest.mark.parametrize("edge", [40, 55, 30])
def test_nearest_along_a_coarse_axis_repeats_slices_and_linear_does_not(edge: int) -> None:
    new = (10, edge, edge)
    assert any(repeated_slices(NEAREST_APART.labels(cone(), new, (5.0, 1.0, 1.0), ISOTROPIC)))
    assert not any(repeated_slices(CUBIC.labels(cone(), new, (5.0, 1.0, 1.0), ISOTROPIC)))


def test_nearest_along_the_coarse_axis_takes_whole_slices_of_labels() -> None:
    labels = blobs((5, 8, 9))
    found = NEAREST_APART.labels(labels, (8, 8, 9), (5.0, 1.0, 1.0), ISOTROPIC)
    np.testing.assert_array_equal(found, nearest_along(labels, 8, 0))


@pytest.mark.parametrize("separate_axis_order", [0, 1])
def test_nearest_labels_are_nearest_along_a_coarse_axis_too(separate_axis_order: int) -> None:
    spec = ResamplingSpec(label_order=0, logits_order=0, separate_axis_order=separate_axis_order)
    labels, expected = blobs((5, 8, 9)), blobs((5, 8, 9))
    for axis, size in enumerate((8, 11, 7)):
        expected = nearest_along(expected, size, axis)
    resampler = SeparableResampler(spec)
    np.testing.assert_array_equal(resampler.labels(labels, (8, 11, 7), (5.0, 1.0, 1.0), ISOTROPIC), expected)
    logits = resampler.logits(labels[None].astype(np.float32), (8, 11, 7), (5.0, 1.0, 1.0), ISOTROPIC)
    np.testing.assert_array_equal(logits[0], expected)


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_logits_are_interpolated_linearly_channel_by_channel(old: tuple, new: tuple) -> None:
    logits = noise((3, *old))
    whole = CUBIC.logits(logits, new, ISOTROPIC, ISOTROPIC)
    for channel in range(3):
        expected = zoomed(logits[channel], new, 1)
        assert np.abs(whole[channel] - expected).max() < 1e-5 * np.ptp(logits)
        alone = CUBIC.logits(logits[channel : channel + 1], new, ISOTROPIC, ISOTROPIC)
        np.testing.assert_array_equal(alone[0], whole[channel])


def test_half_precision_logits_are_resampled_in_float32() -> None:
    logits = noise((2, 4, 5, 6)).astype(np.float16)
    assert CUBIC.logits(logits, (8, 5, 3), ISOTROPIC, ISOTROPIC).dtype == np.float32


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_resampling_commutes_with_turning_the_axes(axes: tuple[int, int, int]) -> None:
    old, new, spacing = (6, 9, 8), (11, 7, 13), (5.0, 1.0, 1.2)
    image, labels = noise(old), blobs(old)
    turned = {"shape": tuple(new[axis] for axis in axes), "spacing": [spacing[axis] for axis in axes]}
    one = CUBIC.image(image[None], new, spacing, ISOTROPIC)[0].transpose(axes)
    other = CUBIC.image(image.transpose(axes)[None], turned["shape"], turned["spacing"], ISOTROPIC)[0]
    assert np.abs(one - other).max() < 1e-5 * np.ptp(image)
    agreement = CUBIC.labels(labels, new, spacing, ISOTROPIC).transpose(axes) == CUBIC.labels(
        labels.transpose(axes), turned["shape"], turned["spacing"], ISOTROPIC
    )
    assert agreement.all()

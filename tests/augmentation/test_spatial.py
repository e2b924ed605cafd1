"""Rotation, scaling and mirroring, against SciPy's resampling and by their geometry."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.augmentation.spatial import Mask, Mirror, RotateAndScale, WithinPatch, reach, sample_affine
from tests.augmentation.applying import apply


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(
    image: np.ndarray, labels: np.ndarray, matrix: np.ndarray, centre: np.ndarray, patch: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """``sample_affine`` of NumPy's arrays."""
    tensors = torch.from_numpy(image), torch.from_numpy(labels)
    sampled, drawn = sample_affine(*tensors, matrix, centre, patch)
    return sampled.numpy(), drawn.numpy()


def rotation_about(axis: int, degrees: float) -> np.ndarray:
    """Independent of the source: Rodrigues' formula with the axis as a unit vector."""
    unit = np.eye(3)[axis]
    cross = np.array([[0, -unit[2], unit[1]], [unit[2], 0, -unit[0]], [-unit[1], unit[0], 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def in_plane(degrees: float) -> np.ndarray:
    return rotation_about(0, degrees)[1:, 1:]


CASES = {
    "2d identity": (np.eye(2), (20, 17), (8, 7)),
    "2d turned, odd": (in_plane(33), (21, 18), (9, 11)),
    "2d turned, even": (1.3 * in_plane(-70), (16, 24), (8, 10)),
    "3d turned": (rotation_about(0, 20) @ rotation_about(1, -25) @ rotation_about(2, 10), (14, 15, 16), (8, 7, 6)),
    "3d scaled": (0.7 * np.eye(3), (10, 12, 11), (8, 8, 5)),
    "3d skewed by anisotropy": (np.diag([1.0, 1.4, 1.4]) @ rotation_about(0, 40), (5, 20, 20), (3, 9, 10)),
}
cases = pytest.mark.parametrize(("matrix", "shape", "patch"), CASES.values(), ids=CASES)


def scipy_sample(
    array: np.ndarray, matrix: np.ndarray, centre: np.ndarray, patch: Sequence[int], outside: float
) -> np.ndarray:
    offset = centre - matrix @ ((np.array(patch) - 1) / 2)
    return ndimage.affine_transform(
        array.astype(np.float64), matrix, offset, tuple(patch), order=1, mode="grid-constant", cval=outside
    )


shifts = pytest.mark.parametrize("shift", [0.0, 0.25, -4.6], ids=["centred", "off the grid", "half outside"])


@cases
@shifts
def test_images_are_sampled_as_scipy_does(matrix: np.ndarray, shape: tuple, patch: tuple, shift: float) -> None:
    image = generator().normal(size=(2, *shape)).astype(np.float32)
    centre = (np.array(shape) - 1) / 2 + shift
    sampled, _ = sample(image, np.zeros(shape, np.int8), matrix, centre, patch)
    assert sampled.dtype == np.float32
    for channel in range(2):
        expected = scipy_sample(image[channel], matrix, centre, patch, 0)
        np.testing.assert_allclose(sampled[channel], expected, atol=2e-4)


@cases
@shifts
def test_the_label_with_the_largest_indicator_wins(
    matrix: np.ndarray, shape: tuple, patch: tuple, shift: float
) -> None:
    labels = generator(1).integers(0, 4, shape).astype(np.int16)
    centre = (np.array(shape) - 1) / 2 + shift
    _, sampled = sample(np.zeros((1, *shape), np.float32), labels, matrix, centre, patch)
    assert sampled.dtype == labels.dtype
    assert_largest_indicator(sampled, labels, matrix, centre, patch)


def assert_largest_indicator(
    sampled: np.ndarray, labels: np.ndarray, matrix: np.ndarray, centre: np.ndarray, patch: Sequence[int]
) -> None:
    candidates = np.arange(-1, labels.max() + 1)
    scores = np.stack([scipy_sample(labels == label, matrix, centre, patch, label == -1) for label in candidates])
    ordered = np.sort(scores, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-3
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(sampled[clear], candidates[scores.argmax(0)][clear])
    own = np.take_along_axis(scores, (sampled.astype(int) + 1)[None], axis=0)[0]
    assert (own >= ordered[-1] - 1e-3).all()  # in a tie, one of the tied


@pytest.mark.parametrize(("nearest", "other"), [(1, 2), (2, 1)])
def test_in_a_tie_the_label_of_the_nearest_voxel_wins(nearest: int, other: int) -> None:
    """At a third of a voxel from one on both axes it weighs 4/9, and its two neighbours 2/9 each; a hair more ties, too."""
    labels = np.zeros((6, 6), np.int16)
    labels[2, 2], labels[2, 3], labels[3, 2] = nearest, other, other
    _, sampled = sample(np.zeros((1, 6, 6), np.float32), labels, np.eye(2), np.full(2, 2 + 1 / 3 + 2e-6), (3, 3))
    assert sampled[1, 1] == nearest
    _, sampled = sample(np.zeros((1, 6, 6), np.float32), labels, np.eye(2), np.full(2, 2 + 1 / 3 + 1e-3), (3, 3))
    assert sampled[1, 1] == other


@cases
@shifts
def test_channels_of_labels_are_sampled_as_their_label_map(
    matrix: np.ndarray, shape: tuple, patch: tuple, shift: float
) -> None:
    """So that they stay zeros and ones, and none of them ends where another begins (nnU-Net samples the map, too)."""
    labels = generator(1).integers(0, 6, shape).astype(np.int16)
    image = generator(2).normal(size=(2, *shape)).astype(np.float32)
    both = np.concatenate([image, np.stack([labels == label for label in range(1, 6)])]).astype(np.float32)
    other, centre = np.zeros(shape, np.int16), (np.array(shape) - 1) / 2 + shift
    tensors = torch.from_numpy(both), torch.from_numpy(other)
    sampled = sample_affine(*tensors, matrix, centre, patch, label_channels=5)[0].numpy()
    alone, map_ = sample(image, labels, matrix, centre, patch)
    np.testing.assert_array_equal(sampled[:2], alone)
    for label in range(1, 6):
        np.testing.assert_array_equal(sampled[1 + label], map_ == label)


def test_what_lies_beyond_the_array_and_what_is_marked_minus_one_count_together() -> None:
    labels = np.full((4, 4), -1, np.int8)
    labels[:2] = 3
    image, centre = np.zeros((1, 4, 4), np.float32), np.array([1.4, -0.3])
    # of this voxel 0.3 lie beyond column 0; of the rest, 0.6 in row 1 (label 3) and 0.4 in row 2 (marked -1)
    label, marked, beyond = 0.7 * 0.6, 0.7 * 0.4, 0.3
    assert max(marked, beyond) < label < marked + beyond
    assert sample(image, labels, np.eye(2), centre, (1, 1))[1] == -1
    _, sampled = sample(image, labels, 0.1 * np.eye(2), centre, (9, 9))
    assert_largest_indicator(sampled, labels, 0.1 * np.eye(2), centre, (9, 9))


@pytest.mark.parametrize("patch", [(4, 5), (3, 3), (6, 4)])
def test_the_identity_is_a_crop(patch: tuple[int, int]) -> None:
    image = generator().normal(size=(1, 9, 10)).astype(np.float32)
    labels = generator(1).integers(-1, 5, (9, 10))
    corner = np.array([2, 1])
    box = tuple(slice(start, start + edge) for start, edge in zip(corner, patch, strict=True))
    sampled, drawn = sample(image, labels, np.eye(2), corner + (np.array(patch) - 1) / 2, patch)
    np.testing.assert_allclose(sampled, image[(slice(None), *box)], atol=1e-5)
    np.testing.assert_array_equal(drawn, labels[box])


def test_a_quarter_turn_is_an_exact_rotation_of_the_array() -> None:
    image = generator().normal(size=(1, 7, 7)).astype(np.float32)
    labels = generator(1).integers(0, 3, (7, 7))
    sampled, drawn = sample(image, labels, in_plane(90), np.array([3.0, 3.0]), (7, 7))
    np.testing.assert_allclose(sampled[0], np.rot90(image[0], -1), atol=1e-5)
    np.testing.assert_array_equal(drawn, np.rot90(labels, -1))


def test_labels_are_never_invented_and_nothing_but_minus_one_is_outside() -> None:
    labels = generator().choice([0, 2, 7], size=(12, 12, 12)).astype(np.int16)
    image = np.zeros((1, 12, 12, 12), np.float32)
    random = generator(3)
    for _ in range(10):
        matrix = random.uniform(0.7, 1.4) * rotation_about(0, random.uniform(-180, 180))
        _, sampled = sample(image, labels, matrix, random.uniform(0, 12, 3), (8, 8, 8))
        assert set(np.unique(sampled)) <= {-1, 0, 2, 7}
    _, far = sample(image, labels, np.eye(3), np.array([40.0, 40, 40]), (4, 4, 4))
    assert (far == -1).all()


def test_sampling_changes_neither_image_nor_labels() -> None:
    image, labels = generator().normal(size=(1, 8, 8)).astype(np.float32), generator().integers(0, 3, (8, 8))
    copies = image.copy(), labels.copy()
    sample(image, labels, in_plane(20), np.array([3.5, 3.5]), (6, 6))
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(labels, copies[1])


@pytest.mark.parametrize("patch", [(8, 7), (5, 12), (1, 6)])
def test_reach_is_the_largest_sampled_offset_in_2d(patch: tuple[int, int]) -> None:
    assert_reach_is_largest_offset([random_matrix(2, seed) for seed in range(20)], patch)


@pytest.mark.parametrize("patch", [(8, 7, 6), (3, 12, 5), (1, 4, 4)])
def test_reach_is_the_largest_sampled_offset_in_3d(patch: tuple[int, int, int]) -> None:
    assert_reach_is_largest_offset([random_matrix(3, seed) for seed in range(20)], patch)


def random_matrix(dimensions: int, seed: int) -> np.ndarray:
    return generator(seed).normal(size=(dimensions, dimensions))


def assert_reach_is_largest_offset(matrices: list[np.ndarray], patch: Sequence[int]) -> None:
    offsets = np.array(list(itertools.product(*(np.arange(edge) - (edge - 1) / 2 for edge in patch))))
    for matrix in matrices:
        np.testing.assert_allclose(reach(matrix, patch), np.abs(offsets @ matrix.T).max(0), atol=1e-12)


DRAWS = 4000


def matrices(sampling: RotateAndScale, patch: Sequence[int]) -> list[np.ndarray | None]:
    random = generator(5)
    return [sampling.draw(random, patch) for _ in range(DRAWS)]


def assert_frequency(count: int, probability: float, total: int = DRAWS) -> None:
    deviation = (total * probability * (1 - probability)) ** 0.5
    assert abs(count - total * probability) < 4 * deviation, (count / total, probability)


def test_rotation_and_scaling_are_drawn_independently_with_their_probabilities() -> None:
    drawn = matrices(RotateAndScale((30.0, 30.0, 30.0)), (8, 8, 8))
    scales = [None if matrix is None else np.cbrt(np.linalg.det(matrix)) for matrix in drawn]
    scaled = [scale is not None and abs(scale - 1) > 1e-9 for scale in scales]
    turned = [
        matrix is not None and not np.allclose(matrix, scale * np.eye(3))
        for matrix, scale in zip(drawn, scales, strict=True)
    ]
    assert_frequency(sum(scaled), 0.2)
    assert_frequency(sum(turned), 0.2)
    assert_frequency(sum(map(all, zip(scaled, turned, strict=True))), 0.04)
    assert_frequency(sum(matrix is None for matrix in drawn), 0.64)


def test_scales_fill_their_range_evenly_and_are_the_same_on_all_axes() -> None:
    drawn = matrices(RotateAndScale((0.0, 0.0, 0.0), scaling_probability=1.0), (8, 8, 8))
    scales = np.array([matrix[0, 0] for matrix in drawn])
    assert all(np.allclose(matrix, scale * np.eye(3)) for matrix, scale in zip(drawn, scales, strict=True))
    assert 0.7 <= scales.min() < 0.71
    assert 1.39 < scales.max() <= 1.4
    assert scales.mean() == pytest.approx(1.05, abs=0.015)


def test_a_rotation_in_3d_is_one_about_axis_0_then_1_then_2_within_its_angles() -> None:
    degrees = (10.0, 20.0, 40.0)
    sampling = RotateAndScale(degrees, rotation_probability=1.0, scaling_probability=0.0)
    largest = np.zeros(3)
    for matrix in matrices(sampling, (8, 8, 8))[:1000]:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
        angles = angles_of(matrix)
        largest = np.maximum(largest, np.abs(angles))
    assert (largest <= np.array(degrees) + 1e-9).all()
    assert (largest > 0.97 * np.array(degrees)).all()


def angles_of(matrix: np.ndarray) -> np.ndarray:
    """Degrees about the axes of ``R2 @ R1 @ R0``; the signs do not matter here."""
    about_1 = np.arcsin(np.clip(matrix[2, 0], -1, 1))
    return np.degrees([np.arctan2(matrix[2, 1], matrix[2, 2]), about_1, np.arctan2(matrix[1, 0], matrix[0, 0])])


def test_one_angle_turns_the_last_two_axes_alone() -> None:
    for patch in ((16, 16), (4, 16, 16)):
        sampling = RotateAndScale((180.0,), rotation_probability=1.0, scaling_probability=1.0)
        for matrix in matrices(sampling, patch)[:200]:
            assert matrix.shape == (len(patch), len(patch))
            plane = matrix[-2:, -2:]
            scale = np.sqrt(np.linalg.det(plane))
            np.testing.assert_allclose(plane @ plane.T, scale**2 * np.eye(2), atol=1e-12)
            assert 0.7 <= scale <= 1.4
            rest = matrix.copy()
            rest[-2:, -2:] = np.eye(2)
            np.testing.assert_array_equal(rest, np.eye(len(patch)))


def test_a_scale_above_one_shrinks_objects() -> None:
    labels = np.zeros((60, 60), np.int8)
    labels[20:40, 20:40] = 1
    image = np.zeros((1, 60, 60), np.float32)
    for scale in (0.7, 1.0, 1.4):
        _, sampled = sample(image, labels, scale * np.eye(2), np.array([29.5, 29.5]), (40, 40))
        assert int((sampled == 1).sum()) == pytest.approx((20 / scale) ** 2, rel=0.1)


@pytest.mark.parametrize("edge", [8, 9])
def test_a_sampling_turns_a_patch_about_its_centre(edge: int) -> None:
    """By a quarter turn exactly; what was beyond the patch, where objects shrink, is outside."""
    image = generator().normal(size=(2, 3, edge, edge)).astype(np.float32)
    labels = generator().integers(-1, 4, (3, edge, edge)).astype(np.int8)
    transform = WithinPatch(RotateAndScale((30.0,)))
    quarter = np.eye(3)
    quarter[1:, 1:] = [[0, -1], [1, 0]]
    turned, moved = apply(transform, image, labels, {"matrix": quarter.tolist()})
    np.testing.assert_allclose(turned, np.rot90(image, -1, axes=(2, 3)), atol=1e-5)
    np.testing.assert_array_equal(moved, np.rot90(labels, -1, axes=(1, 2)))
    small, around = apply(transform, image, labels, {"matrix": np.diag([1.0, 2.0, 2.0]).tolist()})
    assert not small[..., 0].any()
    assert (around[..., 0] == -1).all()
    assert (around[:, edge // 2, edge // 2] != -1).any()


def test_mirroring_is_an_involution_and_flips_image_and_labels_alike() -> None:
    labels = generator().integers(0, 9, (3, 4, 5))
    image = np.stack([labels, labels * 2]).astype(np.float32)
    mirror = Mirror((0, 1, 2))
    for count in range(1, 4):
        for axes in itertools.combinations(range(3), count):
            once = apply(mirror, image, labels, {"axes": list(axes)})
            np.testing.assert_array_equal(once[1], np.flip(labels, axes))
            np.testing.assert_array_equal(once[0][0], once[1])
            np.testing.assert_array_equal(once[0][1], 2 * once[1])
            twice = apply(mirror, *once, {"axes": list(axes)})
            np.testing.assert_array_equal(twice[0], image)
            np.testing.assert_array_equal(twice[1], labels)


def test_each_allowed_axis_is_flipped_half_of_the_time_and_no_other() -> None:
    random, mirror = generator(2), Mirror((0, 2))
    drawn = [mirror.draw(random, (1, 4, 4, 4)) for _ in range(DRAWS)]
    axes = [tuple(parameters["axes"]) if parameters else () for parameters in drawn]
    assert set(axes) == {(), (0,), (2,), (0, 2)}
    for combination in set(axes):
        assert_frequency(axes.count(combination), 0.25)
    assert json.loads(json.dumps(drawn)) == drawn


SIDES = {"swap_axis": 2, "swapped_labels": ((1, 2), (5, 3))}
ALL_FLIPS = [axes for count in range(1, 4) for axes in itertools.combinations(range(3), count)]


def of_the_other_side(labels: np.ndarray) -> np.ndarray:
    """Written out label by label: 4 has no side, 6 is the ignore label, -1 is outside."""
    other = {-1: -1, 0: 0, 1: 2, 2: 1, 3: 5, 4: 4, 5: 3, 6: 6}
    return np.vectorize(other.get)(labels).astype(labels.dtype)


def sided(dtype: type = np.int8) -> tuple[np.ndarray, np.ndarray]:
    labels = generator().integers(-1, 7, (4, 5, 6)).astype(dtype)
    return np.stack([labels, 2 * labels]).astype(np.float32), labels


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("axes", ALL_FLIPS, ids=str)
def test_labels_of_the_sides_change_places_where_left_and_right_are_flipped(axes: tuple[int, ...], dtype: type) -> None:
    image, labels = sided(dtype)
    before = labels.copy()
    mirrored, exchanged = apply(Mirror((0, 1, 2), **SIDES), image, labels, {"axes": list(axes)})
    flipped = np.flip(labels, axes)
    np.testing.assert_array_equal(exchanged, of_the_other_side(flipped) if 2 in axes else flipped)
    np.testing.assert_array_equal(mirrored, np.flip(image, [axis + 1 for axis in axes]))
    np.testing.assert_array_equal(labels, before)
    assert exchanged.dtype == dtype


def test_exchanging_labels_works_up_to_the_largest_one_that_the_type_holds() -> None:
    labels = np.array([[-1, 0, 126, 127]], np.int8)
    mirror = Mirror((1,), swap_axis=1, swapped_labels=((126, 127),))
    _, exchanged = apply(mirror, labels[None].astype(np.float32), labels, {"axes": [1]})
    assert exchanged.tolist() == [[126, 127, 0, -1]]
    nothing = np.full((1, 4), -1, np.int8)
    assert apply(mirror, nothing[None].astype(np.float32), nothing, {"axes": [1]})[1].tolist() == nothing.tolist()


@pytest.mark.parametrize("axes", ALL_FLIPS, ids=str)
def test_mirroring_the_patient_commutes_with_training(axes: tuple[int, ...]) -> None:
    """A mirrored patient (flipped from left to right, sides renamed), then augmented: the augmented patient, mirrored."""
    image, labels = sided()
    mirror, drawn = Mirror((0, 1, 2), **SIDES), {"axes": list(axes)}

    def patient_mirrored(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.flip(image, 3), of_the_other_side(np.flip(labels, 2))

    first, last = (
        apply(mirror, *patient_mirrored(image, labels), drawn),
        patient_mirrored(*apply(mirror, image, labels, drawn)),
    )
    np.testing.assert_array_equal(first[0], last[0])
    np.testing.assert_array_equal(first[1], last[1])


def test_a_label_that_means_a_side_means_it_after_mirroring_too() -> None:
    labels = np.ones((4, 5, 6), np.int8)
    labels[:, :, 3:] = 2
    mirror = Mirror((0, 1, 2), **SIDES)
    for axes in ALL_FLIPS:
        np.testing.assert_array_equal(
            apply(mirror, labels[None].astype(np.float32), labels, {"axes": list(axes)})[1], labels
        )


def test_without_axes_nothing_is_mirrored() -> None:
    assert Mirror(()).draw(generator(), (1, 4, 4)) is None


def test_what_an_earlier_stage_predicted_changes_sides_with_the_labels() -> None:
    """The channels of labels 1 to 5 stand at the end of the image; mirrored, they are those of the mirrored labels."""
    labels = generator().integers(0, 6, (4, 5, 6))
    channels = [labels == label for label in range(1, 6)]
    image = np.stack([labels * 10, *channels]).astype(np.float32)
    mirror = Mirror((0, 1, 2), **SIDES, label_channels=5)
    for axes in ALL_FLIPS:
        mirrored, exchanged = apply(mirror, image, labels, {"axes": list(axes)})
        np.testing.assert_array_equal(mirrored[0], np.flip(image[0], axes))
        for label in range(1, 6):
            np.testing.assert_array_equal(mirrored[label], exchanged == label)


def test_a_mask_clears_its_channels_outside_and_nothing_else() -> None:
    image, labels = generator().normal(size=(3, 6, 7)).astype(np.float32), generator(1).integers(-1, 2, (6, 7))
    masked, same = apply(Mask([0, 2]), image, labels, {})
    for channel in range(3):
        expected = np.where(labels < 0, 0, image[channel]) if channel != 1 else image[1]
        np.testing.assert_array_equal(masked[channel], expected)
    np.testing.assert_array_equal(same, labels)
    assert Mask([0]).draw(generator(), image.shape) == {}

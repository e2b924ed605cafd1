"""Interpolating label maps by shape: laws and known answers."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.volume.shapes import interpolate_shapes
from autoseg.volume.spline import axis_operator


def disc(radius: float, size: int = 33) -> np.ndarray:
    rows, columns = np.indices((size, size)) - size // 2
    return (np.hypot(rows, columns) <= radius).astype(np.int16)


def test_same_slices_give_the_same_labels():
    labels = np.random.default_rng(0).integers(-1, 4, (5, 12, 13)).astype(np.int16)
    np.testing.assert_array_equal(interpolate_shapes(labels, np.eye(5, dtype=np.float32)), labels)


def test_a_disc_between_two_discs_has_the_radius_between():
    labels = np.stack([disc(6), disc(14)])
    operator = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], np.float32)
    areas = interpolate_shapes(labels, operator).sum(axis=(1, 2))
    np.testing.assert_allclose(np.sqrt(areas / np.pi), [8, 10, 12], atol=0.4)


def test_a_moving_disc_is_between_its_places():
    labels = np.stack([np.roll(disc(5), -4, axis=1), np.roll(disc(5), 4, axis=1)])
    [middle] = interpolate_shapes(labels, np.array([[0.5, 0.5]], np.float32))
    assert np.argwhere(middle).mean(axis=0) == pytest.approx([16, 16])


def test_a_label_that_ends_shrinks_to_a_point_half_way():
    labels = np.stack([disc(10), np.zeros((33, 33), np.int16)])
    weights = np.array([1.0, 0.9, 0.75, 0.6, 0.49, 0.2], np.float32)
    areas = interpolate_shapes(labels, np.stack([weights, 1 - weights], axis=1)).sum(axis=(1, 2))
    assert np.all(np.diff(areas[:5]) < 0)
    np.testing.assert_array_equal(areas[4:], 0)


def test_nothing_is_invented():
    """Only labels of the neighbouring slices occur, and only where one of the two has something."""
    labels = np.random.default_rng(1).integers(0, 3, (4, 16, 16)).astype(np.int8)
    result = interpolate_shapes(labels, axis_operator(4, 11, 1))
    assert result.dtype == labels.dtype
    assert set(np.unique(result)) <= set(np.unique(labels))
    for index, row in enumerate(axis_operator(4, 11, 1)):
        beside = labels[np.flatnonzero(row)]
        assert not result[index][(beside == 0).all(axis=0)].any()


def test_flips_and_turns_commute_with_interpolation():
    labels = np.stack([disc(6), np.roll(disc(9), 3, axis=0), 2 * disc(4)])
    operator = axis_operator(3, 8, 1)
    result = interpolate_shapes(labels, operator)
    np.testing.assert_array_equal(interpolate_shapes(labels[:, ::-1], operator), result[:, ::-1])
    np.testing.assert_array_equal(interpolate_shapes(labels.swapaxes(1, 2), operator), result.swapaxes(1, 2))

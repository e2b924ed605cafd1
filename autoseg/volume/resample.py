"""Resampling of images, label maps and logits, exact and separable.

A spline zoom is linear and separable: zooming an identity matrix along one axis gives the operator of that axis, and a
volume is resampled by one matrix product per axis. That equals ``scipy.ndimage.zoom(order, mode="nearest",
grid_mode=True)`` (half-pixel centres, edges repeated, no smoothing) to float32 precision, and is many times faster.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import ndimage

from autoseg.values import ResamplingSpec
from autoseg.volume.shapes import interpolate_shapes

__all__ = ["Resampler", "SeparableResampler", "axis_operator", "resample_spline", "separate_axis", "target_shape"]

Sizes = tuple[int, int, int]
#: The tails of a spline operator are denormal numbers, which make matrix products many times slower.
SMALLEST_WEIGHT = 1e-7
#: Two indicators of labels closer than this are a tie.
TIE = 1e-5


class Resampler(Protocol):
    """Changes the grid of arrays ``(channels, *spatial)``; made from a ResamplingSpec."""

    def image(self, image: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """Intensities on a grid of that shape; spacings in millimetres decide which axis is treated apart."""
        ...

    def labels(self, labels: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """A label map ``(*spatial)`` on a grid of that shape; only labels that occurred occur."""
        ...

    def logits(self, logits: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """Network outputs on a grid of that shape, channel by channel independent of each other."""
        ...


def target_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float | None]) -> Sizes:
    """Voxels per axis after going from ``spacing`` to ``target`` (None: that axis stays), rounded half to even."""
    first, second, third = (
        max(1, round(old / new * size)) if new is not None else size
        for size, old, new in zip(shape, spacing, target, strict=True)
    )
    return (first, second, third)


def separate_axis(spacing: Sequence[float], target: Sequence[float], threshold: float = 3.0) -> int | None:
    """The axis so much coarser than the others that it is resampled apart, or None.

    Decided by the current spacing, else by the new one; two equally coarse axes are not treated apart.
    """
    for steps in (spacing, target):
        coarsest = max(steps)
        if coarsest / min(steps) > threshold:
            axes = [axis for axis, step in enumerate(steps) if step == coarsest]
            return axes[0] if len(axes) == 1 else None
    return None


@functools.lru_cache(maxsize=64)
def axis_operator(old: int, new: int, order: int) -> np.ndarray:
    """The ``(new, old)`` float32 matrix that resamples one axis with a spline of that order."""
    if order == 0:  # nearest at (i + 0.5) * old / new - 0.5, halves up
        operator = np.eye(old)[_nearest(old, new)]
    else:
        operator = ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True)
    assert operator.shape == (new, old), (operator.shape, new, old)
    operator[np.abs(operator) < SMALLEST_WEIGHT] = 0
    operator = operator.astype(np.float32)
    operator.setflags(write=False)  # it is cached
    return operator


def resample_spline(array: np.ndarray, shape: Sizes, orders: Sequence[int]) -> np.ndarray:
    """One ``(*spatial)`` array on another grid; ``orders`` gives the spline order per axis.

    Returns:
        float32, not clipped.
    """
    result = np.asarray(array, dtype=np.float32)
    # the axis that shrinks most goes first, so that the following products are smaller
    for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis]):
        if shape[axis] != array.shape[axis]:
            result = _along(result, axis, axis_operator(array.shape[axis], shape[axis], orders[axis]))
    return result


def _along(array: np.ndarray, axis: int, operator: np.ndarray) -> np.ndarray:
    if axis == 2:
        return array @ operator.T
    if axis == 1:
        return operator @ array
    flat = operator @ array.reshape(array.shape[0], -1)
    return flat.reshape(operator.shape[0], *array.shape[1:])


class SeparableResampler:
    """Spline resampling by one matrix product per axis, with nnU-Net's rules for anisotropic data.

    Args:
        spec: orders and the anisotropy threshold. With ``separate_axis_order`` 0, the coarse axis is resampled to the
            nearest slice, as nnU-Net does; with 1 it is interpolated, label maps by the shape of their labels, so that
            no slice is simply repeated.
    """

    def __init__(self, spec: ResamplingSpec) -> None:
        self.spec = spec

    def image(self, image: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """Float32 intensities, clipped to the range of each channel (with a coarse axis: of each of its slices)."""
        if tuple(image.shape[1:]) == shape:
            return image.astype(np.float32, copy=False)
        apart, orders = self._orders(self.spec.image_order, spacing, target)
        result = np.empty((len(image), *shape), np.float32)
        for channel, array in enumerate(image):
            if apart is None:
                result[channel] = np.clip(resample_spline(array, shape, orders), array.min(), array.max())
            else:
                result[channel] = self._by_slices(array, shape, orders, apart)
        return result

    def _by_slices(self, array: np.ndarray, shape: Sizes, orders: Sequence[int], apart: int) -> np.ndarray:
        in_plane = tuple(array.shape[axis] if axis == apart else shape[axis] for axis in range(3))
        within = tuple(axis for axis in range(3) if axis != apart)
        slices = resample_spline(array, (in_plane[0], in_plane[1], in_plane[2]), orders)
        low, high = array.min(axis=within, keepdims=True), array.max(axis=within, keepdims=True)
        return resample_spline(np.clip(slices, low, high), shape, orders)

    def labels(self, labels: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """The label with the largest resampled indicator wins; between thick slices, labels are interpolated by shape.

        A tie goes to the nearest voxel's label if that is among the tied, else to the smallest label.
        """
        if labels.shape == shape:
            return labels
        apart, orders = self._orders(self.spec.label_order, spacing, target)
        if apart is not None and orders[apart] and shape[apart] > labels.shape[apart]:
            within = [labels.shape[axis] if axis == apart else shape[axis] for axis in range(3)]
            slices = self._by_indicators(labels, (within[0], within[1], within[2]), orders)
            operator = axis_operator(labels.shape[apart], shape[apart], 1)
            return np.moveaxis(interpolate_shapes(np.moveaxis(slices, apart, 0), operator), 0, apart)
        return self._by_indicators(labels, shape, orders)

    def _by_indicators(self, labels: np.ndarray, shape: Sizes, orders: Sequence[int]) -> np.ndarray:
        if labels.shape == shape:
            return labels
        nearest = labels[np.ix_(*(_nearest(old, new) for old, new in zip(labels.shape, shape, strict=True)))]
        best = np.full(shape, -1, np.float32)
        winner = nearest.copy()
        nearest_value = np.zeros(shape, np.float32)
        for label in np.unique(labels):
            indicator = resample_spline(labels == label, shape, orders)
            nearest_value = np.where(nearest == label, indicator, nearest_value)
            better = indicator > best + TIE
            winner[better] = label
            np.maximum(best, indicator, out=best)
        return np.where(nearest_value >= best - TIE, nearest, winner)

    def logits(self, logits: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """Float32 outputs, each channel by the order for logits."""
        if tuple(logits.shape[1:]) == shape:
            return logits.astype(np.float32, copy=False)
        _, orders = self._orders(self.spec.logits_order, spacing, target)
        return np.stack([resample_spline(channel, shape, orders) for channel in logits])

    def _orders(self, order: int, spacing: Sequence[float], target: Sequence[float]) -> tuple[int | None, list[int]]:
        apart = separate_axis(spacing, target, self.spec.anisotropy_threshold)
        along = min(order, self.spec.separate_axis_order)
        return apart, [along if axis == apart else order for axis in range(3)]


@functools.lru_cache(maxsize=64)
def _nearest(old: int, new: int) -> np.ndarray:
    places = np.clip(np.floor((np.arange(new) + 0.5) * old / new).astype(int), 0, old - 1)
    places.setflags(write=False)  # it is cached
    return places

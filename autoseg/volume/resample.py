"""Resampling of images, label maps and logits: which axis is treated apart, what is clipped, which label wins.

The arithmetic is in ``spline.py``, ``votes.py`` and ``shapes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from autoseg.scratch import empty
from autoseg.values import ResamplingSpec
from autoseg.volume.shapes import interpolate_shapes
from autoseg.volume.spline import Sizes, Slab, axis_operator, resample_slices, resample_spline, slabs_of
from autoseg.volume.votes import resample_labels

__all__ = ["Resampler", "SeparableResampler", "separate_axis", "target_shape"]


class Resampler(Protocol):
    """Changes the grid of arrays ``(channels, *spatial)``; made from a ResamplingSpec."""

    def image(self, image: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """Intensities on a grid of that shape; spacings in millimetres decide which axis is treated apart."""
        ...

    def labels(self, labels: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """A label map ``(*spatial)`` on a grid of that shape; only labels that occurred occur."""
        ...

    def logits(self, logits: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """Network outputs on a grid of that shape, channel by channel independent of each other.

        A resampler that also has ``slabs``, see ``SeparableResampler``, takes less memory when label maps are made.
        """
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
        result = empty((len(image), *shape))
        for channel, array in enumerate(image):
            if apart is None:
                limits = (float(array.min()), float(array.max()))
                resample_spline(array, shape, orders, limits=limits, into=result[channel])
            else:
                resample_slices(array, orders, apart, into=result[channel])
        return result

    def labels(self, labels: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """The label with the largest resampled indicator wins; between thick slices, labels are interpolated by shape.

        A tie goes to the nearest voxel's label if that is among the tied, else to the smallest label.
        """
        if labels.shape == shape:
            return labels
        apart, orders = self._orders(self.spec.label_order, spacing, target)
        if apart is not None and orders[apart] and shape[apart] > labels.shape[apart]:
            within = [labels.shape[axis] if axis == apart else shape[axis] for axis in range(3)]
            slices = resample_labels(labels, (within[0], within[1], within[2]), orders)
            operator = axis_operator(labels.shape[apart], shape[apart], 1)
            return np.moveaxis(interpolate_shapes(np.moveaxis(slices, apart, 0), operator), 0, apart)
        return resample_labels(labels, shape, orders)

    def logits(self, logits: np.ndarray, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
        """Float32 outputs, each channel by the order for logits."""
        if tuple(logits.shape[1:]) == shape:
            return logits.astype(np.float32, copy=False)
        _, orders = self._orders(self.spec.logits_order, spacing, target)
        result = np.empty((len(logits), *shape), np.float32)
        for channel, array in enumerate(logits):
            resample_spline(array, shape, orders, into=result[channel])
        return result

    def slabs(self, old: Sizes, shape: Sizes, spacing: Sequence[float], target: Sequence[float]) -> list[Slab]:
        """The parts in which ``logits`` computes a channel, each by itself, so that channels can compete part by part."""
        _, orders = self._orders(self.spec.logits_order, spacing, target)
        return slabs_of(old, shape, orders)

    def _orders(self, order: int, spacing: Sequence[float], target: Sequence[float]) -> tuple[int | None, list[int]]:
        apart = separate_axis(spacing, target, self.spec.anisotropy_threshold)
        along = min(order, self.spec.separate_axis_order)
        return apart, [along if axis == apart else order for axis in range(3)]

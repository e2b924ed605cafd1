"""Rotation, scaling and mirroring: where a patch is sampled from, exactly as far as it reaches.

Coordinates are voxel centres. A patch voxel at offset ``o`` from the patch's centre is sampled at ``centre + matrix @ o``
in the case, so only the box that the matrix really reaches is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["Mirror", "RotateAndScale", "reach", "sample_affine"]

OUTSIDE = -1
TIE = 1e-5


class RotateAndScale:
    """Now and then a rotation, a scaling or both; otherwise a plain crop.

    Args:
        degrees: largest angle about each axis; one entry rotates in the plane of the last two axes.
        rotation_probability: of a rotation.
        scaling_probability: of a scaling.
        scale: range; above 1 objects shrink.
    """

    def __init__(
        self,
        degrees: Sequence[float],
        *,
        rotation_probability: float = 0.2,
        scaling_probability: float = 0.2,
        scale: tuple[float, float] = (0.7, 1.4),
    ) -> None:
        self.degrees, self.scale = tuple(degrees), scale
        self.rotation_probability, self.scaling_probability = rotation_probability, scaling_probability

    def draw(self, random: np.random.Generator, patch_size: Sequence[int]) -> np.ndarray | None:
        """The matrix of this patch, or None for a plain crop."""
        rotates = random.random() < self.rotation_probability
        scales = random.random() < self.scaling_probability
        if not rotates and not scales:
            return None
        angles = [random.uniform(-angle, angle) * rotates for angle in self.degrees]
        scale = random.uniform(*self.scale) if scales else 1.0
        if len(angles) == 3:
            return scale * _rotation(angles)
        matrix = np.eye(len(patch_size))
        sine, cosine = math.sin(math.radians(angles[0])), math.cos(math.radians(angles[0]))
        matrix[-2:, -2:] = scale * np.array([[cosine, -sine], [sine, cosine]])
        return matrix


def _rotation(degrees: Sequence[float]) -> np.ndarray:
    """Rotation about axis 0, then 1, then 2."""
    matrix = np.eye(3)
    for axis, angle in enumerate(degrees):
        sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        first, second = (other for other in range(3) if other != axis)
        step = np.eye(3)
        step[first, first] = step[second, second] = cosine
        step[first, second], step[second, first] = -sine, sine
        matrix = step @ matrix
    return matrix


def reach(matrix: np.ndarray, patch_size: Sequence[int]) -> np.ndarray:
    """How far from the centre a patch samples, in voxels per axis."""
    return np.abs(matrix) @ ((np.array(patch_size) - 1) / 2)


def sample_affine(
    image: np.ndarray, segmentation: np.ndarray, matrix: np.ndarray, centre: np.ndarray, patch_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Samples a patch from a box of the case.

    Args:
        image: float32 ``(channels, *spatial)``, sampled linearly; outside it is 0.
        segmentation: integers ``(*spatial)``; the label with the largest linearly sampled indicator wins, outside is -1.
        matrix: of the offsets, in voxels.
        centre: of the patch, in the box's coordinates.
        patch_size: of the result.
    """
    grid = _grid(matrix, centre, patch_size, segmentation.shape)
    sampled = _sample(torch.from_numpy(np.ascontiguousarray(image))[None], grid)[0]
    labels = torch.from_numpy(np.ascontiguousarray(segmentation))
    nearest = _sample((labels - OUTSIDE).float()[None, None], grid, mode="nearest")[0, 0] + OUTSIDE
    best = torch.full(nearest.shape, -1.0)
    winner, nearest_value, inside = nearest.clone(), torch.zeros_like(nearest), torch.zeros_like(nearest)
    present = [int(label) for label in torch.unique(labels) if label != OUTSIDE]
    for label in present:
        indicator = _sample((labels == label).float()[None, None], grid)[0, 0]
        inside += indicator
        best, winner, nearest_value = _contest(label, indicator, best, winner, nearest, nearest_value)
    best, winner, nearest_value = _contest(OUTSIDE, 1 - inside, best, winner, nearest, nearest_value)
    result = torch.where(nearest_value >= best - TIE, nearest, winner)
    return sampled.numpy(), result.numpy().astype(segmentation.dtype)


def _contest(
    label: int,
    indicator: torch.Tensor,
    best: torch.Tensor,
    winner: torch.Tensor,
    nearest: torch.Tensor,
    nearest_value: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    better = indicator > best
    return (
        torch.where(better, indicator, best),
        torch.where(better, float(label), winner),
        torch.where(nearest == label, torch.maximum(nearest_value, indicator), nearest_value),
    )


def _grid(matrix: np.ndarray, centre: np.ndarray, patch_size: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Sampling positions for ``grid_sample``: ``(1, *patch, dimensions)``, last axis first, -1..1 edge to edge."""
    offsets = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in patch_size), indexing="ij")
    positions = np.tensordot(matrix, np.stack(offsets), axes=1) + np.reshape(centre, (-1, *(1,) * len(patch_size)))
    scaled = [(2 * position + 1) / size - 1 for position, size in zip(positions, shape, strict=True)]
    return torch.from_numpy(np.stack(scaled[::-1], axis=-1).astype(np.float32))[None]


def _sample(volume: torch.Tensor, grid: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    return F.grid_sample(volume, grid, mode=mode, padding_mode="zeros", align_corners=False)


class Mirror:
    """Flips each of the allowed axes with probability one half.

    A patient who is mirrored from left to right has the left organ where the right one was: along that axis the labels of
    the two sides change places, too.

    Args:
        axes: spatial axes.
        swap_axis: the one of them that runs from one side of the patient to the other, if labels depend on it.
        swapped_labels: pairs of labels, as the segmentation holds them.
    """

    def __init__(
        self, axes: Sequence[int], *, swap_axis: int | None = None, swapped_labels: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.axes, self.swap_axis, self.swapped_labels = tuple(axes), swap_axis, tuple(swapped_labels)

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Mapping[str, Any] | None:
        """The axes to flip."""
        axes = [axis for axis in self.axes if random.random() < 0.5]
        return {"axes": axes} if axes else None

    def apply(
        self, image: np.ndarray, segmentation: np.ndarray, parameters: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Flips image and segmentation alike, and exchanges the labels of the two sides if that axis is flipped."""
        axes = tuple(parameters["axes"])
        flipped = np.flip(segmentation, axes)
        if self.swap_axis in axes:
            flipped = _exchanged(flipped, self.swapped_labels)
        return np.flip(image, tuple(axis + 1 for axis in axes)), flipped


def _exchanged(segmentation: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """A copy in which the labels of each pair have changed places; all else, the ignore label and outside, stays."""
    largest = max(int(segmentation.max()), *(label for pair in pairs for label in pair))
    table = np.arange(largest + 2)
    table[OUTSIDE] = OUTSIDE  # -1 looks up the last entry, which no label needs
    for one, other in pairs:
        table[one], table[other] = other, one
    return table.astype(segmentation.dtype)[segmentation.astype(np.intp)]

"""Rotation, scaling, mirroring and masking: where a patch is sampled from, exactly as far as it reaches.

Coordinates are voxel centres. A patch voxel at offset ``o`` from the patch's centre is sampled at ``centre + matrix @ o``
in the case, so only the box that the matrix really reaches is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.augmentation.contract import SpatialSampling
from autoseg.augmentation.transfer import on_device

__all__ = ["OUTSIDE", "Mask", "Mirror", "RotateAndScale", "WithinPatch", "reach", "sample_affine"]

#: Label of what lies outside of the non-zero region, or of the image.
OUTSIDE = -1
TIE = 1e-5
#: Labels whose indicators are sampled at once on a CPU: more would take more memory than time. A GPU gains no time by it.
TOGETHER = 4


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


class WithinPatch:
    """A sampling as a transform: the patch is sampled from itself alone, about its centre.

    What is turned in from beyond the patch is 0, with the label -1. A recipe does better with the sampling as its
    ``spatial``, which reads the case as far as the turned patch reaches.

    Args:
        sampling: decides the matrix, as ``RotateAndScale``.
    """

    def __init__(self, sampling: SpatialSampling) -> None:
        self.sampling = sampling

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Mapping[str, Any] | None:
        """The matrix, or None for the patch as it is."""
        matrix = self.sampling.draw(random, shape[1:])
        return None if matrix is None else {"matrix": matrix.tolist()}

    def apply(
        self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Mapping[str, Any] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples each patch anew."""
        new_images, new_labels = images.clone(), labels.clone()
        size = labels.shape[1:]
        centre = [(edge - 1) / 2 for edge in size]
        for sample, drawn in enumerate(parameters):
            if drawn is not None:
                matrix = np.array(drawn["matrix"])
                new_images[sample], new_labels[sample] = sample_affine(
                    images[sample], labels[sample], matrix, centre, size
                )
        return new_images, new_labels


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
    image: torch.Tensor,
    labels: torch.Tensor,
    matrix: np.ndarray,
    centre: Sequence[float] | np.ndarray,
    patch_size: Sequence[int],
    *,
    present: Sequence[int] | None = None,
    label_channels: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples a patch from a box of the case, on the device where the box is.

    Args:
        image: float32 ``(channels, *spatial)``, sampled linearly; outside it is 0.
        labels: integers ``(*spatial)``; the label with the largest linearly sampled indicator wins, outside is -1.
        matrix: of the offsets, in voxels.
        centre: of the patch, in the box's coordinates.
        patch_size: of the result.
        present: the labels of the box, if they are known; -1 may be left out.
        label_channels: how many channels at the end of the image are zeros and ones, one for each label from 1 on, of which
            a voxel has one at most; they are sampled as that label map would be.
    """
    grid = _grid(matrix, centre, patch_size, labels.shape, image.device)
    sampled_labels = _sampled_labels(labels, grid, labels.unique().tolist() if present is None else present)
    sampled = _sample(image[: len(image) - label_channels], grid)  # later: what labels took on the way is free again
    if label_channels:
        numbers = torch.arange(1, label_channels + 1, device=image.device)
        earlier = torch.tensordot(numbers.float(), image[-label_channels:], 1).round()
        earlier = _sampled_labels(earlier, grid, range(label_channels + 1))
        channels = earlier[None] == numbers.view(-1, *(1,) * earlier.ndim)
        sampled = torch.cat([sampled, channels.to(sampled.dtype)])
    return sampled, sampled_labels


def _sampled_labels(labels: torch.Tensor, grid: torch.Tensor, present: Iterable[int]) -> torch.Tensor:
    """A label map ``(*spatial)`` at the positions of a grid, where the label with the largest indicator wins."""
    present = [label for label in present if label != OUTSIDE]
    nearest = _sample(labels.to(torch.float32, copy=True).sub_(OUTSIDE)[None], grid, mode="nearest")[0] + OUTSIDE
    contest = _Contest(nearest)
    inside = torch.zeros_like(nearest)
    together = TOGETHER if labels.device.type == "cpu" else 1
    for first in range(0, len(present), together):
        group = present[first : first + together]
        indicators = _sample(torch.stack([labels == label for label in group]).float(), grid)
        for label, indicator in zip(group, indicators, strict=True):
            inside += indicator
            contest.enter(label, indicator)
    contest.enter(OUTSIDE, 1 - inside)
    return contest.winner().to(labels.dtype)


class _Contest:
    """Which label has the largest indicator at every voxel; among equals the nearest voxel's, else the first."""

    def __init__(self, nearest: torch.Tensor) -> None:
        self.nearest, self.leading = nearest, nearest.clone()
        self.best, self.own = torch.full_like(nearest, -1.0), torch.zeros_like(nearest)

    def enter(self, label: int, indicator: torch.Tensor) -> None:
        """Another label; its indicator is float32 ``(*patch)``."""
        self.leading.masked_fill_(indicator > self.best, label)
        self.best = torch.maximum(self.best, indicator)
        self.own = torch.where(self.nearest == label, torch.maximum(self.own, indicator), self.own)

    def winner(self) -> torch.Tensor:
        """The winning labels, as floats ``(*patch)``."""
        return torch.where(self.own >= self.best - TIE, self.nearest, self.leading)


def _grid(
    matrix: np.ndarray,
    centre: Sequence[float] | np.ndarray,
    patch_size: Sequence[int],
    shape: Sequence[int],
    device: torch.device,
) -> torch.Tensor:
    """Sampling positions for ``grid_sample``: ``(1, *patch, dimensions)``, last axis first, -1..1 edge to edge."""
    dimensions = len(patch_size)
    steps = [
        (np.arange(edge) - (edge - 1) / 2) * (2 * matrix[row, axis] / size)
        for row, size in enumerate(shape)
        for axis, edge in enumerate(patch_size)
    ]
    along = iter(on_device(np.concatenate(steps).astype(np.float32), device).split([len(each) for each in steps]))
    grid = torch.empty((1, *patch_size, dimensions), device=device)
    for row, size in enumerate(shape):
        position = torch.full((1,) * dimensions, (2 * float(centre[row]) + 1) / size - 1, device=device)
        for axis in range(dimensions):
            position = position + next(along).view([-1 if other == axis else 1 for other in range(dimensions)])
        grid[0, ..., dimensions - 1 - row] = position
    return grid


def _sample(channels: torch.Tensor, grid: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Channels ``(channels, *spatial)`` at the positions of a grid; nothing outside."""
    return F.grid_sample(channels[None], grid, mode=mode, padding_mode="zeros", align_corners=False)[0]


class Mirror:
    """Flips each of the allowed axes with probability one half.

    A patient who is mirrored from left to right has the left organ where the right one was: along that axis the labels of
    the two sides change places, too.

    Args:
        axes: spatial axes.
        swap_axis: the one of them that runs from one side of the patient to the other, if labels depend on it.
        swapped_labels: pairs of labels, as the segmentation holds them.
        label_channels: how many channels at the end of the image are those of labels, from label 1 on.
    """

    def __init__(
        self,
        axes: Sequence[int],
        *,
        swap_axis: int | None = None,
        swapped_labels: Sequence[tuple[int, int]] = (),
        label_channels: int = 0,
    ) -> None:
        self.axes, self.swap_axis, self.swapped_labels = tuple(axes), swap_axis, tuple(swapped_labels)
        self.label_channels = label_channels

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Mapping[str, Any] | None:
        """The axes to flip."""
        axes = [axis for axis in self.axes if random.random() < 0.5]
        return {"axes": axes} if axes else None

    def apply(
        self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Mapping[str, Any] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flips images and labels alike, and exchanges the labels of the two sides where that axis is flipped."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for sample, drawn in enumerate(parameters):
            if drawn is not None:
                groups.setdefault(tuple(drawn["axes"]), []).append(sample)
        new_images, new_labels = images.clone(), labels.clone()
        for axes, samples in groups.items():
            index, pairs = on_device(samples, images.device), self.labels_exchanged({"axes": axes})
            flipped_images = images[index].flip([axis + 2 for axis in axes])
            flipped_labels = labels[index].flip([axis + 1 for axis in axes])
            if pairs:
                flipped_labels = _exchanged(flipped_labels, pairs)
                order = on_device(self._exchanged_channels(images.shape[1]), images.device)
                flipped_images = flipped_images.index_select(1, order)
            new_images[index], new_labels[index] = flipped_images, flipped_labels
        return new_images, new_labels

    def labels_exchanged(self, drawn: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
        """The pairs of labels that change places where these axes are flipped."""
        return self.swapped_labels if self.swap_axis in drawn["axes"] else ()

    def _exchanged_channels(self, count: int) -> list[int]:
        order = list(range(count))
        if self.label_channels:
            first = count - self.label_channels - 1  # label 1 has the channel after it
            for one, other in self.swapped_labels:
                order[first + one], order[first + other] = first + other, first + one
        return order


def _exchanged(labels: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """A copy in which the labels of each pair have changed places; all else, the ignore label and outside, stays."""
    result = labels.clone()
    for one, other in pairs:
        result.masked_fill_(labels == one, other).masked_fill_(labels == other, one)
    return result


class Mask:
    """Keeps channels 0 where they were outside of the non-zero region when they were normalized.

    Args:
        channels: indices of these.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        self.channels = list(channels)

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Mapping[str, Any]:
        """Nothing is left to chance."""
        return {}

    def apply(
        self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Mapping[str, Any] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sets to 0 what has the label -1."""
        acts = on_device([drawn is not None for drawn in parameters], images.device)
        outside = (labels < 0) & acts.view(-1, *(1,) * (labels.ndim - 1))
        result = images.clone()
        for channel in self.channels:
            result[:, channel].masked_fill_(outside, 0)
        return result, labels

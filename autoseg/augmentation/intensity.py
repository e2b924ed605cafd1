"""Changes of intensity: noise, blur, brightness, contrast, low resolution, gamma; ranges and odds as nnU-Net's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.augmentation.channels import change_channels, deviation, mean, per_channel, power
from autoseg.augmentation.transfer import on_device

__all__ = ["Brightness", "Contrast", "Gamma", "GaussianBlur", "GaussianNoise", "LowResolution"]

Tensors = tuple[torch.Tensor, torch.Tensor]
Drawn = Mapping[str, Any]
SMALLEST = 1e-7
#: Where a Gaussian kernel ends, in standard deviations.
TRUNCATE = 3.0


def _around_one(random: np.random.Generator, low: float, high: float) -> float:
    """Uniform below 1 or uniform above 1, each half of the time: darker as often as brighter."""
    return random.uniform(low, 1) if random.random() < 0.5 else random.uniform(1, high)


def _per_channel_draw(
    random: np.random.Generator, probability: float, name: str, limits: tuple[float, float], channels: int
) -> Drawn | None:
    """With the given probability, a value around one for each channel."""
    if random.random() >= probability:
        return None
    return {name: [_around_one(random, *limits) for _ in range(channels)]}


class GaussianNoise:
    """Adds independent noise to all channels, of one drawn deviation."""

    def __init__(self, probability: float = 0.1, largest_deviation: float = 0.1) -> None:
        self.probability, self.largest_deviation = probability, largest_deviation

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """The deviation, and a seed for the noise."""
        if random.random() >= self.probability:
            return None
        return {"deviation": random.uniform(0, self.largest_deviation), "seed": int(random.integers(2**62))}

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Adds the noise; that of a seed is another on a CPU than on a GPU."""
        result = images.clone()
        generator = torch.Generator(images.device)
        for sample, drawn in enumerate(parameters):
            if drawn is not None:
                generator.manual_seed(drawn["seed"])
                noise = torch.randn(images.shape[1:], generator=generator, device=images.device)
                result[sample] += noise.mul_(drawn["deviation"])
        return result, labels


class GaussianBlur:
    """Blurs some channels, along each axis by a width of its own; images go on mirrored at their borders.

    Args:
        probability: that any channel is blurred.
        channel_probability: of each channel then.
        widths: range of the standard deviation, in voxels.
    """

    def __init__(
        self,
        probability: float = 0.2,
        channel_probability: float = 0.5,
        widths: tuple[float, float] = (0.5, 1.0),
    ) -> None:
        self.probability, self.channel_probability, self.widths = probability, channel_probability, widths

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """A width per channel and axis; None for channels that stay."""
        if random.random() >= self.probability:
            return None
        widths = [
            [random.uniform(*self.widths) for _ in shape[1:]] if random.random() < self.channel_probability else None
            for _ in range(shape[0])
        ]
        return {"widths": widths} if any(widths) else None

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Blurs one axis after the other."""
        return change_channels(images, parameters, "widths", _blurred), labels


def _blurred(channels: torch.Tensor, widths: Sequence[Sequence[float]]) -> torch.Tensor:
    """Sums of shifted copies: exact to the bit whatever is blurred together, which no convolution promises."""
    for axis in range(1, channels.ndim):
        kernels = _kernels([width[axis - 1] for width in widths])
        radius, size = kernels.shape[1] - 1, channels.shape[axis]
        mirrored = on_device(np.pad(np.arange(size), radius, mode="reflect"), channels.device)
        padded = channels.index_select(axis, mirrored)
        total = channels * per_channel(kernels[:, 0].tolist(), channels)
        for distance in range(1, radius + 1):
            pair = padded.narrow(axis, radius - distance, size) + padded.narrow(axis, radius + distance, size)
            total += pair.mul_(per_channel(kernels[:, distance].tolist(), channels))
        channels = total
    return channels


def _kernels(widths: Sequence[float]) -> np.ndarray:
    """Weights ``(widths, 1 + largest radius)`` by distance, of Gaussian kernels that sum to one."""
    column = np.array(widths)[:, None]
    radius = np.floor(TRUNCATE * column + 0.5)
    distance = np.arange(int(radius.max()) + 1)
    weights = np.exp(-0.5 * (distance / column) ** 2) * (distance <= radius)
    return weights / (2 * weights.sum(1, keepdims=True) - 1)


class Brightness:
    """Multiplies each channel by a factor of its own."""

    def __init__(self, probability: float = 0.15, factors: tuple[float, float] = (0.75, 1.25)) -> None:
        self.probability, self.factors = probability, factors

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """A factor per channel."""
        return _per_channel_draw(random, self.probability, "factors", self.factors, shape[0])

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Multiplies."""

        def brightened(channels: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
            return channels * per_channel(factors, channels)

        return change_channels(images, parameters, "factors", brightened), labels


class Contrast:
    """Spreads each channel around its mean, within its old range."""

    def __init__(self, probability: float = 0.15, factors: tuple[float, float] = (0.75, 1.25)) -> None:
        self.probability, self.factors = probability, factors

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """A factor per channel."""
        return _per_channel_draw(random, self.probability, "factors", self.factors, shape[0])

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Spreads, then clips to the old minimum and maximum."""

        def spread(channels: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
            axes, middle = tuple(range(1, channels.ndim)), mean(channels)
            wide = (channels - middle).mul_(per_channel(factors, channels)).add_(middle)
            return wide.clamp_(channels.amin(axes, keepdim=True), channels.amax(axes, keepdim=True))

        return change_channels(images, parameters, "factors", spread), labels


class LowResolution:
    """Makes some channels coarser: nearest voxels down, linear up.

    Args:
        probability: that any channel is made coarser.
        channel_probability: of each channel then.
        zoom: range of the size that is left.
        axes: spatial axes that lose resolution; None for all.
    """

    def __init__(
        self,
        probability: float = 0.25,
        channel_probability: float = 0.5,
        zoom: tuple[float, float] = (0.5, 1.0),
        axes: Sequence[int] | None = None,
    ) -> None:
        self.probability, self.channel_probability, self.zoom, self.axes = probability, channel_probability, zoom, axes

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """A zoom per channel; None for channels that stay."""
        if random.random() >= self.probability:
            return None
        zooms = [
            random.uniform(*self.zoom) if random.random() < self.channel_probability else None for _ in range(shape[0])
        ]
        return {"zooms": zooms} if any(zooms) else None

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Down and up again."""

        def coarser(channels: torch.Tensor, zooms: Sequence[float]) -> torch.Tensor:
            return torch.stack([self._coarser(*pair) for pair in zip(channels, zooms, strict=True)])

        return change_channels(images, parameters, "zooms", coarser), labels

    def _coarser(self, channel: torch.Tensor, zoom: float) -> torch.Tensor:
        shape = channel.shape
        axes = range(len(shape)) if self.axes is None else self.axes
        small = [max(1, round(size * zoom)) if axis in axes else size for axis, size in enumerate(shape)]
        coarse = F.interpolate(channel[None, None], size=small, mode="nearest-exact")
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        return F.interpolate(coarse, size=list(shape), mode=mode, align_corners=False)[0, 0]


class Gamma:
    """Bends the intensity curve of each channel; mean and deviation are restored.

    Args:
        probability: of acting.
        invert: bend the inverted image.
        gammas: range of the exponent.
    """

    def __init__(self, probability: float, *, invert: bool, gammas: tuple[float, float] = (0.7, 1.5)) -> None:
        self.probability, self.invert, self.gammas = probability, invert, gammas

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """An exponent per channel."""
        return _per_channel_draw(random, self.probability, "gammas", self.gammas, shape[0])

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Bends range-normalized values, then restores mean and deviation."""
        return change_channels(images, parameters, "gammas", self._bent), labels

    def _bent(self, channels: torch.Tensor, gammas: Sequence[float]) -> torch.Tensor:
        axes = tuple(range(1, channels.ndim))
        source = -channels if self.invert else channels
        low = source.amin(axes, keepdim=True)
        width = (source.amax(axes, keepdim=True) - low).clamp_min_(SMALLEST)
        bent = power((source - low).div_(width), gammas)
        standard = bent.sub_(mean(bent)).div_(deviation(bent).clamp_min_(SMALLEST))
        result = standard.mul_(deviation(source)).add_(mean(source))
        return result.neg_() if self.invert else result

"""Changes of intensity: noise, brightness, contrast, low resolution, gamma; ranges and odds as nnU-Net's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["Brightness", "Contrast", "Gamma", "GaussianNoise", "LowResolution"]

Arrays = tuple[np.ndarray, np.ndarray]
Drawn = Mapping[str, Any]
SMALLEST = 1e-7


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


def _per_channel(values: Sequence[float], image: np.ndarray) -> np.ndarray:
    return np.reshape(np.asarray(values, np.float32), (-1,) + (1,) * (image.ndim - 1))


class GaussianNoise:
    """Adds independent noise to all channels, of one drawn deviation."""

    def __init__(self, probability: float = 0.1, largest_deviation: float = 0.1) -> None:
        self.probability, self.largest_deviation = probability, largest_deviation

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """The deviation, and a seed for the noise."""
        if random.random() >= self.probability:
            return None
        return {"deviation": random.uniform(0, self.largest_deviation), "seed": int(random.integers(2**62))}

    def apply(self, image: np.ndarray, segmentation: np.ndarray, parameters: Drawn) -> Arrays:
        """Adds the noise."""
        noise = np.random.default_rng(parameters["seed"]).standard_normal(image.shape, np.float32)
        return image + np.float32(parameters["deviation"]) * noise, segmentation


class Brightness:
    """Multiplies each channel by a factor of its own."""

    def __init__(self, probability: float = 0.15, factors: tuple[float, float] = (0.75, 1.25)) -> None:
        self.probability, self.factors = probability, factors

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """A factor per channel."""
        return _per_channel_draw(random, self.probability, "factors", self.factors, shape[0])

    def apply(self, image: np.ndarray, segmentation: np.ndarray, parameters: Drawn) -> Arrays:
        """Multiplies."""
        return image * _per_channel(parameters["factors"], image), segmentation


class Contrast:
    """Spreads each channel around its mean, within its old range."""

    def __init__(self, probability: float = 0.15, factors: tuple[float, float] = (0.75, 1.25)) -> None:
        self.probability, self.factors = probability, factors

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """A factor per channel."""
        return _per_channel_draw(random, self.probability, "factors", self.factors, shape[0])

    def apply(self, image: np.ndarray, segmentation: np.ndarray, parameters: Drawn) -> Arrays:
        """Spreads, then clips to the old minimum and maximum."""
        axes = tuple(range(1, image.ndim))
        mean = image.mean(axis=axes, keepdims=True)
        spread = (image - mean) * _per_channel(parameters["factors"], image) + mean
        return np.clip(spread, image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True)), segmentation


class LowResolution:
    """Makes some channels coarser: nearest voxels down, linear up.

    Args:
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

    def apply(self, image: np.ndarray, segmentation: np.ndarray, parameters: Drawn) -> Arrays:
        """Down and up again."""
        result = image.copy()
        shape = image.shape[1:]
        axes = range(len(shape)) if self.axes is None else self.axes
        for channel, zoom in enumerate(parameters["zooms"]):
            if zoom is None:
                continue
            small = [max(1, round(size * zoom)) if axis in axes else size for axis, size in enumerate(shape)]
            volume = torch.from_numpy(np.array(image[channel]))[None, None]
            coarse = F.interpolate(volume, size=small, mode="nearest-exact")
            mode = "bilinear" if len(shape) == 2 else "trilinear"
            result[channel] = F.interpolate(coarse, size=shape, mode=mode, align_corners=False)[0, 0].numpy()
        return result, segmentation


class Gamma:
    """Bends the intensity curve of each channel; mean and deviation are restored.

    Args:
        invert: bend the inverted image.
    """

    def __init__(self, probability: float, *, invert: bool, gammas: tuple[float, float] = (0.7, 1.5)) -> None:
        self.probability, self.invert, self.gammas = probability, invert, gammas

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """An exponent per channel."""
        return _per_channel_draw(random, self.probability, "gammas", self.gammas, shape[0])

    def apply(self, image: np.ndarray, segmentation: np.ndarray, parameters: Drawn) -> Arrays:
        """Bends range-normalized values, then restores mean and deviation."""
        axes = tuple(range(1, image.ndim))
        source = -image if self.invert else image
        low = source.min(axis=axes, keepdims=True)
        width = source.max(axis=axes, keepdims=True) - low
        bent = ((source - low) / np.maximum(width, SMALLEST)) ** _per_channel(parameters["gammas"], image)
        deviation = np.maximum(bent.std(axis=axes, keepdims=True), SMALLEST)
        standard = (bent - bent.mean(axis=axes, keepdims=True)) / deviation
        result = standard * source.std(axis=axes, keepdims=True) + source.mean(axis=axes, keepdims=True)
        return (-result if self.invert else result).astype(np.float32), segmentation

"""Normalizers: intensities of one channel brought to the range that networks like.

Each takes ``(image, mask, properties)`` and returns a new float32 array. ``image`` is one channel ``(*spatial)``;
``mask`` is a bool array or None; ``properties`` are the data set's statistics or None. One that cannot do without them
says so with an attribute ``needs_properties = True``: a plan that lacks them is then refused before any work.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np

from autoseg.errors import InputError
from autoseg.values import IntensityProperties

__all__ = ["Normalizer", "ct", "none", "rescale_to_0_1", "rgb_to_0_1", "zscore"]

SMALLEST_DIVISOR = 1e-8


class Normalizer(Protocol):
    """Brings one channel to a common range."""

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None
    ) -> np.ndarray:
        """A new float32 array of the same shape.

        Raises:
            InputError: the image or the statistics do not suit this scheme.
        """
        ...


N = TypeVar("N", bound=Normalizer)


def _needs_properties(normalizer: N) -> N:
    vars(normalizer)["needs_properties"] = True
    return normalizer


@_needs_properties
def ct(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """Clips to the data set's 0.5 and 99.5 percentiles, subtracts its mean, divides by its standard deviation."""
    if properties is None:
        raise InputError(
            "CT normalization needs the intensities of the foreground, and no training case has any",
            remedy="Check the labels, or plan with another normalization.",
        )
    clipped = np.clip(image.astype(np.float32), properties.percentile_00_5, properties.percentile_99_5)
    return _standardized(clipped, properties.mean, properties.std)


def zscore(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """Zero mean and unit deviation over the image; with a mask over the mask, and outside stays as it is."""
    result = image.astype(np.float32)
    if mask is None:
        return _standardized(result, result.mean(dtype=np.float64), result.std(dtype=np.float64))
    inside = result[mask]
    if inside.size:
        result[mask] = _standardized(inside, inside.mean(dtype=np.float64), inside.std(dtype=np.float64))
    return result


def none(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """Only float32."""
    return image.astype(np.float32)


def rescale_to_0_1(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """The image's own minimum to 0, its maximum to 1."""
    result = image.astype(np.float32)
    result -= result.min()
    result /= max(float(result.max()), SMALLEST_DIVISOR)
    return result


def rgb_to_0_1(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """Divides 8-bit colours by 255."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        raise InputError(
            "RGB normalization is for 8-bit colours",
            found=f"values from {low:g} to {high:g}",
            expected="0 to 255",
            remedy="Rename the channel in dataset.json, for example to MRI or CT.",
        )
    return image.astype(np.float32) / np.float32(255)


def _standardized(image: np.ndarray, mean: float, std: float) -> np.ndarray:
    image = image - np.float32(mean)
    image /= np.float32(max(float(std), SMALLEST_DIVISOR))
    return image

"""Normalizers: intensities of one channel brought to the range that networks like.

Each takes ``(image, mask, properties)`` and returns a new float32 array. ``image`` is one channel ``(*spatial)``;
``mask`` is a bool array or None; ``properties`` are the data set's statistics or None. One that cannot do without them
says so with an attribute ``needs_properties = True``: a plan that lacks them is then refused before any work.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

import numpy as np

from autoseg.errors import InputError
from autoseg.scratch import contiguous
from autoseg.values import IntensityProperties
from autoseg.volume.moments import mean_and_variance

__all__ = ["Normalizer", "ct", "none", "rescale_to_0_1", "rgb_to_0_1", "zscore"]

SMALLEST_DIVISOR = 1e-8


class Normalizer(Protocol):
    """Brings one channel to a common range."""

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None
    ) -> np.ndarray:
        """A new float32 array of the same shape; ``image`` may be read-only.

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
    result = _float32(image)
    np.clip(result, properties.percentile_00_5, properties.percentile_99_5, out=result)
    _standardize(result, properties.mean, properties.std)
    return result


def zscore(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """Zero mean and unit deviation over the image; with a mask over the mask, and outside stays as it is."""
    result = _float32(image)
    inside = None if mask is None else np.ascontiguousarray(mask)
    mean, variance = mean_and_variance(result, inside)
    if not math.isnan(mean):
        _standardize(result, mean, math.sqrt(variance), inside)
    return result


def none(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """Only float32."""
    return _float32(image)


def rescale_to_0_1(image: np.ndarray, mask: np.ndarray | None, properties: IntensityProperties | None) -> np.ndarray:
    """The image's own minimum to 0, its maximum to 1."""
    result = _float32(image)
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
    result = _float32(image)
    result /= np.float32(255)
    return result


def _float32(image: np.ndarray) -> np.ndarray:
    """A new array, contiguous, that may be changed."""
    return contiguous(image, np.float32, copy=True)


def _standardize(image: np.ndarray, mean: float, deviation: float, where: np.ndarray | None = None) -> None:
    """Subtracts and divides in place."""
    chosen = True if where is None else where
    np.subtract(image, np.float32(mean), out=image, where=chosen)
    np.divide(image, np.float32(max(float(deviation), SMALLEST_DIVISOR)), out=image, where=chosen)

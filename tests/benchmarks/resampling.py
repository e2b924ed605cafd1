"""Exact cubic resampling: scipy's zoom against one matrix product per axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from autoseg.values import ResamplingSpec
from autoseg.volume.resample import SeparableResampler
from tests.benchmarks.pairs import Pair, measure


def run() -> Iterator[Pair]:
    """A CT-like volume up and down."""
    resampler = SeparableResampler(ResamplingSpec())
    for old, new in (((100, 192, 192), (150, 240, 240)), ((150, 240, 240), (100, 192, 192))):
        image = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(old), 1.5).astype(np.float32)
        factors = [after / before for before, after in zip(old, new, strict=True)]

        def by_zoom(image=image, factors=factors):
            zoomed = ndimage.zoom(image, factors, order=3, mode="nearest", grid_mode=True)
            return np.clip(zoomed, image.min(), image.max())

        def by_products(image=image, new=new):
            return resampler.image(image[None], new, (1, 1, 1), (1, 1, 1))[0]

        error = np.abs(by_zoom() - by_products()).max() / np.ptp(image)
        yield measure(
            f"cubic resampling {old} to {new}, largest difference {error:.1g} of the range",
            ("scipy zoom", by_zoom),
            ("matrix products", by_products),
            runs=3,
        )

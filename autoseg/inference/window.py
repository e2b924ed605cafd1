"""The sliding window: where tiles lie and how much each voxel of a tile counts."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import ndimage

from autoseg.io.chunks import Readable
from autoseg.values import Configuration

__all__ = ["STEP", "importance_map", "padded_tile", "padding_to", "scoring_batches", "tile_positions", "tiles"]

#: Tiles overlap by half; weights fall off as a Gaussian of an eighth of the edge.
STEP, SIGMA, PEAK = 0.5, 1 / 8, 10.0


def tile_positions(size: int, patch: int, step: float = STEP) -> list[int]:
    """First voxels of the tiles along one axis, evenly spread from the first to the last possible place.

    Args:
        size: of the image, at least ``patch``.
        patch: edge of a tile.
        step: largest distance between tiles, as a share of the edge.
    """
    assert size >= patch, (size, patch)
    count = math.ceil((size - patch) / (patch * step)) + 1
    if count == 1:
        return [0]
    return [round(index * (size - patch) / (count - 1)) for index in range(count)]


def tiles(shape: Sequence[int], patch: Sequence[int], step: float = STEP) -> Iterator[tuple[int, int, int]]:
    """First voxels of all tiles of a volume; an axis with a patch of one voxel (2D) is taken slice by slice."""
    axes = [
        list(range(size)) if edge == 1 else tile_positions(size, edge, step)
        for size, edge in zip(shape, patch, strict=True)
    ]
    yield from itertools.product(axes[0], axes[1], axes[2])


def scoring_batches(configuration: Configuration, shapes: Iterable[Sequence[int]]) -> float:
    """How many batches of patches go through the network to predict preprocessed volumes of these shapes, with all flips."""
    count = sum(
        math.prod(
            size if edge == 1 else len(tile_positions(max(size, edge), edge))
            for size, edge in zip(shape, configuration.full_patch_size, strict=True)
        )
        for shape in shapes
    )
    return 2 ** len(configuration.augmentation.mirror_axes) * count / configuration.batch_size


def padding_to(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis so that a patch fits; the odd one goes to the end."""
    missing = [max(0, edge - size) for size, edge in zip(shape, patch, strict=True)]
    return [(each // 2, each - each // 2) for each in missing]


def padded_tile(
    image: Readable, first: Sequence[int], patch: Sequence[int], padding: Sequence[tuple[int, int]]
) -> np.ndarray:
    """A tile ``(channels, *patch)`` of an image ``(channels, *spatial)`` that is zero around itself; only the tile is read.

    Args:
        image: without its padding.
        first: voxel of the tile, counted with the padding.
        patch: edges of the tile.
        padding: voxels before and after each axis.
    """
    source, target = [], []
    for start, edge, (before, _), size in zip(first, patch, padding, image.shape[1:], strict=True):
        low, high = max(0, start - before), min(size, start - before + edge)
        source.append(slice(low, high))
        target.append(slice(low - start + before, high - start + before))
    part = image[(slice(None), *source)]
    if part.shape[1:] == tuple(patch):
        return np.asarray(part)
    tile = np.zeros((image.shape[0], *patch), image.dtype)
    tile[(slice(None), *target)] = part
    return tile


@functools.lru_cache(maxsize=8)
def importance_map(patch: tuple[int, ...]) -> np.ndarray:
    """Weights of a tile's voxels: a Gaussian around its centre with maximum 10; no voxel counts nothing.

    A tile of one slice has the weights of its plane.
    """
    impulse = np.zeros(patch)
    impulse[tuple(edge // 2 for edge in patch)] = 1
    sigma = [edge * SIGMA if edge > 1 else 0 for edge in patch]
    weights = ndimage.gaussian_filter(impulse, sigma, mode="constant", cval=0, truncate=4)
    weights = (weights * (PEAK / weights.max())).astype(np.float32)
    weights[weights == 0] = weights[weights > 0].min()
    weights.setflags(write=False)  # it is cached
    return weights

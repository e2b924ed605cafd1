"""Where in a case a patch lies: by chance, or so that it holds a voxel of the foreground."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoseg.augmentation.spatial import reach
from autoseg.io.case_store import StoredCase

__all__ = ["box_of", "corner_range", "draw_corner", "forced_samples"]

#: How often a place is drawn that lets a turned patch hold its voxel, before the patch is centred on it.
ATTEMPTS = 20


def forced_samples(batch_size: int, foreground_share: float) -> int:
    """How many samples of a batch must hold foreground; the last ones do."""
    return batch_size - round(batch_size * (1 - foreground_share))


def corner_range(
    shape: Sequence[int], patch: Sequence[int], half: Sequence[float]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lowest and highest corner of a patch that samples within the image, equally far from both borders.

    Args:
        shape: of the image.
        patch: edges of the patch.
        half: how far it samples from its centre, at most half of its edges less one voxel. Where that is more than the image
            has, the patch is centred.
    """
    lowest, highest = [], []
    for size, edge, far in zip(shape, patch, half, strict=True):
        middle = (edge - 1) / 2
        low, high = math.ceil(far - middle), math.floor(size - 1 - far - middle)
        if low > high:
            low = high = -((edge - size) // 2)
        lowest.append(low)
        highest.append(high)
    return tuple(lowest), tuple(highest)


def draw_corner(
    case: StoredCase,
    patch: Sequence[int],
    matrix: np.ndarray | None,
    random: np.random.Generator,
    *,
    forced: bool,
    anywhere: bool,
) -> tuple[int, int, int]:
    """First voxel of a patch, among the places that keep what it samples within the image, symmetrically.

    Args:
        case: that it is taken from; its voxels are not read.
        patch: three edges.
        matrix: through which it is sampled; None: a plain crop.
        random: generator.
        forced: it must hold foreground, if the case has any: a voxel is drawn, all classes with equal chance. A turned
            patch near a border may miss it: the patch is placed by the box that it samples within, not by its corners.
        anywhere: that voxel may lie anywhere in the patch, all places with equal chance; else in its centre, as far as the
            borders allow, whatever the matrix.
    """
    half = [(edge - 1) / 2 for edge in patch]
    if anywhere and matrix is not None:
        first = len(patch) - len(matrix)
        half[first:] = np.minimum(reach(matrix, patch[first:]), half[first:]).tolist()
    lowest, highest = corner_range(case.segmentation.shape, patch, half)
    foreground = sorted(label for label in case.locations if label > 0)
    wanted = None
    if forced and foreground:
        wanted = foreground[int(random.integers(len(foreground)))]
    elif 0 in case.locations:  # with an ignore label: somewhere where there is an annotation
        wanted = 0
    if wanted is None:
        return _between(lowest, highest, random)
    voxel = case.draw_location(wanted, random)
    if anywhere:
        near = [max(low, at - edge + 1) for low, at, edge in zip(lowest, voxel, patch, strict=True)]
        far = [max(low, min(high, at)) for low, high, at in zip(near, highest, voxel, strict=True)]
        for _ in range(ATTEMPTS):
            corner = _between(near, far, random)
            if matrix is None or _holds(corner, patch, matrix, voxel):
                return corner
    centred = (at - edge // 2 for at, edge in zip(voxel, patch, strict=True))
    z, y, x = (min(max(at, low), high) for at, low, high in zip(centred, lowest, highest, strict=True))
    return (z, y, x)


def _between(lowest: Sequence[int], highest: Sequence[int], random: np.random.Generator) -> tuple[int, int, int]:
    z, y, x = (int(random.integers(low, high + 1)) for low, high in zip(lowest, highest, strict=True))
    return (z, y, x)


def _holds(corner: Sequence[int], patch: Sequence[int], matrix: np.ndarray, voxel: Sequence[int]) -> bool:
    """Whether a turned patch samples around a voxel."""
    first = len(patch) - len(matrix)
    half = (np.array(patch[first:]) - 1) / 2
    offset = np.linalg.solve(matrix, np.array(voxel[first:]) - np.array(corner[first:]) - half)
    return bool((np.abs(offset) <= half).all())


def box_of(
    corner: Sequence[int], patch_size: Sequence[int], matrix: np.ndarray
) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """The box of the case that a turned patch reads, and no more: its first voxel, its shape, and the patch's centre in it.

    Args:
        corner: of the patch, three entries.
        patch_size: two or three entries.
        matrix: through which the patch is sampled.
    """
    first = 3 - len(patch_size)  # in 2D axis 0 is that of the slices
    centre = np.array(corner[first:]) + (np.array(patch_size) - 1) / 2
    far = reach(matrix, patch_size)
    start = np.floor(centre - far).astype(int) - 1
    shape = np.ceil(centre + far).astype(int) + 2 - start
    return (*corner[:first], *start.tolist()), (1,) * first + tuple(shape.tolist()), centre - start

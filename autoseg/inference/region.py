"""The region of interest, ``predict --roi``: a coarse model finds where anything is, the fine one predicts only there.

Nothing is cut off in silence: where the coarse model finds nothing, or the fine one finds something at a border of the
region, the whole image is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from autoseg.inference.disagreement import Disagreement
from autoseg.inference.predict import SURELY, Predictor
from autoseg.inference.sums import empty_sums
from autoseg.io.chunks import Readable
from autoseg.values import Configuration, Plan
from autoseg.workspace import ModelFolder

__all__ = ["Region", "coarser", "locator_of", "logits_within", "region_of"]

Region = tuple[slice, slice, slice]
#: Voxels of the coarse grid, and share of the fine patch, that are added on every side.
MARGIN_VOXELS, MARGIN_OF_PATCH = 2, 0.25
#: A model locates if its voxels have at least this volume in those of the other.
COARSER = 2.0


def coarser(plan: Plan, name: str) -> dict[str, float]:
    """The configurations of volumes that could locate for another one, with the volume of their voxels."""
    fine, found = _voxel(plan.configuration(name)), dict[str, float]()
    for each in plan.configurations:
        size = _voxel(each)
        if size is None or fine is None or size < COARSER * fine:
            continue
        if each.dimensions == 3 and each.previous_stage is None:
            found[each.name] = size
    return found


def locator_of(model: ModelFolder, plan: Plan, name: str) -> str | None:
    """The configuration that locates for another one: the coarsest trained one of volumes that needs no other, or None."""
    trained = {each: size for each, size in coarser(plan, name).items() if model.trained(each)}
    return max(trained, key=lambda each: trained[each], default=None)


def _voxel(configuration: Configuration) -> float | None:
    """Cubic millimetres; of slices those in their plane, taken as thick as they are wide."""
    known = [step for step in configuration.spacing if step is not None]
    return float(math.prod(known) ** (3 / len(known))) if known else None


def region_of(logits: np.ndarray, shape: Sequence[int], patch: Sequence[int], *, regions: bool) -> Region | None:
    """Where on a grid something was found on a coarser one that spans the same image, with a margin; None for nothing.

    Args:
        logits: ``(outputs, *spatial)`` on the coarser grid.
        shape: of the finer grid.
        patch: of the model there.
        regions: the outputs are regions, not labels that compete.
    """
    found = np.zeros(logits.shape[1:], bool)
    first = 0 if regions else 1
    for output in logits[first:]:
        found |= (output > 0) if regions else (output > logits[0])
    if not found.any():
        return None
    sides = []
    coarse: tuple[int, ...] = found.shape
    for axis, (size, fine, edge) in enumerate(zip(coarse, shape, patch, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(found.any(axis=others))
        margin = MARGIN_OF_PATCH * edge
        low = math.floor((places[0] - MARGIN_VOXELS) * fine / size - margin)
        high = math.ceil((places[-1] + 1 + MARGIN_VOXELS) * fine / size + margin)
        lacking = max(0, edge - (high - low))  # a tile sees the image around what it predicts
        low, high = low - lacking // 2, high + lacking - lacking // 2
        sides.append(slice(max(0, low), min(fine, high)))
    return sides[0], sides[1], sides[2]


def logits_within(
    predictor: Predictor,
    image: Readable,
    region: Region,
    advance: Callable[[int, int], None],
    disagreement: Disagreement | None = None,
    scratch: Path | None = None,
) -> np.ndarray | None:
    """Logits as of ``Predictor.logits``, computed in a region and surely background elsewhere.

    None if something is found at a border of the region that is none of the image: the region was too small.

    Args:
        predictor: of the finer model.
        image: on its grid.
        region: of that grid.
        advance: told how many tiles are done, of how many.
        disagreement: of the folds, to be gathered within the region.
        scratch: folder for what memory has no room for.
    """
    inner = predictor.logits(image[(slice(None), *region)], advance, disagreement, scratch)
    for axis, (side, size) in enumerate(zip(region, image.shape[1:], strict=True)):
        if (side.start > 0 and _finds(predictor, inner, axis, 0)) or (
            side.stop < size and _finds(predictor, inner, axis, -1)
        ):
            return None
    whole = empty_sums((len(inner), *image.shape[1:]), scratch, predictor.room_for_sums)
    for output, values in enumerate(inner):
        whole[output] = SURELY if output == 0 and not predictor.regions else -SURELY
        whole[(output, *region)] = values
    return whole


def _finds(predictor: Predictor, logits: np.ndarray, axis: int, place: int) -> bool:
    face = np.take(logits, place, axis=axis + 1)
    return bool((face > 0).any() if predictor.regions else (face.argmax(0) > 0).any())

"""Whether an image is like those that were trained on: told with its prediction, for a reader to judge by."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.preprocessing.forward import working_axes
from autoseg.values import Geometry, IntensityRange, Plan, TrainingImages
from autoseg.volume.quantiles import QUANTILES

__all__ = ["unlike_training"]

#: Spacings and sizes this many times below or above all of the training set's are told.
FAR = 2.0
#: Intensities are told that are further out than the training images' range is wide and this share of one image's.
SHARE_OF_SPREAD = 0.1


def unlike_training(
    geometry: Geometry,
    plan: Plan,
    images: TrainingImages | None = None,
    quantiles: Sequence[Sequence[float]] = (),
) -> tuple[str, ...]:
    """What about an image no training image had: its orientation, or a spacing, size or intensities far from all of theirs.

    Args:
        geometry: of the image as stored.
        plan: that knows how the training images lay; an older one does not, and nothing is told.
        images: what else is known of them; None of an older model, and nothing is told.
        quantiles: of the image, as ``autoseg.volume.quantiles`` takes them; empty if they were not taken.
    """
    told = [_orientation(geometry, plan), _spacing(geometry, plan)]
    if images is not None:
        told += [_size(geometry, plan, images), _intensities(plan, images, quantiles)]
    return tuple(filter(None, told))


def _orientation(geometry: Geometry, plan: Plan) -> str:
    seen = plan.orientations
    if not seen or not geometry.orientation or geometry.orientation in seen:
        return ""
    then = (
        "it was turned to the orientation of the training, and its label map back"
        if plan.orientation == "canonical"
        else "this plan takes images as they are stored, so the prediction may be wrong: store it like these"
    )
    return f"the image is oriented {geometry.orientation} like none of the training images ({', '.join(seen)}); {then}"


def _spacing(geometry: Geometry, plan: Plan) -> str:
    axes = working_axes(geometry, plan)
    far = _far(axes.reorder(geometry.spacing), plan.spacing_range, slice_axis=_slice_axis(geometry, plan))
    return f"the spacing is far from that of the training images: {'; '.join(far)}" if far else ""


def _size(geometry: Geometry, plan: Plan, images: TrainingImages) -> str:
    first, second, third = (edge * step for edge, step in zip(geometry.shape, geometry.spacing, strict=True))
    sizes = working_axes(geometry, plan).reorder((first, second, third))
    far = _far(sizes, images.sizes, slice_axis=_slice_axis(geometry, plan))
    return f"the image's size is far from that of the training images: {'; '.join(far)}" if far else ""


def _slice_axis(geometry: Geometry, plan: Plan) -> int | None:
    """Along which a 2D image has neither a size nor a spacing that mean anything."""
    return working_axes(geometry, plan).order.index(0) if geometry.planar else None


def _far(values: Sequence[float], ranges: Sequence[tuple[float, float]], *, slice_axis: int | None) -> list[str]:
    return [
        f"{values[axis]:.3g} mm along axis {axis}, {least:.3g} to {most:.3g} in training"
        for axis, (least, most) in enumerate(ranges)
        if axis != slice_axis and not least / FAR <= values[axis] <= most * FAR
    ]


def _intensities(plan: Plan, images: TrainingImages, quantiles: Sequence[Sequence[float]]) -> str:
    """By how far quantiles are out of the range that they had: negative, in another unit, or rescaled."""
    if len(images.intensities) != len(quantiles):  # not known of one of them
        return ""
    told = []
    for name, seen, found in zip(plan.channels, images.intensities, quantiles, strict=True):
        outside = _outside(seen, found)
        if outside:
            told.append(f"{name}: {'; '.join(outside)}")
    which = "; and of ".join(told)
    return f"the intensities are far from those of the training images, of {which}" if told else ""


def _outside(seen: IntensityRange, found: Sequence[float]) -> list[str]:
    result = []
    for share, value, (least, most) in zip(QUANTILES, found, seen.quantiles, strict=True):
        margin = (most - least) + SHARE_OF_SPREAD * seen.spread
        if not least - margin <= value <= most + margin:
            result.append(
                f"{100 * share:g} % of the voxels are below {value:.4g}, {least:.4g} to {most:.4g} in training"
            )
    return result

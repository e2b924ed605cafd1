"""Whether an image lies like those that were trained on: told with its prediction, for a reader to judge by."""

from __future__ import annotations

from autoseg.preprocessing.forward import working_axes
from autoseg.values import Geometry, Plan

__all__ = ["unlike_training"]

#: Spacings this many times below or above all of the training set's are told.
FAR = 2.0


def unlike_training(geometry: Geometry, plan: Plan) -> tuple[str, ...]:
    """What about an image's grid no training image had: its orientation, or a spacing far from all of theirs.

    Args:
        geometry: of the image as stored.
        plan: that knows how the training images lay; an older one does not, and nothing is told.
    """
    warnings = []
    seen = plan.orientations
    if seen and geometry.orientation and geometry.orientation not in seen:
        then = (
            "it was turned to the orientation of the training, and its label map back"
            if plan.orientation == "canonical"
            else "this plan takes images as they are stored, so the prediction may be wrong: store it like these"
        )
        warnings.append(
            f"the image is oriented {geometry.orientation} like none of the training images ({', '.join(seen)}); {then}"
        )
    axes = working_axes(geometry, plan)
    spacing = axes.reorder(geometry.spacing)
    far = [
        f"{spacing[axis]:.3g} mm along axis {axis}, {least:.3g} to {most:.3g} in training"
        for axis, (least, most) in enumerate(plan.spacing_range)
        if not (geometry.planar and axes.order[axis] == 0)  # the slice spacing of a 2D image is not physical
        and not least / FAR <= spacing[axis] <= most * FAR
    ]
    if far:
        warnings.append(f"the spacing is far from that of the training images: {'; '.join(far)}")
    return tuple(warnings)

"""What happens to an image before and while it is learned from: normalization, resampling and augmentation, in numbers."""

from __future__ import annotations

from typing import Literal

import msgspec

from autoseg.values.fingerprint import IntensityProperties
from autoseg.values.json_form import Value, require, require_each
from autoseg.values.network import Sizes

__all__ = ["AugmentationSpec", "NormalizationSpec", "ResamplingSpec"]


class NormalizationSpec(Value, frozen=True, kw_only=True):
    """How one channel is normalized.

    Attributes:
        scheme: the normalizer plug.
        use_mask: statistics and change only inside the non-zero region.
        properties: intensity statistics of the data set, for schemes that need them.
        reason: why, in a phrase.
    """

    scheme: str
    use_mask: bool = False
    properties: IntensityProperties | None = None
    reason: str = ""


class ResamplingSpec(Value, frozen=True, kw_only=True):
    """How arrays change their grid.

    Attributes:
        resampler: the resampler plug.
        image_order: spline order for images (3: cubic).
        label_order: order for the indicator of each label, the largest of which wins.
        logits_order: order for network outputs.
        separate_axis_order: order along an axis that is much coarser than the others: 0 takes the nearest slice, 1
            interpolates (label maps by shape).
        anisotropy_threshold: ratio of largest to smallest spacing above which the coarse axis is treated apart.
    """

    resampler: str = "separable"
    image_order: Literal[0, 1, 3] = 3
    label_order: Literal[0, 1] = 1
    logits_order: Literal[0, 1] = 1
    separate_axis_order: Literal[0, 1] = 1
    anisotropy_threshold: float = 3.0


class AugmentationSpec(Value, frozen=True, kw_only=True):
    """What training may do to a patch.

    Attributes:
        recipe: the augmentation recipe plug.
        rotation_degrees: largest angle about each axis (one entry in 2D).
        in_plane: rotate and scale slices of axis 0 only, as in 2D (for anisotropic patches).
        mirror_axes: spatial axes of the patch that may be mirrored, in training and in prediction.
        swap_axis: the one of ``mirror_axes`` along which mirroring exchanges the sides of the patient, or None.
        swapped_labels: pairs of labels that are exchanged then, as positions in ``Labels.integers``: what arrays hold,
            and output channels of the network.
        predicted_channels: how many channels at the end of the image hold what an earlier stage predicted, one for each
            foreground label; absent without one.
    """

    recipe: str = "default"
    rotation_degrees: tuple[float, ...]
    in_plane: bool = False
    mirror_axes: Sizes
    swap_axis: int | None = None
    swapped_labels: tuple[tuple[int, int], ...] = ()
    predicted_channels: int | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        require_each(self.rotation_degrees, "rotation_degrees", 0, 180, field="rotation_degrees")
        require(
            len(set(self.mirror_axes)) == len(self.mirror_axes),
            "mirror_axes repeats an axis",
            field="mirror_axes",
            found=self.mirror_axes,
            expected="each axis once",
        )
        require(
            self.predicted_channels is msgspec.UNSET or self.predicted_channels > 0,
            "predicted_channels is out of range",
            field="predicted_channels",
            found=self.predicted_channels,
            expected="1 or more, or no such field",
        )
        sides = [label for pair in self.swapped_labels for label in pair]
        require(
            (self.swap_axis is None) == (not sides),
            "swap_axis and swapped_labels must come together",
            field="swap_axis",
            found=self.swap_axis,
            expected="an axis with swapped_labels, null without",
        )
        require(
            self.swap_axis is None or self.swap_axis in self.mirror_axes,
            "swap_axis is not mirrored",
            field="swap_axis",
            found=self.swap_axis,
            expected=f"one of the mirror_axes {self.mirror_axes}",
        )
        require(
            len(set(sides)) == len(sides) and all(label > 0 for label in sides),
            "swapped_labels must name each label once, and not background",
            field="swapped_labels",
            found=self.swapped_labels,
            expected="pairs of label indices over 0",
        )

"""PreprocessRecord: all that was done to a case, so that it can be undone exactly."""

from __future__ import annotations

from autoseg.values.geometry import AxisMap, Geometry
from autoseg.values.json_form import Value, require

__all__ = ["PreprocessRecord"]

Sizes = tuple[int, int, int]


class PreprocessRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.preprocess-record/1"):
    """What happened to one case on its way to the network, in order.

    Attributes:
        case_id: of the case.
        key: digest of the content of its files and of all parameters; equal keys, equal arrays.
        source: the grid of the files, in stored array order.
        axes: from stored order to the order of all further work (orientation, then the plan's axis order).
        crop_start: first voxel of the bounding box, after ``axes``.
        crop_shape: size of the bounding box in voxels.
        spacing: of the cropped array in millimetres.
        shape: of the array after resampling.
        target_spacing: of the array after resampling, in millimetres.
    """

    case_id: str
    key: str
    source: Geometry
    axes: AxisMap
    crop_start: Sizes
    crop_shape: Sizes
    spacing: tuple[float, float, float]
    shape: Sizes
    target_spacing: tuple[float, float, float]

    def __post_init__(self) -> None:
        whole = self.axes.reorder(self.source.shape)
        inside = zip(self.crop_start, self.crop_shape, whole, strict=True)
        require(
            all(start >= 0 and size > 0 and start + size <= edge for start, size, edge in inside),
            f"the crop {self.crop_start} + {self.crop_shape} does not lie within {whole}",
        )
        require(all(step > 0 for step in (*self.spacing, *self.target_spacing)), "spacing must be positive")
        require(all(edge > 0 for edge in self.shape), "shape must be positive")

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """The bounding box as slices of the three spatial axes."""
        first, second, third = (
            slice(start, start + size) for start, size in zip(self.crop_start, self.crop_shape, strict=True)
        )
        return (first, second, third)

"""Fingerprint: what a planner may know about a data set."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from autoseg.values.dataset import Labels
from autoseg.values.geometry import AxisMap
from autoseg.values.json_form import Value, require

__all__ = ["CaseFingerprint", "Fingerprint", "IntensityProperties", "Orientation"]

#: canonical: arrays are brought to (z, y, x) running to superior, posterior, left; as_stored: as the file has them.
Orientation = Literal["canonical", "as_stored"]


class IntensityProperties(Value, frozen=True, kw_only=True):
    """Statistics of one channel over the foreground voxels of all cases, every case with equal weight."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float

    def __post_init__(self) -> None:
        require(all(map(math.isfinite, msgspec.structs.astuple(self))), "statistics must be finite")
        require(self.std >= 0, "std must not be negative")
        require(self.min <= self.max, "min must not be over max")


class CaseFingerprint(Value, frozen=True, kw_only=True):
    """Size and place of one case, per array axis as stored.

    Attributes:
        id: of the case.
        spacing: in millimetres.
        shape: in voxels, before cropping.
        shape_after_crop: in voxels, after cropping to the bounding box of non-zero voxels.
        to_canonical: brings the stored axes to canonical orientation.
        planar: a 2D image.
        label_counts: voxels per integer of the label file.
        label_centres: centroid per integer of the label file but background: millimetres from the centre of the first
            voxel of the uncropped image, along the three array axes as stored.
        image_digest: of the image's voxels as read, by which equal images are known; empty if it was not taken.
        label_digest: of the label map's voxels likewise.
        image_quantiles: of each channel, as ``autoseg.volume.quantiles`` takes them; empty if they were not taken.
    """

    id: str
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    shape_after_crop: tuple[int, int, int]
    to_canonical: AxisMap
    planar: bool
    label_counts: dict[str, int]
    label_centres: dict[str, tuple[float, float, float]] = {}
    image_digest: str = ""
    label_digest: str = ""
    image_quantiles: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        require(all(0 < step < math.inf for step in self.spacing), f"spacing must be positive: {self.spacing}")
        pairs = zip(self.shape_after_crop, self.shape, strict=True)
        require(all(0 < inner <= whole for inner, whole in pairs), "shape_after_crop must lie within shape")
        require(all(count >= 0 for count in self.label_counts.values()), "label_counts must not be negative")
        require(
            all(math.isfinite(place) for centre in self.label_centres.values() for place in centre),
            "label_centres must be finite",
        )
        uncounted = self.label_centres.keys() - self.label_counts.keys()
        require(not uncounted, f"label_centres names labels that label_counts does not: {sorted(uncounted)}")

    @property
    def size_kept_by_crop(self) -> float:
        """Voxels after cropping over voxels before."""
        before, after = 1, 1
        for axis in range(3):
            before *= self.shape[axis]
            after *= self.shape_after_crop[axis]
        return after / before


class Fingerprint(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.fingerprint/1"):
    """What a planner may know about a data set: sizes, spacings, intensities, channels and labels.

    Attributes:
        dataset: name of the data set.
        channels: their names.
        labels: names and integers.
        file_ending: of the files.
        cases: the annotated cases.
        intensities: one entry per channel; None where no case has any foreground.
    """

    dataset: str
    channels: tuple[str, ...]
    labels: Labels
    file_ending: str
    cases: tuple[CaseFingerprint, ...]
    intensities: tuple[IntensityProperties | None, ...]

    def __post_init__(self) -> None:
        require(len(self.cases) > 0, "a fingerprint needs at least one annotated case")
        require(len(self.intensities) == len(self.channels), "intensities and channels differ in number")

    def spacings(self, orientation: Orientation) -> list[tuple[float, float, float]]:
        """Spacing of every case in millimetres, in the array order of that orientation."""
        return [self._axes(case, orientation).reorder(case.spacing) for case in self.cases]

    def shapes_after_crop(self, orientation: Orientation) -> list[tuple[int, int, int]]:
        """Voxels of every case after cropping, in the array order of that orientation."""
        return [self._axes(case, orientation).reorder(case.shape_after_crop) for case in self.cases]

    def sizes(self, orientation: Orientation) -> list[tuple[float, float, float]]:
        """Extent of every case in millimetres before cropping, in the array order of that orientation."""
        found = []
        for case in self.cases:
            first, second, third = (count * step for count, step in zip(case.shape, case.spacing, strict=True))
            found.append(self._axes(case, orientation).reorder((first, second, third)))
        return found

    @property
    def orientations(self) -> tuple[str, ...]:
        """Where the axes of the files run to, sorted, each once (``LPS``, …); planar images have none."""
        return tuple(sorted({case.to_canonical.source_orientation for case in self.cases if not case.planar}))

    @staticmethod
    def _axes(case: CaseFingerprint, orientation: Orientation) -> AxisMap:
        return case.to_canonical if orientation == "canonical" else AxisMap()

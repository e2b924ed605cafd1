"""Label maps as DICOM segmentations (SEG): one object for each case, with a segment for each label, beside its series.

The objects are binary, which every viewer reads: one bit for each voxel of each slice that shows a segment. Their frames are
the slices of the source, at the very positions that the source states, so nothing is resampled or turned. UIDs follow from
the content: the same result from the same series has the same UIDs, and an archive that is sent it twice keeps one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from autoseg import __version__
from autoseg.errors import InputError, MissingPartError
from autoseg.files import replacing
from autoseg.io.dicom_source import CHARACTERS, derived_uid, pydicom, require_grid, source_series, without_remarks
from autoseg.values import Labels, Volume

__all__ = ["DicomSegmentation", "Segment", "check_source", "require_library", "segments_of", "write_segmentation"]

#: Beyond those of scanners: the number of a segmentation's series is that of its source and this.
SERIES_NUMBERS = 1000
#: The largest series number that is written.
LARGEST_NUMBER = 2**31 - 1
LONG_STRING = 64
#: "Anatomical Structure" (SNOMED CT): true of any label that nobody has coded.
ANATOMICAL = ("91723000", "SCT", "Anatomical Structure")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment: which voxels it is, and what it is called.

    Attributes:
        number: from 1 on, without gaps.
        name: of the label or region.
        values: integers of the label map that belong to it; several for a region.
        colour: red, green and blue to show it in, if the labels have colours.
    """

    number: int
    name: str
    values: tuple[int, ...]
    colour: tuple[int, int, int] | None = None


def segments_of(labels: Labels) -> tuple[Segment, ...]:
    """A segment for each label in the order of their integers; for each region in the order of those that stand for it.

    A region is all voxels that are in it, so that segments of nested regions overlap, although a label map, in which later
    regions overwrite earlier ones, shows only the rest of the larger one under its integer.
    """
    pairs = sorted(zip(labels.written_values, labels.foreground, strict=True), key=lambda pair: pair[0])
    return tuple(
        Segment(
            number=number,
            name=label.name,
            values=tuple(sorted({*label.values, value})) if labels.has_regions else label.values,
            colour=labels.palette[value] if value < len(labels.palette) else None,
        )
        for number, (value, label) in enumerate(pairs, start=1)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DicomSegmentation:
    """How label maps become DICOM segmentations.

    Attributes:
        segments: of all of them.
        plan: name of the plan of the model that made them.
        weights: digest of the model's weights, or empty.
    """

    segments: tuple[Segment, ...]
    plan: str
    weights: str = ""

    def dataset(self, series: Sequence[Any], labels: np.ndarray, now: datetime) -> Any:
        """The object, a ``highdicom.seg.Segmentation``.

        Args:
            series: slices of the source, as ``source_series`` gives them.
            labels: integers ``(slices, rows, columns)``.
            now: when it is made; all else depends on the arguments only.
        """
        with without_remarks():
            made = self._made(series, labels)
            _name_by_content(made, str(series[0].SeriesInstanceUID), self.plan, self.weights)
            _set_time(made, now)
        return made

    def _made(self, series: Sequence[Any], labels: np.ndarray) -> Any:
        """The object without its UIDs and times; of an empty label map with one plane, for there has to be one."""
        seg = _highdicom().seg
        number = min(LARGEST_NUMBER, SERIES_NUMBERS + abs(int(series[0].get("SeriesNumber") or 0)))
        planes = self._planes(labels)
        shown = bool(planes.any())
        return seg.Segmentation(
            source_images=series if shown else series[:1],
            further_source_images=None if shown else series[1:],
            pixel_array=planes if shown else planes[:1],
            segmentation_type=seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[self._description(segment) for segment in self.segments],
            series_instance_uid="2.25.1",
            series_number=number,
            sop_instance_uid="2.25.2",
            instance_number=1,
            manufacturer="autoseg",
            manufacturer_model_name=_text(f"autoseg {self.plan}"),
            software_versions=__version__,
            device_serial_number=self.weights[:16] or "unknown",
            content_label="AUTOSEG",
            content_description=_text(f"by autoseg {__version__}, plan {self.plan}"),
            series_description=_text(f"Segmentation, autoseg {self.plan}"),
            omit_empty_frames=shown,
            specific_character_set=CHARACTERS,
        )

    def _planes(self, labels: np.ndarray) -> np.ndarray:
        """Segment numbers ``(slices, rows, columns)``, or booleans with segments as the last axis where they overlap."""
        known = sorted({value for segment in self.segments for value in segment.values})
        strange = np.setdiff1d(np.unique(labels), [0, *known])
        assert not len(strange), f"the label map holds {strange.tolist()}, which are no labels"
        if sum(len(segment.values) for segment in self.segments) > len(known):
            return np.stack([np.isin(labels, segment.values) for segment in self.segments], axis=-1)
        numbers = np.zeros(max(known) + 1, np.uint8 if len(self.segments) < 256 else np.uint16)
        for segment in self.segments:
            numbers[list(segment.values)] = segment.number
        return numbers[labels]

    def _description(self, segment: Segment) -> Any:
        highdicom = _highdicom()
        code = highdicom.sr.CodedConcept(*ANATOMICAL)
        colour = None if segment.colour is None else highdicom.color.CIELabColor.from_rgb(*segment.colour)
        family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
        description = highdicom.seg.SegmentDescription(
            segment_number=segment.number,
            segment_label=_text(segment.name),
            segmented_property_category=code,
            segmented_property_type=code,
            algorithm_type="AUTOMATIC",
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name=_text(f"autoseg {self.plan}"),
                family=family,
                version=__version__,
                parameters={"weights": self.weights} if self.weights else None,
            ),
            display_color=colour,
        )
        integers = ", ".join(map(str, segment.values))
        description.SegmentDescription = f"{segment.name}: {integers} in label maps"
        return description


def check_source(how: DicomSegmentation, path: Path, case: str) -> None:
    """Makes an empty segmentation of a series in memory, so that what its files do not allow is known before the work.

    Raises:
        InputError: there will be no segmentation of it.
    """
    series = source_series(path, case)
    try:
        empty = np.zeros((len(series), series[0].Rows, series[0].Columns), np.uint8)
        made = how.dataset(series, empty, datetime.now())
        with without_remarks():
            made.save_as(io.BytesIO())
    except Exception as error:  # what highdicom does not accept, in its own words
        raise InputError(
            f"no DICOM segmentation can be made of this series: {error}",
            case=case,
            file=path,
            remedy="Write label maps as files instead: leave out --format dicom-seg.",
        ) from error


def write_segmentation(file: Path, volume: Volume, series: Sequence[Any], how: DicomSegmentation, case: str) -> None:
    """Writes a label map ``(1, z, y, x)`` as the segmentation of a DICOM series, atomically.

    Args:
        file: to write.
        volume: the label map, on the grid on which the series is read.
        series: its slices, as ``source_series`` gives them.
        how: it becomes a segmentation.
        case: its id.

    Raises:
        InputError: the label map does not lie on the series.
        MissingPartError: the extra ``dicom`` is not installed.
    """
    require_grid(series, volume.geometry, case)
    made = how.dataset(series, volume.array[0], datetime.now())
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside, without_remarks():
        made.save_as(beside)


def require_library() -> None:
    """Sees to it that segmentations can be written.

    Raises:
        MissingPartError: the extra ``dicom`` is not installed.
    """
    pydicom()
    _highdicom()


def _highdicom() -> Any:
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise MissingPartError(
            f"DICOM segmentations are written with highdicom ({error}): pip install 'autoseg[dicom]'"
        ) from error
    return highdicom


def _text(text: str) -> str:
    """As DICOM's long string: 64 characters, without backslashes and control characters."""
    return re.sub(r"[\\\x00-\x1f\x7f]", " ", text)[:LONG_STRING].strip() or "unnamed"


def _name_by_content(made: Any, *origin: str) -> None:
    """Gives the object UIDs that follow from what is in it."""
    _set_time(made, datetime(1970, 1, 1))
    organization = derived_uid("dimensions", *origin)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    made.SeriesInstanceUID = derived_uid("series", __version__, *origin)
    buffer = io.BytesIO()
    made.save_as(buffer)
    made.SOPInstanceUID = derived_uid("instance", hashlib.sha256(buffer.getbuffer()).hexdigest())
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID


def _set_time(made: Any, now: datetime) -> None:
    """Wherever the object says when it was made; its series says nothing, for other objects may join it later."""
    made.ContentDate = made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.ContentTime = made.InstanceCreationTime = now.strftime("%H%M%S")
    for item in made.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")

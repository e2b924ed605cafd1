"""What a DICOM object made from a series takes over: whose it is, where its slices lie, and which instances they are.

Read with pydicom, which is Python through and through, and without pixels: a file that would end a native library's process
costs one case here. Only what is named here is taken over; everything else that a scanner wrote stays where it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import InputError, MissingPartError, UnreadableFileError
from autoseg.io.dicom_files import dicom_files, file_meta
from autoseg.values import Geometry

__all__ = ["CHARACTERS", "derived_uid", "pydicom", "require_grid", "source_series", "without_remarks"]

#: UTF-8: what any text of a source can be written in.
CHARACTERS = "ISO_IR 192"
#: Without these nothing can refer to an image, or lie on it.
NEEDED = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
)
#: Whose images these are, and of which study: empty where the source does not say.
EXPECTED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
#: What tells one patient, study and space from another is taken over as it stands, whatever it is.
IDENTITY = ("PatientID", "PatientName", "StudyID", "AccessionNumber", "FrameOfReferenceUID")
#: Taken over where they are.
OPTIONAL = (
    *("Modality", "SeriesNumber", "SliceThickness", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    *("StudyDescription", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
#: pydicom's settings are those of the whole process.
_SETTINGS = threading.RLock()
#: Compressed as a whole, so that its size is not known before.
DEFLATED = "1.2.840.10008.1.2.1.99"
#: In parts of the smallest spacing, and of the distance of slices: how far a slice may lie from a regular grid's.
AWAY, UNEVEN = 0.5, 0.1


def pydicom() -> Any:
    """The library.

    Raises:
        MissingPartError: it is not installed.
    """
    try:
        import pydicom as library
    except ImportError as error:
        raise MissingPartError(
            f"DICOM objects are written with pydicom and highdicom ({error}): pip install 'autoseg[dicom]'"
        ) from error
    return library


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Meanwhile pydicom says nothing about values of a source that are not as DICOM wants them: they are the source's."""
    with _SETTINGS, pydicom().config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def derived_uid(*parts: str) -> str:
    """A UID that depends on nothing but the parts: a UUID made of their hash, as an integer."""
    data = hashlib.sha256("\0".join(parts).encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=data, version=5).int}"


def source_series(path: Path, case: str) -> list[Any]:
    """The slices of a series in their order in space, as data sets (``pydicom.Dataset``) of what is taken over.

    All have one orientation, that of the first: others are refused when the series is read, or differ by rounding. A series
    without a frame of reference gets one of its own, which is right in that nothing else is known to lie in it.

    Args:
        path: of the series' folder, or of one of its files.
        case: its id.

    Raises:
        InputError: it is no DICOM series, or says too little about itself.
    """
    with without_remarks():
        return _series(path, case)


def _series(path: Path, case: str) -> list[Any]:
    is_file = path.is_file()
    found: dict[str, list[Any]] = {}
    chosen = None
    for file in dicom_files(path.parent if is_file else path):
        if file_meta(file).is_image:
            part = _read(file, case)
            found.setdefault(part.SeriesInstanceUID, []).append(part)
            chosen = part.SeriesInstanceUID if is_file and file == path else chosen
    if not is_file and len(found) > 1:
        raise InputError(
            f"the folder holds {len(found)} DICOM series",
            case=case,
            file=path,
            expected="one",
            remedy="Name a file of the wanted series instead of the folder, or give every series a folder.",
        )
    series = found.get(chosen or "", []) if is_file else next(iter(found.values()), [])
    if not series:
        raise InputError("this is no DICOM image", case=case, file=path)
    normal = np.cross(*np.array(series[0].ImageOrientationPatient, float).reshape(2, 3))
    series.sort(key=lambda part: float(np.dot(np.array(part.ImagePositionPatient, float), normal)))
    _require_one(series, path, case)
    heights = [float(np.dot(np.array(part.ImagePositionPatient, float), normal)) for part in series]
    for part in series:
        _complete(part, series[0], heights)
    return series


def _read(file: Path, case: str) -> Any:
    """What is taken over of one file, as plain text and numbers."""
    library = pydicom()
    syntax = file_meta(file).syntax
    if syntax == DEFLATED:
        raise InputError("the DICOM file is deflated, which is not supported here", case=case, file=file)
    wanted = [*NEEDED, *EXPECTED, *OPTIONAL, "SpecificCharacterSet"]
    try:
        read = library.dcmread(file, stop_before_pixels=True, specific_tags=wanted, force=not syntax)
        part = library.Dataset()
        for name in wanted[:-1]:
            value = read.get(name)
            if value is not None and value != "":
                setattr(part, name, str(value) if isinstance(value, library.valuerep.PersonName) else value)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of it
        raise UnreadableFileError(f"cannot read this DICOM file: {error}", case=case, file=file) from error
    missing = [name for name in NEEDED if name not in part]
    if missing:
        raise InputError(
            f"the DICOM file does not state {', '.join(missing)}, which a segmentation of it must refer to",
            case=case,
            file=file,
            remedy="Write label maps as files instead: leave out --format dicom-seg.",
        )
    return part


def _require_one(series: Sequence[Any], path: Path, case: str) -> None:
    """Refuses a series whose slices are not of one patient, study and frame of reference."""
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID", "Rows", "Columns"):
        values = sorted({str(part.get(name, "")) for part in series})
        if len(values) > 1:
            shown = f"{len(values)} values" if name.startswith("Patient") else ", ".join(values[:3])
            raise InputError(f"the slices of the series differ in {name}", case=case, file=path, found=shown)
    instances = {str(part.SOPInstanceUID) for part in series}
    if len(instances) < len(series):
        raise InputError("instances of the series are there more than once", case=case, file=path)


def _complete(part: Any, first: Any, heights: Sequence[float]) -> None:
    """Gives a slice what a segmentation needs and the source may lack, or says differently by rounding."""
    part.ImageOrientationPatient = first.ImageOrientationPatient
    part.PixelSpacing = first.PixelSpacing
    for name in (*EXPECTED, *OPTIONAL):
        if name not in IDENTITY and name in part and not _is_valid(part[name]):
            del part[name]
    for name in EXPECTED:
        if name not in part:
            setattr(part, name, "")
    if "FrameOfReferenceUID" not in part:
        part.FrameOfReferenceUID = derived_uid("frame of reference", str(part.SeriesInstanceUID))
    step = (heights[-1] - heights[0]) / (len(heights) - 1) if len(heights) > 1 else float(max(part.PixelSpacing))
    if len(heights) > 1:
        part.SpacingBetweenSlices = _decimal(step)
    part.SliceThickness = _decimal(float(part.get("SliceThickness") or step))
    part.Modality = part.get("Modality", "OT")


def _decimal(value: float) -> str:
    """A number as text of at most 16 characters, as DICOM wants it."""
    return f"{value:.9g}"


def _is_valid(element: Any) -> bool:
    """Whether a value is one that DICOM allows; a wrong date or sex is as good as none, and no reason to refuse."""
    library = pydicom()
    values = element.value if element.VM > 1 else [element.value]
    if element.keyword == "PatientSex":
        return element.value in ("F", "M", "O")
    try:
        for value in values:
            library.valuerep.validate_value(element.VR, str(value), library.config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def require_grid(series: Sequence[Any], geometry: Geometry, case: str) -> None:
    """Sees to it that the voxels of an array with this geometry are those of the series, slice by slice.

    Raises:
        InputError: it is not, because the files have changed since the image was read, for example.
    """
    first = series[0]
    same = (len(series), first.Rows, first.Columns) == geometry.shape
    allowed = AWAY * min(geometry.spacing) + UNEVEN * geometry.spacing[0]
    if same:
        pairs = [(place, geometry.position((n, *at))) for n, part in enumerate(series) for at, place in _corners(part)]
        same = all(math.dist(place, expected) <= allowed for place, expected in pairs)
    if not same:
        raise InputError(
            "the label map does not lie on the DICOM series",
            case=case,
            found=f"{geometry.shape} voxels at {geometry.origin}",
            expected=f"{(len(series), first.Rows, first.Columns)} voxels at {tuple(map(float, first.ImagePositionPatient))}",
            remedy="Have the files changed meanwhile? Repeat the command.",
        )


def _corners(part: Any) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Row and column of three corners of a slice, and where they lie: its place, its directions and its spacings."""
    first = np.array(part.ImagePositionPatient, float)
    right, down = np.array(part.ImageOrientationPatient, float).reshape(2, 3)
    for row, column in ((0, 0), (part.Rows - 1, 0), (0, part.Columns - 1)):
        yield (
            (row, column),
            first + down * row * float(part.PixelSpacing[0]) + right * column * float(part.PixelSpacing[1]),
        )

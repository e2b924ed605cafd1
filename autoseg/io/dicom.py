"""DICOM series as volumes: sorted by where the slices lie; refused, with the reason, if they are no straight, whole stack.

Names and numbers of files mean nothing here. A folder stands for the one series in it; a file stands for the series that it
is part of, which is how one of several series in a folder is chosen. Reading goes through ITK (GDCM), which applies the
rescale slope and intercept of every slice.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autoseg.errors import InputError, UnreadableFileError, counted
from autoseg.io.dicom_files import dicom_files, file_meta
from autoseg.io.headers import LARGEST_RATIO, Header, require_room, require_within
from autoseg.io.simpleitk_format import ONE_AT_A_TIME, itk_header, simpleitk
from autoseg.values import Geometry, Volume

__all__ = ["DicomFormat"]

#: In parts of the distance of slices: nearer ones lie at one place; those farther from a regular grid are uneven.
SAME_PLACE, IRREGULAR = 0.01, 0.1
#: Slices whose planes differ by more, in degrees, are not parallel.
PARALLEL_DEGREES = 0.1
#: Beyond these, a stack is sheared (gantry tilt): in degrees, and in pixels from the first slice to the last.
TILT_DEGREES, TILT_PIXELS = 1.0, 0.5

Triple = tuple[float, float, float]


class Slice(NamedTuple):
    """One file of a series, as its header tells it.

    Attributes:
        path: of the file.
        series: SeriesInstanceUID.
        instance: SOPInstanceUID.
        title: description and modality of the series, for people.
        header: channels, number type and plane; its first axis is the normal of the plane.
        position: LPS millimetres of the first voxel, or None if the file does not say.
        colours: PhotometricInterpretation.
    """

    path: Path
    series: str
    instance: str
    title: str
    header: Header
    position: Triple | None
    colours: str


class DicomFormat:
    """One DICOM series as a volume; it has no endings, since no file of a series is an image of its own."""

    endings: tuple[str, ...] = ()
    label_endings: Mapping[str, str] = {}

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The file itself, which tells the series, and all DICOM files of the folder, by name.

        Which of them are of the series would take reading their headers, which may end the process that asks.
        """
        return tuple(dicom_files(path)) if path.is_dir() else (path, *dicom_files(path.parent))

    def header(self, path: Path) -> Header:
        """The grid of the whole series, from the headers of all its files."""
        return _stack(path)[1]

    def read(self, path: Path) -> Volume:
        """The series as ``(1, z, y, x)``; z runs along the normal of the slices."""
        slices, header = _stack(path)
        try:
            require_within(header)
        except ValueError as error:
            raise UnreadableFileError(str(error), file=path) from error
        array = np.empty((header.channels, *header.geometry.shape), header.dtype)
        for index, part in enumerate(slices):
            array[:, index] = _pixels(part)
        return Volume(array=array, geometry=header.geometry)

    def write(self, path: Path, volume: Volume) -> None:
        """Refused: label maps for DICOM series are written as NIfTI."""
        raise InputError("label maps are not written as DICOM", file=path, remedy="Write it as .nii.gz.")


def _stack(path: Path) -> tuple[list[Slice], Header]:
    """The slices of a series in their order, and what they are together."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UnreadableFileError("there is no such file or folder", file=path)
    series = _chosen(path, _by_series(folder, path))
    simple = _require_simple(series, path)
    if simple is not None:
        return series, simple
    _require_parallel(series, path)
    ordered = _in_order(series, path)
    normal = np.array(ordered[0].header.geometry.directions[0])
    step = _require_straight(ordered, normal, path)
    first = ordered[0].header.geometry
    dtype = np.result_type(*(part.header.dtype for part in ordered)).name
    geometry = Geometry(
        shape=(len(ordered), *first.shape[1:]),
        spacing=(step, *first.spacing[1:]),
        origin=first.origin,
        directions=first.directions,
    )
    return ordered, Header(channels=1, dtype=dtype, geometry=geometry, notes=_notes(ordered))


def _by_series(folder: Path, path: Path) -> dict[str, list[Slice]]:
    """The images in a folder by their series."""
    found: dict[str, list[Slice]] = defaultdict(list)
    broken: list[str] = []
    for file in dicom_files(folder):
        try:
            if file_meta(file).is_image:
                part = _slice(file)
                found[part.series].append(part)
        except (RuntimeError, ValueError, OSError) as error:
            broken.append(f"{file.name} ({_reason(error)})")
    if broken:
        raise UnreadableFileError(
            f"{len(broken)} of {len(broken) + sum(map(len, found.values()))} DICOM files cannot be read: "
            + _some(broken, 3),
            file=path,
            remedy="Restore these files, or move them away if they do not belong to the series.",
        )
    if not found:
        raise UnreadableFileError("there is no DICOM image in this folder", file=folder)
    return found


def _slice(path: Path) -> Slice:
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.LoadPrivateTagsOff()
    with ONE_AT_A_TIME:
        reader.ReadImageInformation()
    header = itk_header(reader)

    def tag(name: str) -> str:
        return reader.GetMetaData(name).strip("\0 ") if reader.HasMetaDataKey(name) else ""

    stored = header.voxels * max(1, int(tag("0028|0100") or "8") // 8)
    plain = file_meta(path).is_plain
    require_room(stored, max(0, path.stat().st_size - 132), ratio=1 if plain else LARGEST_RATIO)
    return Slice(
        path=path,
        series=tag("0020|000e"),
        instance=tag("0008|0018"),
        title=f"{tag('0008|103e') or 'no description'} ({tag('0008|0060') or 'no modality'})",
        header=header,
        position=header.geometry.origin if tag("0020|0032") else None,
        colours=tag("0028|0004").upper(),
    )


def _chosen(path: Path, found: Mapping[str, list[Slice]]) -> list[Slice]:
    """The series that ``path`` stands for."""
    if path.is_file():
        for series in found.values():
            if any(part.path == path for part in series):
                return series
        raise UnreadableFileError("this DICOM file is no image", file=path)
    if len(found) > 1:
        listed = sorted(found.values(), key=lambda series: (-len(series), series[0].path.name))
        lines = [f"{series[0].title}: {len(series)} images, such as {series[0].path.name}" for series in listed]
        raise InputError(
            f"the folder holds {len(found)} DICOM series",
            file=path,
            found="; ".join(lines[:8]) + ("; …" if len(lines) > 8 else ""),
            expected="one",
            remedy=f"Name a file of the wanted series instead of the folder, for example "
            f"{path.name}/{listed[0][0].path.name}, or give every series a folder.",
        )
    return next(iter(found.values()))


def _require_simple(series: list[Slice], path: Path) -> Header | None:
    """Refuses what is no stack of grey slices. A single picture without a place is a planar image: this gives its header."""
    several = [part for part in series if part.header.geometry.shape[0] > 1]
    if several:
        frames = several[0].header.geometry.shape[0]
        raise UnreadableFileError(
            f"{several[0].path.name} is a multi-frame DICOM file ({frames} frames), which is not read",
            file=path,
            remedy="Convert it to NIfTI, for example with dcm2niix.",
        )
    coloured = [part for part in series if not part.colours.startswith("MONOCHROME") or part.header.channels > 1]
    if coloured:
        raise UnreadableFileError(
            f"the series holds colour pictures ({coloured[0].colours or 'unknown'}), such as {coloured[0].path.name}",
            file=path,
            expected="grey slices",
            remedy="Screen captures do not belong to a scan; save photographs as PNG.",
        )
    _require_equal(series, path, "image sizes", lambda part: part.header.geometry.shape[:0:-1])
    _require_equal(
        series, path, "pixel spacings", lambda part: tuple(round(s, 5) for s in part.header.geometry.spacing[:0:-1])
    )
    placeless = [part for part in series if part.position is None]
    if placeless and len(series) > 1:
        raise UnreadableFileError(
            f"{len(placeless)} of {len(series)} files do not say where they lie (ImagePositionPatient), "
            f"such as {placeless[0].path.name}",
            file=path,
            remedy="Slices are sorted by place, never by name: convert the series with a program that knows its order.",
        )
    if not placeless:
        return None
    spacing = series[0].header.geometry.spacing[1:]
    geometry = Geometry(
        shape=series[0].header.geometry.shape, spacing=(max(spacing), *spacing), planar=True
    )  # an X-ray image, for example
    return Header(channels=1, dtype=series[0].header.dtype, geometry=geometry, notes=_notes(series))


def _require_equal(series: Sequence[Slice], path: Path, what: str, of: Any) -> None:
    counts = Counter(of(part) for part in series)
    if len(counts) > 1:
        listed = [f"{value} in {count} files" for value, count in counts.most_common()]
        raise UnreadableFileError(
            f"the slices of the series have different {what} (x, y)",
            file=path,
            found=_some(listed, 4),
            remedy="A localizer, or another scan, does not belong to the series: move its files away.",
        )


def _require_parallel(series: Sequence[Slice], path: Path) -> None:
    first = series[0].header.geometry
    turned = [part for part in series if part.header.geometry.angle_from(first) > PARALLEL_DEGREES]
    if turned:
        degrees = max(part.header.geometry.angle_from(first) for part in turned)
        raise UnreadableFileError(
            f"the slices of the series are not parallel: {len(turned)} of {len(series)} are turned by up to "
            f"{degrees:.1f} degrees against {series[0].path.name}",
            file=path,
            remedy="This is a localizer, or a scan around an axis; it is no volume.",
        )


def _in_order(series: Sequence[Slice], path: Path) -> list[Slice]:
    """Sorted along the normal of the slices; refuses several slices at one place."""
    normal = np.array(series[0].header.geometry.directions[0])
    ordered = sorted(series, key=lambda part: (float(np.dot(part.header.geometry.origin, normal)), part.path.name))
    heights = np.array([np.dot(part.header.geometry.origin, normal) for part in ordered])
    gaps = np.diff(heights)
    usual = float(np.median(gaps[gaps > 1e-4])) if (gaps > 1e-4).any() else 1.0
    same = gaps < SAME_PLACE * usual
    if not same.any():
        return ordered
    if len({part.instance for part in ordered}) < len(ordered):
        doubled = [name for name, count in Counter(part.instance for part in ordered).items() if count > 1]
        files = [part.path.name for part in ordered if part.instance == doubled[0]]
        raise UnreadableFileError(
            f"{len(doubled)} slices of the series are there more than once, such as {_some(files, 3)}",
            file=path,
            remedy="Remove the copies.",
        )
    places = int((~same).sum()) + 1
    at = int(np.flatnonzero(same)[0])
    whole = len(ordered) % places == 0
    raise UnreadableFileError(
        f"{len(ordered)} slices lie at {places} places, such as {ordered[at].path.name} and {ordered[at + 1].path.name}"
        + (f": this series is {len(ordered) // places} volumes (times, echoes or weightings)" if whole else ""),
        file=path,
        expected="one slice at each place",
        remedy="Give every volume a folder of its own, or convert the series with dcm2niix.",
    )


def _require_straight(ordered: Sequence[Slice], normal: np.ndarray, path: Path) -> float:
    """The distance between slices, in millimetres, of a straight, regular stack without gaps."""
    origins = np.array([part.header.geometry.origin for part in ordered])
    if len(ordered) == 1:
        return ordered[0].header.geometry.spacing[0]
    heights = origins @ normal
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    missing = {index: round(gap / usual) - 1 for index, gap in enumerate(gaps) if gap > 1.5 * usual}
    if missing:
        count = sum(missing.values())
        where = [
            f"{gone} between {ordered[index].path.name} and {ordered[index + 1].path.name} "
            f"({heights[index]:.1f} to {heights[index + 1]:.1f} mm)"
            for index, gone in missing.items()
        ]
        raise UnreadableFileError(
            f"{counted(count, 'slice')} of the series {'is' if count == 1 else 'are'} missing: {_some(where, 5)}",
            file=path,
            found=f"{len(ordered)} slices, usually {usual:.4g} mm apart",
            remedy="Fetch the series again. Without these slices the volume would be too short.",
        )
    step = float((heights[-1] - heights[0]) / (len(ordered) - 1))
    uneven = float(np.abs(heights - heights[0] - step * np.arange(len(ordered))).max())
    if uneven > IRREGULAR * step:
        raise UnreadableFileError(
            f"the slices of the series lie at uneven distances: {gaps.min():.4g} to {gaps.max():.4g} mm",
            file=path,
            remedy="Resample the series to even distances first.",
        )
    sideways = (origins - origins[0]) - np.outer(heights - heights[0], normal)
    shift = float(np.linalg.norm(sideways, axis=1).max())
    degrees = math.degrees(math.atan2(shift, float(heights[-1] - heights[0])))
    if degrees > TILT_DEGREES or shift > TILT_PIXELS * min(ordered[0].header.geometry.spacing[1:]):
        raise UnreadableFileError(
            f"the stack is sheared by {degrees:.1f} degrees (gantry tilt): its slices shift sideways by {shift:.1f} mm "
            "from the first to the last",
            file=path,
            remedy="Make it straight first, for example with dcm2niix, which corrects gantry tilt.",
        )
    return step


def _pixels(part: Slice) -> np.ndarray:
    """The pixels ``(y, x)`` of one slice, rescaled as its file says."""
    sitk = simpleitk()
    try:
        with ONE_AT_A_TIME:
            image = sitk.ReadImage(str(part.path), imageIO="GDCMImageIO")
        array: np.ndarray = sitk.GetArrayFromImage(image)
    except RuntimeError as error:
        raise UnreadableFileError(f"cannot read this DICOM file: {_reason(error)}", file=part.path) from error
    if array.shape != part.header.geometry.shape:
        raise UnreadableFileError("the pixels of this DICOM file are not what its header says", file=part.path)
    return array[0]


def _reason(error: Exception) -> str:
    """The last line that says something, without addresses in memory, which mean nothing to anybody."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return re.sub(r"\(0x[0-9a-fA-F]+\)", "", lines[-1]).removeprefix("sitk::ERROR: ")


def _notes(series: Sequence[Slice]) -> tuple[str, ...]:
    if any(part.colours == "MONOCHROME1" for part in series):
        return ("MONOCHROME1: large values are shown dark; they are kept as they are",)
    return ()


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")

"""DICOM segmentations for tests: made of phantoms' series, and read without the library that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from autoseg.io.dicom_seg import DicomSegmentation, segments_of, write_segmentation
from autoseg.io.dicom_source import source_series
from autoseg.io.formats import format_of
from autoseg.values import Geometry, Label, Labels, Volume
from tests.io.dicom_phantoms import noise, write_series

_ABSENT = "DICOM segmentations need the extra dicom: pip install 'autoseg[dicom]'"
#: Tests have them from here, and are skipped where the extra is not installed.
pydicom = pytest.importorskip("pydicom", reason=_ABSENT)
highdicom = pytest.importorskip("highdicom", reason=_ABSENT)

#: Declared in another order than that of the integers, which have gaps; one is never there.
LABELS = Labels(
    foreground=(Label(name="liver", values=(7,)), Label(name="Milz", values=(2,)), Label(name="nowhere", values=(9,)))
)
HOW = DicomSegmentation(segments=segments_of(LABELS), plan="tiny", weights="0123456789abcdef" * 4)
#: Number of a segment to its integer.
INTEGERS = {1: 2, 2: 7, 3: 9}

Voxels = dict[tuple[float, float, float], int]


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A label map ``(z, y, x)`` of noise, with an empty slice."""
    labels = np.random.default_rng(seed).choice(np.array([0, 0, 2, 7], np.uint8), shape)
    labels[1] = 0
    return labels


def make(folder: Path, geometry: Geometry, labels: np.ndarray, how: DicomSegmentation = HOW, **options: Any) -> Path:
    """A series in ``folder/scan`` and, beside it, the segmentation of it."""
    if not (folder / "scan").is_dir():
        write_series(folder / "scan", noise(geometry), geometry, **options)
    return segmented(folder, labels, how)


def segmented(folder: Path, labels: np.ndarray, how: DicomSegmentation = HOW) -> Path:
    """The segmentation of the series in ``folder/scan``."""
    volume = Volume(array=labels[None], geometry=format_of(folder / "scan").read(folder / "scan").geometry)
    write_segmentation(folder / "labels.dcm", volume, source_series(folder / "scan", "case"), how, "case")
    return folder / "labels.dcm"


def edit(folder: Path, **attributes: object) -> None:
    """Changes attributes of all files of a series, to what DICOM does not allow, too; None removes one."""
    for file in sorted(folder.iterdir()):
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(file)
            for name, value in attributes.items():
                if value is None:
                    dataset.pop(name, None)
                else:
                    setattr(dataset, name, value)
            dataset.save_as(file)


def voxels_of_segmentation(file: Path) -> Voxels:
    """Place in LPS millimetres to integer of every labelled voxel, from the bits and what each frame says of its place."""
    dataset = pydicom.dcmread(file)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    size = dataset.Rows * dataset.Columns
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, right = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found: Voxels = {}
    assert len(dataset.PerFrameFunctionalGroupsSequence) == dataset.NumberOfFrames
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        first = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        segment = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        mask = bits[number * size : (number + 1) * size].reshape(dataset.Rows, dataset.Columns)
        for row, column in np.argwhere(mask):
            place = first + column * right * cosines[:3] + row * down * cosines[3:]
            assert key(place) not in found
            found[key(place)] = INTEGERS[segment]
    return found


def voxels_of_nifti(file: Path) -> Voxels:
    """The same of a NIfTI file, by nibabel, whose millimetres are RAS."""
    image: Any = nibabel.load(file)
    array = np.asanyarray(image.dataobj)
    found: Voxels = {}
    for index in np.argwhere(array):
        place = image.affine @ [*index, 1]
        found[key(place[:3] * [-1, -1, 1])] = int(array[tuple(index)])
    return found


def key(place: np.ndarray) -> tuple[float, float, float]:
    """A place to a hundredth of a millimetre, of voxels that are 0.5 mm apart."""
    x, y, z = (round(float(value), 2) + 0.0 for value in place)
    return x, y, z

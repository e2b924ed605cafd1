"""DICOM segmentations: every voxel where it was, every label by its name, and all that ties them to their series."""

from __future__ import annotations

import dataclasses
import sys
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg.errors import InputError, MissingPartError
from autoseg.io.dicom_seg import DicomSegmentation, check_source, require_library, segments_of, write_segmentation
from autoseg.io.dicom_source import derived_uid, source_series
from autoseg.io.formats import format_of
from autoseg.values import Label, Labels, Volume
from tests.io.dicom_phantoms import DIRECTIONS, grid, noise, write_series
from tests.io.dicom_segments import (
    HOW,
    INTEGERS,
    blobs,
    edit,
    highdicom,
    make,
    pydicom,
    segmented,
    voxels_of_nifti,
    voxels_of_segmentation,
)

#: A frame of 63 voxels ends within a byte.
SHAPE = (6, 7, 9)
NOW = datetime(2026, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("way", DIRECTIONS)
@pytest.mark.parametrize("order", [range(6), range(5, -1, -1), [3, 1, 5, 0, 2, 4]], ids=["up", "reversed", "shuffled"])
def test_every_voxel_is_where_it_was(way: str, order: list[int], tmp_path: Path) -> None:
    geometry, labels = grid(way, SHAPE), blobs(SHAPE)
    file = make(tmp_path, geometry, labels, order=order)
    placed = Volume(array=labels[None], geometry=format_of(tmp_path / "scan").read(tmp_path / "scan").geometry)
    format_of(tmp_path / "a.nii.gz").write(tmp_path / "a.nii.gz", placed)
    voxels = voxels_of_segmentation(file)
    assert len(voxels) == np.count_nonzero(labels)
    assert voxels == voxels_of_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("way", DIRECTIONS)
def test_the_library_finds_the_voxels_of_each_source_image(way: str, tmp_path: Path) -> None:
    labels = blobs(SHAPE)
    file = make(tmp_path, grid(way, SHAPE), labels)
    images = [pydicom.dcmread(path).SOPInstanceUID for path in sorted((tmp_path / "scan").iterdir())]
    found = highdicom.seg.segread(file).get_pixels_by_source_instance(
        images, combine_segments=True, assert_missing_frames_are_empty=True
    )
    numbers = {integer: number for number, integer in INTEGERS.items()} | {0: 0}
    np.testing.assert_array_equal(found, np.vectorize(numbers.get)(labels))


def test_segments_are_the_labels_in_the_order_of_their_integers(tmp_path: Path) -> None:
    palette = ((0, 0, 0), *((10 * value, 0, 0) for value in range(1, 8)))
    labels = Labels(
        foreground=(Label(name="liver", values=(7,)), Label(name="Milz — groß", values=(2,))), palette=palette
    )
    how = dataclasses.replace(HOW, segments=segments_of(labels))
    dataset = pydicom.dcmread(make(tmp_path, grid(shape=SHAPE), blobs(SHAPE), how))
    assert [(part.SegmentNumber, part.SegmentLabel) for part in dataset.SegmentSequence] == [
        (1, "Milz — groß"),
        (2, "liver"),
    ]
    assert [part.SegmentDescription for part in dataset.SegmentSequence] == [
        "Milz — groß: 2 in label maps",
        "liver: 7 in label maps",
    ]
    red = highdicom.color.CIELabColor(*_lab(dataset.SegmentSequence[1].RecommendedDisplayCIELabValue)).to_rgb()
    assert red == pytest.approx((70, 0, 0), abs=2)
    for part in dataset.SegmentSequence:
        assert part.SegmentAlgorithmType == "AUTOMATIC"
        assert "tiny" in part.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName
        assert part.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "SCT"


def _lab(stored: list[int]) -> list[float]:
    lightness, *others = stored
    return [lightness * 100 / 65535, *(value / 257 - 128 for value in others)]


def test_a_label_that_is_nowhere_is_still_a_segment(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(make(tmp_path, grid(shape=SHAPE), blobs(SHAPE)))
    assert [part.SegmentLabel for part in dataset.SegmentSequence] == ["Milz", "liver", "nowhere"]
    frames = [
        int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for frame in dataset.PerFrameFunctionalGroupsSequence
    ]
    assert frames == [1] * 5 + [2] * 5  # one slice shows nothing


def test_an_empty_label_map_is_a_whole_object(tmp_path: Path) -> None:
    file = make(tmp_path, grid(shape=SHAPE), np.zeros(SHAPE, np.uint8))
    dataset = pydicom.dcmread(file)
    assert voxels_of_segmentation(file) == {}
    assert len(dataset.SegmentSequence) == 3
    assert dataset.NumberOfFrames == 3  # an object without frames does not exist: one for each segment
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 6


def test_more_labels_than_a_byte_counts_are_segments_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Labels(foreground=tuple(Label(name=f"organ {value}", values=(value,)) for value in range(1, 301)))
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16)
    labels[labels > 300] = 0
    file = make(tmp_path, grid("oblique", SHAPE), labels, dataclasses.replace(HOW, segments=segments_of(many)))
    monkeypatch.setattr("tests.io.dicom_segments.INTEGERS", {number: number for number in range(1, 301)})
    dataset = pydicom.dcmread(file)
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == [label.name for label in many.foreground]
    placed = Volume(array=labels[None], geometry=format_of(tmp_path / "scan").read(tmp_path / "scan").geometry)
    format_of(tmp_path / "a.nii.gz").write(tmp_path / "a.nii.gz", placed)
    assert voxels_of_segmentation(file) == voxels_of_nifti(tmp_path / "a.nii.gz")


def test_nested_regions_are_whole_segments(tmp_path: Path) -> None:
    """As they are scored: the larger one is not what the smaller ones leave of it in the label map."""
    labels = Labels(
        foreground=(Label(name="organ", values=(1, 2)), Label(name="tumour", values=(2,))), region_values=(1, 2)
    )
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 2:6, 2:7], array[3, 3:5, 3:5] = 1, 2
    how = DicomSegmentation(segments=segments_of(labels), plan="tiny")
    file = make(tmp_path, grid(shape=SHAPE), array, how)
    masks = highdicom.seg.segread(file).get_pixels_by_source_instance(
        [pydicom.dcmread(path).SOPInstanceUID for path in sorted((tmp_path / "scan").iterdir())],
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(masks[..., 0], array > 0)
    np.testing.assert_array_equal(masks[..., 1], array == 2)
    assert pydicom.dcmread(file).SegmentsOverlap == "YES"


def test_the_same_result_is_the_same_object(tmp_path: Path) -> None:
    make(tmp_path, grid(shape=SHAPE), blobs(SHAPE))
    series = source_series(tmp_path / "scan", "case")
    first, again = HOW.dataset(series, blobs(SHAPE), NOW), HOW.dataset(series, blobs(SHAPE), NOW)
    assert first == again
    assert HOW.dataset(series, blobs(SHAPE), datetime(2027, 1, 1)).SOPInstanceUID == first.SOPInstanceUID
    other = HOW.dataset(series, blobs(SHAPE, seed=1), NOW)
    assert other.SOPInstanceUID != first.SOPInstanceUID
    assert other.SeriesInstanceUID == first.SeriesInstanceUID
    assert {first.SeriesInstanceUID, first.SOPInstanceUID}.isdisjoint(
        {str(value) for part in series for value in (part.SeriesInstanceUID, part.SOPInstanceUID)}
    )
    retrained = dataclasses.replace(HOW, weights="f" * 64).dataset(series, blobs(SHAPE), NOW)
    assert retrained.SeriesInstanceUID != first.SeriesInstanceUID
    assert (first.ContentDate, first.ContentTime) == ("20260203", "040506")


def test_patient_and_study_are_those_of_the_source(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE))
    told = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Jörg",
        "PatientID": "4711",
        "PatientBirthDate": "19500102",
        "PatientSex": "M",
        "StudyID": "77",
        "StudyDate": "20250304",
        "StudyTime": "121314.5",
        "AccessionNumber": "A-1",
        "StudyDescription": "Schädel",
        "FrameOfReferenceUID": "1.2.3.99",
        "InstitutionName": "not taken over",
    }
    edit(tmp_path / "scan", **told)
    dataset = pydicom.dcmread(segmented(tmp_path, blobs(SHAPE)))
    for name in told.keys() - {"SpecificCharacterSet", "InstitutionName"}:
        assert str(dataset[name].value) == told[name]
    assert dataset.StudyInstanceUID == "1.2.3"
    assert "InstitutionName" not in dataset
    references = dataset.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == "1.2.3.4"
    assert [part.ReferencedSOPInstanceUID for part in references.ReferencedInstanceSequence] == [
        f"1.2.3.4.{number}" for number in range(1, 7)
    ]


def test_a_source_that_says_little_is_enough(tmp_path: Path) -> None:
    geometry, labels = grid("oblique", SHAPE), blobs(SHAPE)
    write_series(tmp_path / "scan", noise(geometry), geometry)
    names = (
        *(
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyID",
            "StudyDate",
            "StudyTime",
            "Modality",
        ),
        *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "SliceThickness", "SeriesNumber"),
    )
    edit(tmp_path / "scan", **dict.fromkeys(names))
    dataset = pydicom.dcmread(file := segmented(tmp_path, labels))
    assert dataset.PatientID == ""
    assert dataset.StudyDate == ""
    assert dataset.FrameOfReferenceUID == derived_uid("frame of reference", "1.2.3.4")
    assert len(voxels_of_segmentation(file)) == np.count_nonzero(labels)


def test_dates_and_sexes_that_are_none_are_left_empty(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE))
    edit(tmp_path / "scan", StudyDate="04.03.2025", PatientSex="X", PatientBirthDate="unknown", PatientName="A^B")
    recwarn.clear()
    file = segmented(tmp_path, blobs(SHAPE))
    assert [str(warning.message) for warning in recwarn] == []
    dataset = pydicom.dcmread(file)
    assert (dataset.StudyDate, dataset.PatientSex, dataset.PatientBirthDate) == ("", "", "")
    assert dataset.PatientName == "A^B"


@pytest.mark.parametrize("name", ["ImagePositionPatient", "PixelSpacing", "SOPInstanceUID", "StudyInstanceUID"])
def test_what_nothing_can_refer_to_is_refused(name: str, tmp_path: Path) -> None:
    write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE))
    edit(tmp_path / "scan", **{name: None})
    with pytest.raises(InputError, match=rf"case anna: the DICOM file does not state {name}"):
        check_source(HOW, tmp_path / "scan", "anna")


def test_slices_of_two_patients_are_refused_without_their_names(tmp_path: Path) -> None:
    files = write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE))
    edit(tmp_path / "scan", PatientName="A^Anna")
    dataset = pydicom.dcmread(files[2])
    dataset.PatientName = "B^Bo"
    dataset.save_as(files[2])
    with pytest.raises(InputError, match="differ in PatientName; found 2 values") as caught:
        check_source(HOW, tmp_path / "scan", "case")
    assert "Anna" not in str(caught.value)


def test_kinds_of_images_that_are_not_known_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE))
    edit(tmp_path / "scan", SOPClassUID="1.2.3.4.5.6.7")
    with pytest.raises(InputError, match="no DICOM segmentation can be made of this series"):
        check_source(HOW, tmp_path / "scan", "case")


def test_several_series_are_one_by_a_file_of_it(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE), series="1.2.7", names="a{}.dcm")
    write_series(
        tmp_path / "scan", noise(grid(shape=(4, 7, 9))), grid(shape=(4, 7, 9)), series="1.2.8", names="b{}.dcm"
    )
    with pytest.raises(InputError, match="2 DICOM series"):
        source_series(tmp_path / "scan", "case")
    assert {part.SeriesInstanceUID for part in source_series(tmp_path / "scan" / "b2.dcm", "case")} == {"1.2.8"}


def test_a_label_map_of_another_series_is_refused(tmp_path: Path) -> None:
    make(tmp_path, grid(shape=SHAPE), blobs(SHAPE))
    wide = msgspec.structs.replace(grid(shape=SHAPE), spacing=(2.5, 0.75, 1.0))
    upside_down = msgspec.structs.replace(grid(shape=SHAPE), directions=((0, 0, -1), (0, -1, 0), (1, 0, 0)))
    for geometry in (grid("coronal", SHAPE), grid(shape=(5, 7, 9)), wide, upside_down):
        volume = Volume(array=blobs(geometry.shape)[None], geometry=geometry)
        with pytest.raises(InputError, match="case bo: the label map does not lie on the DICOM series"):
            write_segmentation(tmp_path / "b.dcm", volume, source_series(tmp_path / "scan", "bo"), HOW, "bo")
    assert not (tmp_path / "b.dcm").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE))
    files[3].write_bytes(files[3].read_bytes()[:500])
    with pytest.raises(InputError, match=files[3].name):
        check_source(HOW, tmp_path / "scan", "case")


@pytest.mark.parametrize("package", ["highdicom", "pydicom"])
def test_a_missing_package_is_named_with_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPartError, match=r"pip install 'autoseg\[dicom\]'"):
        require_library()

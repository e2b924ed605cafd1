"""DICOM series: slices come into order by their place, and what is no straight, whole stack is refused and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import InputError, UnreadableFileError
from autoseg.io.cases import check_case, read_image
from autoseg.io.dicom_files import file_meta
from autoseg.io.formats import format_of, is_series, label_ending, parts_of, read_header, split_ending
from autoseg.io.layouts import read_inputs
from autoseg.values import Case, Dataset, Label, Labels, Volume
from tests.io.dicom_phantoms import DIRECTIONS, grid, noise, tilt, write_series

SHUFFLED = [3, 1, 5, 0, 2, 4]


def read(path: Path) -> Volume:
    return format_of(path).read(path)


def refusal(path: Path) -> str:
    """Why it is refused: by its header, before any voxel is read, and by reading in the same words."""
    with pytest.raises(InputError) as told:
        read_header(path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(told.value) == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("way", DIRECTIONS)
@pytest.mark.parametrize("order", [range(6), range(5, -1, -1), SHUFFLED], ids=["forward", "reversed", "shuffled"])
def test_slices_are_sorted_by_their_place(way: str, order: list[int], tmp_path: Path) -> None:
    geometry = grid(way)
    array = noise(geometry)
    write_series(tmp_path / "scan", array, geometry, order=order)
    volume = read(tmp_path / "scan")
    np.testing.assert_array_equal(volume.array, array[None])
    assert volume.array.dtype == np.int16
    assert volume.geometry.displacement_from(geometry) < 1e-4
    assert volume.geometry.shape == geometry.shape
    assert volume.geometry.spacing == pytest.approx(geometry.spacing)
    header = read_header(tmp_path / "scan")
    assert (header.geometry, header.dtype, header.channels) == (volume.geometry, "int16", 1)


@pytest.mark.parametrize("way", DIRECTIONS)
def test_it_is_what_simpleitk_makes_of_the_series(way: str, tmp_path: Path) -> None:
    geometry = grid(way)
    write_series(tmp_path / "scan", noise(geometry), geometry, order=SHUFFLED)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "scan"))
    SimpleITK.WriteImage(SimpleITK.ReadImage(names), str(tmp_path / "a.nrrd"))
    ours, theirs = read(tmp_path / "scan"), read(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert ours.geometry.displacement_from(theirs.geometry) < 1e-6
    assert ours.geometry.angle_from(theirs.geometry) < 1e-4


@pytest.mark.real_data
def test_a_real_series_is_what_its_conversion_to_nifti_is(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "dicom" / "hippocampus_crop"
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    SimpleITK.WriteImage(SimpleITK.ReadImage(names), str(tmp_path / "a.nii.gz"))
    ours, theirs = read(folder), read(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert ours.array.dtype == theirs.array.dtype
    assert ours.geometry.displacement_from(theirs.geometry) < 1e-5
    assert ours.geometry.angle_from(theirs.geometry) < 1e-5
    assert ours.geometry.shape == (32, 51, 35)
    assert len(format_of(folder).parts(folder)) == 32


def with_rescaling(data: bytes, slope: float, intercept: float) -> bytes:
    """A file's bytes with another rescale slope and intercept; types of values are implicit in it."""
    for tag in (b"\x28\x00\x52\x10", b"\x28\x00\x53\x10"):
        if tag in data:
            at = data.index(tag)
            data = data[:at] + data[at + 8 + int.from_bytes(data[at + 4 : at + 8], "little") :]
    stated = b"".join(
        b"\x28\x00" + tag + (10).to_bytes(4, "little") + f"{value:10.3f}".encode()
        for tag, value in ((b"\x52\x10", intercept), (b"\x53\x10", slope))
    )
    at = data.index(b"\xe0\x7f\x10\x00")  # the pixels, which all other tags come before
    return data[:at] + stated + data[at:]


def test_rescaling_is_applied_slice_by_slice(tmp_path: Path) -> None:
    """As in PET, where every slice has a slope of its own."""
    geometry = grid(shape=(3, 4, 5))
    array = noise(geometry)
    files = write_series(tmp_path / "scan", array, geometry, tags={"0008|0060": "CT"})
    factors = [(1.0, -1024.0), (0.5, 3.0), (0.25, 0.0)]
    for file, (slope, intercept) in zip(files, factors, strict=True):
        file.write_bytes(with_rescaling(file.read_bytes(), slope, intercept))
    volume = read(tmp_path / "scan")
    expected = [array[index] * slope + intercept for index, (slope, intercept) in enumerate(factors)]
    np.testing.assert_allclose(volume.array[0], np.stack(expected))
    assert read_header(tmp_path / "scan").dtype == volume.array.dtype.name


def test_files_without_an_ending_and_strangers_among_them(tmp_path: Path) -> None:
    geometry = grid()
    write_series(tmp_path / "scan", noise(geometry), geometry, order=SHUFFLED)
    for file in (tmp_path / "scan").glob("*.dcm"):
        file.rename(file.with_suffix(""))
    for name in ("README.txt", ".DS_Store", "report.pdf", "DICOMDIR"):
        (tmp_path / "scan" / name).write_bytes(b"x" * 200)
    np.testing.assert_array_equal(read(tmp_path / "scan").array[0], noise(geometry))


def test_a_folder_without_dicom_files_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing")
    assert not is_series(tmp_path)
    assert not is_series(tmp_path / "a.txt")
    assert "no DICOM files" in refusal(tmp_path)


def test_several_series_are_listed_and_one_is_chosen_by_any_of_its_files(tmp_path: Path) -> None:
    thick, thin = grid(), grid("coronal", (4, 8, 10))
    write_series(tmp_path / "scan", noise(thick), thick, series="1.2.7", title="T1 axial", names="a{}.dcm")
    write_series(tmp_path / "scan", noise(thin, 1), thin, series="1.2.8", title="T2 cor", names="b{}.dcm")
    message = refusal(tmp_path / "scan")
    assert "2 DICOM series" in message
    assert "T1 axial (MR): 6 images, such as a0.dcm; T2 cor (MR): 4 images, such as b0.dcm" in message
    assert "scan/a0.dcm" in message
    np.testing.assert_array_equal(read(tmp_path / "scan" / "b2.dcm").array[0], noise(thin, 1))
    np.testing.assert_array_equal(read(tmp_path / "scan" / "a5.dcm").array[0], noise(thick))
    assert parts_of(tmp_path / "scan" / "b2.dcm")[0] == tmp_path / "scan" / "b2.dcm"  # other series have other keys
    assert len(parts_of(tmp_path / "scan" / "b2.dcm")) == 11
    assert parts_of(tmp_path / "scan") == (tmp_path / "scan",)


@pytest.mark.parametrize(("missing", "count"), [([2], 1), ([2, 3], 2), ([1, 4], 2)])
def test_missing_slices_are_counted_and_located(missing: list[int], count: int, tmp_path: Path) -> None:
    geometry = grid(shape=(8, 8, 10))
    left = [index for index in range(8) if index not in missing]
    write_series(tmp_path / "scan", noise(geometry), geometry, order=left, names="{}.dcm")
    message = refusal(tmp_path / "scan")
    assert f"{count} slice{' of the series is' if count == 1 else 's of the series are'} missing" in message
    assert f"between {missing[0] - 1}.dcm and {missing[0]}.dcm" in message
    assert "2.5 mm apart" in message


def test_copies_of_a_slice_are_named(tmp_path: Path) -> None:
    geometry = grid()
    files = write_series(tmp_path / "scan", noise(geometry), geometry)
    (tmp_path / "scan" / "copy.dcm").write_bytes(files[2].read_bytes())
    message = refusal(tmp_path / "scan")
    assert "1 slices of the series are there more than once" in message
    assert "copy.dcm" in message


def test_several_volumes_in_one_series_are_recognised(tmp_path: Path) -> None:
    geometry = grid()
    for time in range(3):
        tags = {"0020|0012": str(time), "0008|0018": ""}
        for index in range(6):
            tags["0008|0018"] = f"1.9.{time}.{index + 1}"
            write_series(
                tmp_path / "scan", noise(geometry), geometry, order=[index], names=f"{time}-{index}.dcm", tags=tags
            )
    message = refusal(tmp_path / "scan")
    assert "18 slices lie at 6 places" in message
    assert "3 volumes" in message


@pytest.mark.parametrize("degrees", [2.0, 12.0, -20.0])
def test_gantry_tilt_is_refused_with_its_angle(degrees: float, tmp_path: Path) -> None:
    geometry = grid()
    write_series(tmp_path / "scan", noise(geometry), geometry, shear_mm=tilt(degrees, geometry))
    message = refusal(tmp_path / "scan")
    assert "gantry tilt" in message
    assert f"{abs(degrees):.1f} degrees" in message


def test_rounded_positions_are_no_tilt(tmp_path: Path) -> None:
    geometry = grid("oblique")
    write_series(tmp_path / "scan", noise(geometry), geometry, shear_mm=0.004)
    assert read_header(tmp_path / "scan").geometry.shape == geometry.shape


def test_uneven_distances_are_refused(tmp_path: Path) -> None:
    for index, height in enumerate([0.0, 2.5, 5.6, 7.5, 10.0]):
        geometry = grid(shape=(1, 8, 10))
        moved = type(geometry)(
            shape=(1, 8, 10), spacing=geometry.spacing, origin=(0.0, 0.0, height), directions=geometry.directions
        )
        write_series(
            tmp_path / "scan",
            noise(moved),
            moved,
            names=f"{index}.dcm",
            tags={"0008|0018": f"1.2.{index + 1}"},
        )
    assert "uneven distances" in refusal(tmp_path / "scan")


def test_slices_of_other_sizes_spacings_and_directions_are_refused(tmp_path: Path) -> None:
    for name, (geometry, expected) in {
        "size": (grid(shape=(6, 9, 10)), "image sizes"),
        "turned": (grid("coronal"), "not parallel"),
    }.items():
        folder = tmp_path / name
        write_series(folder, noise(grid()), grid(), order=range(3), names="a{}.dcm")
        write_series(folder, noise(geometry), geometry, order=range(3, 6), names="b{}.dcm")
        assert expected in refusal(folder)
    coarse = type(grid())(shape=(6, 8, 10), spacing=(2.5, 0.8, 0.5), origin=grid().origin)
    write_series(tmp_path / "spacing", noise(grid()), grid(), order=range(3), names="a{}.dcm")
    write_series(tmp_path / "spacing", noise(coarse), coarse, order=range(3, 6), names="b{}.dcm")
    assert "pixel spacings" in refusal(tmp_path / "spacing")


def test_multi_frame_files_are_named(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(noise(grid()).astype(np.uint8))
    tmp_path.joinpath("scan").mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "scan" / "all.dcm"))
    writer.Execute(image)
    message = refusal(tmp_path / "scan")
    assert "all.dcm is a multi-frame DICOM file (6 frames)" in message
    assert "dcm2niix" in message


def test_colour_pictures_are_named(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (1, 8, 10, 3), dtype=np.uint8)
    tmp_path.joinpath("scan").mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colours, isVector=True), str(tmp_path / "scan" / "shot.dcm"))
    message = refusal(tmp_path / "scan")
    assert "colour pictures (RGB)" in message
    assert "shot.dcm" in message


def test_a_single_picture_without_a_place_is_planar(tmp_path: Path) -> None:
    array = noise(grid(shape=(1, 8, 10)))
    image = SimpleITK.GetImageFromArray(array[0])
    image.SetSpacing((0.2, 0.3))
    tmp_path.joinpath("xray").mkdir()
    SimpleITK.WriteImage(image, str(tmp_path / "xray" / "a.dcm"))
    data = (tmp_path / "xray" / "a.dcm").read_bytes()
    (tmp_path / "xray" / "a.dcm").write_bytes(data.replace(b"\x20\x00\x32\x00", b"\x20\x00\x33\x00"))
    volume = read(tmp_path / "xray")
    assert volume.geometry == read_header(tmp_path / "xray" / "a.dcm").geometry
    assert volume.geometry.planar
    assert volume.geometry.shape == (1, 8, 10)
    np.testing.assert_array_equal(volume.array[0], array)


@pytest.mark.parametrize("kept", [0.05, 0.4, 0.9])
def test_a_truncated_slice_is_named(kept: float, tmp_path: Path) -> None:
    geometry = grid(shape=(4, 40, 50))
    files = write_series(tmp_path / "scan", noise(geometry), geometry, names="{}.dcm")
    files[2].write_bytes(files[2].read_bytes()[: int(kept * files[2].stat().st_size)])
    message = refusal(tmp_path / "scan")
    assert "1 of 4 DICOM files cannot be read" in message
    assert "2.dcm" in message
    assert "(0x" not in message


def test_a_report_beside_the_images_is_passed_over(tmp_path: Path) -> None:
    geometry = grid()
    files = write_series(tmp_path / "scan", noise(geometry), geometry)
    data = files[0].read_bytes()
    at = data.index(file_meta(files[0]).kind.encode())
    size = int.from_bytes(data[at - 2 : at], "little")
    report = b"1.2.840.10008.5.1.4.1.1.88.11\0"
    changed = data[: at - 2] + len(report).to_bytes(2, "little") + report + data[at + size :]
    (tmp_path / "scan" / "report.dcm").write_bytes(changed)
    assert not file_meta(tmp_path / "scan" / "report.dcm").is_image
    np.testing.assert_array_equal(read(tmp_path / "scan").array[0], noise(geometry))


def test_label_maps_for_series_are_written_as_nifti_and_never_as_dicom(tmp_path: Path) -> None:
    geometry = grid("oblique")
    write_series(tmp_path / "scan", noise(geometry), geometry)
    assert label_ending(split_ending("scan")[1]) == ".nii.gz"
    assert label_ending(split_ending("scan/IM0001.dcm")[1]) == ".nii.gz"
    volume = read(tmp_path / "scan")
    labels = Volume(array=(volume.array > 0).astype(np.uint8), geometry=volume.geometry)
    with pytest.raises(InputError, match=r"\.nii\.gz"):
        format_of(tmp_path / "scan").write(tmp_path / "scan", labels)
    format_of(Path("a.nii.gz")).write(tmp_path / "a.nii.gz", labels)
    assert read(tmp_path / "a.nii.gz").geometry.displacement_from(volume.geometry) < 1e-3


def test_series_are_inputs_of_prediction(tmp_path: Path) -> None:
    geometry = grid()
    for patient in ("anna", "bo"):
        write_series(tmp_path / patient, noise(geometry), geometry)
    (tmp_path / "notes").mkdir()
    assert [(case.id, case.images) for case in read_inputs(tmp_path, ["MRI"])] == [("anna", ("anna",)), ("bo", ("bo",))]
    assert [(case.id, case.images) for case in read_inputs(tmp_path / "bo", ["MRI"])] == [("bo", (".",))]
    image = read_image(read_inputs(tmp_path / "bo", ["MRI"])[0], tmp_path / "bo", ["MRI"])
    np.testing.assert_array_equal(image.array[0], noise(geometry))


def test_a_series_and_a_label_map_made_of_it_lie_on_one_grid(tmp_path: Path) -> None:
    """As annotators do it: the series is loaded into a program, and the label map saved as NIfTI."""
    geometry = grid("oblique")
    write_series(tmp_path / "scan", noise(geometry), geometry, order=SHUFFLED)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "scan"))
    SimpleITK.WriteImage(SimpleITK.ReadImage(names) > 0, str(tmp_path / "a.nii.gz"))
    case = Case(id="a", images=("scan",), label="a.nii.gz")
    labels = Labels(foreground=(Label(name="bright", values=(1,)),))
    dataset = Dataset(
        name="D", root=str(tmp_path), channels=("MRI",), labels=labels, file_ending=".nii.gz", cases=(case,)
    )
    image, found, findings = check_case(dataset, case)
    assert findings == []
    np.testing.assert_array_equal(found.array, image.array > 0)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    from autoseg.io.dicom import DicomFormat

    with pytest.raises(UnreadableFileError, match="nowhere"):
        DicomFormat().read(tmp_path / "nowhere")


def test_the_files_of_a_series_are_told_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may end the process, which is the command's own where caches are asked."""
    files = write_series(tmp_path / "scan", noise(grid()), grid())

    def end() -> None:
        raise AssertionError("GDCM would be asked")

    monkeypatch.setattr("autoseg.io.dicom.simpleitk", end)
    assert parts_of(files[2]) == (files[2], *files)

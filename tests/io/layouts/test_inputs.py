"""Inputs for prediction: case and channel of every file are told by its name, or it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.errors import FindingsError, InputError
from autoseg.io.layouts import read_inputs
from tests.io.layouts.trees import write_dicom


def inputs(folder: Path, *names: str, channels: Sequence[str] = ("MRI",)) -> dict[str, tuple[str, ...]]:
    for name in names:
        (folder / name).touch()
    return {case.id: case.images for case in read_inputs(folder, channels)}


def test_inputs_with_and_without_channel_number(tmp_path: Path) -> None:
    found = inputs(tmp_path, "b_0000.nii.gz", "a.nii.gz", "c.nrrd", ".hidden.nii.gz", "notes.txt")
    assert found == {"a": ("a.nii.gz",), "b": ("b_0000.nii.gz",), "c": ("c.nrrd",)}
    assert list(found) == sorted(found)


@pytest.mark.parametrize("name", ["scan_2024.nii.gz", "scan_0001.nii.gz", "scan_0000_2024.nii.gz"])
def test_a_number_without_channel_0_beside_it_belongs_to_the_name(name: str, tmp_path: Path) -> None:
    assert inputs(tmp_path, name) == {name.removesuffix(".nii.gz"): (name,)}


def test_years_of_several_scans_are_names_too(tmp_path: Path) -> None:
    assert list(inputs(tmp_path, "scan_2023.nii.gz", "scan_2024.nii.gz")) == ["scan_2023", "scan_2024"]


def test_several_channels_are_put_in_order(tmp_path: Path) -> None:
    found = inputs(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz", channels=("T1", "T2"))
    assert found == {"a": ("a_0000.nii.gz", "a_0001.nii.gz")}


def test_all_incomplete_inputs_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(FindingsError) as caught:
        inputs(
            tmp_path,
            *("good_0000.mha", "good_0001.mha", "b_0001.mha"),
            *(f"c_000{channel}.mha" for channel in (0, 1, 2)),
            channels=("T1", "T2"),
        )
    assert [finding.case for finding in caught.value.findings] == ["b", "c"]


def test_files_that_do_not_say_their_channel_are_listed(tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match=r"(?s)2 channels .*\(T1, T2\).*x\.mha.*y\.mha"):
        inputs(tmp_path, "x.mha", "y.mha", channels=("T1", "T2"))


def test_a_second_channel_of_a_one_channel_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match="too many"):
        inputs(tmp_path, "a_0000.mha", "a_0001.mha")


@pytest.mark.parametrize(
    "names", [("a.nii.gz", "a.nrrd"), ("a.nii.gz", "a_0000.nii.gz"), ("a_0000.mha", "a_0000.nrrd")]
)
def test_two_inputs_of_one_name_do_not_silently_become_one(names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=names[1]):
        inputs(tmp_path, *names)


def test_a_single_file_is_one_case_relative_to_its_folder(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "b_0000.nii.gz"):
        (tmp_path / name).touch()
    (case,) = read_inputs(tmp_path / "a_0000.nii.gz", ("MRI",))
    assert (case.id, case.images) == ("a", ("a_0000.nii.gz",))


def test_nothing_to_predict_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no image here"):
        read_inputs(tmp_path, ("MRI",))
    with pytest.raises(InputError, match="no such file or folder"):
        read_inputs(tmp_path / "nowhere", ("MRI",))


MODALITIES = ("T1", "T1ce", "FLAIR")


@pytest.mark.parametrize(
    "name",
    [
        "{case}_{channel}.mha",
        "{case}-{channel}.mha",
        "{channel}_{case}.mha",
        "{case}/{channel}.mha",
        "{case}/{case}_{channel}.mha",
    ],
)
def test_channels_are_told_by_their_names_in_any_letter_case(name: str, tmp_path: Path) -> None:
    for case in ("p_1", "p_2"):
        for channel in ("flair", "t1", "t1ce"):
            path = tmp_path / name.format(case=case, channel=channel)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    expected = {
        case: tuple(name.format(case=case, channel=channel) for channel in ("t1", "t1ce", "flair"))
        for case in ("p_1", "p_2")
    }
    found = {
        case.id.replace("_anat", "").removeprefix("p_1_"): case.images for case in read_inputs(tmp_path, MODALITIES)
    }
    assert {key.split("_p_")[0]: value for key, value in found.items()} == expected


def test_sub_folders_are_cases_where_the_folder_holds_no_image_itself(tmp_path: Path) -> None:
    for name in ("a/image.nii.gz", "b/ct.nii.gz", "c/deep/scan.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert [(case.id, case.images) for case in read_inputs(tmp_path, ("CT",))] == [
        ("a", ("a/image.nii.gz",)),
        ("b", ("b/ct.nii.gz",)),
        ("c_deep", ("c/deep/scan.nii.gz",)),
    ]
    (tmp_path / "top.nii.gz").touch()
    assert [case.id for case in read_inputs(tmp_path, ("CT",))] == ["top"]


def test_dicom_series_are_images(tmp_path: Path) -> None:
    write_dicom(tmp_path / "p1")
    write_dicom(tmp_path / "p2" / "MR")
    found = {case.id: case.images for case in read_inputs(tmp_path, ("MRI",))}
    assert found == {"p1": ("p1",), "p2_MR": ("p2/MR",)}
    (case,) = read_inputs(tmp_path / "p1", ("MRI",))
    assert (case.id, case.images) == ("p1", (".",))


@pytest.mark.parametrize("names", [("NUL.nii.gz",), ("com1.x.nii.gz",), ("A.nii.gz", "a.nii.gz")], ids=str)
def test_ids_that_are_no_files_elsewhere_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"device on Windows|letter case only"):
        inputs(tmp_path, *names)


COLOURS = ("red", "green", "blue")


def picture(file: Path, mode: str = "RGB") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (10, 200, 30)).convert(mode).save(file)
    return file


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_picture_with_all_colours_is_a_whole_case_whatever_its_name(mode: str, tmp_path: Path) -> None:
    for name in ("x.png", "scan_0005.png", "t_0000.png", "u_0000.png", "u_0001.png"):
        picture(tmp_path / name, mode)
    for channel in range(3):
        picture(tmp_path / f"grey_000{channel}.png", "L")
    assert {case.id: case.images for case in read_inputs(tmp_path, COLOURS)} == {
        "grey": ("grey_0000.png", "grey_0001.png", "grey_0002.png"),
        "scan_0005": ("scan_0005.png",),
        "t": ("t_0000.png",),
        "u_0000": ("u_0000.png",),
        "u_0001": ("u_0001.png",),
        "x": ("x.png",),
    }
    (case,) = read_inputs(tmp_path / "scan_0005.png", COLOURS)
    assert (case.id, case.images) == ("scan_0005", ("scan_0005.png",))


def test_a_file_of_four_dimensions_with_all_channels_is_a_whole_case(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4, 5), np.int16), isVector=False)
    SimpleITK.WriteImage(image, str(tmp_path / "BRATS_099.nii.gz"))
    assert [case.id for case in read_inputs(tmp_path, ("FLAIR", "T1w"))] == ["BRATS_099"]
    with pytest.raises(FindingsError, match=r"BRATS_099\.nii\.gz: found 2 channels, expected 3 in one file"):
        read_inputs(tmp_path, COLOURS)


def test_a_grey_picture_among_coloured_ones_is_named_with_both_numbers(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    picture(tmp_path / "y.png", "L")
    with pytest.raises(
        FindingsError, match=r"y\.png: found 1 channel, expected 3 in one file, or .*CASE_0000\.png"
    ) as caught:
        read_inputs(tmp_path, COLOURS)
    assert len(caught.value.findings) == 1


def test_cases_are_named_as_in_a_data_set_where_that_is_unique(tmp_path: Path) -> None:
    assert list(inputs(tmp_path, "Pat 00_ct.nii.gz", "Pat 01_CT.nii.gz", "b_image.mha", channels=("ct",))) == [
        "Pat 00",
        "Pat 01",
        "b",
    ]
    assert list(inputs(tmp_path, "Pat 00.nii.gz", "b_scan.mha", channels=("ct",))) == [
        "Pat 00",
        "Pat 00_ct",
        "Pat 01",
        "b_image",
        "b_scan",
    ]

"""A file's ending chooses its format, whatever dots and capitals its name has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import InputError, UnreadableFileError
from autoseg.io.formats import format_of, known_endings, label_ending, parts_of, read_header, split_ending
from autoseg.values import Geometry, Volume


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("case_01.nii.gz", ("case_01", ".nii.gz")),
        ("case_01.nii", ("case_01", ".nii")),
        ("a.b.c.NII.GZ", ("a.b.c", ".NII.GZ")),
        ("scan.2024.mha", ("scan.2024", ".mha")),
        ("x.png", ("x", ".png")),
        ("notes.txt", ("notes.txt", "")),
        ("archive.gz", ("archive.gz", "")),
        (".nii.gz", (".nii.gz", "")),
        ("Zoë 7.nrrd", ("Zoë 7", ".nrrd")),
        ("", ("", "")),
    ],
)
def test_a_name_is_its_stem_and_a_known_ending(name: str, expected: tuple[str, str]) -> None:
    assert split_ending(name) == expected
    assert "".join(split_ending(name)) == name


def test_endings_come_longest_first_so_that_none_hides_another() -> None:
    lengths = [len(ending) for ending in known_endings()]
    assert lengths == sorted(lengths, reverse=True)
    expected = ".nii.gz .nii .nrrd .nhdr .mha .mhd .gipl .gipl.gz .png .jpg .jpeg .bmp .tif .tiff"
    assert set(expected.split()) <= set(known_endings())
    assert ".dcm" not in known_endings()  # the files of a series are no images of their own


def test_the_format_of_a_file_reads_its_ending() -> None:
    for ending in known_endings():
        assert ending in format_of(Path(f"folder/CASE{ending.upper()}")).endings


def test_an_unknown_ending_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"a\.xyz\b") as caught:
        format_of(Path("a.xyz"))
    assert all(ending in str(caught.value) for ending in known_endings())


@pytest.mark.parametrize(
    ("ending", "expected"),
    [("", ".nii.gz"), (".JPG", ".png"), (".bmp", ".png"), (".mhd", ".mha"), (".NII", ".NII"), (".tif", ".tif")],
)
def test_label_maps_have_the_images_ending_where_that_can_hold_them(ending: str, expected: str) -> None:
    assert label_ending(ending) == expected


def test_a_header_is_read_without_the_voxels(tmp_path: Path) -> None:
    """Of a file whose voxels are damaged, the header can be told."""
    path = tmp_path / "a.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((20, 30, 40), np.int16)), str(path), True)
    data = bytearray(path.read_bytes())
    data[-20:-10] = bytes(10)
    path.write_bytes(data)
    assert read_header(path).geometry.shape == (20, 30, 40)
    with pytest.raises(UnreadableFileError):
        format_of(path).read(path)


@pytest.mark.parametrize("name", ["nowhere.nii.gz", "nowhere.png", "nowhere.tif", "nowhere.gipl", "nowhere"])
def test_what_is_not_there_has_no_header_and_is_its_own_part(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        read_header(tmp_path / name)
    assert parts_of(tmp_path / name) == (tmp_path / name,)


def test_a_gipl_file_keeps_place_and_refuses_directions(tmp_path: Path) -> None:
    straight = Geometry(shape=(3, 4, 5), spacing=(3.0, 1.5, 0.5), origin=(-10.0, 20.0, 5.5))
    array = np.arange(60, dtype=np.int32).reshape(1, 3, 4, 5) * 500
    for name in ("a.gipl", "a.gipl.gz"):
        handler = format_of(Path(name))
        handler.write(tmp_path / name, Volume(array=array, geometry=straight))
        assert handler.read(tmp_path / name).geometry == straight
        np.testing.assert_array_equal(handler.read(tmp_path / name).array, array)
        turned = Geometry(shape=(3, 4, 5), spacing=(1.0, 1.0, 1.0), directions=((0, 0, -1.0), (0, 1.0, 0), (1.0, 0, 0)))
        with pytest.raises(InputError, match="directions"):
            handler.write(tmp_path / name, Volume(array=array, geometry=turned))
        with pytest.raises(InputError, match="65535"):
            handler.write(tmp_path / name, Volume(array=array + 65536, geometry=straight))

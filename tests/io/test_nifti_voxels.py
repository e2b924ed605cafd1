"""Voxels from a NIfTI file's bytes: those that ITK and nibabel read, or none."""

from __future__ import annotations

import gzip
import itertools
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg.io.headers import Header
from autoseg.io.nifti import raw_header
from autoseg.io.nifti_voxels import plain_header, plain_voxels
from autoseg.io.simpleitk_format import itk_header

TYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]


def written(path: Path, dtype: type, order: str = "<", **scaling: float) -> np.ndarray:
    """Noise in the array order (x, y, z) of the file."""
    random = np.random.default_rng(0)
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else None
    shape = (5, 4, 3)
    array = random.integers(limits.min, limits.max, shape, dtype) if limits else random.random(shape).astype(dtype)
    image = nibabel.Nifti1Image(array.astype(array.dtype.newbyteorder(order)), np.diag([1.0, 2.0, 3.0, 1.0]))
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder(order))
    image = nibabel.Nifti1Image(array, image.affine, header)
    image.header.set_slope_inter(scaling.get("slope", 1.0), scaling.get("intercept", 0.0))
    nibabel.save(image, path)
    return array


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_plain_files_give_what_itk_reads(dtype: type, name: str, order: str, tmp_path: Path) -> None:
    array = written(tmp_path / name, dtype, order)
    found = plain_voxels(tmp_path / name)
    assert found is not None
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array.transpose())
    np.testing.assert_array_equal(found, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / name))))


def test_files_that_itk_wrote_are_plain(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(plain_voxels(tmp_path / "a.nii.gz"), array)


def test_nan_and_infinity_are_kept(tmp_path: Path) -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1], np.float32).reshape(4, 1, 1)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(plain_voxels(tmp_path / "a.nii.gz"), array.transpose())


def test_scaled_intensities_and_other_shapes_are_left_to_others(tmp_path: Path) -> None:
    written(tmp_path / "slope.nii.gz", np.int16, slope=2.0)
    written(tmp_path / "intercept.nii.gz", np.int16, intercept=-1024.0)
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.eye(4)), tmp_path / "four.nii.gz")
    nibabel.save(nibabel.Nifti2Image(np.zeros((2, 3, 4), np.int16), np.eye(4)), tmp_path / "two.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.complex64), np.eye(4)), tmp_path / "complex.nii.gz")
    (tmp_path / "none.nii").write_bytes(b"no header")
    for file in sorted(tmp_path.iterdir()):
        assert plain_voxels(file) is None, file


@pytest.mark.parametrize("kept", [0, 3, 200, 352, 400, -9, -1])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_files_that_are_not_whole_give_nothing(name: str, kept: int, tmp_path: Path) -> None:
    written(tmp_path / name, np.float64)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:kept])
    assert plain_voxels(tmp_path / name) is None


@pytest.mark.parametrize("place", [20, 60, -30, -6, -2])
def test_a_flipped_byte_in_a_packed_file_gives_nothing(place: int, tmp_path: Path) -> None:
    """Gzip's checksum is looked at, which ITK does not do for itself."""
    written(tmp_path / "a.nii.gz", np.uint8)
    whole = bytearray((tmp_path / "a.nii.gz").read_bytes())
    whole[place] ^= 0x55
    (tmp_path / "a.nii.gz").write_bytes(whole)
    assert plain_voxels(tmp_path / "a.nii.gz") is None


def test_bytes_beyond_what_the_header_says_give_nothing(tmp_path: Path) -> None:
    written(tmp_path / "a.nii", np.uint8)
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole + bytes(2**20)))
    assert plain_voxels(tmp_path / "b.nii.gz") is None
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(whole) + b"more")
    assert plain_voxels(tmp_path / "c.nii.gz") is None


def itk_reads(path: Path) -> Header:
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return itk_header(reader)


SIGNED_AXES = [
    np.array(signs)[:, None] * np.eye(3)[list(order)]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


@pytest.mark.parametrize("axes", SIGNED_AXES, ids=lambda axes: " ".join(map(str, axes.ravel().astype(int))))
@pytest.mark.parametrize("sform", [True, False])
def test_plain_headers_are_what_itk_makes_of_them(axes: np.ndarray, sform: bool, tmp_path: Path) -> None:
    """Where axes run along those of the world; the quaternion of some such turns is not exact, and left to ITK."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([0.7, 1.3, 2.9])
    affine[:3, 3] = (-12.3, 45.6, 0.1)
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine if sform else None, code=int(sform))
    nibabel.save(image, tmp_path / "a.nii")
    found = plain_header(raw_header(tmp_path / "a.nii"), ())
    if np.array_equal(np.abs(axes), np.eye(3)):
        assert found is not None
    if found is not None:
        assert found == itk_reads(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", TYPES)
def test_types_of_plain_headers_are_those_of_itk(dtype: type, tmp_path: Path) -> None:
    written(tmp_path / "a.nii.gz", dtype)
    image = nibabel.load(tmp_path / "a.nii.gz")
    image.set_qform(image.affine, code=1)
    nibabel.save(image, tmp_path / "b.nii.gz")
    found = plain_header(raw_header(tmp_path / "b.nii.gz"), ())
    assert found is not None
    assert found == itk_reads(tmp_path / "b.nii.gz")


def test_what_is_not_plain_is_left_to_itk(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    turned = affine.copy()
    turned[:2, :2] = [[math.cos(0.1), -math.sin(0.1)], [math.sin(0.1), math.cos(0.1)]]
    for name, shape, how, unit in (
        ("four axes", (5, 4, 3, 2), affine, "mm"),
        ("one slice", (5, 4, 1), affine, "mm"),
        ("oblique", (5, 4, 3), turned, "mm"),
        ("micrometres", (5, 4, 3), affine, "micron"),
    ):
        image = nibabel.Nifti1Image(np.zeros(shape, np.int16), how)
        image.header.set_xyzt_units(unit)
        image.set_qform(how, code=1)
        nibabel.save(image, tmp_path / f"{name}.nii")
        assert plain_header(raw_header(tmp_path / f"{name}.nii"), ()) is None, name

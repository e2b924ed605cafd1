"""What a NIfTI file's header promises, against what stands behind it, in files that nibabel wrote."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.errors import UnreadableFileError
from autoseg.io.nifti import is_nifti, require_whole, with_nonfinite
from autoseg.io.simpleitk_format import SimpleITKFormat

ARRAY = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
every_ending = pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
every_order = pytest.mark.parametrize("order", ["<", ">"])


def nifti_bytes(array: np.ndarray = ARRAY, order: str = "<", comment: bytes = b"") -> bytes:
    """An uncompressed file of ``(z, y, x)`` voxels."""
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype)
    if comment:
        header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", comment))
    return nibabel.Nifti1Image(array.T, np.eye(4), header).to_bytes()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.name.lower().endswith(".gz") else data)
    return path


def read(path: Path) -> np.ndarray:
    return SimpleITKFormat().read(path).array[0]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII", "a.Nii.Gz", "b.c.nii"])
def test_the_ending_says_nifti_in_any_case_of_letters(name: str) -> None:
    assert is_nifti(Path(name))
    assert not is_nifti(Path(name + ".mha"))


@every_ending
@every_order
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_whole_file_passes_and_one_that_lacks_its_last_byte_is_refused(
    ending: str, order: str, dtype: type, tmp_path: Path
) -> None:
    data = nifti_bytes(ARRAY.astype(dtype), order)
    require_whole(saved(tmp_path / f"a{ending}", data))
    with pytest.raises(ValueError, match=f"truncated: {len(data) - 1} bytes of {len(data)}"):
        require_whole(saved(tmp_path / f"a{ending}", data[:-1]))


@every_ending
@pytest.mark.parametrize("kept", [0, 1, 4, 347])
def test_a_file_that_ends_within_its_header_is_refused(ending: str, kept: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="header"):
        require_whole(saved(tmp_path / f"a{ending}", nifti_bytes()[:kept]))


@every_order
def test_axes_beyond_the_third_and_a_comment_before_the_data_count(order: str, tmp_path: Path) -> None:
    data = nifti_bytes(np.zeros((5, 2, 3, 4), np.float32), order, comment=b"x" * 100)
    require_whole(saved(tmp_path / "a.nii", data))
    with pytest.raises(ValueError, match="truncated"):
        require_whole(saved(tmp_path / "a.nii", data[:-64]))


@every_ending
@every_order
def test_bytes_behind_the_data_do_not_matter(ending: str, order: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{ending}", nifti_bytes(order=order) + b"padding" * 1000)
    require_whole(path)
    np.testing.assert_array_equal(read(path), ARRAY)


def test_a_gzip_file_of_several_parts_is_whole_only_with_all_of_them(tmp_path: Path) -> None:
    """As ``pigz`` and ``bgzip`` write them; the size at the end of such a file is that of its last part."""
    data = nifti_bytes()
    parts = [gzip.compress(data[begin : begin + 100]) for begin in range(0, len(data), 100)]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(parts))
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz"), ARRAY)
    (tmp_path / "a.nii.gz").write_bytes(b"".join(parts[:-1]))
    with pytest.raises(UnreadableFileError, match="truncated"):
        read(tmp_path / "a.nii.gz")


def test_what_swells_behind_the_data_is_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, taken = tmp_path / "a.nii.gz", []
    path.write_bytes(gzip.compress(nifti_bytes()) + gzip.compress(bytes(2**20), 9) * 64)

    def counted(file: gzip.GzipFile, size: int = -1, read=gzip.GzipFile.read) -> bytes:
        taken.append(read(file, size))
        return taken[-1]

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    np.testing.assert_array_equal(read(path), ARRAY)
    assert sum(map(len, taken)) < 2**22


def test_nifti_2_is_not_called_truncated(tmp_path: Path) -> None:
    saved(tmp_path / "a.nii", nibabel.Nifti2Image(ARRAY.T, np.eye(4)).to_bytes())
    try:
        np.testing.assert_array_equal(read(tmp_path / "a.nii"), ARRAY)
    except UnreadableFileError as error:
        if "truncated" in str(error):
            raise


def test_other_formats_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"")
    assert require_whole(tmp_path / "a.nrrd") is None


@every_ending
@every_order
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_come_back_and_nothing_else_changes(
    ending: str, order: str, dtype: type, tmp_path: Path
) -> None:
    array = ARRAY.astype(dtype) / 3
    array[0, 1, 2], array[1, 0, 3], array[1, 2, 0] = np.nan, np.inf, -np.inf
    path = saved(tmp_path / f"a{ending}", nifti_bytes(array, order, comment=b"hello") + b"behind")
    from_itk = np.nan_to_num(array, nan=0.0, posinf=7.0, neginf=7.0)
    before = from_itk.copy()
    np.testing.assert_array_equal(with_nonfinite(from_itk, path), array)
    np.testing.assert_array_equal(from_itk, before)
    np.testing.assert_array_equal(read(path), array)


def test_every_component_of_a_vector_image_keeps_its_own_nan(tmp_path: Path) -> None:
    array = np.arange(3 * 2 * 3 * 4, dtype=np.float32).reshape(3, 1, 2, 3, 4)
    array[1, 0, 1, 2, 3] = np.nan
    image = nibabel.Nifti1Image(array.T, np.eye(4))
    image.header.set_intent("vector")
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(SimpleITKFormat().read(tmp_path / "a.nii.gz").array, array[:, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_finite_voxels_are_handed_back_untouched(dtype: type, tmp_path: Path) -> None:
    array = ARRAY.astype(dtype)
    assert with_nonfinite(array, saved(tmp_path / "a.nii", nifti_bytes(array))) is array


def test_scaled_integers_are_floats_of_their_own(tmp_path: Path) -> None:
    """Slope and intercept of the header make floats of integers: there is nothing to put back."""
    image = nibabel.Nifti1Image(ARRAY.T / 8, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read(tmp_path / "a.nii.gz"), ARRAY / 8, atol=1e-4)

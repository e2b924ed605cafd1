"""NIfTI, NRRD and MetaImage: voxels and their places come back as they were, and broken files are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import UnreadableFileError
from autoseg.io.simpleitk_format import SimpleITKFormat
from autoseg.phantom import make_phantom
from autoseg.values import AxisMap, Geometry, Volume

MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
#: NIfTI keeps geometry in 32-bit numbers; the others write decimal text.
PRECISION = {".nii.gz": 3e-6, ".nii": 3e-6, ".nrrd": 1e-12, ".mha": 1e-6}
every_ending = pytest.mark.parametrize("ending", ENDINGS)
FORMAT = SimpleITKFormat()


def phantom_labels(axes: AxisMap, seed: int = 3) -> Volume:
    """An oblique, anisotropic label map in any stored order."""
    return make_phantom(seed, shape=(5, 9, 8), spacing=(7.1, 3.3, 3.9), stored=axes).labels


def assert_same_grid(found: Geometry, expected: Geometry, precision: float) -> None:
    assert found.shape == expected.shape
    assert found.planar == expected.planar
    np.testing.assert_allclose(found.spacing, expected.spacing, rtol=precision)
    np.testing.assert_allclose(found.origin, expected.origin, rtol=precision, atol=10 * precision)
    np.testing.assert_allclose(found.directions, expected.directions, atol=precision)


@every_ending
def test_all_48_orders_of_an_oblique_grid_come_back(ending: str, tmp_path: Path) -> None:
    for axes in MAPS:
        volume = phantom_labels(axes)
        FORMAT.write(tmp_path / f"a{ending}", volume)
        read = FORMAT.read(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(read.array, volume.array)
        assert read.array.dtype == volume.array.dtype
        assert_same_grid(read.geometry, volume.geometry, PRECISION[ending])


@every_ending
def test_writing_what_was_read_changes_nothing_more(ending: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    FORMAT.write(first, phantom_labels(MAPS[13]))
    FORMAT.write(second, FORMAT.read(first))
    np.testing.assert_array_equal(FORMAT.read(second).array, FORMAT.read(first).array)
    assert_same_grid(FORMAT.read(second).geometry, FORMAT.read(first).geometry, 1e-6)


@pytest.mark.parametrize("axes", MAPS[::5], ids=str)
def test_nibabel_sees_the_same_voxels_at_the_same_places(axes: AxisMap, tmp_path: Path) -> None:
    volume = phantom_labels(axes)
    FORMAT.write(tmp_path / "a.nii.gz", volume)
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, volume.array[0])
    np.testing.assert_allclose(image.header.get_zooms(), volume.geometry.spacing[::-1], rtol=1e-6)
    for index in np.ndindex(*volume.geometry.shape):
        right, anterior, superior = nibabel.affines.apply_affine(image.affine, index[::-1])
        np.testing.assert_allclose((-right, -anterior, superior), volume.geometry.position(index), atol=1e-4)


@pytest.mark.parametrize("axes", MAPS[2::7], ids=str)
def test_a_file_of_nibabels_lies_where_nibabel_says(axes: AxisMap, tmp_path: Path) -> None:
    geometry = phantom_labels(axes).geometry
    columns = (np.array(geometry.directions) * np.array(geometry.spacing)[:, None])[::-1].T
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.vstack(
        [np.column_stack([columns, geometry.origin]), [0.0, 0.0, 0.0, 1.0]]
    )
    array = np.arange(np.prod(geometry.shape), dtype=np.int16).reshape(geometry.shape)
    nibabel.save(nibabel.Nifti1Image(array.T, affine), tmp_path / "a.nii")
    read = FORMAT.read(tmp_path / "a.nii")
    np.testing.assert_array_equal(read.array[0], array)
    assert_same_grid(read.geometry, geometry, 1e-5)


@every_ending
def test_simpleitk_puts_every_corner_where_our_geometry_does(ending: str, tmp_path: Path) -> None:
    volume = phantom_labels(MAPS[29])
    FORMAT.write(tmp_path / f"a{ending}", volume)
    image, geometry = SimpleITK.ReadImage(str(tmp_path / f"a{ending}")), FORMAT.read(tmp_path / f"a{ending}").geometry
    for corner in itertools.product(*((0, size - 1) for size in geometry.shape)):
        point = image.TransformIndexToPhysicalPoint(corner[::-1])
        np.testing.assert_allclose(geometry.position(corner), point, atol=1e-9)


@every_ending
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_integer_types_are_kept(ending: str, dtype: type, tmp_path: Path) -> None:
    array = np.linspace(np.iinfo(dtype).min, np.iinfo(dtype).max, 24).astype(dtype).reshape(1, 2, 3, 4)
    geometry = Geometry(shape=(2, 3, 4), spacing=(1.0, 1.0, 1.0))
    FORMAT.write(tmp_path / f"a{ending}", Volume(array=array, geometry=geometry))
    read = FORMAT.read(tmp_path / f"a{ending}").array
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


@every_ending
@pytest.mark.parametrize("dimension", [2, 3])
def test_the_components_of_a_vector_image_are_channels(ending: str, dimension: int, tmp_path: Path) -> None:
    shape = (4, 5, 6)[-dimension:]
    parts = np.arange(3 * np.prod(shape), dtype=np.float32).reshape(3, *shape)
    image = SimpleITK.Compose([SimpleITK.GetImageFromArray(part) for part in parts])
    image.SetSpacing([0.5, 0.75, 3.0][:dimension])
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
    read = FORMAT.read(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read.array, parts[:, None] if dimension == 2 else parts)
    assert read.geometry.spacing[1:] == pytest.approx((0.75, 0.5))
    assert read.geometry.planar == (dimension == 2)


@every_ending
def test_the_fourth_axis_of_a_4d_image_is_channels(ending: str, tmp_path: Path) -> None:
    volumes = [phantom_labels(MAPS[17], seed) for seed in range(2)]
    parts = []
    for index, volume in enumerate(volumes):
        FORMAT.write(tmp_path / f"{index}.mha", Volume(array=volume.array, geometry=volumes[0].geometry))
        parts.append(SimpleITK.ReadImage(str(tmp_path / f"{index}.mha")))
    SimpleITK.WriteImage(SimpleITK.JoinSeries(parts), str(tmp_path / f"a{ending}"))
    read = FORMAT.read(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read.array, np.concatenate([volume.array for volume in volumes]))
    assert_same_grid(read.geometry, volumes[0].geometry, 1e-5)


@every_ending
def test_a_2d_image_is_planar_and_stays_2d_when_written(ending: str, tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.arange(20, dtype=np.uint8).reshape(4, 5))
    image.SetSpacing([0.5, 0.25])
    image.SetOrigin([-3.0, 7.0])
    image.SetDirection([0.0, -1.0, 1.0, 0.0])
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
    read = FORMAT.read(tmp_path / f"a{ending}")
    assert read.array.shape == (1, 1, 4, 5)
    assert read.geometry.planar
    assert read.geometry.spacing == pytest.approx((0.5, 0.25, 0.5))  # the slice's is the larger one in plane
    FORMAT.write(tmp_path / f"b{ending}", read)
    again = SimpleITK.ReadImage(str(tmp_path / f"b{ending}"))
    assert again.GetDimension() == 2
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again), read.array[0, 0])
    original = SimpleITK.ReadImage(str(tmp_path / f"a{ending}"))  # NIfTI keeps no rotation of 2D images
    assert again.GetSpacing() == pytest.approx(original.GetSpacing())
    assert again.GetOrigin() == pytest.approx(original.GetOrigin())
    assert again.GetDirection() == pytest.approx(original.GetDirection())


@every_ending
def test_one_slice_of_a_3d_image_is_not_planar(ending: str, tmp_path: Path) -> None:
    volume = Volume(array=np.ones((1, 1, 4, 5), np.uint8), geometry=Geometry(shape=(1, 4, 5), spacing=(5.0, 1.0, 1.0)))
    FORMAT.write(tmp_path / f"a{ending}", volume)
    assert_same_grid(FORMAT.read(tmp_path / f"a{ending}").geometry, volume.geometry, 1e-6)


def message_of_refusal(path: Path) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        FORMAT.read(path)
    return str(caught.value)


@every_ending
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.97], ids=lambda kept: f"{kept:.0%}")
def test_a_truncated_file_is_refused(ending: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    volume = make_phantom(0, shape=(6, 20, 20)).image  # integers, as scanners write them
    FORMAT.write(path, volume)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert path.name in message_of_refusal(path)


@every_ending
def test_a_text_file_with_an_images_ending_is_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert path.name in message_of_refusal(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])  # MetaImage has no complex numbers
def test_complex_voxels_are_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.full((3, 4, 5), 1 + 2j, np.complex64)), str(path))
    assert path.name in message_of_refusal(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in message_of_refusal(tmp_path / "a.nii.gz")


def test_five_dimensions_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2, 2), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert "a.nii.gz" in message_of_refusal(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.b.nii.gz", "a.NII.GZ", "a.NII", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_read_as_they_are(name: str, dtype: type, tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=dtype).reshape(2, 3, 4)
    array[0, 1, 2], array[1, 0, 3], array[1, 1, 1] = np.nan, np.inf, -np.inf
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    np.testing.assert_array_equal(FORMAT.read(tmp_path / name).array[0], array)


def test_nan_is_read_from_big_endian_and_4d_files(tmp_path: Path) -> None:
    array = np.arange(3 * 4 * 5 * 2, dtype=np.float32).reshape(3, 4, 5, 2)
    array[1, 2, 3, 1] = np.nan
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(FORMAT.read(tmp_path / "a.nii.gz").array, array.T)


def test_nifti_in_the_middle_of_another_formats_name_changes_nothing(tmp_path: Path) -> None:
    array = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    for name in ("a.nii.nrrd", "a.nii.mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / name))
        np.testing.assert_array_equal(FORMAT.read(tmp_path / name).array[0], array)


@every_ending
def test_a_write_into_a_full_disk_fails_and_leaves_the_old_file_alone(ending: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="a full disk is simulated by a limit of POSIX systems")
    path = tmp_path / f"a{ending}"
    array = np.random.default_rng(0).integers(0, 255, (1, 10, 30, 30), dtype=np.uint8)
    volume = Volume(array=array, geometry=Geometry(shape=array.shape[1:], spacing=(1.0, 1.0, 1.0)))
    path.write_bytes(b"the old file")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = False
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        FORMAT.write(path, volume)
    except Exception:  # whatever it raises, it must not pass in silence
        failed = True
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed
    assert path.read_bytes() == b"the old file"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@every_ending
def test_a_failed_write_leaves_nothing_behind(ending: str, tmp_path: Path) -> None:
    target = tmp_path / f"a{ending}"
    target.mkdir()  # a file cannot take the place of a folder
    with pytest.raises(OSError, match=r"."):
        FORMAT.write(target, phantom_labels(AxisMap()))
    assert list(tmp_path.iterdir()) == [target]
    assert not list(target.iterdir())

"""Where NIfTI files lie in space: sheared axes, two forms that disagree, spacings that are none, and NIfTI-2."""

from __future__ import annotations

import gzip
import itertools
import math
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.errors import MissingPartError, UnreadableFileError
from autoseg.io.formats import format_of, read_header
from autoseg.io.nifti import raw_header
from autoseg.values import Geometry, Volume

ARRAY = np.random.default_rng(0).integers(-500, 500, (4, 5, 6), dtype=np.int16)
every_ending = pytest.mark.parametrize("ending", [".nii", ".nii.gz"])


def turned(degrees: float, axis: int = 2, spacing: tuple[float, ...] = (0.5, 0.75, 3.0)) -> np.ndarray:
    """An affine (x, y, z to RAS) turned about an axis."""
    first, second = [other for other in range(3) if other != axis]
    rotation = np.eye(3)
    angle = math.radians(degrees)
    rotation[first, first] = rotation[second, second] = math.cos(angle)
    rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = (10.0, -20.0, 30.0)
    return affine


def sheared(cosine: float) -> np.ndarray:
    """An affine whose first two axes are not at right angles, by this cosine."""
    shear = np.eye(4)
    shear[0, 1] = cosine
    affine = turned(20.0)
    affine[:3, :3] = turned(20.0, spacing=(1, 1, 1))[:3, :3] @ shear[:3, :3] * (0.5, 0.75, 3.0)
    return affine


def saved(path: Path, qform: np.ndarray | None, sform: np.ndarray | None, *, kind=nibabel.Nifti1Image) -> Path:
    """A file with these forms; the header's spacing is the qform's, or else the sform's."""
    header = kind.header_class()
    header.set_data_dtype(np.int16)
    header.set_data_shape(ARRAY.T.shape)
    affine = qform if qform is not None else sform
    if np.linalg.det(affine):
        header.set_qform(affine, 0 if qform is None else 1)
    header.set_sform(sform, 0 if sform is None else 2)
    header["magic"], header["vox_offset"] = (b"n+1", 352) if kind is nibabel.Nifti1Image else (b"n+2", 544)
    data = bytes(header.binaryblock) + bytes(4) + ARRAY.tobytes()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def read(path: Path) -> Volume:
    volume, header = format_of(path).read(path), read_header(path)
    assert (header.geometry, header.dtype, header.channels) == (
        volume.geometry,
        volume.array.dtype.name,
        len(volume.array),
    )
    return volume


def positions(geometry: Geometry) -> np.ndarray:
    """RAS positions of all corners, in nibabel's order of them."""
    corners = itertools.product(*((0, size - 1) for size in geometry.shape))
    return np.array([geometry.position(corner) for corner in corners]) * (-1, -1, 1)


def positions_by(affine: np.ndarray) -> np.ndarray:
    corners = itertools.product(*((0, size - 1) for size in ARRAY.shape))
    return np.array([nibabel.affines.apply_affine(affine, corner[::-1]) for corner in corners])


@every_ending
@pytest.mark.parametrize("cosine", [2e-4, 1e-3, 9.9e-3])
def test_axes_nearly_at_right_angles_are_straightened(ending: str, cosine: float, tmp_path: Path) -> None:
    affine = sheared(cosine)
    path = saved(tmp_path / f"a{ending}", None, affine)
    volume = read(path)
    np.testing.assert_array_equal(volume.array[0], ARRAY)
    matrix = np.array(volume.geometry.directions)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.abs(positions(volume.geometry) - positions_by(affine)).max() < cosine * 6  # voxels of up to 0.75 mm
    np.testing.assert_allclose(volume.geometry.spacing, np.linalg.norm(affine[:3, :3], axis=0)[::-1], rtol=1e-6)
    assert "right angles" in read_header(path).notes[0]
    format_of(path).write(tmp_path / f"b{ending}", Volume(array=volume.array, geometry=volume.geometry))
    assert read(tmp_path / f"b{ending}").geometry.displacement_from(volume.geometry) < 1e-4


def test_a_small_rotation_is_as_near_as_can_be(tmp_path: Path) -> None:
    """The nearest rotation moves both axes by half the angle: scipy's polar decomposition is the oracle."""
    from scipy.linalg import polar

    affine = sheared(5e-3)
    rotation, _ = polar(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    directions = np.array(read(saved(tmp_path / "a.nii", None, affine)).geometry.directions)
    np.testing.assert_allclose(directions[::-1].T * [[-1], [-1], [1]], rotation, atol=1e-6)


@every_ending
@pytest.mark.parametrize("cosine", [0.011, 0.1, 0.5])
def test_clearly_sheared_axes_are_refused_with_their_angle(ending: str, cosine: float, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{ending}", None, sheared(cosine))
    angle = math.degrees(math.asin(cosine / math.sqrt(1 + cosine**2)))
    for look in (read_header, format_of(path).read):
        with pytest.raises(UnreadableFileError, match=rf"shears them by {angle:.2f} degrees.*straight grid"):
            look(path)


def test_without_nibabel_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.nii", None, sheared(1e-3))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingPartError, match=r"autoseg\[nibabel\]"):
        read_header(path)


@every_ending
@pytest.mark.parametrize("forms", ["q", "s", "both", "none"])
def test_nifti_2_lies_where_nibabel_says(ending: str, forms: str, tmp_path: Path) -> None:
    qform = turned(20.0) if forms in ("q", "both") else None
    sform = turned(20.0) if forms in ("s", "both") else None
    path = tmp_path / f"a{ending}"
    if forms == "none":
        image = nibabel.Nifti2Image(ARRAY.T, None)
        nibabel.save(image, path)
    else:
        saved(path, qform, sform, kind=nibabel.Nifti2Image)
    assert raw_header(path).version == 2
    volume = read(path)
    np.testing.assert_array_equal(volume.array[0], ARRAY)
    np.testing.assert_allclose(positions(volume.geometry), positions_by(nibabel.load(path).affine), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6, 1, 1), (4, 5, 6, 2), (4, 5, 6, 1, 3)])
def test_nifti_2_of_other_dimensions(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape[::-1])
    nibabel.save(nibabel.Nifti2Image(array.T, np.eye(4)), tmp_path / "a.nii")
    volume = read(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array.ravel(), array.ravel())
    assert volume.geometry.planar == (len(shape) == 2)


def test_scaled_nifti_2_is_scaled(tmp_path: Path) -> None:
    image = nibabel.Nifti2Image(ARRAY.T / 8, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    volume = read(tmp_path / "a.nii")
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array[0], ARRAY / 8, atol=0.01)


@pytest.mark.parametrize(("unit", "millimetres"), [("mm", 1.0), ("micron", 1e-3), ("meter", 1e3)])
def test_units_count_as_they_do_in_itk(unit: str, millimetres: float, tmp_path: Path) -> None:
    for name, affine in (("straight", turned(0.0)), ("sheared", sheared(1e-3))):
        image = nibabel.Nifti1Image(ARRAY.T, affine)
        image.header.set_xyzt_units(unit)
        image.header.set_qform(affine, 0)
        image.header.set_sform(affine, 2)
        (tmp_path / f"{name}.nii").write_bytes(image.to_bytes())
        geometry = read(tmp_path / f"{name}.nii").geometry
        np.testing.assert_allclose(geometry.spacing, np.array([3.0, 0.75, 0.5]) * millimetres, rtol=1e-3)
        np.testing.assert_allclose(geometry.origin, np.array([-10.0, 20.0, 30.0]) * millimetres, rtol=1e-6)


def test_two_forms_that_agree_need_no_note(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", turned(20.0), turned(20.05))
    assert read_header(path).notes == ()


@pytest.mark.parametrize(("degrees", "millimetres"), [(25.0, 0.0), (20.0, 5.0)])
def test_two_forms_that_differ_are_noted_and_the_qform_is_used(
    degrees: float, millimetres: float, tmp_path: Path
) -> None:
    sform = turned(degrees)
    sform[:3, 3] += millimetres
    path = saved(tmp_path / "a.nii", turned(20.0), sform)
    assert "qform and sform differ" in read_header(path).notes[0]
    np.testing.assert_allclose(positions(read(path).geometry), positions_by(turned(20.0)), atol=1e-4)


@pytest.mark.parametrize("other", [turned(110.0), turned(20.0) @ np.diag([-1.0, 1.0, 1.0, 1.0]), turned(200.0, axis=0)])
def test_two_forms_that_contradict_each_other_are_refused(other: np.ndarray, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", turned(20.0), other)
    with pytest.raises(UnreadableFileError, match="contradict each other"):
        read_header(path)


def test_forms_near_45_degrees_do_not_contradict(tmp_path: Path) -> None:
    """Their nearest axes differ, the axes themselves hardly."""
    path = saved(tmp_path / "a.nii", turned(44.0), turned(46.0))
    assert "differ" in read_header(path).notes[0]


def test_an_unusable_sform_beside_a_qform_is_left_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", turned(20.0), np.diag([0.0, 0.0, 0.0, 1.0]))
    assert "sform is not usable" in read_header(path).notes[0]
    np.testing.assert_allclose(positions(read(path).geometry), positions_by(turned(20.0)), atol=1e-4)


def test_an_unusable_sform_alone_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", None, np.diag([0.0, 0.0, 0.0, 1.0]))
    with pytest.raises(UnreadableFileError, match="sform is not usable"):
        read_header(path)


def test_the_sform_alone_tells_the_spacing(tmp_path: Path) -> None:
    """ITK would take the header's, which says 1 mm here."""
    path = saved(tmp_path / "a.nii", None, turned(20.0))
    data = bytearray(path.read_bytes())
    data[80:92] = np.ones(3, "<f4").tobytes()
    path.write_bytes(data)
    assert read(path).geometry.spacing == pytest.approx((3.0, 0.75, 0.5))
    assert "differs from the sform's" in read_header(path).notes[0]


@pytest.mark.parametrize("broken", [0.0, math.nan, math.inf])
def test_a_spacing_that_is_none_is_refused(broken: float, tmp_path: Path) -> None:
    """ITK would take 1 mm."""
    path = saved(tmp_path / "a.nii", turned(20.0), turned(20.0))
    data = bytearray(path.read_bytes())
    data[84:88] = np.array(broken, "<f4").tobytes()
    path.write_bytes(data)
    with pytest.raises(UnreadableFileError, match="no usable spacing"):
        read_header(path)


def test_no_form_at_all_is_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY.T, None)
    nibabel.save(image, tmp_path / "a.nii")
    assert "guessed" in read_header(tmp_path / "a.nii").notes[0]


@pytest.mark.parametrize("degrees", [0.0, 33.0, 150.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("handed", [1.0, -1.0])
def test_the_qform_is_nibabels(degrees: float, axis: int, handed: float, tmp_path: Path) -> None:
    affine = turned(degrees, axis) @ np.diag([1.0, 1.0, handed, 1.0])
    path = saved(tmp_path / "a.nii", affine, None)
    np.testing.assert_allclose(raw_header(path).qform, nibabel.load(path).get_qform()[:3], atol=1e-5)

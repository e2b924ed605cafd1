"""Reading a case: what cannot be trained on is refused, and everything that is wrong is told at once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import InputError
from autoseg.io.cases import check_case, grid_conflict, read_image, read_labels
from autoseg.values import Case, Dataset, Finding, Geometry, Label, Labels

SHAPE = (4, 10, 12)


def write(path: Path, array: np.ndarray, *, spacing: float = 1.0, shift: float = 0.0, degrees: float = 0.0) -> None:
    """An image file with cubic voxels, shifted in millimetres along x and turned about z."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([shift, 0.0, 0.0])
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    image.SetDirection([cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0])
    SimpleITK.WriteImage(image, str(path))


def noise(seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 9, SHAPE).astype(dtype)


def mask() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 2:5, 2:5] = 1
    return array


def dataset(root: Path, *cases: Case, channels: tuple[str, ...] = ("MRI",), ignore: int | None = None) -> Dataset:
    labels = Labels(foreground=(Label(name="organ", values=(1,)),), ignore=ignore)
    return Dataset(name="D", root=str(root), channels=channels, labels=labels, file_ending=".mha", cases=cases)


def findings_of(root: Path, **options: object) -> list[Finding]:
    """What is found in the case of image.mha and label.mha."""
    case = Case(id="a", images=("image.mha",), label="label.mha")
    return check_case(dataset(root, case, **options), case)[2]


def test_one_file_per_channel_becomes_one_float_volume_in_order(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / f"{index}.mha", noise(index, np.int16))
    volume = read_image(Case(id="a", images=("1.mha", "0.mha")), tmp_path, ("T1", "T2"))
    np.testing.assert_array_equal(volume.array, np.stack([noise(1, np.int16), noise(0, np.int16)]))
    assert volume.array.dtype == np.float32


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    image = SimpleITK.Compose([SimpleITK.GetImageFromArray(noise(index)) for index in range(2)])
    SimpleITK.WriteImage(image, str(tmp_path / "both.mha"))
    volume = read_image(Case(id="a", images=("both.mha",)), tmp_path, ("T1", "T2"))
    np.testing.assert_array_equal(volume.array, np.stack([noise(0), noise(1)]))


@pytest.mark.parametrize("channels", [("T1",), ("T1", "T2", "T3")])
def test_another_number_of_channels_is_refused_with_both_numbers(channels: tuple[str, ...], tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / f"{index}.mha", noise())
    with pytest.raises(InputError, match=rf"case a: .*found 2 .*expected {len(channels)}"):
        read_image(Case(id="a", images=("0.mha", "1.mha")), tmp_path, channels)


@pytest.mark.parametrize("other", [{"shift": 0.6}, {"degrees": 2.0}, {"spacing": 1.1}], ids=str)
def test_channels_on_different_grids_are_refused(other: dict[str, float], tmp_path: Path) -> None:
    write(tmp_path / "0.mha", noise())
    write(tmp_path / "1.mha", noise(), **other)
    with pytest.raises(InputError, match=r"case a: the channels lie on different grids.*1\.mha"):
        read_image(Case(id="a", images=("0.mha", "1.mha")), tmp_path, ("T1", "T2"))


def test_channels_of_different_shape_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "0.mha", noise())
    write(tmp_path / "1.mha", noise()[:, :-1])
    with pytest.raises(InputError, match=r"shape \(4, 10, 12\) and \(4, 9, 12\)"):
        read_image(Case(id="a", images=("0.mha", "1.mha")), tmp_path, ("T1", "T2"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_numbers_that_are_not_finite_are_refused_and_counted(value: float, ending: str, tmp_path: Path) -> None:
    array = noise()
    array[0, 0, :3] = value
    write(tmp_path / f"image{ending}", array)
    with pytest.raises(InputError, match=rf"case a: .*found 3 of {array.size} voxels"):
        read_image(Case(id="a", images=(f"image{ending}",)), tmp_path, ("MRI",))


def test_a_number_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    array = noise(dtype=np.float64)
    array[0, 0, 0] = 1e300
    write(tmp_path / "image.mha", array)
    with (
        np.errstate(over="ignore"),
        pytest.raises(InputError, match="NaN or infinite"),
    ):
        read_image(Case(id="a", images=("image.mha",)), tmp_path, ("MRI",))


def test_labels_saved_as_floats_are_integers(tmp_path: Path) -> None:
    write(tmp_path / "label.mha", mask().astype(np.float32))
    read = read_labels(tmp_path / "label.mha", "a").array
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read[0], mask())


@pytest.mark.parametrize(
    ("value", "found"), [(0.5, "fractions"), (1.0001, "fractions"), (np.nan, "NaN"), (np.inf, "NaN or infinite")]
)
def test_labels_that_are_no_integers_are_refused(value: float, found: str, tmp_path: Path) -> None:
    array = mask().astype(np.float32)
    array[1, 2, 3] = value
    write(tmp_path / "label.mha", array)
    with pytest.raises(InputError, match=rf"case a: .*integers.*{found}.*label\.mha"):
        read_labels(tmp_path / "label.mha", "a")


def test_a_label_file_with_two_channels_is_refused(tmp_path: Path) -> None:
    image = SimpleITK.Compose([SimpleITK.GetImageFromArray(mask())] * 2)
    SimpleITK.WriteImage(image, str(tmp_path / "label.mha"))
    with pytest.raises(InputError, match=r"case a: .*one channel; found 2"):
        read_labels(tmp_path / "label.mha", "a")


def test_a_good_case_has_no_findings(tmp_path: Path) -> None:
    write(tmp_path / "image.mha", noise())
    write(tmp_path / "label.mha", mask())
    case = Case(id="a", images=("image.mha",), label="label.mha")
    image, labels, findings = check_case(dataset(tmp_path, case), case)
    assert not findings
    np.testing.assert_array_equal(image.array[0], noise())
    np.testing.assert_array_equal(labels.array[0], mask())


def test_a_case_without_label_has_an_image_only(tmp_path: Path) -> None:
    write(tmp_path / "image.mha", noise())
    case = Case(id="a", images=("image.mha",))
    image, labels, findings = check_case(dataset(tmp_path, case), case)
    assert (image is not None, labels, findings) == (True, None, [])


def test_a_bad_image_and_a_bad_label_are_both_told(tmp_path: Path) -> None:
    (tmp_path / "image.mha").write_bytes(b"nothing")
    write(tmp_path / "label.mha", mask() * 5)
    findings = findings_of(tmp_path)
    assert [finding.severity for finding in findings] == ["error", "error"]
    assert "cannot read" in findings[0].what
    assert "image.mha" in str(findings[0])
    assert (findings[1].found, findings[1].expected, findings[1].file) == ("5", "0, 1", "label.mha")
    assert all(finding.case == "a" for finding in findings)


def test_undeclared_values_and_another_grid_are_both_told(tmp_path: Path) -> None:
    write(tmp_path / "image.mha", noise())
    write(tmp_path / "label.mha", mask()[:, :-1] * 200, shift=50.0)
    undeclared, grid = findings_of(tmp_path)
    assert "200" in str(undeclared)
    assert "on another grid" in grid.what


def test_two_missing_files_are_two_findings(tmp_path: Path) -> None:
    assert ["no such file" in finding.what for finding in findings_of(tmp_path)] == [True, True]


def test_the_ignore_integer_is_allowed_where_it_is_declared(tmp_path: Path) -> None:
    array = mask()
    array[0] = 7
    write(tmp_path / "image.mha", noise())
    write(tmp_path / "label.mha", array)
    assert findings_of(tmp_path, ignore=7) == []
    assert [finding.found for finding in findings_of(tmp_path)] == ["7"]


def test_negative_labels_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "image.mha", noise())
    write(tmp_path / "label.mha", -mask().astype(np.int16))
    assert [(finding.severity, finding.found) for finding in findings_of(tmp_path)] == [("error", "-1")]


def test_an_empty_mask_is_a_note(tmp_path: Path) -> None:
    write(tmp_path / "image.mha", noise())
    write(tmp_path / "label.mha", mask() * 0)
    assert [finding.severity for finding in findings_of(tmp_path)] == ["note"]


@pytest.mark.parametrize(
    ("displaced", "severities"),
    [
        ({"shift": 0.0}, []),
        ({"shift": 0.0009}, []),
        ({"shift": 0.0011}, ["warning"]),
        ({"shift": 0.1}, ["warning"]),
        ({"shift": 0.6}, ["error"]),
        ({"degrees": 2.0}, ["error"]),
        ({"degrees": 180.0}, ["error"]),
        ({"spacing": 1.0005}, []),
        ({"spacing": 1.002}, ["warning"]),
        ({"spacing": 1.03}, ["warning"]),
        ({"spacing": 1.1}, ["error"]),
        ({"degrees": 0.05}, []),
        ({"degrees": 0.5}, ["warning"]),
        ({"degrees": 1.1}, ["error"]),
    ],
    ids=str,
)
def test_a_displaced_label_is_silent_a_warning_or_an_error(
    displaced: dict[str, float], severities: list[str], tmp_path: Path
) -> None:
    write(tmp_path / "image.mha", noise())
    write(tmp_path / "label.mha", mask(), **displaced)
    assert [finding.severity for finding in findings_of(tmp_path)] == severities


def test_displacement_is_counted_in_voxels_not_millimetres(tmp_path: Path) -> None:
    write(tmp_path / "image.mha", noise(), spacing=0.1)
    write(tmp_path / "label.mha", mask(), spacing=0.1, shift=0.06)
    assert [finding.severity for finding in findings_of(tmp_path)] == ["error"]


def test_grid_conflict_is_symmetric() -> None:
    grids = [
        Geometry(shape=shape, spacing=(spacing, 1.0, 1.0), origin=(shift, 0.0, 0.0))
        for shape in ((3, 4, 5), (3, 4, 6))
        for spacing in (1.0, 1.0009, 1.2)
        for shift in (0.0, 0.2, 0.7)
    ]
    for one in grids:
        assert grid_conflict(one, one) is None
        for other in grids:
            assert (grid_conflict(one, other) is None) == (grid_conflict(other, one) is None)

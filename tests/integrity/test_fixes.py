"""Safe fixes: exact, written elsewhere, only for the content that was agreed to."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from skimage import io as skimage_io

from autoseg.check_stage import check_cases
from autoseg.errors import DocumentError, InputError
from autoseg.integrity.fixes import Fixes, require_current_fixes, with_fixes
from autoseg.io.formats import format_of
from autoseg.phantom import make_phantom
from autoseg.values import AxisMap, Case, Dataset, Geometry, Label, Labels, Volume, decode
from autoseg.volume.axes import reorder_volume
from autoseg.workspace import Workspace
from tests.integrity.test_nearest import image_of

ALL_MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
ORGANS = Labels(foreground=tuple(Label(name=name, values=(value,)) for value, name in enumerate(("a", "b", "c"), 1)))
ONE = Labels(foreground=(Label(name="a", values=(3,)),))


def write(path: Path, volume: Volume) -> str:
    format_of(path).write(path, volume)
    return path.name


def one_case(root: Path, image: Volume, label: Volume, labels: Labels = ORGANS) -> Dataset:
    root.mkdir(exist_ok=True)
    case = Case(id="a", images=(write(root / "image.nii.gz", image),), label=write(root / "label.nii.gz", label))
    return Dataset(name="D", root=str(root), channels=("MRI",), labels=labels, file_ending=".nii.gz", cases=(case,))


def fixed(dataset: Dataset, folder: Path) -> Volume:
    """The label map after ``--fix``, which must be all that is wrong."""
    checked = check_cases(dataset, (), Workspace(folder), fix=True)
    assert not [str(finding) for finding in checked.findings if finding.severity == "error"]
    label = Path(checked.dataset.cases[0].label)
    assert label.is_relative_to(folder.absolute())
    return format_of(label).read(label)


@pytest.mark.parametrize(
    "axes", ALL_MAPS, ids=lambda axes: f"{axes.order}{''.join('-+'[not flip] for flip in axes.flipped)}"
)
def test_a_label_map_with_its_axes_in_any_order_comes_back_voxel_by_voxel(axes: AxisMap, tmp_path: Path) -> None:
    phantom = make_phantom(3, shape=(6, 9, 11), spacing=(3.0, 1.5, 1.25), stored=AxisMap(order=(1, 0, 2)))
    dataset = one_case(tmp_path / "D", phantom.image, reorder_volume(phantom.labels, axes))
    if axes == AxisMap():
        assert not [each for each in check_cases(dataset, (), Workspace(tmp_path / "w")).findings if each.fix]
    else:
        np.testing.assert_array_equal(fixed(dataset, tmp_path / "w").array, phantom.labels.array)


def test_a_label_map_on_a_coarser_grid_is_resampled_as_simpleitk_does(tmp_path: Path) -> None:
    phantom = make_phantom(5, shape=(12, 20, 18), spacing=(3.0, 1.5, 1.25), stored=AxisMap())
    array, geometry = phantom.labels.array, phantom.labels.geometry
    coarse = SimpleITK.GetArrayFromImage(image_of(phantom.labels)[::3, ::3, ::1])[None]
    header = image_of(phantom.labels)[::3, ::3, ::1]
    label = Volume(
        array=coarse,
        geometry=type(geometry)(
            shape=coarse.shape[1:],
            spacing=header.GetSpacing()[::-1],
            origin=header.GetOrigin(),
            directions=geometry.directions,
        ),
    )
    made = fixed(one_case(tmp_path / "D", phantom.image, label), tmp_path / "w")
    like = image_of(phantom.image)
    expected = SimpleITK.Resample(header, like, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(made.array[0], SimpleITK.GetArrayFromImage(expected))
    assert (made.array == array).mean() > 0.9


def test_several_defects_of_one_label_file_are_fixed_together(tmp_path: Path) -> None:
    """Nearly 255, floating-point, and with other axes: rounded, relabelled and reordered."""
    phantom = make_phantom(4, shape=(6, 9, 11), stored=AxisMap())
    mask = (phantom.labels.array > 0).astype(np.uint8)
    turned = reorder_volume(Volume(array=mask, geometry=phantom.labels.geometry), ALL_MAPS[29])
    dataset = one_case(tmp_path / "D", phantom.image, turned, ONE)
    stored = image_of(Volume(array=np.ascontiguousarray(turned.array) * np.float32(254.9996), geometry=turned.geometry))
    SimpleITK.WriteImage(stored, str(tmp_path / "D" / "label.nii.gz"))
    np.testing.assert_array_equal(fixed(dataset, tmp_path / "w").array, mask * 3)


def test_only_what_was_agreed_to_is_done(tmp_path: Path) -> None:
    phantom = make_phantom(4, shape=(6, 9, 11), stored=AxisMap())
    dataset = one_case(tmp_path / "D", phantom.image, reorder_volume(phantom.labels, ALL_MAPS[7]))
    workspace = Workspace(tmp_path / "w")
    checked = check_cases(dataset, (), workspace)
    assert [(each.severity, each.fix) for each in checked.findings] == [("error", "reorder")]
    assert not workspace.fixed_path.exists()
    assert with_fixes(workspace, dataset) == (dataset, [])


def test_an_agreement_ends_with_the_content_and_with_the_labels(tmp_path: Path) -> None:
    phantom = make_phantom(4, shape=(6, 9, 11), stored=AxisMap())
    dataset = one_case(tmp_path / "D", phantom.image, reorder_volume(phantom.labels, ALL_MAPS[7]))
    fixed(dataset, tmp_path / "w")
    assert with_fixes(Workspace(tmp_path / "w"), dataset)[0] != dataset
    renamed = Dataset(
        name="D", root=dataset.root, channels=("MRI",), labels=ONE, file_ending=".nii.gz", cases=dataset.cases
    )
    assert with_fixes(Workspace(tmp_path / "w"), renamed)[0] == renamed
    write(tmp_path / "D" / "image.nii.gz", Volume(array=phantom.image.array + 1, geometry=phantom.image.geometry))
    now, (note,) = with_fixes(Workspace(tmp_path / "w"), dataset)
    assert now == dataset
    assert "taken as it is now" in note.what


@pytest.mark.parametrize("larger", [False, True])
def test_a_damaged_fixed_file_is_told_and_made_anew(larger: bool, tmp_path: Path) -> None:
    """One whose size and time do not tell is told when asked to read it again, and by all from then on."""
    phantom = make_phantom(4, shape=(6, 9, 11), stored=AxisMap())
    dataset = one_case(tmp_path / "D", phantom.image, reorder_volume(phantom.labels, ALL_MAPS[7]))
    checked = check_cases(dataset, (), Workspace(tmp_path / "w"), fix=True)
    label = Path(checked.dataset.cases[0].label)
    workspace = Workspace(tmp_path / "w")
    require_current_fixes(workspace, checked.dataset, again=True)
    workspace.contents.save()
    times = label.stat()
    whole = label.read_bytes()
    label.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    os.utime(label, ns=(times.st_atime_ns, times.st_mtime_ns))
    require_current_fixes(workspace, checked.dataset)
    with pytest.raises(InputError, match=r"case a: .*damaged"):
        require_current_fixes(workspace, checked.dataset, again=True)
    if larger:
        write(label, Volume(array=phantom.labels.array * 0, geometry=phantom.labels.geometry))
    with pytest.raises(InputError, match=r"case a: .*damaged"):
        require_current_fixes(Workspace(tmp_path / "w"), checked.dataset)
    now, _ = with_fixes(Workspace(tmp_path / "w"), dataset)
    assert now == checked.dataset
    np.testing.assert_array_equal(format_of(label).read(label).array, phantom.labels.array)
    require_current_fixes(Workspace(tmp_path / "w"), now, again=True)


def test_a_moved_data_set_keeps_its_fixes(tmp_path: Path) -> None:
    phantom = make_phantom(4, shape=(6, 9, 11), stored=AxisMap())
    dataset = one_case(tmp_path / "D", phantom.image, reorder_volume(phantom.labels, ALL_MAPS[7]))
    fixed(dataset, tmp_path / "w")
    (tmp_path / "D").rename(tmp_path / "E")
    moved = Dataset(
        name="D",
        root=str(tmp_path / "E"),
        channels=("MRI",),
        labels=ORGANS,
        file_ending=".nii.gz",
        cases=dataset.cases,
    )
    now, _ = with_fixes(Workspace(tmp_path / "w"), moved)
    assert Path(now.cases[0].label).is_relative_to(tmp_path / "w" / "fixed")


def test_a_mask_is_not_relabelled_where_several_labels_could_be_meant(tmp_path: Path) -> None:
    phantom = make_phantom(4, shape=(6, 9, 11), stored=AxisMap())
    mask = (phantom.labels.array > 0).astype(np.uint8) * 255
    dataset = one_case(tmp_path / "D", phantom.image, Volume(array=mask, geometry=phantom.labels.geometry))
    (finding,) = check_cases(dataset, (), Workspace(tmp_path / "w")).findings
    assert (finding.severity, finding.found, finding.fix) == ("error", "255", None)


def test_an_unknown_fix_in_the_record_is_refused() -> None:
    text = (
        '{"schema": "autoseg.fixes/1", "cases": {"a": {"fixes": ["erase"], "files": [], "sources": [], "labels": ""}}}'
    )
    with pytest.raises(DocumentError, match="erase"):
        decode(Fixes, text)


@pytest.mark.parametrize("axes", [AxisMap(), AxisMap(order=(0, 2, 1)), AxisMap(flipped=(False, True, False))], ids=str)
def test_masks_of_pictures_are_relabelled_and_only_what_says_where_it_lies_is_reordered(
    axes: AxisMap, tmp_path: Path
) -> None:
    """A PNG file tells no place in space: a mask of 0 and 255 is fixed, one of another shape is an error without fix."""
    (tmp_path / "D").mkdir()
    random = np.random.default_rng(1)
    picture, mask = random.integers(0, 255, (20, 30)).astype(np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:12, 8:20] = 255
    flipped = reorder_volume(
        Volume(array=mask[None, None], geometry=Geometry(shape=(1, 20, 30), spacing=(1.0, 1.0, 1.0))), axes
    )
    skimage_io.imsave(tmp_path / "D" / "image.png", picture, check_contrast=False)
    skimage_io.imsave(tmp_path / "D" / "label.png", np.ascontiguousarray(flipped.array[0, 0]), check_contrast=False)
    case = Case(id="a", images=("image.png",), label="label.png")
    dataset = Dataset(
        name="D", root=str(tmp_path / "D"), channels=("G",), labels=ONE, file_ending=".png", cases=(case,)
    )
    if axes.order != (0, 1, 2):
        checked = check_cases(dataset, (), Workspace(tmp_path / "w"), fix=True)
        assert [each.fix for each in checked.findings if each.severity == "error"] == [None]
        return
    made = fixed(dataset, tmp_path / "w")
    np.testing.assert_array_equal(made.array, flipped.array // 255 * 3)
    assert made.geometry.planar

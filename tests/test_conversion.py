"""Conversion: nnU-Net's rules hold for the result, voxels and places are those of the source, and repeating it is free."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.conversion import Conversion, convert_dataset
from autoseg.errors import CasesFailedError, FindingsError, InputError
from autoseg.executors import ThreadExecutor
from autoseg.files import read_document
from autoseg.io.layouts import read_dataset
from autoseg.processes.executor import ProcessExecutor
from tests.io.layouts.trees import write_dicom, write_image, write_label, write_tree


def check_rules(folder: Path) -> dict[str, object]:
    """What nnU-Net demands of a raw data set: its keys, names, consecutive labels, and files that agree."""
    stated = json.loads((folder / "dataset.json").read_text())
    ending, channels = stated["file_ending"], len(stated["channel_names"])
    assert list(stated["channel_names"]) == [str(index) for index in range(channels)]
    labels = dict(stated["labels"])
    assert labels.pop("background") == 0
    ignore = labels.pop("ignore", None)
    values = {0, *(value for entry in labels.values() for value in (entry if isinstance(entry, list) else [entry]))}
    assert values == set(range(len(values)))
    assert ignore in (None, len(values))
    if any(isinstance(entry, list) for entry in labels.values()):
        assert len(stated["regions_class_order"]) == len(labels)
    names = sorted(path.name for path in (folder / "labelsTr").iterdir())
    assert len(names) == stated["numTraining"]
    ids = [name.removesuffix(ending) for name in names]
    wanted = [f"{id_}_{channel:04d}{ending}" for id_ in ids for channel in range(channels)]
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == sorted(wanted)
    for id_ in ids:
        label = SimpleITK.ReadImage(str(folder / "labelsTr" / f"{id_}{ending}"))
        assert set(np.unique(SimpleITK.GetArrayFromImage(label))) <= values | {ignore}
        for channel in range(channels):
            image = SimpleITK.ReadImage(str(folder / "imagesTr" / f"{id_}_{channel:04d}{ending}"))
            assert (image.GetSize(), image.GetNumberOfComponentsPerPixel()) == (label.GetSize(), 1)
            assert image.GetSpacing() == pytest.approx(label.GetSpacing())
    return stated


def array(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_4d_files_are_divided_and_labels_with_gaps_become_consecutive(tmp_path: Path) -> None:
    source = tmp_path / "D"
    for id_ in "ab":
        write_image(source / "images" / f"{id_}.nii.gz", channels=2, seed=ord(id_))
        write_label(source / "labels" / f"{id_}.nii.gz", (255, 3, 300))
    (source / "autoseg.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "T1", "1": "T2"},
                "labels": {"rim": 3, "core": 255, "ignore": 300},
                "patients": {"a": "Ada", "b": "Ada"},
                "annotated": {"b": ["rim"]},
            }
        )
    )
    converted = convert_dataset(source, tmp_path / "T")
    stated = check_rules(tmp_path / "T")
    assert stated["labels"] == {"background": 0, "rim": 1, "core": 2, "ignore": 3}
    assert stated["channel_names"] == {"0": "T1", "1": "T2"}
    assert converted.integers == {0: 0, 3: 1, 255: 2, 300: 3}
    assert read_document(Conversion, tmp_path / "T" / "conversion.json").integers == {
        "0": 0,
        "3": 1,
        "255": 2,
        "300": 3,
    }
    for channel in range(2):
        written = array(tmp_path / "T" / "imagesTr" / f"a_000{channel}.nii.gz")
        np.testing.assert_array_equal(written, array(source / "images" / "a.nii.gz")[channel])
    before, after = array(source / "labels" / "a.nii.gz"), array(tmp_path / "T" / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(np.select([before == 3, before == 255, before == 300], [1, 2, 3]), after)
    dataset, _ = read_dataset(tmp_path / "T")
    assert dataset.inferred == ()
    assert [(case.patient, case.annotated) for case in dataset.cases] == [("Ada", None), ("Ada", ("rim",))]


def test_plain_files_are_copied_byte_by_byte_and_kinds_of_images_go_where_they_belong(tmp_path: Path) -> None:
    source = write_tree(
        tmp_path / "D",
        ["images/a.nii.gz", "images/b.nii.gz", "images/unlabelled.nii.gz", "test/t.nii.gz"],
        ["labels/a.nii.gz", "labels/b.nii.gz"],
    )
    folds = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
    (source / "splits_final.json").write_text(json.dumps(folds))
    converted = convert_dataset(source, tmp_path / "T")
    check_rules(tmp_path / "T")
    assert (converted.training, converted.test, converted.made) == (2, 2, 4)
    for before, after in {
        "images/a.nii.gz": "imagesTr/a_0000.nii.gz",
        "labels/a.nii.gz": "labelsTr/a.nii.gz",
        "images/unlabelled.nii.gz": "imagesTs/unlabelled_0000.nii.gz",
        "test/t.nii.gz": "imagesTs/t_0000.nii.gz",
    }.items():
        assert (source / before).read_bytes() == (tmp_path / "T" / after).read_bytes()
    assert json.loads((tmp_path / "T" / "splits_final.json").read_text()) == folds


def test_regions_keep_their_meaning(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "D", ["images/a.mha"], ["labels/a.mha"], (1, 2, 4))
    (source / "dataset.json").write_text('{"labels": {"whole": [1, 2, 4], "core": [1, 4], "enhancing": 4}}')
    convert_dataset(source, tmp_path / "T")
    stated = check_rules(tmp_path / "T")
    assert stated["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}
    assert stated["regions_class_order"] == [2, 1, 3]
    before, after = array(source / "labels" / "a.mha"), array(tmp_path / "T" / "labelsTr" / "a.mha")
    np.testing.assert_array_equal(np.isin(before, (1, 4)), np.isin(after, (1, 3)))


def test_dicom_becomes_nifti_with_the_same_voxels_and_places(tmp_path: Path) -> None:
    source = tmp_path / "D"
    for number in (1, 2):
        series = write_dicom(source / f"p{number}" / "MR", seed=number)
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
        image = SimpleITK.ReadImage(names)
        SimpleITK.WriteImage(
            SimpleITK.Cast(image > 100, SimpleITK.sitkUInt8), str(source / f"p{number}" / "seg.nii.gz")
        )
    convert_dataset(source, tmp_path / "T")
    check_rules(tmp_path / "T")
    series = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(source / "p1" / "MR")))
    written = SimpleITK.ReadImage(str(tmp_path / "T" / "imagesTr" / "p1_0000.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(series), SimpleITK.GetArrayFromImage(written))
    assert written.GetSpacing() == pytest.approx(series.GetSpacing())
    assert written.GetOrigin() == pytest.approx(series.GetOrigin())
    assert written.GetDirection() == pytest.approx(series.GetDirection())


def test_pictures_become_grey_png_files_and_the_mask_of_0_and_255_becomes_0_and_1(tmp_path: Path) -> None:
    write_image(tmp_path / "D" / "img" / "a.bmp", channels=3)
    write_label(tmp_path / "D" / "mask" / "a.png", (255,))
    convert_dataset(tmp_path / "D", tmp_path / "T")
    stated = check_rules(tmp_path / "T")
    assert (stated["file_ending"], list(stated["channel_names"].values())) == (".png", ["R", "G", "B"])
    colours = array(tmp_path / "D" / "img" / "a.bmp")
    for channel in range(3):
        np.testing.assert_array_equal(array(tmp_path / "T" / "imagesTr" / f"a_000{channel}.png"), colours[..., channel])
    assert set(np.unique(array(tmp_path / "T" / "labelsTr" / "a.png"))) == {0, 1}


def states(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"
    }


def test_repeating_does_nothing_and_a_changed_label_redoes_one_case(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "D", ["images/a.nrrd", "images/b.nrrd"], ["labels/a.nii.gz", "labels/b.nii.gz"])
    convert_dataset(source, tmp_path / "T")
    before = states(tmp_path / "T")
    assert convert_dataset(source, tmp_path / "T").made == 0
    assert states(tmp_path / "T") == before
    write_label(source / "labels" / "b.nii.gz", (0, 1, 1))
    (tmp_path / "T" / "imagesTr" / "a_0000.nii.gz").unlink()
    assert convert_dataset(source, tmp_path / "T").made == 1
    after = states(tmp_path / "T")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"a_0000.nii.gz", "a.nii.gz", "b_0000.nii.gz", "b.nii.gz"}


def test_one_bad_case_costs_one_case_and_mended_the_rest_is_kept(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "D", ["images/a.nrrd", "images/b.nrrd"], ["labels/a.nrrd", "labels/b.nrrd"])
    whole = (source / "images" / "b.nrrd").read_bytes()
    (source / "images" / "b.nrrd").write_bytes(whole[:50])
    with pytest.raises(CasesFailedError, match="imagesTr/b"):
        convert_dataset(source, tmp_path / "T")
    assert not (tmp_path / "T" / "dataset.json").exists()
    before = states(tmp_path / "T")
    (source / "images" / "b.nrrd").write_bytes(whole)
    assert convert_dataset(source, tmp_path / "T").made == 1
    assert before.items() <= states(tmp_path / "T").items()
    check_rules(tmp_path / "T")


def test_a_killed_conversion_leaves_whole_files_only_and_goes_on(tmp_path: Path) -> None:
    names = [f"c{number:03d}" for number in range(40)]
    source = write_tree(
        tmp_path / "D", [f"images/{name}.nrrd" for name in names], [f"labels/{name}.nii.gz" for name in names]
    )
    code = (
        "import os, sys, threading\nfrom pathlib import Path\nfrom autoseg.conversion import convert_dataset\n"
        "class Killer:\n"
        "    def event(self, kind, **fields):\n        if fields.get('done') == 10: os.kill(os.getpid(), 9)\n"
        "convert_dataset(Path(sys.argv[1]), Path(sys.argv[2]), logger=Killer())"
    )
    done = subprocess.run([sys.executable, "-c", code, source, tmp_path / "T"], check=False)
    assert done.returncode == -9
    for path in (tmp_path / "T").glob("*/[!.]*"):
        SimpleITK.ReadImage(str(path))
    convert_dataset(source, tmp_path / "T")
    assert len(check_rules(tmp_path / "T")["labels"]) == 2  # type: ignore[arg-type]
    assert not list((tmp_path / "T").glob("*/.*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_worker_processes_make_the_same_bytes_as_threads(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "D", ["images/a.nrrd", "images/b.mha", "images/lonely.nrrd", "test/t.nrrd"])
    for name, values in {"a": (3, 300), "b": (3,)}.items():
        write_label(source / "labels" / f"{name}.nii.gz", values)
    write_dicom(source / "images" / "c")
    label = SimpleITK.ReadImage(str(write_label(source / "labels" / "c.nrrd", (300,))))
    label.CopyInformation(
        SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(source / "images" / "c")))
    )
    SimpleITK.WriteImage(label, str(source / "labels" / "c.nrrd"))
    convert_dataset(source, tmp_path / "threads", executor=ThreadExecutor(2))
    with ProcessExecutor(2) as executor:
        converted = convert_dataset(source, tmp_path / "processes", executor=executor)
        assert (converted.made, converted.integers) == (5, {0: 0, 3: 1, 300: 2})
        assert contents(tmp_path / "processes") == contents(tmp_path / "threads")
        assert convert_dataset(source, tmp_path / "threads", executor=executor).made == 0


def test_a_folder_that_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "D", ["images/a.mha"], ["labels/a.mha"])
    other = write_tree(tmp_path / "E", ["images/a.mha"], ["labels/a.mha"])
    (tmp_path / "T").mkdir()
    (tmp_path / "T" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        convert_dataset(source, tmp_path / "T")
    with pytest.raises(InputError, match="is a file"):
        convert_dataset(source, tmp_path / "T" / "mine.txt")
    for target in (source, source / "inner", tmp_path):
        with pytest.raises(InputError, match="inside the data set"):
            convert_dataset(source, target)
    convert_dataset(source, tmp_path / "U")
    with pytest.raises(InputError, match="another data set"):
        convert_dataset(other, tmp_path / "U")
    (source / "images" / "a.mha").rename(source / "images" / "b.mha")
    (source / "labels" / "a.mha").rename(source / "labels" / "b.mha")
    with pytest.raises(InputError, match=r"does not have any more; found imagesTr/a"):
        convert_dataset(source, tmp_path / "U")
    assert [path.name for path in (tmp_path / "T").iterdir()] == ["mine.txt"]


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("link", ["imagesTr", "imagesTr/a_0000.mha", "dataset.json"])
def test_links_out_of_the_target_are_refused(link: str, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "D", ["images/a.mha"], ["labels/a.mha"])
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    convert_dataset(source, tmp_path / "T")
    path = tmp_path / "T" / link
    if path.is_dir():
        path.rename(tmp_path / "T" / "moved")
        path.symlink_to(outside)
    else:
        path.unlink()
        path.symlink_to(outside / "file")
    with pytest.raises(InputError, match=re.escape(f"{path.name} -> {outside}")):
        convert_dataset(source, tmp_path / "T")
    assert [file.read_text() for file in outside.iterdir()] == ["precious"]


def test_findings_that_are_errors_stop_before_anything_is_written(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "D", ["images/a.mha"], ["labels/a.mha", "labels/lonely.mha"])
    with pytest.raises(FindingsError, match="lonely"):
        convert_dataset(source, tmp_path / "T")
    assert not (tmp_path / "T").exists()


@pytest.mark.real_data
def test_the_decathlons_hippocampus_goes_there_and_back(real_data: Path, tmp_path: Path) -> None:
    """In the Decathlon's layout by its list, converted, it is the same set byte by byte."""
    source = real_data / "Dataset004_Hippocampus"
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").iterdir())[:5]
    pairs = [
        {"image": str(source / "imagesTr" / f"{id_}_0000.nii.gz"), "label": str(source / "labelsTr" / f"{id_}.nii.gz")}
        for id_ in ids
    ]
    labels = {"0": "background", "1": "anterior", "2": "posterior"}
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": pairs, "test": []})
    )
    convert_dataset(tmp_path / "D", tmp_path / "T")
    check_rules(tmp_path / "T")
    for folder in ("imagesTr", "labelsTr"):
        for path in (tmp_path / "T" / folder).iterdir():
            assert path.read_bytes() == (source / folder / path.name).read_bytes()

"""Folders without a description: images, labels, channels and tests told apart by their names alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoseg.errors import InputError
from autoseg.io.layouts import read_dataset
from autoseg.values import Case, Dataset, Finding, Label
from tests.io.layouts.trees import write_dicom, write_image, write_label, write_tree

#: Name: images, label files, and what must come out: id -> (images, label).
TREES: dict[str, tuple[list[str], list[str], dict[str, tuple[list[str], str | None]]]] = {
    "equal names": (
        ["images/a.nii.gz", "images/b.nii.gz"],
        ["labels/a.nii.gz", "labels/b.nii.gz"],
        {"a": (["images/a.nii.gz"], "labels/a.nii.gz"), "b": (["images/b.nii.gz"], "labels/b.nii.gz")},
    ),
    "capitals, other words, another format": (
        ["Imgs/a.nrrd", "Imgs/b.nrrd"],
        ["Ground_Truth/a.nii.gz", "Ground_Truth/b.nii.gz"],
        {"a": (["Imgs/a.nrrd"], "Ground_Truth/a.nii.gz"), "b": (["Imgs/b.nrrd"], "Ground_Truth/b.nii.gz")},
    ),
    "nnU-Net's names without its description": (
        ["imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz"],
        ["labelsTr/a.nii.gz", "labelsTr/b.nii.gz"],
        {
            "a": (["imagesTr/a_0000.nii.gz"], "labelsTr/a.nii.gz"),
            "b": (["imagesTr/b_0000.nii.gz"], "labelsTr/b.nii.gz"),
        },
    ),
    "suffixes": (
        ["scans/p1_image.mha", "scans/p2_image.mha"],
        ["masks/p1_mask.mha", "masks/p2_mask.mha"],
        {"p1": (["scans/p1_image.mha"], "masks/p1_mask.mha"), "p2": (["scans/p2_image.mha"], "masks/p2_mask.mha")},
    ),
    "prefixes with a hyphen": (
        ["volumes/volume-0.nii", "volumes/volume-1.nii", "volumes/volume-10.nii"],
        ["seg/segmentation-0.nii", "seg/segmentation-1.nii", "seg/segmentation-10.nii"],
        {f"{n}": ([f"volumes/volume-{n}.nii"], f"seg/segmentation-{n}.nii") for n in (0, 1, 10)},
    ),
    "prefixes without any separator": (
        ["img/img0001.nii.gz", "img/img0002.nii.gz"],
        ["label/label0001.nii.gz", "label/label0002.nii.gz"],
        {f"000{n}": ([f"img/img000{n}.nii.gz"], f"label/label000{n}.nii.gz") for n in (1, 2)},
    ),
    "years are no channels": (
        ["images/scan_2023.nii.gz", "images/scan_2024.nii.gz"],
        ["labels/scan_2023.nii.gz", "labels/scan_2024.nii.gz"],
        {f"scan_{y}": ([f"images/scan_{y}.nii.gz"], f"labels/scan_{y}.nii.gz") for y in (2023, 2024)},
    ),
    "a name that begins another's": (
        ["images/a_1.nii.gz", "images/a_10.nii.gz", "images/a.nii.gz"],
        ["labels/a_1.nii.gz", "labels/a_10.nii.gz", "labels/a.nii.gz"],
        {id_: ([f"images/{id_}.nii.gz"], f"labels/{id_}.nii.gz") for id_ in ("a", "a_1", "a_10")},
    ),
    "labels called mask in their folder equal to images": (
        ["images/mask_1.nii.gz", "images/mask_2.nii.gz"],
        ["masks/mask_1.nii.gz", "masks/mask_2.nii.gz"],
        {f"mask_{n}": ([f"images/mask_{n}.nii.gz"], f"masks/mask_{n}.nii.gz") for n in (1, 2)},
    ),
    "channels by name": (
        [f"images/p{n}_{channel}.nii.gz" for n in (1, 2) for channel in ("T2", "FLAIR", "T10")],
        ["labels/p1.nii.gz", "labels/p2_seg.nii.gz"],
        {
            "p1": ([f"images/p1_{c}.nii.gz" for c in ("FLAIR", "T2", "T10")], "labels/p1.nii.gz"),
            "p2": ([f"images/p2_{c}.nii.gz" for c in ("FLAIR", "T2", "T10")], "labels/p2_seg.nii.gz"),
        },
    ),
    "one folder": (
        ["ct_1001_image.nii.gz", "ct_1002_image.nii.gz"],
        ["ct_1001_label.nii.gz", "ct_1002_label.nii.gz"],
        {f"ct_100{n}": ([f"ct_100{n}_image.nii.gz"], f"ct_100{n}_label.nii.gz") for n in (1, 2)},
    ),
    "one folder, images without a word": (
        ["case7.mha", "case8.mha"],
        ["case7-seg.mha", "case8-seg.mha"],
        {f"case{n}": ([f"case{n}.mha"], f"case{n}-seg.mha") for n in (7, 8)},
    ),
    "a folder per case": (
        [f"BraTS-GLI-0000{n}-000/BraTS-GLI-0000{n}-000-{c}.nii.gz" for n in (1, 2) for c in ("t1c", "t2f")],
        [f"BraTS-GLI-0000{n}-000/BraTS-GLI-0000{n}-000-seg.nii.gz" for n in (1, 2)],
        {
            f"BraTS-GLI-0000{n}-000": (
                [f"BraTS-GLI-0000{n}-000/BraTS-GLI-0000{n}-000-{c}.nii.gz" for c in ("t1c", "t2f")],
                f"BraTS-GLI-0000{n}-000/BraTS-GLI-0000{n}-000-seg.nii.gz",
            )
            for n in (1, 2)
        },
    ),
    "a folder per case, files of one name": (
        [f"case_0000{n}/imaging.nii.gz" for n in (0, 1)],
        [f"case_0000{n}/segmentation.nii.gz" for n in (0, 1)],
        {f"case_0000{n}": ([f"case_0000{n}/imaging.nii.gz"], f"case_0000{n}/segmentation.nii.gz") for n in (0, 1)},
    ),
    "folders per case within images": (
        [f"images/p{n}/{c}.nii.gz" for n in (1, 2) for c in ("t1", "t2")],
        [f"labels/p{n}.nii.gz" for n in (1, 2)],
        {f"p{n}": ([f"images/p{n}/{c}.nii.gz" for c in ("t1", "t2")], f"labels/p{n}.nii.gz") for n in (1, 2)},
    ),
    "training and validation apart": (
        ["train/images/a.nii.gz", "val/images/b.nii.gz"],
        ["train/labels/a.nii.gz", "val/labels/b.nii.gz"],
        {
            "a": (["train/images/a.nii.gz"], "train/labels/a.nii.gz"),
            "b": (["val/images/b.nii.gz"], "val/labels/b.nii.gz"),
        },
    ),
    "training and validation apart, with equal names": (
        ["train/images/1.nii.gz", "val/images/1.nii.gz", "val/images/2.nii.gz"],
        ["train/masks/1.nii.gz", "val/masks/1.nii.gz", "val/masks/2.nii.gz"],
        {
            "1_train": (["train/images/1.nii.gz"], "train/masks/1.nii.gz"),
            "1_val": (["val/images/1.nii.gz"], "val/masks/1.nii.gz"),
            "2": (["val/images/2.nii.gz"], "val/masks/2.nii.gz"),
        },
    ),
    "a folder for each channel": (
        [f"images_{c}/{id_}.nii.gz" for c in ("t1", "flair") for id_ in ("a", "b")],
        ["labels/a.nii.gz", "labels/b.nii.gz"],
        {id_: ([f"images_{c}/{id_}.nii.gz" for c in ("flair", "t1")], f"labels/{id_}.nii.gz") for id_ in "ab"},
    ),
    "folders called by their channels": (
        [f"{c}/{id_}.nii.gz" for c in ("t1", "flair") for id_ in ("a", "b")],
        ["masks/a.nii.gz", "masks/b.nii.gz"],
        {id_: ([f"{c}/{id_}.nii.gz" for c in ("flair", "t1")], f"masks/{id_}.nii.gz") for id_ in "ab"},
    ),
    "images without labels": (
        ["images/a.nii.gz", "images/a_2.nii.gz", "images/b.nii.gz", "images/c_image.nii.gz"],
        ["labels/a.nii.gz", "labels/b.nii.gz"],
        {
            "a": (["images/a.nii.gz"], "labels/a.nii.gz"),
            "a_2": (["images/a_2.nii.gz"], None),
            "b": (["images/b.nii.gz"], "labels/b.nii.gz"),
            "c": (["images/c_image.nii.gz"], None),
        },
    ),
    "unlabelled cases with channels": (
        [f"images/{id_}_{c}.nii.gz" for id_ in ("a", "b", "u") for c in ("t1", "t2")],
        ["labels/a.nii.gz", "labels/b.nii.gz"],
        {
            **{id_: ([f"images/{id_}_{c}.nii.gz" for c in ("t1", "t2")], f"labels/{id_}.nii.gz") for id_ in "ab"},
            "u": (["images/u_t1.nii.gz", "images/u_t2.nii.gz"], None),
        },
    ),
    "spaces and unicode": (
        ["images/Zoë 7.nii.gz", "images/患者1.nii.gz"],
        ["labels/Zoë 7.nii.gz", "labels/患者1.nii.gz"],
        {id_: ([f"images/{id_}.nii.gz"], f"labels/{id_}.nii.gz") for id_ in ("Zoë 7", "患者1")},
    ),
    "something of its own in every image's name": (
        ["images/a_x81.nii.gz", "images/b_q22.nii.gz", "images/c_z07.nii.gz"],
        ["labels/a.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz"],
        {
            "a": (["images/a_x81.nii.gz"], "labels/a.nii.gz"),
            "b": (["images/b_q22.nii.gz"], "labels/b.nii.gz"),
            "c": (["images/c_z07.nii.gz"], "labels/c.nii.gz"),
        },
    ),
}


def found(dataset: Dataset) -> dict[str, tuple[list[str], str | None]]:
    return {case.id: (list(case.images), case.label) for case in dataset.cases}


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


@pytest.mark.parametrize("name", TREES)
def test_files_are_paired_by_their_names(name: str, tmp_path: Path) -> None:
    images, labels, expected = TREES[name]
    dataset, findings = read_dataset(write_tree(tmp_path, images, labels))
    assert found(dataset) == expected
    assert errors(findings) == []
    assert dataset.inferred  # a person is asked


@pytest.mark.parametrize(
    ("tree", "channels"),
    [
        ("channels by name", ("FLAIR", "T2", "T10")),
        ("a folder per case", ("t1c", "t2f")),
        ("a folder for each channel", ("flair", "t1")),
        ("equal names", ("image",)),
        ("nnU-Net's names without its description", ("image",)),
    ],
)
def test_channels_have_the_names_that_files_tell(tree: str, channels: tuple[str, ...], tmp_path: Path) -> None:
    images, labels, _ = TREES[tree]
    assert read_dataset(write_tree(tmp_path, images, labels))[0].channels == channels


def test_named_channels_overrule_and_bring_files_into_their_order(tmp_path: Path) -> None:
    images, labels, _ = TREES["channels by name"]
    write_tree(tmp_path, images, labels)
    dataset, _ = read_dataset(tmp_path, channel_names=("T10", "t2", "Flair"))
    assert dataset.channels == ("T10", "t2", "Flair")
    assert dataset.cases[0].images == ("images/p1_T10.nii.gz", "images/p1_T2.nii.gz", "images/p1_FLAIR.nii.gz")
    with pytest.raises(InputError, match=r"2 channels are named.*3 files"):
        read_dataset(tmp_path, channel_names=("T1", "T2"))


def test_numbered_channels_are_numbered(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"images/a_000{n}.mha" for n in (1, 0)], ["labels/a.mha"])
    dataset, _ = read_dataset(tmp_path)
    assert (dataset.channels, dataset.cases[0].images) == (
        ("channel_0", "channel_1"),
        ("images/a_0000.mha", "images/a_0001.mha"),
    )


def test_channels_of_one_file_are_counted_and_pictures_have_colours(tmp_path: Path) -> None:
    write_image(tmp_path / "4d" / "images" / "a.nii.gz", channels=3)
    write_label(tmp_path / "4d" / "labels" / "a.nii.gz")
    assert read_dataset(tmp_path / "4d")[0].channels == ("channel_0", "channel_1", "channel_2")
    write_image(tmp_path / "rgb" / "images" / "a.png", channels=3)
    write_label(tmp_path / "rgb" / "masks" / "a.png")
    dataset, _ = read_dataset(tmp_path / "rgb")
    assert (dataset.channels, dataset.file_ending) == (("R", "G", "B"), ".png")


def test_the_labels_are_the_integers_in_the_files_with_any_gaps(tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.nii.gz", "images/b.nii.gz"])
    write_label(tmp_path / "labels" / "a.nii.gz", (255, 3))
    write_label(tmp_path / "labels" / "b.nii.gz", (32767,))
    dataset, _ = read_dataset(tmp_path)
    assert dataset.labels.foreground == tuple(
        Label(name=f"label_{value}", values=(value,)) for value in (3, 255, 32767)
    )
    assert any("3, 255, 32767" in guess for guess in dataset.inferred)


def test_colours_of_label_pictures_are_kept_for_writing(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png", channels=3)
    (tmp_path / "labels").mkdir()
    picture = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "labels" / "a.png")
    labels = read_dataset(tmp_path)[0].labels
    assert labels.integers == (0, 1, 2)
    assert labels.palette[:3] == ((0, 0, 0), (255, 0, 0), (0, 0, 255))


def test_negative_integers_are_no_labels_and_background_alone_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.nii.gz"])
    write_label(tmp_path / "labels" / "a.nii.gz", (-1, 2))
    assert [label.values for label in read_dataset(tmp_path)[0].labels.foreground] == [(2,)]
    write_label(tmp_path / "labels" / "a.nii.gz", (0,))
    with pytest.raises(InputError, match="background only"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", "autoseg.json"])
def test_a_description_in_any_layout_names_what_it_names(name: str, tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.nii.gz", "images/b.nii.gz"], ["labels/a.nii.gz", "labels/b.nii.gz"], (1, 7))
    stated = {
        "channel_names": {"0": "CT"},
        "labels": {"liver": 1, "spleen": 7},
        "annotated": {"b": ["liver"]},
        "patients": {"a": "Ada", "b": "Bo"},
    }
    (tmp_path / name).write_text(json.dumps(stated))
    dataset, findings = read_dataset(tmp_path)
    assert dataset.channels == ("CT",)
    assert dataset.labels.foreground == (Label(name="liver", values=(1,)), Label(name="spleen", values=(7,)))
    assert [(case.annotated, case.patient) for case in dataset.cases] == [(None, "Ada"), (("liver",), "Bo")]
    assert [case.id for case in dataset.partly_annotated] == ["b"]
    assert [(finding.severity, finding.case) for finding in findings] == [("note", "b")]
    assert len(dataset.inferred) == 1  # which files belong together


def test_what_a_description_says_of_others_is_found(tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.nii.gz"], ["labels/a.nii.gz"])
    (tmp_path / "autoseg.json").write_text(json.dumps({"annotated": {"a": ["heart"], "z": []}, "patients": {"y": "Y"}}))
    findings = read_dataset(tmp_path)[1]
    assert [(finding.severity, finding.case, finding.found) for finding in findings] == [
        ("error", "a", "heart"),
        ("warning", None, "z"),
        ("warning", None, "y"),
    ]


@pytest.mark.parametrize(
    "tests",
    [
        ["imagesTs/t1.nii.gz"],
        ["test/t1.nii.gz"],
        ["test/images/t1.nii.gz", "test/labels/t1.nii.gz"],
        ["images_test/t1.nii.gz", "labels_test/t1.nii.gz"],
        ["Test/t1_image.nii.gz", "Test/t1_mask.nii.gz"],
    ],
    ids=str,
)
def test_test_images_are_kept_apart(tests: list[str], tmp_path: Path) -> None:
    dataset, findings = read_dataset(write_tree(tmp_path, ["images/a.nii.gz", *tests], ["labels/a.nii.gz"]))
    assert [case.id for case in dataset.cases] == ["a"]
    assert [(case.id, case.images, case.label) for case in dataset.test] == [("t1", (tests[0],), None)]
    assert errors(findings) == []


def test_a_missing_channel_a_lonely_label_and_two_labels_are_errors_with_their_cases(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        [f"images/{id_}_{c}.nii.gz" for id_ in "abd" for c in ("t1", "t2")] + ["images/c_t1.nii.gz"],
        [*(f"labels/{id_}.nii.gz" for id_ in "abcd"), "labels/lonely_seg.nii.gz", "labels/d_mask.nii.gz"],
    )
    dataset, findings = read_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    told = {(finding.what, finding.case) for finding in errors(findings)}
    assert ("channel files are missing", "c") in told
    assert ("a label file has no image", "lonely") in told
    assert any(what == "an image has several label files" for what, _ in told)


def test_stray_files_are_told_and_hidden_ones_are_of_no_account(tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.nii.gz", "images/.hidden.nii.gz"], ["labels/a.nii.gz"])
    for name in ("images/.DS_Store", "images/notes.txt", "images/a.weird", "readme.md"):
        (tmp_path / name).touch()
    dataset, findings = read_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["a"]
    assert [(finding.severity, finding.file) for finding in findings] == [("note", "images/a.weird")]


@pytest.mark.parametrize("place", ["images/p{}", "images/p{}/DICOM", "p{}/T1"])
def test_a_folder_with_a_dicom_series_is_one_image(place: str, tmp_path: Path) -> None:
    label = "labels/p{}.nii.gz" if place.startswith("images") else "p{}/seg.nii.gz"
    for number in (1, 2):
        write_dicom(tmp_path / place.format(number), seed=number)
        write_label(tmp_path / label.format(number))
    (tmp_path / "autoseg.json").write_text('{"channel_names": {"0": "MRI"}, "labels": {"liver": 1}}')
    dataset, findings = read_dataset(tmp_path)
    assert findings == []
    assert dataset.cases == tuple(Case(id=f"p{n}", images=(place.format(n),), label=label.format(n)) for n in (1, 2))


def test_a_series_and_its_label_map_may_lie_in_one_folder(tmp_path: Path) -> None:
    write_dicom(tmp_path / "p1")
    write_label(tmp_path / "p1" / "p1_seg.nii.gz")
    (tmp_path / "autoseg.json").write_text('{"channel_names": {"0": "MRI"}, "labels": {"liver": 1}}')
    (case,) = read_dataset(tmp_path)[0].cases
    assert (case.id, case.images, case.label) == ("p1", ("p1",), "p1/p1_seg.nii.gz")


@pytest.mark.skipif(os.name != "posix", reason="such files cannot be made")
def test_names_that_other_systems_cannot_have_are_errors(tmp_path: Path) -> None:
    names = ["con", "A", "a", "x\u202ey"]
    write_tree(tmp_path, [f"images/{n}.mha" for n in (*names, "b")], [f"labels/{n}.mha" for n in (*names, "b")])
    for folder in ("images", "labels"):
        os.rename(
            os.fsencode(write_image(tmp_path / folder / "tmp.mha")), os.fsencode(tmp_path / folder) + b"/\xff.mha"
        )
    dataset, findings = read_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["b"]
    text = "\n".join(map(str, errors(findings)))
    for part in (
        "device on Windows",
        "same name on some systems",
        "not usable as a file name",
        "not UTF-8",
        "\\xff.mha",
    ):
        assert part in text, text
    text.encode()  # can be written to a log


def test_links_to_images_elsewhere_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_tree(tmp_path / "store", ["x/a.nii.gz"], ["y/a.nii.gz"])
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "images").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "D" / "labels").symlink_to(tmp_path / "store" / "y")
    (tmp_path / "store" / "x" / "again").symlink_to(tmp_path / "store" / "x")
    dataset, _ = read_dataset(tmp_path / "D")
    assert found(dataset) == {"a": (["images/a.nii.gz"], "labels/a.nii.gz")}


@pytest.mark.parametrize("images", [[], ["images/a.nii.gz"], ["a.nii.gz", "b.nii.gz"]], ids=str)
def test_a_folder_that_tells_nothing_is_refused_with_all_layouts(images: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not clear what .*CSV file with the columns image and label"):
        read_dataset(write_tree(tmp_path, images))

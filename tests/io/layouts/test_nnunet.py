"""nnU-Net's layout and folds: whatever is wrong is named, and nothing is silently left out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import DocumentError, InputError
from autoseg.io.layouts import read_dataset, read_labels_of, read_split
from autoseg.values import Fold, Label

DESCRIPTION = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "liver": 1, "spleen": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
BOTH = ("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")


def make(folder: Path, files: Sequence[str] = BOTH, **changes: Any) -> Path:
    """A data set of empty files: this layer looks at names only. None removes a key of dataset.json."""
    description = {key: value for key, value in {**DESCRIPTION, **changes}.items() if value is not None}
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
    return str(caught.value)


def test_a_data_set_in_nnunets_layout_is_understood(tmp_path: Path) -> None:
    dataset, findings = read_dataset(make(tmp_path / "Dataset001_Abdomen"))
    assert findings == []
    assert (dataset.name, dataset.root) == ("Dataset001_Abdomen", str(tmp_path / "Dataset001_Abdomen"))
    assert dataset.channels == ("MRI",)
    assert dataset.labels.foreground == (Label(name="liver", values=(1,)), Label(name="spleen", values=(2,)))
    assert dataset.file_ending == ".nii.gz"
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[0].images == ("imagesTr/a_0000.nii.gz",)
    assert dataset.cases[0].label == "labelsTr/a.nii.gz"


def test_a_relative_folder_gives_an_absolute_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "D")
    monkeypatch.chdir(tmp_path)
    assert read_dataset(Path("D"))[0].root == str(tmp_path / "D")


def test_channels_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(index): f"channel {index}" for index in reversed(range(12))}
    files = [f"imagesTr/a_{index:04d}.nii.gz" for index in range(12)] + ["labelsTr/a.nii.gz"]
    dataset, findings = read_dataset(make(tmp_path, files, channel_names=names, numTraining=1))
    assert findings == []
    assert dataset.channels == tuple(f"channel {index}" for index in range(12))
    assert dataset.cases[0].images == tuple(files[:-1])


def test_the_old_name_modality_and_free_fields_are_read_and_numtraining_may_be_missing(tmp_path: Path) -> None:
    folder = make(tmp_path, channel_names=None, modality={"0": "CT"}, numTraining=None, licence="CC0", release=1)
    dataset, findings = read_dataset(folder)
    assert (dataset.channels, findings) == (("CT",), [])


def test_a_missing_folder_and_a_missing_description_are_named(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    text = refusal(tmp_path)
    assert "not clear what in this folder is an image" in text
    assert '"channel_names"' in text  # the remedy shows a minimal description


@pytest.mark.parametrize("name", ["imagesTr", "labelsTr"])
def test_a_missing_images_or_labels_folder_is_named(name: str, tmp_path: Path) -> None:
    make(tmp_path, []).joinpath(name).rmdir()
    assert name in refusal(tmp_path)


@pytest.mark.parametrize(
    "broken",
    [
        {"file_ending": ".docx"},
        {"file_ending": "nii.gz"},
        {"file_ending": ""},
        {"file_ending": 3},
        {"channel_names": {"1": "MRI"}},
        {"channel_names": {"0": "T1", "2": "T2"}},
        {"channel_names": {"T1": "0"}},
        {"channel_names": {"00": "T1"}},
        {"channel_names": ["MRI"]},
        {"labels": {"background": 1, "liver": 2}},
        {"labels": {"background": [0, 3], "liver": 1}},
        {"labels": {"background": 0}},
        {"labels": {"background": 0, "ignore": 1}},
        {"labels": {"background": 0, "liver": 0}},
        {"labels": {"background": 0, "liver": 1, "spleen": 1}},
        {"labels": {"background": 0, "liver": -1}},
        {"labels": {"background": 0, "liver": 1.5}},
        {"labels": {"background": 0, "liver": "1"}},
        {"labels": {"background": 0, "liver": True}},
        {"labels": {"background": 0, "liver": []}},
        {"labels": {"background": 0, "liver": 1, "ignore": 1}},
        {"labels": {"background": 0, "liver": 1, "ignore": [2, 3]}},
        {"labels": {"background": 0, "liver": 1, "ignore": -1}},
        {"labels": {"background": 0, "left": [1, 2], "right": [2, 3]}},
        {"labels": {"background": 0, "whole": [1, 2], "first": 1, "second": 2}},
        {"labels": {"0": "background", "1": 1}},
        {"labels": {"0": "background", "one": "liver"}},
        {"labels": {"0": "background", "1": "liver", "2": "liver"}},
        {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1]},
        {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2, 3]},
        {"numTraining": "2"},
    ],
    ids=str,
)
def test_a_description_that_cannot_be_meant_is_refused_by_file(broken: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"dataset\.json"):
        read_dataset(make(tmp_path, **broken))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"labels": '])
def test_a_description_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    make(tmp_path).joinpath("dataset.json").write_text(text)
    with pytest.raises(DocumentError, match=r"dataset\.json"):
        read_dataset(tmp_path)


def test_regions_with_their_order_are_understood(tmp_path: Path) -> None:
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    labels = read_dataset(make(tmp_path, labels=regions, regions_class_order=[1, 2, 3]))[0].labels
    assert [label.values for label in labels.foreground] == [(1, 2, 3), (2, 3), (3,)]
    assert labels.region_values == (1, 2, 3)
    assert labels.ignore == 4


def test_lists_of_one_integer_are_labels_and_their_order_is_of_no_use(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": [1], "spleen": [2]}
    assert not read_dataset(make(tmp_path, labels=labels, regions_class_order=[1, 2]))[0].labels.has_regions


def test_labels_alone_can_be_read(tmp_path: Path) -> None:
    make(tmp_path, labels={"background": 0, "liver": 4, "ignore": 9})
    labels = read_labels_of(tmp_path / "dataset.json")
    assert (labels.integers, labels.ignore) == ((0, 4), 9)


def test_an_ending_in_capitals_is_known(tmp_path: Path) -> None:
    dataset, findings = read_dataset(
        make(tmp_path, ["imagesTr/a_0000.NII.GZ", "labelsTr/a.NII.GZ"], file_ending=".NII.GZ", numTraining=1)
    )
    assert ([case.id for case in dataset.cases], findings) == (["a"], [])


@pytest.mark.parametrize("id_", ["Zoë 7", "患者1", "a.b", "scan_2024", "x_0000"])
def test_unicode_spaces_dots_and_numbers_in_a_case_id_are_legal(id_: str, tmp_path: Path) -> None:
    files = [f"imagesTr/{id_}_0000.nii.gz", f"labelsTr/{id_}.nii.gz"]
    dataset, findings = read_dataset(make(tmp_path, files, numTraining=1))
    assert ([case.id for case in dataset.cases], findings) == ([id_], [])


def test_missing_and_surplus_channels_are_errors_with_both_lists(tmp_path: Path) -> None:
    files = [
        *("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"),
        "imagesTr/b_0001.nii.gz",
        *(f"imagesTr/c_000{channel}.nii.gz" for channel in (0, 1, 2)),
        *(f"labelsTr/{case}.nii.gz" for case in "abc"),
    ]
    dataset, findings = read_dataset(make(tmp_path, files, channel_names={"0": "T1", "1": "T2"}, numTraining=1))
    assert [case.id for case in dataset.cases] == ["a"]
    assert [(finding.severity, finding.case, finding.found) for finding in findings] == [
        ("error", "b", "_0001"),
        ("error", "c", "_0000, _0001, _0002"),
    ]
    assert "missing" in findings[0].what
    assert "too many" in findings[1].what
    assert all(finding.expected == "_0000, _0001" for finding in findings)


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    dataset, findings = read_dataset(make(tmp_path, channel_names={"0": "T1", "1": "T2"}))
    assert ([case.images for case in dataset.cases], findings) == ([(BOTH[0],), (BOTH[1],)], [])


def test_a_label_without_image_is_an_error_and_an_image_without_label_a_note(tmp_path: Path) -> None:
    files = [*BOTH, "labelsTr/lonely.nii.gz", "imagesTr/unseen_0000.nii.gz"]
    dataset, findings = read_dataset(make(tmp_path, files))
    assert [(finding.severity, finding.case) for finding in findings] == [("error", "lonely"), ("note", "unseen")]
    assert [case.id for case in dataset.cases] == ["a", "b", "unseen"]
    assert [case.id for case in dataset.annotated_cases] == ["a", "b"]


@pytest.mark.parametrize("stray", ["imagesTr/.DS_Store", "labelsTr/.DS_Store", "imagesTr/._a_0000.nii.gz"])
def test_hidden_system_files_are_of_no_account(stray: str, tmp_path: Path) -> None:
    dataset, findings = read_dataset(make(tmp_path, [*BOTH, stray]))
    assert ([case.id for case in dataset.cases], findings) == (["a", "b"], [])


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("stray", ["Thumbs.db", "notes.txt"])
def test_a_stray_file_does_not_stop_anything(folder: str, stray: str, tmp_path: Path) -> None:
    dataset, findings = read_dataset(make(tmp_path, [*BOTH, f"{folder}/{stray}"]))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert all(finding.severity != "error" for finding in findings)


@pytest.mark.parametrize("stray", ["c.nii.gz", "c_000.nii.gz", "c_0000.nrrd", "_0000.nii.gz"])
def test_an_image_with_another_name_is_left_out_with_a_warning(stray: str, tmp_path: Path) -> None:
    dataset, findings = read_dataset(make(tmp_path, [*BOTH, f"imagesTr/{stray}"]))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert [(finding.severity, finding.file) for finding in findings] == [("warning", f"imagesTr/{stray}")]


def test_two_label_files_of_one_case_do_not_silently_become_one(tmp_path: Path) -> None:
    _, findings = read_dataset(make(tmp_path, [*BOTH, "labelsTr/a.nrrd"]))
    assert any("a.nrrd" in str(finding) for finding in findings)


def test_another_number_of_cases_than_stated_is_a_warning_with_both_numbers(tmp_path: Path) -> None:
    (finding,) = read_dataset(make(tmp_path, numTraining=3))[1]
    assert (finding.severity, finding.found, finding.expected) == ("warning", "2", "3")


def test_an_image_whose_name_cannot_be_a_case_is_refused_by_file(tmp_path: Path) -> None:
    files = ["imagesTr/a:b_0000.nii.gz", "labelsTr/a:b.nii.gz"]
    dataset, findings = read_dataset(make(tmp_path, [*files, "imagesTr/c_0000.nii.gz", "labelsTr/c.nii.gz"]))
    assert [case.id for case in dataset.cases] == ["c"]
    assert ("error", "imagesTr/a:b_0000.nii.gz") in [(finding.severity, finding.file) for finding in findings]


def test_an_explicit_table_replaces_looking_at_folders(tmp_path: Path) -> None:
    table = {
        "z": {"images": ["scans/z-t1.nii.gz", "scans/z-t2.nii.gz"], "label": "truth/z.nii.gz"},
        "a": {"images": ["scans/a.nii.gz"]},
    }
    names = {"0": "T1", "1": "T2"}
    dataset, findings = read_dataset(make(tmp_path, BOTH, dataset=table, numTraining=1, channel_names=names))
    assert [(finding.severity, finding.case) for finding in findings] == [("note", "a")]
    assert [(case.id, case.images, case.label) for case in dataset.cases] == [
        ("a", ("scans/a.nii.gz",), None),
        ("z", ("scans/z-t1.nii.gz", "scans/z-t2.nii.gz"), "truth/z.nii.gz"),
    ]


@pytest.mark.parametrize("table", [{"a/b": {"images": ["x.nii.gz"]}}, {"a": {"images": []}}], ids=str)
def test_an_impossible_case_in_the_table_is_found_beside_the_others(table: dict[str, Any], tmp_path: Path) -> None:
    good = {"good": {"images": ["x.nii.gz"], "label": "z.nii.gz"}}
    dataset, findings = read_dataset(make(tmp_path, dataset={**table, **good}))
    assert [case.id for case in dataset.cases] == ["good"]
    assert "error" in [finding.severity for finding in findings]


def test_environment_variables_in_the_table_are_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCANS", "/archive")
    table = {"a": {"images": ["$SCANS/a_t1.nii.gz", "${SCANS}/a_t2.nii.gz"], "label": "$SCANS/a.nii.gz"}}
    dataset, _ = read_dataset(make(tmp_path, dataset=table, channel_names={"0": "T1", "1": "T2"}))
    assert dataset.cases[0].images == ("/archive/a_t1.nii.gz", "/archive/a_t2.nii.gz")
    assert dataset.cases[0].label == "/archive/a.nii.gz"


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_that_lead_nowhere_and_folders_named_like_files_are_no_missing_labels(tmp_path: Path) -> None:
    folder = make(tmp_path, BOTH)
    (folder / "labelsTr" / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (folder / "imagesTr" / "folder_0000.nii.gz").mkdir()
    (folder / "imagesTr" / "gone_0000.nii.gz").touch()
    (folder / "labelsTr" / "folder.nii.gz").touch()
    dataset, findings = read_dataset(folder)
    assert {case.id: case.label for case in dataset.cases}["gone"] == "labelsTr/gone.nii.gz"  # reading it will tell
    assert "folder" in {case.id for case in dataset.cases}
    assert not [finding for finding in findings if finding.severity == "error"]


def write_split(folder: Path, folds: object) -> Path:
    (folder / "splits_final.json").write_text(json.dumps(folds))
    return folder / "splits_final.json"


def test_a_split_in_nnunets_form_is_read_as_it_is(tmp_path: Path) -> None:
    path = write_split(tmp_path, [{"train": ["b", "a"], "val": ["c"]}, {"train": ["c"], "val": []}])
    assert read_split(path, ["a", "b", "c", "d"]) == (Fold(train=("b", "a"), val=("c",)), Fold(train=("c",), val=()))


def test_a_split_with_unknown_cases_is_refused_and_names_them(tmp_path: Path) -> None:
    path = write_split(tmp_path, [{"train": ["a", "ghost"], "val": ["phantom"]}])
    with pytest.raises(InputError, match=r"ghost, phantom.*splits_final|splits_final.*ghost, phantom"):
        read_split(path, ["a"])


@pytest.mark.parametrize(
    "folds",
    [
        {},
        [],
        [{"train": ["a"]}],
        [{"train": [], "val": ["a"]}],
        [{"train": ["a"], "val": ["a"]}],
        [{"train": ["a"], "val": ["b"], "test": ["c"]}],
        [{"train": "a", "val": ["b"]}],
    ],
    ids=str,
)
def test_a_split_of_another_form_is_refused(folds: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"splits_final\.json"):
        read_split(write_split(tmp_path, folds), ["a", "b", "c"])

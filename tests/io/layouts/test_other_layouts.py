"""The Decathlon's lists, BIDS, and tables of paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import InputError
from autoseg.io.layouts import read_dataset
from autoseg.values import Case, Label
from tests.io.layouts.trees import write_image, write_label, write_tree

DECATHLON = {
    "name": "BRATS",
    "tensorImageSize": "4D",
    "modality": {"0": "FLAIR", "1": "T1w"},
    "labels": {"0": "background", "1": "edema", "2": "tumour"},
    "numTraining": 2,
    "training": [
        {"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"},
        {"image": "./imagesTr/BRATS_002.nii.gz", "label": "./labelsTr/BRATS_002.nii.gz"},
    ],
    "test": ["./imagesTs/BRATS_009.nii.gz"],
}


def decathlon(folder: Path, **changes: Any) -> Path:
    for number in (1, 2):
        write_image(folder / f"imagesTr/BRATS_00{number}.nii.gz", channels=2)
        write_label(folder / f"labelsTr/BRATS_00{number}.nii.gz", (1, 2))
    write_image(folder / "imagesTs" / "BRATS_009.nii.gz", channels=2)
    (folder / "dataset.json").write_text(json.dumps({**DECATHLON, **changes}))
    return folder


def test_the_decathlons_list_is_read_as_it_stands(tmp_path: Path) -> None:
    dataset, findings = read_dataset(decathlon(tmp_path))
    assert findings == []
    assert dataset.channels == ("FLAIR", "T1w")
    assert dataset.labels.foreground == (Label(name="edema", values=(1,)), Label(name="tumour", values=(2,)))
    assert dataset.cases == tuple(
        Case(id=f"BRATS_00{n}", images=(f"imagesTr/BRATS_00{n}.nii.gz",), label=f"labelsTr/BRATS_00{n}.nii.gz")
        for n in (1, 2)
    )
    assert dataset.test == (Case(id="BRATS_009", images=("imagesTs/BRATS_009.nii.gz",)),)
    assert dataset.inferred == ()  # all of it is stated, so nobody is asked
    assert dataset.file_ending == ".nii.gz"


def test_a_list_elsewhere_is_relative_to_its_own_folder_and_named_like_dataset_json(tmp_path: Path) -> None:
    assert read_dataset(decathlon(tmp_path) / "dataset.json") == read_dataset(tmp_path)


def test_a_list_of_pairs_may_have_any_name_and_state_no_labels(tmp_path: Path) -> None:
    decathlon(tmp_path).joinpath("dataset.json").unlink()
    pairs = [{**pair, "fold": 0} for pair in DECATHLON["training"]]  # type: ignore[attr-defined]
    (tmp_path / "folds.json").write_text(json.dumps({"training": pairs, "validation": []}))
    dataset, findings = read_dataset(tmp_path / "folds.json")
    assert findings == []
    assert [case.id for case in dataset.cases] == ["BRATS_001", "BRATS_002"]
    assert (dataset.channels, dataset.labels.integers) == (("channel_0", "channel_1"), (0, 1, 2))
    assert len(dataset.inferred) == 2


def test_numbered_files_of_nnunets_first_version_are_found(tmp_path: Path) -> None:
    decathlon(tmp_path)
    for path in list(tmp_path.glob("images*/*")):
        path.unlink()
        for channel in range(2):
            write_image(path.with_name(path.name.replace(".nii.gz", f"_000{channel}.nii.gz")))
    dataset, findings = read_dataset(tmp_path)
    assert findings == []
    assert dataset.cases[0].images == ("imagesTr/BRATS_001_0000.nii.gz", "imagesTr/BRATS_001_0001.nii.gz")
    assert dataset.test[0].id == "BRATS_009"


def test_images_that_the_list_leaves_out_are_told(tmp_path: Path) -> None:
    (finding,) = read_dataset(decathlon(tmp_path, training=DECATHLON["training"][:1], numTraining=1))[1]  # type: ignore[index]
    assert (finding.severity, finding.file) == ("warning", "imagesTr/BRATS_002.nii.gz")


BIDS = [
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_FLAIR.nii.gz",
    "sub-01/func/sub-01_task-rest_bold.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_FLAIR.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_FLAIR.nii.gz",
    "sub-03/anat/sub-03_T1w.nii.gz",
]
BIDS_LABELS = [
    "derivatives/expert/sub-01/anat/sub-01_desc-lesion_dseg.nii.gz",
    "derivatives/expert/sub-02/ses-a/anat/sub-02_ses-a_desc-lesion_dseg.nii.gz",
    "derivatives/expert/sub-02/ses-b/anat/sub-02_ses-b_desc-lesion_dseg.nii.gz",
    "derivatives/fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
]


def test_bids_gives_sessions_channels_patients_and_label_names(tmp_path: Path) -> None:
    write_tree(tmp_path, BIDS, BIDS_LABELS, (3, 5))
    (tmp_path / "derivatives" / "expert" / "desc-lesion_dseg.tsv").write_text(
        "index\tname\tabbreviation\n0\tBackground\tB\n3\tcore\tC\n5\trim\tR\n"
    )
    dataset, findings = read_dataset(tmp_path)
    assert dataset.layout == "BIDS"
    assert dataset.channels == ("FLAIR", "T1w")
    assert dataset.labels.foreground == (Label(name="core", values=(3,)), Label(name="rim", values=(5,)))
    assert [(case.id, case.patient, case.label) for case in dataset.cases] == [
        ("sub-01", "sub-01", BIDS_LABELS[0]),
        ("sub-02_ses-a", "sub-02", BIDS_LABELS[1]),
        ("sub-02_ses-b", "sub-02", BIDS_LABELS[2]),
    ]
    assert dataset.cases[1].images == (BIDS[4], BIDS[3])
    assert [(finding.severity, finding.case) for finding in findings] == [("warning", "sub-03")]
    assert any("expert desc-lesion dseg, not fmriprep desc-brain mask" in guess for guess in dataset.inferred)


def test_bids_channels_that_some_cases_lack_are_left_out_or_asked_for(tmp_path: Path) -> None:
    write_tree(tmp_path, BIDS, [*BIDS_LABELS[:3], "derivatives/expert/sub-03/anat/sub-03_desc-lesion_dseg.nii.gz"])
    dataset, findings = read_dataset(tmp_path)
    assert (dataset.channels, len(dataset.cases), findings) == (("T1w",), 4, [])
    assert any("not every case has FLAIR" in guess for guess in dataset.inferred)
    findings = read_dataset(tmp_path, channel_names=("T1w", "FLAIR"))[1]
    assert [(finding.severity, finding.case) for finding in findings] == [("error", "sub-03")]


def test_two_runs_and_a_label_that_fits_both_are_an_error(tmp_path: Path) -> None:
    images = [f"sub-01/anat/sub-01_run-{n}_T1w.nii.gz" for n in (1, 2)] + ["sub-02/anat/sub-02_T1w.nii.gz"]
    labels = [f"derivatives/x/sub-0{n}/anat/sub-0{n}_dseg.nii.gz" for n in (1, 2)]
    findings = read_dataset(write_tree(tmp_path, images, labels))[1]
    assert [(f.severity, f.file) for f in findings if f.severity == "error"] == [("error", labels[0])]


TABLE = """case,image_t1,image_t2,label,patient,annotated,scanner
one,scans/1 a.nii.gz,scans/1b.nii.gz,truth/1.nii.gz,Ada,,X
two,scans/2a.nii.gz,scans/2b.nii.gz,truth/2.nii.gz,Ada,liver,Y
three,scans/3a.nii.gz,scans/3b.nii.gz,,Bo,,Y
"""
#: The same, as JSON and with semicolons.
SEMICOLONS = """image;label;patient;case;annotated
scans/1 a.nii.gz;truth/1.nii.gz;Ada;one;
"""
CASES = (
    Case(id="one", images=("scans/1 a.nii.gz", "scans/1b.nii.gz"), label="truth/1.nii.gz", patient="Ada"),
    Case(id="three", images=("scans/3a.nii.gz", "scans/3b.nii.gz"), patient="Bo"),
    Case(
        id="two",
        images=("scans/2a.nii.gz", "scans/2b.nii.gz"),
        label="truth/2.nii.gz",
        patient="Ada",
        annotated=("liver",),
    ),
)


def as_json() -> list[dict[str, Any]]:
    rows = []
    for case in CASES:
        row: dict[str, Any] = {"case": case.id, "image": list(case.images), "patient": case.patient}
        rows.append({**row, "label": case.label, "annotated": list(case.annotated) if case.annotated else None})
    return rows


@pytest.mark.parametrize("form", ["csv", "tsv", "joined.csv", "json", "object.json"])
def test_a_table_of_paths_says_it_all(form: str, tmp_path: Path) -> None:
    """Columns of channels, one column with semicolons, or JSON: the cases are the same."""
    labels = {"liver": 1, "spleen": 2}
    text = {
        "csv": TABLE,
        "tsv": TABLE.replace(",", "\t"),
        "joined.csv": "case,image,label,patient,annotated\n"
        + "".join(
            f"{c.id},{';'.join(c.images)},{c.label or ''},{c.patient},{';'.join(c.annotated or ())}\n" for c in CASES
        ),
        "json": json.dumps(as_json()),
        "object.json": json.dumps({"labels": labels, "cases": as_json()}),
    }[form]
    (tmp_path / f"cases.{form}").write_bytes(b"\xef\xbb\xbf" + text.encode())
    if form != "object.json":
        (tmp_path / "autoseg.json").write_text(json.dumps({"labels": labels}))
    dataset, _ = read_dataset(tmp_path / f"cases.{form}")
    assert dataset.cases == CASES
    assert dataset.channels == (("t1", "t2") if form in ("csv", "tsv") else ("channel_0", "channel_1"))
    assert (dataset.root, dataset.labels.integers) == (str(tmp_path), (0, 1, 2))


def test_a_table_with_semicolons_between_columns(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(SEMICOLONS)
    (tmp_path / "autoseg.json").write_text('{"labels": {"liver": 1}}')
    assert read_dataset(tmp_path / "cases.csv")[0].cases[0].patient == "Ada"


@pytest.mark.parametrize(
    "data",
    [
        b"sep=;\r\nimage;label\r\na.mha;a_gt.mha\r\n",
        b'image;label;"remarks, other"\na.mha;a_gt.mha;x\n',
        "image\tlabel\na.mha\ta_gt.mha\n".encode("utf-16"),
    ],
    ids=["sep", "comma in the header", "utf-16"],
)
def test_tables_as_excel_writes_them_are_read(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    (tmp_path / "autoseg.json").write_text('{"labels": {"liver": 1}}')
    (case,) = read_dataset(tmp_path / "t.csv")[0].cases
    assert (case.images, case.label) == (("a.mha",), "a_gt.mha")


def test_cases_without_a_name_are_called_like_their_files_with_as_many_folders_as_needed(tmp_path: Path) -> None:
    (tmp_path / "autoseg.json").write_text('{"labels": {"liver": 1}}')
    (tmp_path / "t.csv").write_text("image,mask\na/t1.nii.gz,a/seg.nii.gz\nb/t1.nii.gz,b/seg.nii.gz\n")
    assert [case.id for case in read_dataset(tmp_path / "t.csv")[0].cases] == ["a", "b"]
    (tmp_path / "t.csv").write_text("image,mask\nx/p_0000.mha,y/p_mask.mha\nx/q_0000.mha,\n")
    assert [case.id for case in read_dataset(tmp_path / "t.csv")[0].cases] == ["p", "q"]


def test_rows_for_tests_and_columns_of_others_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANS", "/archive")
    (tmp_path / "autoseg.json").write_text('{"labels": {"liver": 1}, "channel_names": {"0": "CT"}}')
    (tmp_path / "t.csv").write_text("image,label,part,age\n$SCANS/a.mha,a_gt.mha,train,7\nb.mha,,test,8\n")
    dataset, findings = read_dataset(tmp_path / "t.csv")
    assert dataset.cases == (Case(id="a", images=("/archive/a.mha",), label="a_gt.mha"),)
    assert [case.id for case in dataset.test] == ["b"]
    assert [(finding.severity, finding.found) for finding in findings] == [("note", "age")]
    assert dataset.inferred == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "", "no rows|missing"),
        ("t.csv", "image,label\n", "no rows"),
        ("t.csv", "scan_path,label\na,b\n", "row 2 of the table names no image"),
        ("t.csv", "image,label\na.mha,b.mha,c\n", "row 2 has 3 cells under 2 columns"),
        ("t.csv", "image,image\na.mha,b.mha\n", "twice"),
        ("t.csv", "image,label\n,b.mha\n", "row 2 of the table names no image"),
        ("t.json", "[]", "lists no cases"),
        ("t.json", "{}", "lists no cases"),
        ("t.json", "[1]", "not a valid"),
        ("t.json", '[{"image": {"a": 1}}]', "where a text is expected"),
        ("t.json", "{", "not a valid"),
        ("t.txt", "", "a file is not a data set"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_dataset(tmp_path / name)
    assert name in str(caught.value)


def test_paths_that_lead_nowhere_are_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label\nscans/a.mha,scans/al.mha\n")
    with pytest.raises(InputError, match=r"none of the label files .*scans.al\.mha.*relative to the table"):
        read_dataset(tmp_path / "t.csv")


def test_two_rows_of_one_case_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "autoseg.json").write_text('{"labels": {"liver": 1}}')
    (tmp_path / "t.csv").write_text("case,image,label\nA,1.mha,1l.mha\na,2.mha,2l.mha\nb,3.mha,3l.mha\n")
    dataset, findings = read_dataset(tmp_path / "t.csv")
    assert [case.id for case in dataset.cases] == ["b"]
    assert [finding.found for finding in findings if finding.severity == "error"] == ["1.mha, 2.mha"]


def test_a_label_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    decathlon(tmp_path, labels={"9" * 5000: "x"})
    with pytest.raises(InputError, match="labels must be names with integers"):
        read_dataset(tmp_path)


def test_one_name_twice_is_told_with_both_rows_as_an_editor_counts_them(tmp_path: Path) -> None:
    (tmp_path / "autoseg.json").write_text('{"labels": {"liver": 1}}')
    (tmp_path / "t.csv").write_text("case,image,label\nA,1.mha,1l.mha\n\nb,3.mha,3l.mha\nA,2.mha,2l.mha\n")
    (finding,) = [each for each in read_dataset(tmp_path / "t.csv")[1] if each.severity == "error"]
    assert finding.what == "several rows of the table have the same case name"
    assert finding.found == "row 2: 1.mha; row 5: 2.mha"


def test_who_knows_only_integers_may_say_what_was_annotated_by_them(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a.mha", "b.mha", "c.mha"], ["al.mha", "bl.mha", "cl.mha"], (1, 7))
    rows = "case,image,label,annotated\na,a.mha,al.mha,1;7\nb,b.mha,bl.mha,\nc,c.mha,cl.mha,7\n"
    (tmp_path / "t.csv").write_text(rows)
    (tmp_path / "autoseg.json").write_text('{"annotated": {"b": [1]}}')
    dataset, findings = read_dataset(tmp_path / "t.csv")
    assert [case.annotated for case in dataset.cases] == [("label_1", "label_7"), ("label_1",), ("label_7",)]
    (tmp_path / "t.csv").write_text(rows.replace("1;7", "9"))
    findings = read_dataset(tmp_path / "t.csv")[1]
    assert [(each.case, each.found) for each in findings if each.severity == "error"] == [("a", "9")]

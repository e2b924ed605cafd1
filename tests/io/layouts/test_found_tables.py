"""Folders that hold a table of their paths, and what counts as the data set's folder then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoseg.errors import InputError
from autoseg.io.layouts import read_dataset
from autoseg.workspace import Workspace, folders_of
from tests.io.layouts.trees import write_tree

IMAGES, LABELS = [f"raw/s{n}/scan.mha" for n in range(3)], [f"raw/s{n}/truth.nii.gz" for n in range(3)]
ROWS = [(f"c{n}", image, label, f"P{n // 2}") for n, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True))]
TABLE = "case,image,label,patient\n" + "".join(",".join(row) + "\n" for row in ROWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "study", IMAGES, LABELS)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_table_in_a_folder_is_used(form: str, folder: Path) -> None:
    listed = [dict(zip(("case", "image", "label", "patient"), row, strict=True)) for row in ROWS]
    (folder / f"cases.{form}").write_text(TABLE if form == "csv" else json.dumps(listed))
    (folder / "participants.tsv").write_text("participant_id\tage\nP0\t3\n")
    (folder / "scores.csv").write_text("image,dice\nraw/s0/scan.mha,0.5\n")
    (folder / "splits_final.json").write_text('[{"train": ["c0", "c1"], "val": ["c2"]}]')
    dataset, findings = read_dataset(folder)
    assert [(case.id, case.patient) for case in dataset.cases] == [("c0", "P0"), ("c1", "P0"), ("c2", "P1")]
    assert dataset.layout == f"a folder with a table of paths: cases.{form}"
    assert (dataset.name, findings) == ("study", [])
    assert folders_of(dataset) >= {folder}  # that was named, so nothing is written into it


def test_of_several_tables_one_must_be_named(folder: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text(TABLE)
    with pytest.raises(InputError, match=r"2 tables of paths .*a\.csv, b\.csv.*Name the table"):
        read_dataset(folder)
    assert len(read_dataset(folder / "b.csv")[0].cases) == 3


def test_a_table_that_leads_nowhere_is_not_used_and_told(folder: Path) -> None:
    for file in folder.glob("raw/*/truth.nii.gz"):
        file.rename(file.with_name("scan_seg.nii.gz"))
    (folder / "old.csv").write_text("image,label\n/gone/a.mha,/gone/b.mha\n")
    dataset, findings = read_dataset(folder)
    assert dataset.layout == "one folder for each case"
    assert [(each.severity, each.file, each.found) for each in findings] == [("warning", "old.csv", "/gone/a.mha")]


def test_a_file_that_is_not_there_does_not_widen_the_data_sets_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "cases.csv").write_text(TABLE.replace(IMAGES[0], "nowhere.mha"))
    dataset, _ = read_dataset(folder / "cases.csv")
    assert folders_of(dataset) == {folder / f"raw/s{n}" for n in range(3)}
    Workspace(folder / "workspace").check_dataset(dataset)

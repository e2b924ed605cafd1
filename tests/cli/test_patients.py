"""``plan --group-by`` on real files: said once, remembered, reported, and never on both sides of a fold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autoseg.files import read_document
from autoseg.values import Fold, Patients, Split, encode
from autoseg.workspace import Workspace
from tests.command_line import failure, invoke
from tests.conftest import TINY_PRESET

#: Names that tell of three patients with two visits each.
VISITS = [f"P{patient:02d}_t{visit}" for patient in (7, 8, 9) for visit in (0, 1)]
#: Names that tell nothing.
PLAIN = ["ant", "bee", "cat", "dog", "eel", "fox"]


def renamed(phantoms: Path, folder: Path, names: list[str]) -> Path:
    """The phantoms' data set under other names."""
    for kind, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            shutil.copy(phantoms / kind / f"phantom_{index:03d}{suffix}", folder / kind / f"{name}{suffix}")
    description = json.loads((phantoms / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "numTraining": len(names)}))
    return folder


@pytest.fixture
def visits(phantoms, tmp_path) -> Path:
    return renamed(phantoms, tmp_path / "Dataset002_Visits", VISITS)


@pytest.fixture
def plain(phantoms, tmp_path) -> Path:
    return renamed(phantoms, tmp_path / "Dataset003_Plain", PLAIN)


@pytest.fixture
def plan(tmp_path, capsys):
    """Plans into one workspace; returns the lines about patients, and the workspace."""

    def run(dataset: Path, *arguments: str, name: str = "W") -> tuple[list[str], Workspace]:
        capsys.readouterr()
        command = ["plan", dataset, "-w", tmp_path / name, "--preset", TINY_PRESET, "--name", "tiny", "-c", "2d"]
        assert invoke([*command, "--device", "cpu", *arguments]) == 0, capsys.readouterr().err
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if "patient" in line], Workspace(tmp_path / name)

    return run


def divided(workspace: Workspace, patient_of) -> bool:
    split = read_document(Split, workspace.split_path)
    return any({patient_of(case) for case in fold.train} & {patient_of(case) for case in fold.val} for fold in split)


def begin_training(workspace: Workspace) -> None:
    job = workspace.model().fold("2d", "0").job
    job.parent.mkdir(parents=True)
    job.write_text("{}")


def test_visits_that_the_names_tell_are_reported_and_kept_together(visits, plan):
    lines, workspace = plan(visits)
    assert lines == [
        "patients: 3 in 6 cases, by their names (P07: P07_t0, P07_t1; P08: P08_t0, P08_t1; P09: P09_t0, P09_t1); "
        "none stands on both sides of a fold. Not so? --group-by tells."
    ]
    split = read_document(Split, workspace.split_path)
    assert sorted(fold.val for fold in split) == [("P07_t0", "P07_t1"), ("P08_t0", "P08_t1"), ("P09_t0", "P09_t1")]
    assert read_document(Patients, workspace.patients_path).source == "names"
    assert plan(visits)[0] == lines


def test_nothing_is_said_where_every_case_is_its_own(plain, plan):
    lines, workspace = plan(plain)
    assert lines == []
    assert set(read_document(Patients, workspace.patients_path).patient_of.values()) == set(PLAIN)


def test_a_pattern_overrules_the_names_and_is_remembered(visits, plan):
    for arguments in (["--group-by", ".*"], []):
        lines, workspace = plan(visits, *arguments)
        assert lines == ["patients: one for each of 6 cases, by the pattern '.*'."]
        assert len(read_document(Split, workspace.split_path)) == 5


def test_a_table_groups_names_that_tell_nothing(plain, plan, tmp_path):
    (tmp_path / "who.csv").write_text("image;patient\n" + "".join(f"{name}_0000.nii.gz;{name[1]}\n" for name in PLAIN))
    lines, workspace = plan(plain, "--group-by", str(tmp_path / "who.csv"))
    assert lines == [
        f"patients: 4 in 6 cases, by {tmp_path / 'who.csv'} (e: bee, eel; o: dog, fox); "
        "none stands on both sides of a fold."
    ]
    assert not divided(workspace, lambda case: case[1])
    assert plan(plain)[0] == lines


def test_a_rule_that_comes_before_any_training_makes_the_folds_anew(plain, plan, tmp_path):
    """As if it had been given at first."""
    (tmp_path / "who.csv").write_text("case,patient\n" + "".join(f"{name},{name[1]}\n" for name in PLAIN))
    _, workspace = plan(plain)
    assert divided(workspace, lambda case: case[1])
    plan(plain, "--group-by", str(tmp_path / "who.csv"))
    assert not divided(workspace, lambda case: case[1])
    _, at_once = plan(plain, "--group-by", str(tmp_path / "who.csv"), name="V")
    assert workspace.split_path.read_bytes() == at_once.split_path.read_bytes()


def test_a_rule_that_comes_after_a_training_is_refused_if_the_folds_divide_a_patient(plain, plan, capsys, tmp_path):
    _, workspace = plan(plain)
    begin_training(workspace)
    before = {path: path.read_bytes() for path in workspace.path.glob("*.json")}
    (tmp_path / "who.csv").write_text("case,patient\n" + "".join(f"{name},{name in PLAIN[:3]}\n" for name in PLAIN))
    text = failure(capsys, "plan", plain, "-w", workspace.path, "--group-by", tmp_path / "who.csv")
    assert "patient False (dog, eel, fox), True (ant, bee, cat)" in text
    assert "another workspace with -w" in text
    assert "without --group-by" in text
    assert {path: path.read_bytes() for path in workspace.path.glob("*.json")} == before


def test_folds_of_the_data_set_that_divide_visits_are_warned_of_and_refused_against_a_pattern(visits, plan, capsys):
    brought = (Fold(train=tuple(VISITS[::2]), val=tuple(VISITS[1::2])),)
    (visits / "splits_final.json").write_bytes(encode(brought))
    (warning, _, line), workspace = plan(visits)
    assert warning.startswith("  - the folds train on one case of a patient and hold out another")
    assert "3 on both sides of a fold" in line
    assert read_document(Split, workspace.split_path) == brought
    text = failure(capsys, "plan", visits, "-w", workspace.path, "--group-by", r"P\d+")
    assert "P07 (P07_t0, P07_t1)" in text


def test_a_new_visit_joins_its_patient(visits, plan):
    _, workspace = plan(visits)
    before = read_document(Split, workspace.split_path)
    begin_training(workspace)
    shutil.copy(visits / "imagesTr" / "P08_t0_0000.nii.gz", visits / "imagesTr" / "P08_t2_0000.nii.gz")
    shutil.copy(visits / "labelsTr" / "P08_t0.nii.gz", visits / "labelsTr" / "P08_t2.nii.gz")
    _, workspace = plan(visits)
    after = read_document(Split, workspace.split_path)
    for mine, theirs in zip(before, after, strict=True):
        assert theirs.val == (*mine.val, "P08_t2") if "P08_t0" in mine.val else theirs.val == mine.val


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("(", "not a regular expression"),
        ("P07", "names no patient for 4 of 6 annotated cases; found P08_t0, P08_t1, P09_t0, P09_t1"),
        ("P", "6 cases of 1 patient"),
        ("nowhere.csv", "there is no such table"),
        ("", "names no patient for 6 of 6"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused_and_nothing_is_planned(group_by, message, visits, tmp_path, capsys):
    assert message in failure(capsys, "plan", visits, "-w", tmp_path / "W", "--group-by", group_by)
    assert not (tmp_path / "W" / "workspace.json").exists()

"""``autoseg check``: all planted defects come out of one run, in a text kept whole; what is safe is fixed, elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.values import CheckReport, Dataset, decode
from tests import command_line
from tests.conftest import TINY_PRESET
from tests.planted import EXPECTED, FIXED, ORGAN, UNFIXABLE, write_planted

GOLDEN = Path(__file__).parent / "golden" / "planted_defects.txt"


def invoke(*arguments: object) -> int:
    """Runs a command; returns the exit code."""
    return command_line.invoke(arguments)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def array(file: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    return write_planted(tmp_path / "Dataset099_Planted")


@pytest.fixture
def fixable(planted: Path) -> Path:
    """The planted data set without what nobody can fix safely."""
    for name in UNFIXABLE:
        for folder in ("imagesTr", "labelsTr"):
            for ending in ("_0000.nii.gz", "_0001.nii.gz", ".nii.gz"):
                (planted / folder / f"{name}{ending}").unlink(missing_ok=True)
    return planted


def test_all_planted_defects_come_out_of_one_run(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """After an intended change, write the text anew (AUTOSEG_WRITE_GOLDEN=1) and read the difference."""
    assert invoke("check", planted, "-w", tmp_path / "w") == 2
    text = capsys.readouterr().out
    if os.environ.get("AUTOSEG_WRITE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")
    assert invoke("plan", planted, "-w", tmp_path / "w") == 2
    assert text in capsys.readouterr().err  # planning checks by itself, and says the same


def test_every_planted_defect_is_a_finding_with_a_remedy_and_nothing_else_is(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(planted)
    assert invoke("check", planted, "-w", tmp_path / "w", "--json") == 2
    report = decode(CheckReport, capsys.readouterr().out)
    left = list(report.findings)
    for case, severity, part in EXPECTED:
        matching = [each for each in left if (each.case, each.severity) == (case, severity) and part in str(each)]
        assert len(matching) == 1, f"{case}: {part}: {matching}"
        left.remove(matching[0])
    # the copy of a broken case is broken likewise; the image of a mask that was copied is not
    assert [(each.case, each.what) for each in left] == [
        ("undeclared_copy", "the label file holds values that the data set does not declare")
    ]
    assert all(each.remedy for each in report.findings)
    assert {each.case for each in report.findings if each.fix} == set(FIXED)
    assert len(EXPECTED) >= 18
    assert contents(planted) == before


def test_fixed_and_rid_of_what_cannot_be_fixed_the_data_set_plans(
    fixable: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    workspace, before = tmp_path / "w", contents(fixable)
    plan = ("plan", fixable, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny")
    assert invoke(*plan) == 2
    assert "5 cases can be fixed safely: --fix" in capsys.readouterr().err
    assert invoke(*plan, "--fix") == 0
    text = capsys.readouterr().out
    for case, done in FIXED.items():
        assert any(f"case {case}: fixed: " in line and done in line for line in text.splitlines()), case
    dataset = decode(Dataset, (workspace / "dataset.json").read_bytes())
    labels = {case.id: case.label for case in dataset.cases}
    fixed = {case for case, label in labels.items() if label and Path(label).is_relative_to(workspace / "fixed")}
    assert fixed == set(FIXED) - {"swapped"}  # which needs no new file
    swapped = next(case for case in dataset.cases if case.id == "swapped")
    assert (swapped.images, swapped.label) == (("labelsTr/swapped.nii.gz",), "imagesTr/swapped_0000.nii.gz")
    assert contents(fixable) == before
    for case in fixed:
        mended = array(Path(labels[case]))
        assert set(np.unique(mended)) == {0, ORGAN}, case
        assert mended.shape == array(fixable / "imagesTr" / f"{case}_0000.nii.gz").shape
    assert invoke("preprocess", "2d", "-w", workspace) == 0


def test_planning_again_uses_the_same_fixed_files_and_says_so(
    fixable: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    workspace = tmp_path / "w"
    plan = ("plan", fixable, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny")
    assert invoke("check", fixable, "-w", workspace, "--fix") == 0
    made = contents(workspace / "fixed")
    assert invoke(*plan) == 0  # agreed to once, for this content
    assert capsys.readouterr().out.count(": fixed: ") == 2 * len(FIXED)
    first = (workspace / "dataset.json").read_bytes()
    assert invoke(*plan) == 0
    assert capsys.readouterr().out.count(": fixed: ") == len(FIXED)
    assert (workspace / "dataset.json").read_bytes() == first
    assert contents(workspace / "fixed") == made
    next((workspace / "fixed").glob("mask_255-*/*")).unlink()  # lost: made anew, the same
    assert invoke(*plan) == 0
    assert contents(workspace / "fixed") == made
    assert invoke(*plan, "--no-fix") == 2
    assert "5 cases can be fixed safely" in capsys.readouterr().err


def test_a_file_that_changed_since_it_was_fixed_is_not_silently_replaced(
    fixable: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    workspace = tmp_path / "w"
    plan = ("plan", fixable, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny")
    assert invoke(*plan, "--fix") == 0
    old = set(contents(workspace / "fixed"))
    file = fixable / "labelsTr" / "mask_255.nii.gz"
    image = SimpleITK.ReadImage(str(file))
    image[0, 0, 0] = 255
    SimpleITK.WriteImage(image, str(file))
    capsys.readouterr()
    assert invoke("preprocess", "2d", "-w", workspace) == 2  # not with the outdated file
    assert "case mask_255: files have changed since they were fixed" in capsys.readouterr().err
    assert invoke(*plan) == 2  # nor is the new content fixed unasked
    text = capsys.readouterr().err
    assert "case mask_255: the case was fixed before, but its files or labels have changed" in text
    assert "1 error," in text
    assert invoke(*plan, "--fix") == 0
    new = set(contents(workspace / "fixed"))
    assert len(new - old) == 1
    assert len(old - new) == 1  # the outdated file is gone
    assert array(workspace / "fixed" / next(iter(new - old)))[0, 0, 0] == ORGAN
    image[0, 0, 0] = 0
    SimpleITK.WriteImage(SimpleITK.Cast(image > 0, SimpleITK.sitkUInt8) * ORGAN, str(file))  # corrected by hand
    assert invoke(*plan) == 0
    labels = {case.id: case.label for case in decode(Dataset, (workspace / "dataset.json").read_bytes()).cases}
    assert labels["mask_255"] == "labelsTr/mask_255.nii.gz"


def test_a_sound_data_set_has_exit_code_0_and_a_next_step(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert invoke("check", phantoms, "-w", tmp_path / "w") == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "Dataset001_Phantom: 6 cases, 6 with labels: 0 errors, 0 warnings, 0 notes\nNext: autoseg plan "
    )
    assert invoke("check", phantoms, "-w", tmp_path / "w", "--json") == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_equal_images_stand_on_one_side_of_every_fold(fixable: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    assert invoke("plan", fixable, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny", "--fix") == 0
    folds = json.loads((workspace / "splits_final.json").read_text())
    assert all(("twin_a" in fold["val"]) == ("twin_b" in fold["val"]) for fold in folds)
    assert sum("twin_a" in fold["val"] for fold in folds) == 1

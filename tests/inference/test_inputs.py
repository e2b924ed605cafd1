"""Images on their way to the network: handed over in files that are gone afterwards, also after a kill."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import CasesFailedError
from autoseg.executors import Executor, SerialExecutor, ThreadExecutor
from autoseg.inference.folder import predict_files
from autoseg.inference.inputs import PrepareInput, hand_over_folder
from autoseg.io.case_work import CaseFiles
from autoseg.io.cases import read_image
from autoseg.io.formats import format_of
from autoseg.logs import SilentLogger
from autoseg.preprocessing.forward import preprocess_image
from autoseg.processes.executor import ProcessExecutor
from autoseg.values import Case
from tests.inference.test_cases import THRESHOLD, make_plan, make_predictor, scan, write_scan


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, list[Case]]:
    folder = tmp_path / "images"
    return folder, [write_scan(folder, f"case_{seed}", scan(seed)) for seed in range(3)]


def test_the_array_is_what_preprocessing_gives_and_is_removed_after_use(scans, tmp_path: Path) -> None:
    plan = make_plan(spacing=(4.0, 2.0, 2.0), scheme="zscore")
    task = PrepareInput(plan=plan, configuration="tiny", root=str(scans[0]), folder=str(tmp_path))
    case = scans[1][1]
    prepared = task(CaseFiles.of(case, scans[0]))
    volume = read_image(case, scans[0], plan.channels)
    image, record = preprocess_image(volume, plan, plan.configuration("tiny"), case_id=case.id)
    with prepared.image() as array:
        np.testing.assert_array_equal(array, image)
        assert isinstance(array, np.memmap)
    assert prepared.record == record
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize(
    "make",
    [SerialExecutor, lambda: ThreadExecutor(2), lambda: ProcessExecutor(2)],
    ids=["serial", "threads", "processes"],
)
def test_every_executor_predicts_the_same_names_the_bad_case_and_leaves_nothing(scans, tmp_path: Path, make) -> None:
    folder, cases = scans
    (folder / "case_1.nii.gz").write_bytes(b"this is no image")
    executor: Executor = make()
    target = tmp_path / "out"
    with pytest.raises(CasesFailedError, match="case_1") as caught:
        predict_files(make_predictor(make_plan()), make_plan(), "k", cases, folder, target, SilentLogger(), executor)
    assert set(caught.value.failures) == {"case_1"}
    for name in ("case_0", "case_2"):
        image = format_of(Path("x.nii.gz")).read(folder / f"{name}.nii.gz")
        labels = format_of(Path("x.nii.gz")).read(target / f"{name}.nii.gz")
        np.testing.assert_array_equal(labels.array, image.array > THRESHOLD)
    assert sorted(path.name for path in target.iterdir()) == [
        "autoseg-prediction.json",
        "case_0.nii.gz",
        "case_2.nii.gz",
        "run.json",
    ]


def test_what_a_killed_run_left_is_removed_and_what_another_uses_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".prepared-0123456789ab"
    left.mkdir()
    (left / "case.npy").write_bytes(b"x" * 1000)
    (left / ".lock").touch()
    before = time.time() - 3600
    os.utime(left, (before, before))
    with hand_over_folder(tmp_path) as first:
        assert not left.exists()
        os.utime(first, (before, before))
        with hand_over_folder(tmp_path) as second:
            assert first.is_dir()
            assert first != second
        assert not second.exists()
    assert list(tmp_path.iterdir()) == []

"""Commands run their cases in worker processes: a crash of a native library costs one case, which is named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import SimpleITK

from tests.cli.test_bad_input import invoke
from tests.conftest import TINY_PRESET

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="crashes have other names")


@pytest.fixture
def glaring(phantoms: Path, tmp_path: Path) -> Path:
    """The phantoms, one of them with a voxel that the fragile normalizer does not survive."""
    folder = shutil.copytree(phantoms, tmp_path / "Dataset002_Glaring")
    file = folder / "imagesTr" / "phantom_003_0000.nii.gz"
    image = SimpleITK.ReadImage(str(file))
    image[0, 0, 0] = 30_000
    SimpleITK.WriteImage(image, str(file))
    return folder


def plan(dataset: Path, workspace: Path, *more: str) -> int:
    wish = ["--normalization", "MRI=tests.processes.plugs:fragile"]
    return invoke(
        ["plan", dataset, "-w", workspace, "--preset", TINY_PRESET, "-c", "2d", "--device", "cpu", *wish, *more]
    )


def test_a_crash_costs_its_case_and_mending_costs_only_it(
    glaring: Path, phantoms: Path, tmp_path: Path, capsys
) -> None:
    workspace = tmp_path / "W"
    assert plan(glaring, workspace) == 0, capsys.readouterr().err
    assert invoke(["preprocess", "-w", workspace]) == 1
    error = capsys.readouterr().err
    assert "case phantom_003: preprocess 2d: the worker process crashed (SIGSEGV)" in error
    assert "1 of 6 cases failed, the others are done" in error
    assert "traceback" not in error.lower()
    assert len(list(workspace.glob("preprocessed/*/*/record.json"))) == 5
    events = [json.loads(line) for line in (workspace / "logs" / "preprocess.jsonl").read_text().splitlines()]
    assert [event["signal"] for event in events if event["event"] == "worker_lost"] == ["SIGSEGV"]
    assert [event["at_once"] for event in events if event["event"] == "cases_at_once"]
    shutil.copy(phantoms / "imagesTr" / "phantom_003_0000.nii.gz", glaring / "imagesTr")
    assert invoke(["preprocess", "-w", workspace]) == 0
    events = [json.loads(line) for line in (workspace / "logs" / "preprocess.jsonl").read_text().splitlines()]
    assert [(event["made"], event["kept"]) for event in events if event["event"] == "preprocessed"][-1] == (1, 5)


def test_without_workers_the_command_works_in_its_own_process(phantoms: Path, tmp_path: Path, capsys) -> None:
    for workers in ("0", "1"):
        assert plan(phantoms, tmp_path / workers, "--workers", workers) == 0, capsys.readouterr().err
        assert invoke(["preprocess", "-w", tmp_path / workers, "--workers", workers]) == 0
    alone, apart = (
        sorted(path for path in (tmp_path / workers).glob("preprocessed/*/*/*") if path.suffix in (".npy", ".chunks"))
        for workers in "01"
    )
    assert len(alone) == len(apart) == 24
    assert [file.read_bytes() for file in alone] == [file.read_bytes() for file in apart]
    fingerprints = [(tmp_path / workers / "fingerprint.json").read_bytes() for workers in "01"]
    assert fingerprints[0] == fingerprints[1]

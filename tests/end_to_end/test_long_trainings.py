"""Real ``autoseg train`` processes: killed thirty times, ended from another terminal, limited in hours, extended."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.files import write_document
from autoseg.networks.weights import load_tensors
from autoseg.values import ExecutionPath
from autoseg.workspace import FoldFolder, Workspace
from tests.command_line import failure, invoke
from tests.conftest import TINY_PRESET
from tests.training.test_loop import assert_same_weights

PROGRAM = [sys.executable, "-c", "from autoseg.cli import main; main()"]
TRAIN = ["train", "2d", "0", "--device", "cpu", "--workers", "0"]

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(phantoms: Path, tmp_path: Path) -> Path:
    """A workspace with a plan that trains many iterations a second."""
    folder = tmp_path / "workspace"
    options = [
        "--preset",
        TINY_PRESET,
        "-c",
        "2d",
        "--patch-size",
        "2d=16,16",
        "--device",
        "cpu",
        "--yes",
        "-w",
        folder,
    ]
    assert invoke(["plan", phantoms, *options]) == 0
    return folder


def fold_of(workspace: Path) -> FoldFolder:
    """The training's folder; how the network runs is not left to a measurement."""
    folder = Workspace(workspace).model().fold("2d", "0")
    if not folder.execution.is_file():
        path = ExecutionPath(device="cpu", channels_last=True, threads=1, reason="chosen before")
        write_document(folder.execution, path)
    return folder


def length(folder: FoldFolder) -> dict:
    return json.loads(folder.length.read_text())


def started(workspace: Path, *options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [*PROGRAM, *TRAIN, "-w", str(workspace), *map(str, options)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def wait_until(condition, process: subprocess.Popen, seconds: float = 120) -> bool:
    """Waits for a condition, looked at a thousand times a second; False if the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.001)
    return True


def test_finish_on_a_training_that_was_stopped_and_then_extend(workspace: Path, capsys) -> None:
    folder, train = fold_of(workspace), [*TRAIN, "-w", workspace]
    process = started(workspace, "--iterations", 5000)
    assert wait_until(folder.checkpoint.is_file, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert not folder.model.exists()
    assert "has not ended yet" in failure(capsys, *train, "--extend", 20)
    assert invoke([*train, "--finish"]) == 0
    end = length(folder)["end"]
    assert 25 < end < 5000
    assert folder.summary.is_file()
    before = folder.model.read_bytes()
    assert invoke([*train, "--finish"]) == 0  # nothing is left to do
    assert folder.model.read_bytes() == before
    assert invoke([*train, "--extend", 20]) == 0
    assert length(folder)["end"] == length(folder)["trained"] == end + 20
    assert folder.model.read_bytes() != before
    assert folder.summary.is_file()
    assert "give --epochs or --extend, not both" in failure(capsys, *train, "--epochs", 1, "--extend", 20)


def test_a_running_training_is_ended_from_another_terminal(workspace: Path) -> None:
    folder = fold_of(workspace)
    process = started(workspace, "--until-plateau")
    assert wait_until(folder.checkpoint.is_file, process)
    asked = subprocess.run([*PROGRAM, *TRAIN, "-w", str(workspace), "--finish"], capture_output=True, text=True)
    assert asked.returncode == 0
    assert "it was asked to end" in asked.stderr
    assert process.wait(300) == 0
    assert length(folder)["reason"] == "somebody asked for it"
    assert folder.summary.is_file()
    assert not folder.stop_file.exists()


def test_hours_are_kept(workspace: Path) -> None:
    """By the training's own count of its seconds, in which the scoring is not contained but foreseen."""
    folder, hours = fold_of(workspace), 30 / 3600
    process = started(workspace, "--hours", hours)
    assert process.wait(300) == 0, process.stderr.read()
    assert folder.summary.is_file()
    assert "run out" in length(folder)["reason"]
    assert 10 < load_tensors(folder.checkpoint)[1]["seconds"] < 40  # a busy machine is not steady


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_thirty_kills_at_random_instants_end_in_the_same_weights(workspace: Path, tmp_path: Path) -> None:
    """A third of them while a file of the training is half-written."""
    folder, draw = fold_of(workspace), random.Random(0)
    kills = within_saves = 0
    while kills < 30:
        process = started(workspace, "--iterations", 1500)
        known = folder.checkpoint.stat().st_mtime_ns if folder.checkpoint.is_file() else 0
        half_written = kills % 3 == 0

        def moved_on(known: int = known) -> bool:
            return folder.checkpoint.is_file() and folder.checkpoint.stat().st_mtime_ns != known

        def writing() -> bool:
            return any(folder.path.glob(".[0-9a-f]*-*.safetensors"))

        assert wait_until(writing if half_written else moved_on, process), process.stderr.read()
        if not half_written:
            time.sleep(draw.uniform(0, 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        kills += 1
        within_saves += writing()
    process = started(workspace, "--iterations", 1500)
    assert process.wait(600) == 0, process.stderr.read()
    assert within_saves >= 5
    killed = folder.path.rename(tmp_path / "killed")
    fold_of(workspace)
    process = started(workspace, "--iterations", 1500)
    assert process.wait(600) == 0, process.stderr.read()
    assert_same_weights(FoldFolder(killed).model, folder.model)

"""``autoseg train`` in two processes of torchrun: the same files as in one, and one end for both."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.files import write_document
from autoseg.values import ExecutionPath
from autoseg.workspace import FoldFolder, Workspace
from tests.command_line import invoke
from tests.conftest import TINY_PRESET
from tests.training.test_ranks import TORCHRUN, assert_close, run_together

TRAIN = ["-m", "autoseg", "train", "2d", "0", "--device", "cpu", "--workers", "0"]
LOSS = """
import os
from autoseg.training.losses import DiceCrossEntropy

class Failing(DiceCrossEntropy):
    calls = 0

    def sums(self, logits, target, looked_for=None):
        self.calls += 1
        if self.calls > 4 and os.environ.get("RANK") == RANK:
            END
        return super().sums(logits, target, looked_for)
"""


@pytest.fixture
def workspace(phantoms: Path, tmp_path: Path) -> Path:
    """A workspace with a plan that trains many iterations a second."""
    folder, patch = tmp_path / "workspace", ["-c", "2d", "--patch-size", "2d=16,16"]
    options = ["--preset", TINY_PRESET, *patch, "--device", "cpu", "--yes", "-w", folder]
    assert invoke(["plan", phantoms, *options]) == 0
    fold_of(folder)
    return folder


def fold_of(workspace: Path) -> FoldFolder:
    """The training's folder; how the network runs is not left to a measurement."""
    folder = Workspace(workspace).model().fold("2d", "0")
    if not folder.execution.is_file():
        write_document(folder.execution, ExecutionPath(device="cpu", threads=1, reason="chosen before"))
    return folder


def logged(workspace: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (workspace / "logs" / "train.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves_and_tell_it_once(workspace: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(workspace, alone)
    options = ["--iterations", "12", "--json"]
    done = run_together([*TRAIN, *options, "-w", workspace])
    assert done.returncode == 0, done.stderr
    one = subprocess.run([sys.executable, *TRAIN, *options, "-w", alone], capture_output=True, text=True, check=True)
    scores, expected = json.loads(done.stdout), json.loads(one.stdout)
    dice = [each["2d/0"]["foreground_mean"]["Dice"] for each in (scores, expected)]
    assert dice[0] == pytest.approx(dice[1], abs=0.01)

    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if not path.name.endswith(".lock") and ".lease" not in path.parts)
        return {str(path.relative_to(folder)) for path in found}

    assert files(workspace) == files(alone)
    assert_close(fold_of(workspace).model, fold_of(alone).model)
    assert [entry["event"] for entry in logged(workspace)].count("command") == 1
    assert [entry["event"] for entry in logged(workspace)].count("trained") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_is_asked_to_stop_and_the_training_goes_on_in_one_process(workspace: Path, number: int) -> None:
    command = [*TORCHRUN, *TRAIN, "--iterations", "3000", "-w", str(workspace)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not fold_of(workspace).checkpoint.is_file():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, told = process.communicate()
    assert process.returncode != 0
    assert told.count("stopped ") == 1, told  # between two iterations, or while a whole image was scored
    at = next(entry["iteration"] for entry in logged(workspace) if entry["event"] == "interrupted")
    assert invoke([*TRAIN[2:], "--finish", "-w", workspace]) == 0
    assert next(entry["iteration"] for entry in logged(workspace) if entry["event"] == "resumed") == at
    assert fold_of(workspace).summary.is_file()


def failing(workspace: Path, rank: int, end: str) -> tuple[str, list[str], float]:
    """A training in which one process fails: what was told, with what torchrun says of it left out, and how long it took."""
    folder = workspace.parent / "code"
    folder.mkdir()
    code = LOSS.replace("== RANK", f"== '{rank}'").replace("END", end)
    (folder / "failing.py").write_text(code)
    options = ["--loss", "failing:Failing", "--iterations", "3000", "-w", workspace]
    begin = time.monotonic()
    ended = run_together([*TRAIN, *options], PYTHONPATH=f"{folder}:{Path.cwd()}")
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return ended.stderr, errors, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_ends_both_with_one_message(workspace: Path, rank: int) -> None:
    told = "from autoseg.errors import InputError; raise InputError('this part has failed')"
    stderr, errors, seconds = failing(workspace, rank, told)
    named = "process 2 of 2: " if rank else ""
    assert errors == [f"error: {named}this part has failed"], stderr
    assert "autoseg/training" not in stderr  # the only traceback is torchrun's
    assert seconds < 120
    assert logged(workspace)[-1]["error"] == f"{named}this part has failed"


@pytest.mark.slow
def test_a_process_that_is_killed_ends_both_and_the_first_says_so(workspace: Path) -> None:
    stderr, errors, _ = failing(workspace, 1, "os.kill(os.getpid(), 9)")
    assert len(errors) == 1, stderr
    assert "ended without a word" in errors[0]

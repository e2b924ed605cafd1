"""``autoseg run`` with all four configurations, killed again and again at random, comes to the same as one that was not."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autoseg.files import write_document
from autoseg.values import ExecutionPath
from autoseg.workspace import ModelFolder, Workspace
from tests.command_line import children, invoke
from tests.end_to_end.test_run import PROGRAM, failures_told, options

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc; what a killed process held is free at once"),
]
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
PATCHES = ["2d=16,16", *(f"{name}=4,8,8" for name in CONFIGURATIONS[1:])]
CASES = [f"phantom_{index:03d}" for index in range(6)]
FOLDS = [{"train": CASES[3:], "val": CASES[:3]}, {"train": CASES[:3], "val": CASES[3:]}]
#: Kills of one test, each after so many more lines of the log at most, of the 130 or so of a whole run.
KILLS, MOST_LINES = 8, 20


def planned(phantoms: Path, workspace: Path) -> ModelFolder:
    """All four are planned, with two folds; how the networks run is not left to the number of processors."""
    patches = [part for patch in PATCHES for part in ("--patch-size", patch)]
    assert invoke(["plan", phantoms, *options(workspace, *patches)]) == 0
    model = Workspace(workspace).model()
    assert set(model.plan().names) == set(CONFIGURATIONS)
    Workspace(workspace).split_path.write_text(json.dumps(FOLDS))
    for configuration in CONFIGURATIONS:
        for fold in range(len(FOLDS)):
            path = ExecutionPath(device="cpu", channels_last=True, threads=1, reason="chosen before")
            write_document(model.fold(configuration, str(fold)).execution, path)
    return model


class Runs:
    """Starts of one run, without pictures, which would take most of the time."""

    def __init__(self, phantoms: Path, model: ModelFolder, folder: Path, *more: object) -> None:
        self.workspace = model.path.parent.parent
        arguments = options(self.workspace, *more)
        self.command = [*PROGRAM, "run", str(phantoms), *map(str, arguments)]
        (folder / "none").mkdir(exist_ok=True)
        (folder / "none" / "matplotlib.py").write_text("raise ImportError('no pictures')\n")
        paths = [str(folder / "none"), os.environ["PYTHONPATH"]]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self.said = folder / "said.txt"

    def begin(self) -> subprocess.Popen[bytes]:
        """One start, with a process group of its own."""
        with self.said.open("wb") as file:
            return subprocess.Popen(
                self.command, stdout=file, stderr=file, env=self.environment, start_new_session=True
            )

    def lines(self) -> int:
        """Of all logs: how far everything is, however fast this machine is."""
        return sum(file.read_bytes().count(b"\n") for file in self.workspace.glob("logs/*.jsonl"))

    def wait(self, process: subprocess.Popen[bytes], lines: int, seconds: float) -> bool:
        """Waits for so many more lines and so long after; whether it still runs then."""
        before = self.lines()
        while process.poll() is None and self.lines() < before + lines:
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.poll() is None


def kill(process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Kills the whole group, or one process that it has started, if there is one; tells what."""
    victims = children(process.pid)
    if victims and chance.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(victims), signal.SIGKILL)
        return "a child"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "the group"


def outcome(model: ModelFolder) -> dict[str, Any]:
    """All files that must be equal to the byte, and the selection without what was measured on the way."""
    weights = {
        f"{name} {fold}": model.fold(name, str(fold)).model.read_bytes()
        for name in CONFIGURATIONS
        for fold in range(len(FOLDS))
    }
    selection = json.loads((model.path / "selection.json").read_text())
    for candidate in selection["evidence"]["candidates"]:
        assert all(cost > 0 for cost in candidate.pop("cost").values())
    return {**weights, "postprocessing": (model.path / "postprocessing.json").read_bytes(), "selection": selection}


@pytest.fixture(scope="module")
def expected(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run that was let alone."""
    folder = tmp_path_factory.mktemp("alone")
    model = planned(phantoms, folder / "workspace")
    runs = Runs(phantoms, model, folder)
    assert runs.begin().wait() == 0, runs.said.read_text()
    return outcome(model)


@pytest.mark.parametrize(("more", "seed"), [([], 6), (["--jobs", "2"], 7)], ids=["here", "processes"])
def test_killed_at_random_all_four_come_to_the_same(
    expected: dict[str, Any], phantoms: Path, tmp_path: Path, more: list[str], seed: int
) -> None:
    """Of a run in processes, what was started goes on when the run itself is killed; its end is waited for."""
    model = planned(phantoms, tmp_path / "workspace")
    runs, chance, kills = Runs(phantoms, model, tmp_path, *more), random.Random(seed), list[str]()
    starts, process = 1, runs.begin()
    while process.poll() is None or process.returncode != 0:
        if process.poll() is not None:
            assert starts < 4 * KILLS, runs.said.read_text()
            starts, process = starts + 1, runs.begin()
        if len(kills) >= KILLS:
            process.wait()
            kills.append(f"then exit code {process.returncode}")
            assert "Traceback" not in runs.said.read_text()
        elif runs.wait(process, chance.randint(0, MOST_LINES), chance.uniform(0.0, 1.0)):
            at = runs.lines()
            kills.append(f"{kill(process, chance)} after {at} lines")
    print(f"{starts} starts; {'; '.join(kills)}")
    assert failures_told(runs.said.read_text()) == []
    assert len(kills) >= KILLS
    found = outcome(model)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []

"""The examples do what they say, and stay short."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, TINY_PRESET

EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(path):
    assert len(path.read_text().splitlines()) <= 60


def autoseg(folder: Path, *arguments: object) -> str:
    command = [sys.executable, "-c", "from autoseg.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--recipe", "own_recipe:recipe"], marks=pytest.mark.slow),
        ["--network", "own_network:TwoConvolutions", "--loss", "own_loss:Focal"],
        pytest.param(
            ["--optimizer", "own_optimizer:nadam", "--schedule", "own_schedule:cosine"], marks=pytest.mark.slow
        ),
    ],
    ids=lambda options: options[0],
)
def test_own_part_trains_and_predicts(options, phantoms, tmp_path):
    """A file of the user's own beside the data, named on the command line, is used in training and prediction."""
    for path in (PROJECT / "examples").glob("own_*.py"):
        shutil.copy(path, tmp_path)
    autoseg(tmp_path, "plan", phantoms, "--preset", TINY_PRESET, "--name", "base", "-c", "2d")
    train = ["train", "2d", "0", "--iterations", "3", "--device", "cpu", *options]
    assert "mean of labels" in autoseg(tmp_path, *train)
    assert "of the plan base+" in autoseg(tmp_path, "predict", "-i", phantoms / "imagesTs", "-o", "out")


def test_whole_way_in_python(tmp_path):
    script = PROJECT / "examples" / "whole_way_in_python.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "Dice of new cases" in done.stdout

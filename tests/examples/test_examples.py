"""The examples do what they say, and stay short."""

from __future__ import annotations

import json
import os
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
    ("example", "place"),
    [
        pytest.param("own_recipe:recipe", ("augmentation", "recipe"), marks=pytest.mark.slow),
        ("own_network:TwoConvolutions", ("network", "architecture")),
    ],
)
def test_own_part_trains_and_predicts(example, place, phantoms, tmp_path):
    """A file of the user's own beside the data, named in plan.json, is used in training and prediction."""
    (tmp_path / f"{example.partition(':')[0]}.py").write_text(
        (PROJECT / "examples" / f"{example.partition(':')[0]}.py").read_text()
    )
    autoseg(tmp_path, "plan", phantoms, "--preset", TINY_PRESET, "--name", "own", "-c", "2d")
    path = tmp_path / "autoseg-workspace" / "models" / "own" / "plan.json"
    plan = json.loads(path.read_text())
    plan["configurations"][0][place[0]][place[1]] = example
    path.write_text(json.dumps(plan))
    assert "mean of labels" in autoseg(tmp_path, "train", "2d", "0", "--iterations", "3", "--device", "cpu")
    assert "2 label maps" in autoseg(tmp_path, "predict", "-i", phantoms / "imagesTs", "-o", "out")


def test_whole_way_in_python(tmp_path):
    script = PROJECT / "examples" / "whole_way_in_python.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "Dice of new cases" in done.stdout

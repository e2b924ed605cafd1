"""The examples do what they say, and stay short."""

from __future__ import annotations

import json
import runpy
import sys

import pytest

from tests.command_line import invoke
from tests.conftest import PROJECT, TINY_PRESET

EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(path):
    assert len(path.read_text().splitlines()) <= 60


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that must succeed prints."""
    capsys.readouterr()
    code = invoke(arguments)
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


@pytest.mark.parametrize(
    ("example", "place"),
    [
        pytest.param("own_recipe:recipe", ("augmentation", "recipe"), marks=pytest.mark.slow),
        ("own_network:TwoConvolutions", ("network", "architecture")),
    ],
)
def test_own_part_trains_and_predicts(example, place, phantoms, tmp_path, monkeypatch, capsys):
    """A file of the user's own beside the data, named in plan.json, is used in training and prediction."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])  # the command itself looks in its folder
    (tmp_path / f"{example.partition(':')[0]}.py").write_text(
        (PROJECT / "examples" / f"{example.partition(':')[0]}.py").read_text()
    )
    output(capsys, "plan", phantoms, "--preset", TINY_PRESET, "--name", "own", "-c", "2d")
    path = tmp_path / "autoseg-workspace" / "models" / "own" / "plan.json"
    plan = json.loads(path.read_text())
    plan["configurations"][0][place[0]][place[1]] = example
    path.write_text(json.dumps(plan))
    assert "mean of labels" in output(capsys, "train", "2d", "0", "--iterations", "3", "--device", "cpu")
    assert "2 label maps" in output(capsys, "predict", "-i", phantoms / "imagesTs", "-o", "out")


def test_whole_way_in_python(tmp_path, monkeypatch, capsys):
    script = PROJECT / "examples" / "whole_way_in_python.py"
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    assert "Dice of new cases" in capsys.readouterr().out

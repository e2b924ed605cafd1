"""The examples do what they say, and stay short."""

from __future__ import annotations

import runpy
import shutil
import sys

import pytest

from tests.command_line import invoke
from tests.conftest import PROJECT, TINY_PRESET

EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def modules_of_examples():
    """What is imported from a user's folder is forgotten afterwards."""
    before = set(sys.modules)
    yield
    for name in [name for name in sys.modules if name.startswith("own_") and name not in before]:
        del sys.modules[name]


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
def test_own_part_trains_and_predicts(options, phantoms, tmp_path, monkeypatch, capsys):
    """A file of the user's own beside the data, named on the command line, is used in training and prediction."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])  # the command itself looks in its folder
    for path in (PROJECT / "examples").glob("own_*.py"):
        shutil.copy(path, tmp_path)
    output(capsys, "plan", phantoms, "--preset", TINY_PRESET, "--name", "base", "-c", "2d")
    train = ["train", "2d", "0", "--iterations", "3", "--device", "cpu", *options]
    assert "mean of labels" in output(capsys, *train)
    assert "of the plan base+" in output(capsys, "predict", "-i", phantoms / "imagesTs", "-o", "out")


def test_whole_way_in_python(tmp_path, monkeypatch, capsys):
    script = PROJECT / "examples" / "whole_way_in_python.py"
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    assert "Dice of new cases" in capsys.readouterr().out

"""The command line as a whole: exit codes and messages, and examples that can be typed."""

from __future__ import annotations

import errno
import re
import shlex

import click
import pytest

from autoseg import __version__
from autoseg.cli import autoseg
from autoseg.errors import (
    CasesFailedError,
    FindingsError,
    InputError,
    InterruptedRunError,
    MissingPartError,
    UnknownNameError,
)
from tests.command_line import invoke

BAD_CASE = {"a": InputError("broken")}


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (CasesFailedError("predict", BAD_CASE, 3), 1, "error: predict: 1 of 4 cases failed"),
        (CasesFailedError("predict", BAD_CASE, 0), 2, "error: predict: 1 of 1 case failed"),
        (CasesFailedError("predict", {"a": RuntimeError("x")}, 0), 1, "error: predict: 1 of 1 case failed"),
        (InputError("wrong", remedy="Mend it."), 2, "error: wrong. Mend it."),
        (UnknownNameError("no fold 9"), 2, "error: no fold 9"),
        (FindingsError("bad data", ["one", "two"]), 2, "  - one\n  - two"),
        (MissingPartError("no SimpleITK"), 2, "error: no SimpleITK"),
        (click.UsageError("not both"), 2, "not both"),
        (click.BadParameter("too large"), 2, "too large"),
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), 1, "error: No space left on device [a.json]"),
        (InterruptedRunError("stopped after 7"), 130, "stopped after 7"),
        (KeyboardInterrupt(), 130, "repeat the command to go on"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_end_of_a_command_has_its_exit_code_and_one_message(error, code, text, monkeypatch, capsys):
    @click.command()
    def probe() -> None:
        if error is not None:
            raise error

    monkeypatch.setitem(autoseg.commands, "probe", probe)
    assert invoke(["probe"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("error:") <= 1
    assert code != 130 or "error" not in err
    assert "Traceback" not in err


def test_an_error_that_nobody_expected_is_not_hidden(monkeypatch):
    @click.command()
    def probe() -> None:
        raise ZeroDivisionError("of a spacing")

    monkeypatch.setitem(autoseg.commands, "probe", probe)
    with pytest.raises(ZeroDivisionError, match="of a spacing"):
        invoke(["probe"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian", "2d", "0"],
        ["train", "2d"],
        ["train", "2d", "0", "--iterations", "0"],
        ["train", "2d", "0", "--epochs", "1", "--iterations", "1"],
        ["train", "2d", "0", "--device", "tpu"],
        ["plan", "D", "--gpu-memory", "much"],
        ["predict", "-i", "images"],
        ["evaluate", "-p", "predictions", "--surprise"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_refused_with_help_and_code_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert invoke(arguments) == 2
    assert "Usage: autoseg" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "text"), [("--version", __version__), ("--help", "autoseg plan"), ("-h", "predict")]
)
def test_version_and_help_are_answers(option, text, capsys):
    assert invoke([option]) == 0
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("name", autoseg.commands)
def test_the_example_in_the_help_of_a_command_can_be_typed(name):
    """That there is one is tested with the imports, in ``tests/architecture``."""
    command = autoseg.commands[name]
    (example,) = re.findall(r"Example: autoseg (.+)", command.help)
    first, *arguments = shlex.split(example)
    assert first == name
    assert command.make_context(name, arguments).params.keys() == {each.name for each in command.params if each.name}

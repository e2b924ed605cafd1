"""The command line as the console script runs it, within the test's own process."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoseg.cli import main


def invoke(arguments: Sequence[object]) -> int:
    """Runs a command; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["autoseg", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The error text of a command that must fail with exit code 2."""
    capsys.readouterr()
    code = invoke(arguments)
    text = capsys.readouterr().err
    assert code == 2, text
    assert "Traceback" not in text
    return text


def children(parent: int) -> list[int]:
    """Processes that a process has started, and those of these, on Linux."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found += [int(folder.name), *children(int(folder.name))]
    return found

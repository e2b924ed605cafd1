"""A file that ends whoever reads it costs its case, in every command, and wherever it is read first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from autoseg.io.layouts.integers import integers_in
from autoseg.processes.executor import ProcessExecutor
from tests.cli.test_bad_input import invoke
from tests.processes.glass import installed_glass, write_glass_tree
from tests.processes.plugs import CRACKED, CRACKED_HEADER

__all__ = ["installed_glass"]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="crashes have other names"),
    pytest.mark.usefixtures("installed_glass"),
]
each_crack = pytest.mark.parametrize("crack", [CRACKED, CRACKED_HEADER])


@each_crack
def test_the_integers_of_all_other_files_are_found(crack: int, tmp_path: Path) -> None:
    folder = write_glass_tree(tmp_path / "D", {"a": 2, "b": crack, "c": 3})
    files = sorted((folder / "labels").iterdir())
    with ProcessExecutor(2) as executor:
        assert sorted(integers_in([*files, files[0]], executor=executor)) == [[0, 1, 2], [0, 1, 3]]


@each_crack
def test_a_check_without_declared_labels_names_the_case(crack: int, tmp_path: Path, capsys) -> None:
    folder, workspace = write_glass_tree(tmp_path / "D", {"a": 2, "b": crack, "c": 3}), tmp_path / "W"
    assert invoke(["check", folder, "-w", workspace, "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)["findings"]
    errors = [finding for finding in findings if finding["severity"] == "error"]
    assert [error["case"] for error in errors] == ["b"]
    assert "the worker process crashed (SIGSEGV)" in errors[0]["what"]
    known = json.loads((workspace / "label_integers.json").read_text())
    assert sorted(known.values()) == [[0, 1, 2], [0, 1, 3]]
    assert len(list(workspace.glob("fingerprints/*"))) == 2


@each_crack
def test_a_conversion_names_the_case_and_mended_only_that_is_made(crack: int, tmp_path: Path, capsys) -> None:
    folder, target = write_glass_tree(tmp_path / "D", {"a": 2, "b": crack, "c": 3}), tmp_path / "T"
    assert invoke(["convert", folder, target, "--workers", "2"]) == 1
    error = capsys.readouterr().err
    assert "1 of 3 cases failed, the others are done" in error
    assert "case imagesTr/b: " in error
    assert "the worker process crashed (SIGSEGV)" in error
    assert "traceback" not in error.lower()
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == ["a.nii.gz", "c.nii.gz"]
    assert not (target / "dataset.json").exists()
    whole = (folder / "labels" / "a.glass").read_bytes()
    (folder / "labels" / "b.glass").write_bytes(whole)
    assert invoke(["convert", folder, target, "--workers", "2"]) == 0
    assert "1 written now" in capsys.readouterr().out
    assert len(json.loads((target / "dataset.json").read_text())["labels"]) == 4

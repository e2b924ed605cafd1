"""From a name to code: entry points, files of the user's own, and names that lead nowhere."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

import pytest

from autoseg.errors import AutosegError, MissingPartError, UnknownNameError
from autoseg.plugins import KINDS, available, load

PROJECT = Path(__file__).parent.parent


def declared() -> dict[str, dict[str, str]]:
    """Kind to name to object, as setup.cfg declares them."""
    file = configparser.ConfigParser()
    file.optionxform = str  # type: ignore[assignment,method-assign]
    file.read(PROJECT / "setup.cfg")
    found = {}
    for group, lines in file["options.entry_points"].items():
        if group.startswith("autoseg."):
            pairs = (line.split("=", 1) for line in lines.strip().splitlines())
            found[group.removeprefix("autoseg.")] = {name.strip(): path.strip() for name, path in pairs}
    return found


def test_every_declared_kind_is_a_known_kind_and_none_is_empty() -> None:
    assert set(declared()) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_declared_plug_is_installed_and_is_what_its_path_names(kind: str) -> None:
    assert set(declared()[kind]) <= set(available(kind))
    for name, path in declared()[kind].items():
        assert load(kind, name) is load(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_names_come_sorted(kind: str) -> None:
    assert list(available(kind)) == sorted(available(kind))


def test_a_file_in_the_current_folder_is_a_plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_metric.py").write_text("def half(): return 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load("metric", "my_own_metric:half")() == 0.5
    sys.modules.pop("my_own_metric")


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"metric 'dise'.*dice.*module:name"):
        load("metric", "dise")


def test_a_module_without_that_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"'json'.*'nothing'"):
        load("metric", "json:nothing")


def test_code_that_is_not_installed_is_a_missing_part() -> None:
    with pytest.raises(MissingPartError, match="no_such_package"):
        load("metric", "no_such_package:metric")


def test_a_plug_whose_own_imports_are_missing_is_a_missing_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPartError, match="no_such_package"):
        load("metric", "needs_more:metric")


@pytest.mark.parametrize("name", ["", ":", ":dice", "json:", ".relative:dice", "a b:c"])
def test_a_name_that_is_no_name_is_refused_as_input(name: str) -> None:
    with pytest.raises(AutosegError):
        load("metric", name)


def test_an_unknown_kind_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        available("flavour")

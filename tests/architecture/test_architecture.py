"""The house keeps its shape: layers, light imports, deletable planners, no pickle, readable sizes."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SOURCES = sorted(path for package in ("autoseg", "planners") for path in (PROJECT / package).rglob("*.py"))
HEAVY = {"torch", "numpy", "scipy", "SimpleITK", "skimage", "batchgenerators", "safetensors", "tqdm"}


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_layers_and_contracts():
    """import-linter's contracts of setup.cfg."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", "setup.cfg", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stdout


def test_every_finding_names_a_remedy():
    """Wherever one is made."""
    without = [
        f"{path.relative_to(PROJECT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
        if not any(keyword.arg == "remedy" for keyword in node.keywords)
    ]
    assert not without


def test_help_imports_nothing_heavy():
    statement = "from autoseg.cli import autoseg\nautoseg.main(['--help'], standalone_mode=False)"
    assert not loaded_after(statement) & HEAVY


@pytest.mark.parametrize(
    "command",
    [
        "check",
        "plan",
        "preprocess",
        "train",
        "predict",
        "export",
        "evaluate",
        "convert",
        "demo",
        "run",
        "status",
        "compare",
    ],
)
def test_help_of_commands_imports_nothing_heavy_and_has_an_example(command):
    code = f"from autoseg.cli import autoseg\nautoseg.main(['{command}', '--help'], standalone_mode=False)"
    assert not loaded_after(code) & HEAVY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert f"Example: autoseg {command}" in done.stdout


def test_importing_autoseg_is_light():
    assert not loaded_after("import autoseg") & (HEAVY | {"click", "msgspec"})


@pytest.mark.parametrize("module", ["autoseg.values", "autoseg.planning", "planners.unet"])
def test_values_and_planning_know_no_torch(module):
    assert not loaded_after(f"import {module}") & {"torch", "SimpleITK", "scipy", "numpy"}


def test_computing_needs_no_image_library():
    """GPU machines may lack SimpleITK: these import, and do not load it, where it is blocked."""
    modules = "autoseg.training.loop, autoseg.networks.unet, autoseg.inference.predict, autoseg.pipeline"
    statement = f"sys.modules['SimpleITK'] = None\nimport {modules}\ndel sys.modules['SimpleITK']"
    assert "SimpleITK" not in loaded_after(statement)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_source_is_readable_and_safe(path):
    """A module says what it is; files and functions have a readable size; nothing unpickles or evaluates."""
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the module has no docstring"
    assert len(text.splitlines()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 - documented <= 60, f"{node.name} is too long"
    assert not re.search(
        r"\bpickle\b(?!\s*(anywhere|in|,|\.|:))|weights_only\s*=\s*False|allow_pickle\s*=\s*True", text
    )
    assert not re.search(r"\b(eval|exec)\(", re.sub(r"\.eval\(\)", "", text))


def test_torch_unpickles_in_one_place_only_and_only_weights():
    """Models of others are read there; see ``autoseg.networks.foreign``."""
    loads = [(path, line) for path in SOURCES for line in path.read_text().splitlines() if "torch.load(" in line]
    assert [path.name for path, _ in loads] == ["foreign.py"]
    assert "weights_only=True" in loads[0][1]


def test_nothing_names_machine_paths():
    for path in SOURCES:
        assert not re.search(r"/(home|root|work|Users)/", path.read_text()), path


def test_everything_that_is_asked_for_is_pinned():
    """Two installations are equal: what setup.cfg names stands in constraints.txt, but for torch (the Makefile's)."""
    settings = configparser.ConfigParser()
    settings.read(PROJECT / "setup.cfg")
    asked = "\n".join([settings["options"]["install_requires"], *settings["options.extras_require"].values()])
    names = [
        re.match(r"[\w.-]+", line) for line in asked.splitlines() if line and not line.startswith(("#", "autoseg["))
    ]
    pinned = {_same_name(line.partition("==")[0]) for line in (PROJECT / "constraints.txt").read_text().splitlines()}
    assert {_same_name(name[0]) for name in names if name} - pinned == {"torch"}


def _same_name(name: str) -> str:
    """A package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()

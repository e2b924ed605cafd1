"""One workspace in which fold 0 of a 3D and of a 2D configuration is trained; tests work on copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET


@pytest.fixture(scope="session")
def trained_pair(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six iterations of ``3d_fullres`` and four of ``2d``."""
    workspace = Workspace(tmp_path_factory.mktemp("pair") / "W")
    pipeline.plan_dataset(phantoms, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    for configuration, iterations in (("3d_fullres", 6), ("2d", 4)):
        pipeline.train(workspace, configuration, "0", iterations=iterations, device="cpu", probabilities=False)
    return workspace.path


@pytest.fixture
def pair_workspace(trained_pair: Path, tmp_path: Path) -> Workspace:
    """A copy."""
    return Workspace(shutil.copytree(trained_pair, tmp_path / "W"))

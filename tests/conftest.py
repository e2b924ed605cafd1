"""What several tests share: small phantoms, a plan whose network trains in seconds, and the real data if it is here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from autoseg.phantom import write_phantom_dataset

PROJECT = Path(__file__).parent.parent
#: A planner plug of the tests' own: the default planner with a network of 8 and 16 features.
TINY_PRESET = "tests.end_to_end.tiny:TinyPlanner"


def pytest_configure(config: pytest.Config) -> None:
    """Subprocesses of tests find the tests' own plugs, too; tests that run side by side have a processor each.

    Their programs then start one thread each, too. Two threads each on two processors would wait for each other in every
    small step, which takes several times as long.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[int(worker.removeprefix("gw")) % len(processors)]})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Torch computes in one thread, whatever an earlier test has set: most tensors here are too small for two."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of six small phantoms, each in another orientation; tests do not write to it."""
    folder = tmp_path_factory.mktemp("data") / "Dataset001_Phantom"
    write_phantom_dataset(folder, 6, shape=(8, 24, 24), spacing=(5.0, 2.0, 2.0))
    return write_phantom_dataset(folder, 2, seed=100, train=False, shape=(8, 24, 24), spacing=(5.0, 2.0, 2.0))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the checkout; the test is skipped where it is absent."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not here")
    return folder


@pytest.fixture(scope="session")
def trained_pair(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with folds 0 and 1 of two configurations, trained for a moment; tests work on a copy."""
    from autoseg import pipeline
    from autoseg.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("pair") / "W")
    pipeline.plan_dataset(phantoms, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    for configuration in ("2d", "3d_fullres"):
        for fold in "01":
            pipeline.train(workspace, configuration, fold, iterations=8, device="cpu")
    return workspace.path

"""A cascade on phantoms, through the real stages: both are trained, and what was seen in training is what predicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg import pipeline
from autoseg.cascade_stage import first_stage_missing, staged_store
from autoseg.errors import InputError, InterruptedRunError
from autoseg.files import read_document
from autoseg.io.case_store import CaseStore
from autoseg.values import Split, TrainJob
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET
from tests.training.test_loop import Listening

CASES = [f"phantom_{index:03d}" for index in range(4)]
FOLDS = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:2], "val": CASES[2:]}]


@pytest.fixture(scope="module")
def first(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of two folds, whose first stage is trained; tests work on copies."""
    workspace = Workspace(tmp_path_factory.mktemp("cascade") / "W")
    options = {"preset": TINY_PRESET, "name": "tiny", "device": "cpu", "memory_gib": 2}
    pipeline.plan_dataset(phantoms, workspace, configurations=["3d_fullres"], **options)
    path = workspace.model().path / "plan.json"
    document = json.loads(path.read_text())
    full = document["configurations"][0]
    spacing = [1.5 * step for step in full["spacing"]]
    document["configurations"] += [
        {"name": "low", "inherits_from": "3d_fullres", "spacing": spacing},
        {
            "name": "second",
            "inherits_from": "3d_fullres",
            "previous_stage": "low",
            "network": {"input_channels": 1 + 3},
        },
    ]
    path.write_text(json.dumps(document))
    workspace.split_path.write_text(json.dumps(FOLDS))
    pipeline.train(workspace, "low", "all", iterations=4, device="cpu")
    return workspace.path


@pytest.fixture(scope="module")
def trained(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with fold 0 of the second stage; tests do not write to it."""
    workspace = Workspace(shutil.copytree(first, tmp_path_factory.mktemp("trained") / "W"))
    pipeline.train(workspace, "second", "0", iterations=4, device="cpu")
    return workspace.path


@pytest.fixture
def workspace(first: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(first, tmp_path / "W"))


def map_of(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_the_second_stage_is_trained_scored_and_kept(trained: Path) -> None:
    folder = Workspace(trained).model().fold("second", "0")
    assert folder.summary.is_file()
    job = read_document(TrainJob, folder.job)
    assert job.previous_keys.keys() == job.case_keys.keys() == set(CASES)
    (stored,) = (trained / "preprocessed").glob("*/predicted_by_low")
    assert {path.name.rpartition("-")[0] for path in stored.iterdir()} == set(CASES)


def test_a_new_image_is_predicted_as_the_same_held_out_case(trained: Path, phantoms: Path, tmp_path: Path) -> None:
    """One path: from files through both stages, and from stored cases with the stored prediction of the first."""
    image = phantoms / "imagesTr" / f"{CASES[1]}_0000.nii.gz"
    made = pipeline.predict(
        image, tmp_path / "out", workspace=Workspace(trained), configuration="second", folds=["0"], device="cpu"
    )
    validation = Workspace(trained).model().fold("second", "0").validation
    one, other = map_of(made.files[CASES[1]]), map_of(validation / f"{CASES[1]}.nii.gz")
    np.testing.assert_array_equal(one, other)
    assert np.unique(one).size > 1

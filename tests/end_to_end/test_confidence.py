"""How far predictions of a real training can be trusted: told alike by command and program, less where images are bad."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg import load_model, pipeline
from autoseg.files import read_document
from autoseg.held_out_files import SelectionFiles, training_images_file
from autoseg.io.formats import format_of
from autoseg.phantom import write_phantom_dataset
from autoseg.statistics import why_not
from autoseg.values import (
    DISAGREEMENT,
    PREDICTION_RECORD,
    AxisMap,
    CalibrationSet,
    PredictionRecord,
    TrainingImages,
    Volume,
)
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET

pytestmark = pytest.mark.slow
OPTIONS = {"shape": (8, 24, 24), "spacing": (5.0, 2.0, 2.0), "stored": AxisMap()}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three folds of 25 phantoms of different quality, trained until that shows in their Dice."""
    folder = write_phantom_dataset(tmp_path_factory.mktemp("data") / "Dataset001_Phantom", 25, **OPTIONS)
    write_phantom_dataset(folder, 6, seed=100, train=False, **OPTIONS)
    for number, file in enumerate(sorted((folder / "imagesTr").glob("*.nii.gz"))):
        format_of(file).write(file, with_noise(read(file), number % 5 * 0.3, seed=number))
    made = Workspace(tmp_path_factory.mktemp("confidence") / "W")
    pipeline.plan_dataset(
        folder, made, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2, configurations=("3d_fullres",)
    )
    for fold in ("0", "1", "2"):
        pipeline.train(made, "3d_fullres", fold, iterations=300, device="cpu")
    pipeline.select_best(made)
    return made


def with_noise(image: Volume, share: float, *, seed: int = 0) -> Volume:
    """The image with noise of that share of its own deviation."""
    noise = np.random.default_rng(seed).normal(scale=share * image.array.std(), size=image.array.shape)
    return Volume(array=image.array + noise.astype(np.float32), geometry=image.geometry)


@pytest.fixture(scope="module")
def images(workspace: Workspace) -> list[Path]:
    return sorted((Path(workspace.dataset().root) / "imagesTs").glob("*_0000.nii.gz"))


def read(file: Path) -> Volume:
    return format_of(file).read(file)


def test_command_and_program_tell_the_same_and_maps_lie_on_the_images_grid(workspace, images, tmp_path) -> None:
    source, target = images[0].parent, tmp_path / "out"
    made = pipeline.predict(source, target, workspace=workspace, device="cpu", disagreement_maps=True)
    record, model = (
        read_document(PredictionRecord, target / PREDICTION_RECORD),
        load_model(workspace.path, device="cpu"),
    )
    for file in images:
        case = file.name.removesuffix("_0000.nii.gz")
        told, found = record.cases[case], model.predict(file, disagreement=True)
        assert (found.confidence, found.warnings) == (told.confidence, told.warnings)
        assert told.confidence.networks == 3
        map_, labels = read(target / DISAGREEMENT / made.files[case].name), read(made.files[case])
        np.testing.assert_array_equal(map_.array[0], found.disagreement)
        assert map_.geometry.shape == labels.geometry.shape == found.geometry.shape
        assert 0 < map_.array.max() <= 65_535
        edges = map_.array[labels.array > 0].mean()  # where something is found there is more to dispute than in air
        assert edges > map_.array[labels.array == 0].mean()
    times = {file: file.stat().st_mtime_ns for file in target.rglob("*.nii.gz")}
    pipeline.predict(source, target, workspace=workspace, device="cpu", disagreement_maps=True)
    assert times == {file: file.stat().st_mtime_ns for file in target.rglob("*.nii.gz")}  # nothing is done twice
    (target / DISAGREEMENT / made.files[case].name).unlink()
    pipeline.predict(source, target, workspace=workspace, device="cpu", disagreement_maps=True)
    assert (target / DISAGREEMENT / made.files[case].name).is_file()


def test_a_spoiled_image_is_predicted_a_lower_dice_and_told(workspace, images) -> None:
    model = load_model(workspace.path, device="cpu")
    for file in images[:3]:
        clean = read(file)
        both = (clean.array, with_noise(clean, 3.0).array)
        before, after = (model.predict(array, spacing=clean.geometry.spacing) for array in both)
        assert after.confidence.mean.predicted_dice < before.confidence.mean.predicted_dice - 0.05
        assert after.confidence.mean.agreement < before.confidence.mean.agreement
        assert any(warning.startswith("poor confidence") for warning in after.warnings)
        assert not any(warning.startswith("poor confidence") for warning in before.warnings)


def test_images_unlike_the_training_are_told_and_those_of_its_kind_are_not(workspace, images) -> None:
    model = load_model(workspace.path, device="cpu")
    assert all(not warning.startswith("the ") for file in images for warning in model.predict(file).warnings)
    usual = read(images[0])
    array, spacing = usual.array, usual.geometry.spacing

    def told(changed: np.ndarray, steps: tuple[float, ...] = spacing) -> str:
        return " ".join(model.predict(changed, spacing=steps).warnings)

    assert "the intensities are far" in told(10 * array)
    assert "the intensities are far" in told(-array)
    assert "size is far" in told(array[:, :2])
    assert "the spacing is far" in told(array, tuple(3 * step for step in spacing))


def test_the_calibration_is_that_of_these_weights_names_nobody_and_travels(workspace, images, tmp_path) -> None:
    path = SelectionFiles(workspace.model()).calibration
    kept = read_document(CalibrationSet, path).candidates["3d_fullres"]
    assert len(kept.mean.dice) == 15
    assert sorted(set(kept.mean.patients)) == list(range(15))
    assert why_not(kept.mean) == ""
    assert all(case.id not in path.read_text() for case in workspace.dataset().cases)
    archive = tmp_path / "model.zip"
    pipeline.export_model(workspace, archive)
    here, there = load_model(workspace.path, device="cpu"), load_model(archive, device="cpu")
    assert there.predict(images[0]).confidence == here.predict(images[0]).confidence
    assert there.predict(-read(images[0]).array, spacing=(5.0, 2.0, 2.0)).warnings  # the ranges travel, too


def test_other_weights_are_not_calibrated_and_old_models_predict_without(workspace, images, tmp_path) -> None:
    copy = Workspace(shutil.copytree(workspace.path, tmp_path / "W"))
    model = copy.model()
    two = load_model(model.path, configuration="3d_fullres", folds=("0", "1"), device="cpu").predict(images[0])
    assert two.confidence.networks == 2
    assert two.confidence.mean.predicted_dice is not None  # each of them was calibrated
    folds = [model.fold("3d_fullres", fold).model for fold in "01"]
    shutil.copy(folds[1], folds[0])
    other = load_model(model.path, configuration="3d_fullres", device="cpu").predict(images[0])
    assert other.confidence.mean.predicted_dice is None
    assert any("are not calibrated" in reason for reason in other.confidence.not_told)
    SelectionFiles(model).calibration.unlink()
    assert read_document(TrainingImages, training_images_file(model)).cases == 25
    training_images_file(model).unlink()
    old = load_model(model.path, configuration="3d_fullres", folds=("1",), device="cpu")
    found = old.predict(-read(images[0]).array, spacing=(5.0, 2.0, 2.0))
    assert not any("intensities" in warning for warning in found.warnings)
    assert found.confidence.mean.agreement is None
    assert found.confidence.not_told == (
        "disagreement cannot be measured: one network predicts alone",
        "no Dice is predicted: nothing was calibrated, which autoseg select does",
    )

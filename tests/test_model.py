"""A model within a program: it answers as the command does, whatever the image comes as, and touches nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg import load_model, pipeline
from autoseg.errors import InputError
from autoseg.io.cases import read_labels
from autoseg.model import Model
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET

BOTH = "2d+3d_fullres"


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("model") / "W")
    pipeline.plan_dataset(phantoms, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    for configuration in ("2d", "3d_fullres"):
        pipeline.train(workspace, configuration, "0", iterations=8, device="cpu")
    return workspace


@pytest.fixture(scope="module")
def selected(trained: Workspace) -> Workspace:
    """One in which the ensemble was chosen."""
    pipeline.select_best(trained)
    return trained


@pytest.fixture(scope="module")
def written(selected: Workspace, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of the new images."""
    target = tmp_path_factory.mktemp("written")
    pipeline.predict(phantoms / "imagesTs", target, workspace=selected, device="cpu")
    return target


@pytest.fixture(scope="module")
def model(selected: Workspace) -> Model:
    return load_model(selected.path, device="cpu")


def images(phantoms: Path) -> list[Path]:
    return sorted((phantoms / "imagesTs").glob("*_0000.nii.gz"))


def expected(file: Path, written: Path) -> np.ndarray:
    return read_labels(written / file.name.replace("_0000", ""), "case").array[0]


def test_files_and_images_in_memory_get_what_the_command_writes(model, phantoms, written) -> None:
    assert images(phantoms)
    for file in images(phantoms):
        label_map = expected(file, written)
        assert label_map.any()
        for image in (file, str(file), [file], SimpleITK.ReadImage(str(file)), nibabel.load(file)):
            prediction = model.predict(image)
            assert np.array_equal(prediction.labels, label_map), type(image)
        before, after = SimpleITK.ReadImage(str(file)), prediction.simpleitk()
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert np.allclose(getattr(after, what)(), getattr(before, what)(), atol=1e-5)
        assert np.array_equal(SimpleITK.GetArrayFromImage(after), label_map)


def test_an_array_is_taken_as_superior_posterior_left(model, phantoms, written) -> None:
    for file in images(phantoms):
        canonical = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(file)), "LPS")
        array, spacing = SimpleITK.GetArrayFromImage(canonical), canonical.GetSpacing()[::-1]
        one = model.predict(array, spacing=spacing).labels
        assert np.array_equal(one, model.predict(array[None].astype(float), spacing=spacing).labels)
        assert np.array_equal(one, model.predict(canonical).labels)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", None])
def test_probabilities_are_those_of_the_labels(selected, phantoms, configuration) -> None:
    model = load_model(selected.model().path, configuration=configuration, device="cpu")
    file = images(phantoms)[0]
    prediction = model.predict(file, probabilities=True)
    probabilities = prediction.probabilities
    assert probabilities.shape == (len(prediction.outputs), *prediction.labels.shape)
    assert prediction.outputs[0] == "background"
    assert np.allclose(probabilities.sum(axis=0), 1, atol=len(probabilities) / 65_535)
    assert np.array_equal(prediction.labels, model.predict(file).labels)
    values = np.array(sorted({0, *prediction.names}))
    if not model._steps:  # postprocessing takes components away
        top = np.sort(probabilities, axis=0)
        sure = top[-1] - top[-2] > 2 / 65_535
        assert np.array_equal(values[probabilities.argmax(axis=0)][sure], prediction.labels[sure])
    assert set(prediction.names.values()) == {label.name for label in model.plan.labels.foreground}


def test_four_threads_get_the_same_masks(model, phantoms, written) -> None:
    results: dict[int, list[np.ndarray]] = {}

    def work(number: int) -> None:
        results[number] = [model.predict(file).labels for file in images(phantoms) * 2]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    for found in results.values():
        for file, labels in zip(images(phantoms) * 2, found, strict=True):
            assert np.array_equal(labels, expected(file, written))


WATCHED = """
import os, sys
import numpy as np
import autoseg
opened, started = [], []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        mode, flags = arguments[1] or "", arguments[2]
        if any(each in mode for each in "wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            opened.append(arguments[0])
    if event.startswith(("subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system", "os.spawn", "os.mkdir",
                         "os.rename", "os.remove", "tempfile.", "shutil.", "socket.")):
        started.append((event, arguments))
model = autoseg.load_model(sys.argv[1], device="cpu")
array = np.random.default_rng(0).normal(size=(8, 24, 24)).astype(np.float32)
sys.addaudithook(watch)
model.predict(array, spacing=(5.0, 2.0, 2.0), probabilities=True)
first = set(sys.modules)
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)) if event in ("open", "import") else None)
model.predict(array, spacing=(5.0, 2.0, 2.0), probabilities=True)
assert not opened and not started, (opened, started)
assert not [each for each in seen if each[0] == "open"], seen
assert set(sys.modules) == first, set(sys.modules) - first
print("nothing touched")
"""


def test_no_file_is_written_and_no_process_started(selected) -> None:
    """Not even in the first prediction; the second one opens nothing and imports nothing at all."""
    done = subprocess.run([sys.executable, "-c", WATCHED, selected.path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "nothing touched", done.stderr


@pytest.mark.parametrize(
    ("image", "spacing", "told"),
    [
        (np.zeros((4, 4, 4)), None, "needs its spacing, 3 millimetres"),
        (np.zeros((4, 4, 4)), (1.0, 1.0), "needs its spacing, 3 millimetres in the order of its axes; 2 are given"),
        (np.zeros((4,)), (1.0,), "an array with 1 axes is not supported"),
        (np.zeros((2, 4, 4, 4)), (1.0, 1.0, 1.0), "wrong number of channels"),
        (np.full((4, 4, 4), np.nan), (1.0, 1.0, 1.0), "NaN"),
        (np.zeros((4, 4, 4)), (1.0, 0.0, 1.0), "spacing must be positive"),
        (np.zeros((4, 4, 4), complex), (1.0, 1.0, 1.0), "complex128 are not supported"),
        ([], None, "there is no image"),
        ({"image": 1}, None, "an image of a kind that is not known"),
        ("nowhere.nii.gz", None, "no such file"),
        (SimpleITK.Image(4, 4, 4, SimpleITK.sitkFloat32), (1.0, 1.0, 1.0), "has its own"),
        (SimpleITK.Image([4, 4, 4], SimpleITK.sitkComplexFloat32), None, "real numbers are"),
    ],
)
def test_what_cannot_be_predicted_is_refused(model, image, spacing, told) -> None:
    with pytest.raises(InputError, match=told):
        model.predict(image, spacing=spacing)


def test_an_exported_archive_is_loaded_and_not_needed_any_more(selected, phantoms, written, tmp_path) -> None:
    archive = tmp_path / "model.zip"
    pipeline.export_model(selected, archive)
    model = load_model(archive, device="cpu")
    archive.unlink()
    for file in images(phantoms):
        assert np.array_equal(model.predict(file).labels, expected(file, written))


def test_a_folder_without_a_model_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="not a workspace"):
        load_model(tmp_path)

"""The main job from a folder of images to scored predictions, through the real commands, with a very small network."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner

from autoseg.cli import autoseg
from tests.conftest import TINY_PRESET


def run(*arguments: object) -> str:
    """Runs a command in this process; its error, if any, is raised."""
    result = CliRunner().invoke(autoseg, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with both configurations planned and trained on fold 0."""
    workspace = tmp_path_factory.mktemp("whole") / "workspace"
    run("plan", phantoms, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny")
    for configuration in ("2d", "3d_fullres"):
        run("train", configuration, "0", "-w", workspace, "--iterations", "12", "--device", "cpu")
    return workspace


def test_plan_is_printed_with_its_reasons(phantoms, tmp_path):
    text = run("plan", phantoms, "-w", tmp_path / "workspace")
    for word in (
        "spacing",
        "patch size",
        "pooling",
        "batch size",
        "zscore",
        "3d_fullres",
        "6 annotated cases",
        "5 folds",
    ):
        assert word in text
    assert (tmp_path / "workspace" / "models" / "default" / "plan.json").is_file()
    assert "Next: autoseg train 3d_fullres 0" in text


def test_training_is_scored_on_original_grids(trained, phantoms):
    for configuration in ("2d", "3d_fullres"):
        folder = trained / "models" / "tiny" / configuration / "fold_0" / "validation"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary.keys() >= {"foreground_mean", "mean", "metric_per_case"}
        for case in summary["metric_per_case"]:
            predicted = SimpleITK.ReadImage(str(folder / case["prediction_file"]))
            reference = SimpleITK.ReadImage(str(phantoms / "labelsTr" / case["reference_file"]))
            assert predicted.GetSize() == reference.GetSize()
            np.testing.assert_allclose(predicted.GetDirection(), reference.GetDirection(), atol=1e-6)
            both = SimpleITK.GetArrayFromImage(predicted), SimpleITK.GetArrayFromImage(reference)
            assert case["metrics"]["1"]["TP"] == int(((both[0] == 1) & (both[1] == 1)).sum())


def test_predict_and_evaluate(trained, phantoms, tmp_path):
    """Best model by default; outputs on the input's own grid; scores of both paths agree."""
    output = tmp_path / "predictions"
    text = run("predict", "-i", phantoms / "imagesTs", "-o", output, "-w", trained)
    assert "2 label maps" in text
    assert "validation Dice" in text
    for file in (phantoms / "imagesTs").iterdir():
        image = SimpleITK.ReadImage(str(file))
        label = SimpleITK.ReadImage(str(output / file.name.replace("_0000", "")))
        assert label.GetSize() == image.GetSize()
        np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(label.GetDirection(), image.GetDirection(), atol=1e-6)
    assert "mean of labels" in run("evaluate", "-p", output, "-r", phantoms / "labelsTs", "-w", trained)
    assert json.loads((output / "summary.json").read_text())["foreground_mean"]["Dice"] is not None


def test_named_model_predicts_from_its_folder_alone(trained, phantoms, tmp_path):
    """A model folder is complete in itself: moved elsewhere, without workspace and data, it predicts the same."""
    moved = shutil.copytree(trained / "models" / "tiny", tmp_path / "moved")
    images = phantoms / "imagesTs"
    run("predict", "-i", images, "-o", tmp_path / "a", "-w", trained, "-c", "3d_fullres", "-f", "0")
    run("predict", "-i", images, "-o", tmp_path / "b", "-m", moved, "-c", "3d_fullres", "-w", tmp_path / "none")
    for file in (tmp_path / "a").glob("*.nii.gz"):
        one, other = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / file.name)))
            for folder in (tmp_path / "a", tmp_path / "b")
        )
        np.testing.assert_array_equal(one, other)


def test_validation_equals_prediction_of_the_same_case(trained, phantoms, tmp_path):
    """The path from files and the path from preprocessed cases give the same label map."""
    validation = trained / "models" / "tiny" / "3d_fullres" / "fold_0" / "validation"
    case = next(validation.glob("*.nii.gz")).name
    image = phantoms / "imagesTr" / case.replace(".nii.gz", "_0000.nii.gz")
    run("predict", "-i", image, "-o", tmp_path, "-w", trained, "-c", "3d_fullres", "-f", "0")
    one, other = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(f))) for f in (validation / case, tmp_path / case)
    )
    np.testing.assert_array_equal(one, other)


def times_of_files(folder: Path) -> dict[Path, int]:
    """Of all but what tells who may write."""
    files = (path for path in folder.rglob("*") if path.is_file() and not {".lock", ".lease"} & {*path.parts})
    return {path: path.stat().st_mtime_ns for path in files}


def test_repeating_a_finished_training_changes_nothing(trained):
    fold = trained / "models" / "tiny" / "2d" / "fold_0"
    before = times_of_files(fold)
    run("train", "2d", "0", "-w", trained, "--device", "cpu")
    after = times_of_files(fold)
    assert before == after


def test_trained_plan_is_not_replaced(trained, phantoms):
    """Plans do not change under their trainings; a new name makes a new plan, and the old one stays usable."""
    with pytest.raises(Exception, match="--name NEW"):
        run("plan", phantoms, "-w", trained, "--preset", "default", "--name", "tiny")
    assert json.loads((trained / "models" / "tiny" / "plan.json").read_text())["planner"] == "tiny"


#: Commands, one after the other, in a process in which a package cannot be imported; ends with the first that fails.
BLOCKED = """
import json, sys
sys.modules[sys.argv[1]] = None
from autoseg.cli import main
for arguments in json.loads(sys.argv[2]):
    sys.argv[1:] = arguments
    main()
"""


def run_without(package: str, *commands: list[object]) -> subprocess.CompletedProcess[str]:
    """Runs commands where a package cannot be imported."""
    arguments = json.dumps([[str(argument) for argument in command] for command in commands])
    program = [sys.executable, "-c", BLOCKED, package, arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_training_and_prediction_work_without_the_planners_package(trained, phantoms, tmp_path):
    """With ``planners/`` blocked, an existing plan trains and predicts; only making one is refused, and named so."""
    workspace = shutil.copytree(trained, tmp_path / "workspace")
    images, output = phantoms / "imagesTs", tmp_path / "out"
    done = run_without(
        "planners",
        ["train", "2d", "1", "--iterations", "2", "--device", "cpu", "-w", workspace],
        ["predict", "-i", images, "-o", output, "-c", "2d", "-f", "1", "-w", workspace],
        ["plan", phantoms, "-w", tmp_path / "new"],
    )
    assert len(list(output.glob("*.nii.gz"))) == 2, done.stderr
    assert done.returncode == 2
    assert "cannot be imported" in done.stderr


def test_training_runs_where_simpleitk_is_missing(trained, tmp_path):
    """A machine with the preprocessed cases but without SimpleITK (and without the data set) trains and scores."""
    workspace = shutil.copytree(trained, tmp_path / "workspace")
    done = run_without("SimpleITK", ["train", "2d", "1", "--iterations", "2", "--device", "cpu", "-w", workspace])
    assert done.returncode == 0, done.stderr
    assert (workspace / "models" / "tiny" / "2d" / "fold_1" / "validation" / "summary.json").is_file()


@pytest.mark.slow
def test_killed_training_ends_in_the_same_weights(trained, tmp_path):
    """SIGKILL at three random moments within the training, the command repeated: the bytes of a run without a kill."""
    calm, killed = (shutil.copytree(trained, tmp_path / name) for name in ("calm", "killed"))
    subprocess.run(_training(calm), capture_output=True, check=True)
    folder = killed / "models" / "tiny" / "3d_fullres" / "fold_1"
    moments = random.Random()
    for _ in range(3):
        saved = _age(folder / "checkpoint.safetensors")
        with subprocess.Popen(_training(killed), stderr=subprocess.DEVNULL) as process:
            while _age(folder / "checkpoint.safetensors") == saved and process.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.5))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "model.safetensors").exists(), "the training ended before the kill"
    subprocess.run(_training(killed), capture_output=True, check=True)
    one, other = (
        workspace / "models" / "tiny" / "3d_fullres" / "fold_1" / "model.safetensors" for workspace in (calm, killed)
    )
    assert one.read_bytes() == other.read_bytes()


def _training(workspace):
    program = "from autoseg.cli import main; main()"
    arguments = ["train", "3d_fullres", "1", "-w", str(workspace), "--iterations", "150", "--device", "cpu"]
    return [sys.executable, "-c", program, *arguments]


def _age(file):
    return file.stat().st_mtime_ns if file.exists() else None


@pytest.mark.parametrize(
    ("labels", "order", "written"),
    [
        ({"background": 0, "organs": [1, 2, 3], "spleen": 2}, [1, 2], {0, 1, 2}),
        ({"background": 0, "liver": 1, "spleen": 2, "ignore": 3}, [], {0, 1, 2}),
    ],
    ids=["regions", "ignore"],
)
def test_regions_and_ignore_label_go_the_whole_way(labels, order, written, phantoms, tmp_path):
    dataset = shutil.copytree(phantoms, tmp_path / "Dataset002_Variant")
    description = json.loads((dataset / "dataset.json").read_text())
    description |= {"labels": labels} | ({"regions_class_order": order} if order else {})
    (dataset / "dataset.json").write_text(json.dumps(description))
    workspace, output = tmp_path / "workspace", tmp_path / "out"
    run("plan", dataset, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny", "-c", "2d")
    run("train", "2d", "0", "-w", workspace, "--iterations", "15", "--device", "cpu")
    run("predict", "-i", dataset / "imagesTs", "-o", output, "-w", workspace)
    run("evaluate", "-p", output, "-r", dataset / "labelsTs", "-w", workspace)
    for file in output.glob("*.nii.gz"):
        assert set(np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))))) <= written
    mean = json.loads((output / "summary.json").read_text())["mean"]
    assert mean.keys() == ({"(1, 2, 3)", "2"} if order else {"1", "2"})


@pytest.mark.parametrize(
    ("names", "swaps", "said"),
    [
        ({"flank_right": 1, "flank_left": 2}, True, "exchanges them"),
        ({"flank_left": 1, "flank_right": 2}, False, "until all of them are confirmed"),
    ],
    ids=["right", "wrong"],
)
def test_sides_of_the_patient_are_found_in_files_and_exchanged_or_left_alone(names, swaps, said, phantoms, tmp_path):
    """The phantom's liver is on the right and its spleen on the left, in six scans of six orientations."""
    dataset = shutil.copytree(phantoms, tmp_path / "Dataset004_Sides")
    description = json.loads((dataset / "dataset.json").read_text())
    description["labels"] = {"background": 0, **names, "spine": 3}
    (dataset / "dataset.json").write_text(json.dumps(description))
    workspace = tmp_path / "workspace"
    text = run("plan", dataset, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny")
    plan = json.loads((workspace / "models" / "tiny" / "plan.json").read_text())
    assert said in plan["reasons"]["left and right"]
    assert any("lies on the patient's right" in warning for warning in plan["warnings"]) is not swaps
    assert "flank_left / flank_right" in " ".join(text.split())
    for configuration in plan["configurations"]:
        mirrored, last = configuration["augmentation"], len(configuration["patch_size"]) - 1
        assert (last in mirrored["mirror_axes"]) == swaps
        assert mirrored["swap_axis"] == (last if swaps else None)
        assert mirrored["swapped_labels"] == ([[2, 1]] if swaps else [])
    run("train", "2d", "0", "-w", workspace, "--iterations", "15", "--device", "cpu")
    run("predict", "-i", dataset / "imagesTs", "-o", tmp_path / "out", "-w", workspace)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_png_images_go_the_whole_way(tmp_path):
    """Flat colour images: one file holds all channels, and label maps are written as PNG."""
    from skimage.io import imread, imsave

    folder, random = tmp_path / "Dataset003_Flat", np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    for index in range(6):
        label = np.zeros((40, 56), np.uint8)
        label[8:24, 10 + index : 30 + index] = 1
        colours = (60 + 120 * label[..., None] + random.integers(0, 40, (40, 56, 3))).astype(np.uint8)
        imsave(folder / "imagesTr" / f"cell_{index}_0000.png", colours, check_contrast=False)
        imsave(folder / "labelsTr" / f"cell_{index}.png", label, check_contrast=False)
    shutil.copy(folder / "imagesTr" / "cell_0_0000.png", folder / "imagesTs" / "new_0000.png")
    channels = {str(index): "rgb_to_0_1" for index in range(3)}
    description = {"channel_names": channels, "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(description))
    workspace, output = tmp_path / "workspace", tmp_path / "out"
    run("plan", folder, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny")
    run("train", "2d", "0", "-w", workspace, "--iterations", "20", "--device", "cpu")
    run("predict", "-i", folder / "imagesTs", "-o", output, "-w", workspace)
    predicted = imread(output / "new.png")
    assert predicted.shape == (40, 56)
    assert set(np.unique(predicted)) <= {0, 1}

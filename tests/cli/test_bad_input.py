"""Bad input: one clear error that names case and remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.cli import main
from tests.conftest import TINY_PRESET


@pytest.fixture
def dataset(phantoms, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(phantoms, tmp_path / "Dataset001_Phantom")


@pytest.fixture(scope="module")
def planned(phantoms, tmp_path_factory) -> Path:
    """A workspace with a plan and no training."""
    workspace = tmp_path_factory.mktemp("planned") / "workspace"
    invoke(["plan", phantoms, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny"])
    return workspace


def invoke(arguments, monkeypatch=None) -> int:
    """Runs the command line as the console script does; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["autoseg", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def failure(capsys, *arguments) -> str:
    """The error text of a command that must fail with exit code 2."""
    capsys.readouterr()
    code = invoke(arguments)
    text = capsys.readouterr().err
    assert code == 2, text
    assert "Traceback" not in text
    return text


def edit(path: Path, **changes) -> None:
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, **changes}))


def replace_image(path: Path, change) -> None:
    """Rewrites an image file through a function of its SimpleITK image."""
    SimpleITK.WriteImage(change(SimpleITK.ReadImage(str(path))), str(path))


def test_missing_dataset_json(dataset, tmp_path, capsys):
    (dataset / "dataset.json").unlink()
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    assert "no dataset.json" in text
    assert '"channel_names"' in text  # the remedy shows a minimal one
    assert not (tmp_path / "workspace").exists()


def test_all_problems_are_listed_together(dataset, tmp_path, capsys):
    """Ten planted defects come out of one run, each with its case."""
    images, labels = dataset / "imagesTr", dataset / "labelsTr"

    def with_nan(image):
        array = SimpleITK.GetArrayFromImage(image).astype(np.float32)
        array[0, 0, 0] = np.nan
        result = SimpleITK.GetImageFromArray(array)
        result.CopyInformation(image)
        return result

    def with_label_nine(image):
        image[0, 0, 0] = 9
        return image

    def with_other_spacing(image):
        image.SetSpacing([2 * step for step in image.GetSpacing()])
        return image

    replace_image(images / "phantom_000_0000.nii.gz", with_nan)
    replace_image(labels / "phantom_001.nii.gz", with_label_nine)
    replace_image(labels / "phantom_002.nii.gz", with_other_spacing)
    replace_image(labels / "phantom_003.nii.gz", lambda image: image[:-2, :, :])
    (images / "phantom_004_0000.nii.gz").write_bytes((images / "phantom_004_0000.nii.gz").read_bytes()[:200])
    shutil.copy(images / "phantom_005_0000.nii.gz", images / "phantom_005_0001.nii.gz")
    shutil.copy(labels / "phantom_005.nii.gz", labels / "orphan.nii.gz")
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    for case, what in {
        "phantom_000": "NaN",
        "phantom_001": "9",
        "phantom_002": "spacing",
        "phantom_003": "shape",
        "phantom_004": "cannot read",
        "phantom_005": "too many channel files",
        "orphan": "no image",
    }.items():
        assert any(case in line and what in line for line in text.splitlines()), f"{case}: {what}\n{text}"
    assert not (tmp_path / "workspace" / "workspace.json").exists()


def test_missing_channel(dataset, tmp_path, capsys):
    edit(dataset / "dataset.json", channel_names={"0": "T1", "1": "T2"})
    shutil.copy(dataset / "imagesTr" / "phantom_000_0000.nii.gz", dataset / "imagesTr" / "phantom_000_0001.nii.gz")
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    assert "phantom_001" in text
    assert "T1, T2" in text
    assert "phantom_000:" not in text


def test_unknown_configuration_and_fold(planned, capsys):
    assert "2d or 3d_fullres" in failure(capsys, "train", "3d_superres", "0", "-w", planned)
    assert "0 to 4" in failure(capsys, "train", "2d", "9", "-w", planned)
    assert "0 to 4" in failure(capsys, "train", "2d", "zero", "-w", planned)
    assert not list((planned / "models" / "tiny").glob("*/fold_*"))


def test_no_workspace_and_no_plan(tmp_path, capsys):
    assert "autoseg plan" in failure(capsys, "train", "2d", "0", "-w", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert "autoseg plan" in failure(
        capsys, "predict", "-i", tmp_path, "-o", tmp_path / "o", "-w", tmp_path / "nowhere"
    )


def test_nothing_trained_yet(planned, phantoms, tmp_path, capsys):
    text = failure(capsys, "predict", "-i", phantoms / "imagesTs", "-o", tmp_path / "out", "-w", planned)
    assert "autoseg train" in text
    assert not (tmp_path / "out").exists()


def test_output_inside_input(planned, dataset, capsys, tmp_path):
    model = planned / "models" / "tiny" / "2d" / "fold_0"
    train(planned)
    assert model.is_dir()
    images = dataset / "imagesTs"
    for target in (images, images / "predictions"):
        assert "inside" in failure(capsys, "predict", "-i", images, "-o", target, "-w", planned)
    assert sorted(path.name for path in images.iterdir()) == ["phantom_100_0000.nii.gz", "phantom_101_0000.nii.gz"]
    single = images / "phantom_100_0000.nii.gz"
    assert "input folder" in failure(capsys, "predict", "-i", single, "-o", images, "-w", planned)


def train(workspace: Path) -> None:
    assert invoke(["train", "2d", "0", "-w", workspace, "--iterations", "2", "--device", "cpu"]) == 0


def test_one_bad_image_costs_one_case(planned, dataset, tmp_path, capsys):
    """Exit code 1, the bad case named, the good one written; mended and repeated, only the bad one is done."""
    train(planned)
    broken, good = (dataset / "imagesTs" / f"phantom_10{index}_0000.nii.gz" for index in (0, 1))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    arguments = ["predict", "-i", dataset / "imagesTs", "-o", tmp_path / "out", "-w", planned]
    capsys.readouterr()
    assert invoke(arguments) == 1
    assert "phantom_100" in capsys.readouterr().err
    written = tmp_path / "out" / good.name.replace("_0000", "")
    first = written.stat().st_mtime_ns
    broken.write_bytes(whole)
    assert invoke(arguments) == 0
    assert written.stat().st_mtime_ns == first
    assert (tmp_path / "out" / "phantom_100.nii.gz").is_file()


def test_wrong_channel_count_at_prediction(planned, dataset, tmp_path, capsys):
    train(planned)
    shutil.copy(dataset / "imagesTs" / "phantom_100_0000.nii.gz", dataset / "imagesTs" / "phantom_100_0001.nii.gz")
    text = failure(capsys, "predict", "-i", dataset / "imagesTs", "-o", tmp_path / "out", "-w", planned)
    assert "phantom_100" in text
    assert not (tmp_path / "out").exists()


def test_damaged_plan_names_the_field(planned, tmp_path, capsys):
    workspace = shutil.copytree(planned, tmp_path / "workspace")
    path = workspace / "models" / "tiny" / "plan.json"
    plan = json.loads(path.read_text())
    plan["configurations"][0]["patch_size"] = [7, 7]
    path.write_text(json.dumps(plan))
    text = failure(capsys, "train", "2d", "0", "-w", workspace)
    assert "multiple" in text
    assert "$.configurations[0]" in text


def test_foreign_code_needs_trust(planned, phantoms, tmp_path, capsys):
    """A model folder from elsewhere cannot make prediction import and call anything."""
    train(planned)
    model = shutil.copytree(planned / "models" / "tiny", tmp_path / "model")
    plan = json.loads((model / "plan.json").read_text())
    plan["configurations"][0]["network"]["architecture"] = "os:system"
    (model / "plan.json").write_text(json.dumps(plan))
    text = failure(capsys, "predict", "-i", phantoms / "imagesTs", "-o", tmp_path / "out", "-m", model)
    assert "os:system" in text
    assert "--trust-code" in text


def test_other_settings_for_a_training_that_stands(planned, capsys):
    train(planned)
    text = failure(capsys, "train", "2d", "0", "-w", planned, "--iterations", "3")
    assert "2 iterations" in text


def test_corrected_label_is_noticed_by_a_training_that_stands(dataset, tmp_path, capsys):
    """A training is of the content that it saw: with a label corrected since, it is not silently gone on with."""
    workspace = tmp_path / "workspace"
    assert invoke(["plan", dataset, "-w", workspace, "--preset", TINY_PRESET, "--name", "tiny"]) == 0
    train(workspace)
    replace_image(dataset / "labelsTr" / "phantom_002.nii.gz", lambda image: image * 0)
    assert "the content of cases" in failure(capsys, "train", "2d", "0", "-w", workspace)


def test_evaluating_folders_without_common_names(phantoms, tmp_path, capsys):
    shutil.copytree(phantoms / "labelsTs", tmp_path / "predictions")
    text = failure(capsys, "evaluate", "-p", tmp_path / "predictions", "-r", phantoms / "labelsTr")
    assert "no prediction has a reference" in text


def test_split_with_leakage_is_refused(dataset, tmp_path, capsys):
    cases = [f"phantom_{index:03d}" for index in range(6)]
    (dataset / "splits_final.json").write_text(json.dumps([{"train": cases, "val": cases[:2]}]))
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    assert "train and val" in text

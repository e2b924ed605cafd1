"""Bad input: one clear error that names case and remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.networks.weights import load_tensors, save_tensors
from autoseg.phantom import write_phantom_dataset
from tests.command_line import failure, invoke
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


def edit(path: Path, **changes) -> None:
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, **changes}))


def replace_image(path: Path, change) -> None:
    """Rewrites an image file through a function of its SimpleITK image."""
    SimpleITK.WriteImage(change(SimpleITK.ReadImage(str(path))), str(path))


def test_a_folder_that_tells_nothing(dataset, tmp_path, capsys):
    shutil.rmtree(dataset / "labelsTr")
    (dataset / "dataset.json").unlink()
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    assert "not clear what in this folder is an image" in text
    assert "the columns image and label" in text
    assert '"channel_names"' in text  # the remedy shows a minimal description
    assert not (tmp_path / "workspace").exists()


def test_all_problems_are_listed_together(dataset, tmp_path, capsys):
    """All planted defects come out of one run, each with its case."""
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
    shutil.copy(images / "phantom_001_0000.nii.gz", images / "linked_0000.nii.gz")
    (labels / "linked.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    shutil.copy(images / "phantom_001_0000.nii.gz", images / "a:b_0000.nii.gz")
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    for case, what in {
        "phantom_000": "NaN",
        "phantom_001": "9",
        "phantom_002": "spacing",
        "phantom_003": "shape",
        "phantom_004": "cannot read",
        "phantom_005": "too many channel files",
        "orphan": "no image",
        "linked": "no such file",
        "a:b": "not usable as a file name",
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


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            "configurations.0.patch_size",
            [7, 8],
            "expected multiples of (2, 2), the nearest of which are 6 or 8 on axis 0",
        ),
        ("configurations.0.inherits_from", "3d_fullres", "found 2d -> 3d_fullres -> 2d"),
        ("configurations.0.network.architecture", "unett", "plain_unet"),
        ("configurations.0.resampling.resampler", "seperable", "separable"),
        ("configurations.0.augmentation.recipe", "defualt", "default"),
        ("configurations.0.training.loss", "dice", "dice_cross_entropy"),
        ("configurations.0.training.schedule", "cosine", "warmup_polynomial"),
        ("configurations.0.training.optimizer", "adam", "expected one of adamw, sgd"),
        ("normalization.0.scheme", "z-score", "zscore"),
    ],
)
@pytest.mark.parametrize("command", [("train", "2d", "0"), ("preprocess",)], ids=lambda command: command[0])
def test_a_plan_edited_into_something_illegal_is_refused_at_its_field(
    command, place, value, said, planned, tmp_path, capsys
):
    workspace = shutil.copytree(planned, tmp_path / "workspace")
    path = workspace / "models" / "tiny" / "plan.json"
    plan = inner = json.loads(path.read_text())
    *steps, last = (int(step) if step.isdigit() else step for step in place.split("."))
    for step in steps:
        inner = inner[step]
    inner[last] = value
    plan["configurations"][1]["inherits_from"] = "2d"
    path.write_text(json.dumps(plan))
    before = {file for folder in ("models", "preprocessed") for file in (workspace / folder).rglob("*")}
    text = failure(capsys, *command, "-w", workspace)
    assert f"`$.{re.sub(r'[.]([0-9]+)', '[0]', place)}`" in text
    assert said in text
    assert str(path) in text
    assert {file for folder in ("models", "preprocessed") for file in (workspace / folder).rglob("*")} == before


def test_a_plan_edited_after_training_is_refused_at_prediction(planned, dataset, tmp_path, capsys):
    train(planned)
    model = shutil.copytree(planned / "models" / "tiny", tmp_path / "model")
    plan = json.loads((model / "plan.json").read_text())
    plan["normalization"][0]["scheme"] = "z-score"
    (model / "plan.json").write_text(json.dumps(plan))
    text = failure(capsys, "predict", "-i", dataset / "imagesTs", "-o", tmp_path / "out", "-m", model)
    assert "`$.normalization[0].scheme`" in text
    assert "zscore" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "place",
    [
        "network.architecture",
        "resampling.resampler",
        "augmentation.recipe",
        "training.loss",
        "training.optimizer",
        "training.schedule",
        "normalization",
    ],
)
def test_foreign_code_of_any_kind_needs_trust(place, planned, phantoms, tmp_path, capsys):
    """Nothing of the model is looked at before: it need not even be trained."""
    model = shutil.copytree(planned / "models" / "tiny", tmp_path / "model")
    plan = json.loads((model / "plan.json").read_text())
    group, _, field = place.partition(".")
    named = plan["configurations"][0][group] if field else plan["normalization"][0]
    named[field or "scheme"] = "antigravity:fly"
    (model / "plan.json").write_text(json.dumps(plan))
    text = failure(capsys, "predict", "-i", phantoms / "imagesTs", "-o", tmp_path / "out", "-m", model)
    assert "antigravity:fly" in text
    assert "--trust-code" in text
    assert "antigravity" not in sys.modules


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


def test_code_that_only_the_weights_name_is_not_run(planned, phantoms, tmp_path, capsys):
    """What the weights tell of their parts comes with the model, too; looking whether a part changed would import it."""
    train(planned)
    model = shutil.copytree(planned / "models" / "tiny", tmp_path / "model")
    weights = model / "2d" / "fold_0" / "model.safetensors"
    tensors, told = load_tensors(weights)
    part = {"kind": "network", "name": "antigravity:fly", "file": "antigravity.py", "sha256": "0" * 64}
    save_tensors(weights, tensors, {**told, "parts": [part]})
    arguments = ["-i", phantoms / "imagesTs" / "phantom_100_0000.nii.gz", "-o", tmp_path / "out", "-m", model]
    assert invoke(["predict", *arguments, "--device", "cpu", "--workers", "0"]) == 0
    assert "antigravity" not in sys.modules


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


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--metrics", "hausdorf"], "hausdorf"),
        (["--metrics", "hd95,hd95"], "metrics repeat"),
        (["--metrics", "nowhere:metric"], "nowhere:metric"),
        (["--tolerance", "-1"], "must not be negative"),
        (["--tolerance", "nan"], "must not be negative"),
        (["--lesion-iou", "0"], "above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(options, named, phantoms, tmp_path, capsys):
    predictions = shutil.copytree(phantoms / "labelsTs", tmp_path / "predictions")
    assert named in failure(capsys, "evaluate", "-p", predictions, "-r", phantoms / "labelsTs", *options)
    assert not (predictions / "evaluated").exists()


def test_split_with_leakage_is_refused(dataset, tmp_path, capsys):
    cases = [f"phantom_{index:03d}" for index in range(6)]
    (dataset / "splits_final.json").write_text(json.dumps([{"train": cases, "val": cases[:2]}]))
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    assert "train and val" in text


def test_another_data_set_of_the_same_name_does_not_take_over_a_workspace(planned, dataset, tmp_path, capsys):
    other = tmp_path / "elsewhere" / dataset.name
    write_phantom_dataset(other, 6, seed=7, shape=(8, 24, 24), spacing=(5.0, 2.0, 2.0))  # other ids
    assert "belongs to another data set" in failure(capsys, "plan", other, "-w", planned)
    renamed = shutil.copytree(other, tmp_path / "same ids" / dataset.name)
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        for index in range(6):
            (renamed / folder / f"phantom_{index + 7:03d}{ending}").rename(
                renamed / folder / f"phantom_{index:03d}{ending}"
            )
    assert "belongs to another data set" in failure(capsys, "plan", renamed, "-w", planned)


def test_a_data_set_that_was_moved_and_renamed_is_still_the_same(dataset, tmp_path):
    workspace = tmp_path / "workspace"
    plan = ["-w", workspace, "--preset", TINY_PRESET, "--name", "tiny"]
    assert invoke(["plan", dataset, *plan]) == 0
    train(workspace)
    moved = dataset.rename(tmp_path / "Dataset777_Moved")
    assert invoke(["plan", moved, *plan]) == 0
    assert invoke(["train", "2d", "1", "-w", workspace, "--iterations", "2", "--device", "cpu"]) == 0


def test_a_workspace_within_the_data_set_is_refused(dataset, capsys):
    before = sorted(dataset.rglob("*"))
    for workspace in (dataset, dataset / "workspace"):
        assert "inside the data set" in failure(capsys, "plan", dataset, "-w", workspace)
    assert sorted(dataset.rglob("*")) == before


def test_labels_that_changed_since_the_plan_are_noticed(dataset, tmp_path, capsys):
    """An old plan is not trained with the new meaning of the integers."""
    workspace = tmp_path / "workspace"
    plan = ["-w", workspace, "--preset", TINY_PRESET]
    assert invoke(["plan", dataset, *plan, "--name", "old"]) == 0
    edit(dataset / "dataset.json", labels={"background": 0, "spleen": 1, "liver": 2, "kidney": 3})
    assert invoke(["plan", dataset, *plan, "--name", "new"]) == 0
    text = failure(capsys, "train", "2d", "0", "-w", workspace, "--plan", "old", "--iterations", "2")
    assert "have changed since the plan 'old' was made" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--gpu-memory", "nan"], "neither a number of GiB nor auto"),
        (["--gpu-memory", "inf"], "inf"),
        (["--gpu-memory", "0"], "out of range"),
        (["--gpu-memory", "0.2"], "at least"),
        (["--patch-size", "many"], "no list of numbers"),
        (["--patch-size", "3d_fullres=64,64"], "patches of 3 axes"),
        (["--patch-size", "3d_superres=64,64,64"], "3d_superres"),
        (["--batch-size", "1.5"], "whole numbers"),
        (["--batch-size", "0"], "batch sizes must be within"),
        (["--spacing", "1,1"], "three numbers"),
        (["--spacing", "0,1,1"], "spacing must be within"),
        (["--normalization", "zscore"], "CHANNEL=SCHEME"),
        (["--normalization", "PET=zscore"], "there is no channel 'PET'"),
        (["--normalization", "0=sharp"], "there is no normalizer 'sharp'"),
        (["--patch-size", "512,512,512"], "does not fit the memory"),
        (["--seed", "-1"], "-1"),
        (["--seed", str(10**30)], "is not in the range"),
        (["--name", "../../evil"], "not usable as a file name"),
        (["--preset", "os:system"], "no planner"),
        (["--preset", "no such"], "one of default, nnunet"),
        (["-c", "3d_superres"], "2d or 3d_fullres"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_of_plan(arguments, named, phantoms, tmp_path, capsys):
    assert named in failure(capsys, "plan", phantoms, "-w", tmp_path / "workspace", *arguments)


def test_too_few_cases_left(dataset, tmp_path, capsys):
    workspace = tmp_path / "workspace"
    assert invoke(["plan", dataset, "-w", workspace]) == 0
    for left, named in ((4, "held-out cases of fold"), (1, "at least two cases")):
        for index in range(left, 6):
            for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
                (dataset / folder / f"phantom_{index:03d}{ending}").unlink(missing_ok=True)
        assert named in failure(capsys, "plan", dataset, "-w", workspace)


def test_a_wrong_file_ending_comes_with_its_reason(dataset, tmp_path, capsys):
    edit(dataset / "dataset.json", file_ending=".nrrd")
    text = failure(capsys, "plan", dataset, "-w", tmp_path / "workspace")
    assert "no annotated case" in text
    assert "phantom_000_0000.nii.gz" in text


def test_a_byte_order_mark_does_not_matter(dataset, tmp_path):
    description = dataset / "dataset.json"
    description.write_bytes(b"\xef\xbb\xbf" + description.read_bytes())
    assert invoke(["plan", dataset, "-w", tmp_path / "workspace"]) == 0


def test_an_output_that_is_a_file_or_no_image(planned, dataset, tmp_path, capsys):
    train(planned)
    images, file = dataset / "imagesTs", tmp_path / "file"
    file.touch()
    assert "is a file" in failure(capsys, "predict", "-i", images, "-o", file / "out", "-w", planned)
    target = tmp_path / "out"
    assert "no image here" in failure(capsys, "predict", "-i", dataset / "dataset.json", "-o", target, "-w", planned)


def test_references_are_never_replaced_by_predictions(planned, dataset, capsys):
    train(planned)
    labels = dataset / "labelsTs"
    before = {file: file.read_bytes() for file in labels.iterdir()}
    text = failure(capsys, "predict", "-i", dataset / "imagesTs", "-o", labels, "-w", planned)
    assert "phantom_100.nii.gz" in text
    assert {file: file.read_bytes() for file in labels.iterdir()} == before


def test_undeclared_values_are_not_scored_as_background(dataset, tmp_path, capsys):
    predictions = shutil.copytree(dataset / "labelsTs", tmp_path / "predictions")
    replace_image(predictions / "phantom_100.nii.gz", lambda image: image * 20)
    text = failure(capsys, "evaluate", "-p", predictions, "-r", dataset / "labelsTs")
    assert "phantom_100" in text
    assert "not declared" in text
    assert not (predictions / "summary.json").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_workspace_predicts(planned, dataset, tmp_path):
    train(planned)
    workspace = shutil.copytree(planned, tmp_path / "read only")
    for path in [workspace, *workspace.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert invoke(["predict", "-i", dataset / "imagesTs", "-o", tmp_path / "out", "-w", workspace]) == 0


def test_a_disk_that_cannot_be_written_is_one_clear_error(phantoms, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert invoke(["plan", phantoms, "-w", tmp_path / "file" / "workspace"]) == 1
    assert "Not a directory" in capsys.readouterr().err

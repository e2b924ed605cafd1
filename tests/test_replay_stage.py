"""Any batch of a training, made again: it is the one that the network got, and what lies in the folder shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from autoseg import pipeline
from autoseg.errors import InputError
from autoseg.files import read_document, write_document
from autoseg.io.formats import format_of
from autoseg.logs import SilentLogger
from autoseg.stores import case_store_of
from autoseg.training.loop import FoldTrainer
from autoseg.training.records import BatchRecord
from autoseg.values import TrainJob
from autoseg.workspace import Workspace
from tests.command_line import failure, invoke


@pytest.fixture
def workspace(trained_pair: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(trained_pair, tmp_path / "W"))


def trained(workspace: Workspace, configuration: str) -> FoldTrainer:
    model = workspace.model()
    folder, plan = model.fold(configuration, "0"), model.plan()
    job = read_document(TrainJob, folder.job)
    return FoldTrainer(job, plan, case_store_of(workspace, plan, configuration), folder, SilentLogger(), "cpu")


def voxels(path: Path) -> np.ndarray:
    return format_of(path).read(path).array[0]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("iteration", [0, 5, 10**6])
def test_the_batch_of_an_iteration_is_the_one_that_the_network_gets(
    workspace: Workspace, tmp_path: Path, configuration: str, iteration: int
) -> None:
    out = tmp_path / "batch"
    made = pipeline.replay(workspace, configuration, "0", out, iteration=iteration)
    expected = trained(workspace, configuration).loader(train=True).batch(iteration)
    assert [case for case, _ in made.samples] == expected["keys"]
    for place, case in enumerate(expected["keys"]):
        image, labels = (voxels(out / f"sample_{place:02d}_{case}{end}.nii.gz") for end in ("_0000", ""))
        shown = expected["data"][place, 0], expected["seg"][place, 0]
        np.testing.assert_array_equal(image.reshape(shown[0].shape), shown[0])
        np.testing.assert_array_equal(labels.reshape(shown[1].shape), shown[1])
    assert read_document(BatchRecord, out / "batch.json") == expected["record"]


def test_what_was_done_is_told_of_every_sample(workspace: Workspace, tmp_path: Path) -> None:
    for iteration in range(12):
        made = pipeline.replay(workspace, "3d_fullres", "0", tmp_path / str(iteration), iteration=iteration)
        record = read_document(BatchRecord, tmp_path / str(iteration) / "batch.json")
        for (_, told), sample in zip(made.samples, record.samples, strict=True):
            assert ("turned or scaled" in told) == (sample.matrix is not None)
            assert ("Mirror" in told) == (sample.parameters[7] is not None)
            assert told.count(",") - 2 == max(
                0, sum(drawn is not None for drawn in (sample.matrix, *sample.parameters)) - 1
            )


def test_the_picture_has_a_row_for_each_sample_and_shows_labels_in_its_last_panel(
    workspace: Workspace, tmp_path: Path
) -> None:
    made = pipeline.replay(workspace, "3d_fullres", "0", tmp_path / "batch", iteration=2)
    picture = imread(made.picture).astype(int)
    assert picture.shape[0] > 100 * len(made.samples)
    coloured = (picture.max(-1) - picture.min(-1) > 30).any(0)
    middle = picture.shape[1] // 2
    assert coloured[middle:].any()
    assert not coloured[:middle].any()


def test_without_an_iteration_it_is_the_bad_batch(workspace: Workspace, tmp_path: Path, capsys) -> None:
    command = ["replay", "2d", "0", "-w", workspace.path, "-o", tmp_path / "batch"]
    assert "had a loss that was not a number" in failure(capsys, *command)
    trainer = trained(workspace, "2d")
    write_document(trainer.folder.bad_batch, trainer.loader(train=True).draw(7))
    assert invoke(command) == 0
    assert "Iteration 7 of 2d, fold 0" in capsys.readouterr().out
    assert "is not empty" in failure(capsys, *command)


def test_cases_that_were_left_out_by_then_are_not_drawn(workspace: Workspace, tmp_path: Path) -> None:
    trainer = trained(workspace, "2d")
    trainer.resume()
    gone = trainer.loader(train=True).draw(3).samples[0].case
    trainer._training = trainer.loader(train=True, skipped={gone: 1})
    assert trainer.save()
    before, after = (
        pipeline.replay(workspace, "2d", "0", tmp_path / str(iteration), iteration=iteration) for iteration in (1, 3)
    )
    expected = trained(workspace, "2d").loader(train=True, skipped={gone: 1})
    assert [case for case, _ in after.samples] == expected.batch(3)["keys"]
    assert gone not in {case for case, _ in after.samples}
    assert [case for case, _ in before.samples] == expected.batch(1)["keys"]


def test_where_nothing_was_trained_nothing_can_be_made_again(workspace: Workspace, tmp_path: Path, capsys) -> None:
    text = failure(capsys, "replay", "2d", "4", "1", "-w", workspace.path, "-o", tmp_path / "batch")
    assert "no training has begun here" in text
    assert "autoseg train" in text
    text = failure(capsys, "replay", "4d", "0", "1", "-w", workspace.path, "-o", tmp_path / "batch")
    assert "3d_fullres" in text
    with pytest.raises(InputError, match="output folder"):
        pipeline.replay(workspace, "2d", "0", workspace.model().path, iteration=1)
    assert not (tmp_path / "batch").exists()

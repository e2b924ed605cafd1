"""The learning curve: what the training tells of every epoch, kept over interruptions, in a file and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoseg.files import read_document
from autoseg.training.curve import CurveLogger
from autoseg.training.picture import draw_curve
from autoseg.values import Curve, CurvePoint, Label, Labels
from autoseg.workspace import FoldFolder
from tests.training.test_loop import Listening

LABELS = Labels(foreground=(Label(name="ball", values=(1,)), Label(name="core", values=(2,))))


def logger(folder: Path) -> CurveLogger:
    (folder / "tiny" / "fold_0").mkdir(parents=True, exist_ok=True)
    return CurveLogger(FoldFolder(folder / "tiny" / "fold_0"), LABELS, 3, Listening())


def tell_epoch(curve: CurveLogger, iteration: int, losses: dict[int, float], truth: float | None) -> None:
    for done, loss in losses.items():
        curve.event("iterations", iteration=done, loss=loss)
    curve.event("estimate", iteration=iteration, patch_dice=[0.5, None])
    if truth is not None:
        dice = {"core": truth, "ball": None}
        curve.event("truth", iteration=iteration, dice=truth, label_dice=dice, cases=2)


def test_a_point_holds_the_mean_loss_of_the_epoch_and_both_kinds_of_dice(tmp_path: Path) -> None:
    curve = logger(tmp_path)
    tell_epoch(curve, 10, {8: 1.0, 10: 0.5}, 0.7)
    tell_epoch(curve, 20, {20: 0.4}, 0.8)
    curve.event("validated", dice=0.81)
    expected = Curve(
        labels=("ball", "core"),
        held_out=3,
        points=tuple(
            CurvePoint(
                iteration=iteration,
                loss=loss,
                patch_dice=(0.5, None),
                truth=truth,
                truth_dice=(None, truth),
                truth_cases=2,
            )
            for iteration, loss, truth in ((10, 0.9, 0.7), (20, 0.4, 0.8))
        ),
        final=0.81,
    )
    assert read_document(Curve, curve.folder.curve) == expected


def test_an_interrupted_training_goes_on_with_its_curve(tmp_path: Path) -> None:
    whole = logger(tmp_path / "whole")
    for iteration in (10, 20, 30):
        tell_epoch(whole, iteration, {iteration: 1 / iteration}, iteration / 100)
    first = logger(tmp_path / "parts")
    tell_epoch(first, 10, {10: 1 / 10}, 0.1)
    tell_epoch(first, 20, {20: 1 / 20}, None)  # stopped while the truth was made
    second = logger(tmp_path / "parts")
    second.event("resumed", iteration=20)
    second.event("truth", iteration=20, dice=0.2, label_dice={"core": 0.2, "ball": None}, cases=2)
    tell_epoch(second, 30, {30: 1 / 30}, 0.3)
    again = logger(tmp_path / "parts")  # went back, and makes the last epoch again
    again.event("resumed", iteration=20)
    tell_epoch(again, 30, {30: 1 / 30}, 0.3)
    assert again.folder.curve.read_bytes() == whole.folder.curve.read_bytes()


def test_an_extension_forgets_the_points_of_the_first_end(tmp_path: Path) -> None:
    curve = logger(tmp_path)
    for iteration in (10, 20, 30):
        tell_epoch(curve, iteration, {iteration: 1.0}, 0.5)
    curve.event("validated", dice=0.81)
    before = curve.curve
    curve.event("resumed", iteration=30)
    assert read_document(Curve, curve.folder.curve) == before
    curve.event("resumed", iteration=24)
    there = read_document(Curve, curve.folder.curve)
    assert there.points == before.points[:2]
    assert there.final is None


def test_a_damaged_curve_is_told_and_begun_anew(tmp_path: Path) -> None:
    curve = logger(tmp_path)
    tell_epoch(curve, 10, {10: 1.0}, 0.7)
    curve.folder.curve.write_bytes(b'{"schema"')
    heard = Listening()
    again = CurveLogger(curve.folder, LABELS, 3, heard)
    assert again.curve.points == ()
    assert "begins anew" in str(heard.all("message")[0]["text"])


def test_the_picture_is_drawn_whole_and_shows_the_curve(tmp_path: Path) -> None:
    """Where the extra ``plots`` is installed."""
    pytest.importorskip("matplotlib")
    curve = logger(tmp_path)
    tell_epoch(curve, 10, {10: 1.0}, 0.7)
    tell_epoch(curve, 20, {20: 0.5}, 0.8)
    curve.event("validated", dice=0.81)
    assert [path.name for path in curve.folder.path.glob("*.png")] == ["progress.png"]
    draw_curve(curve.curve, tmp_path / "whole.png", "tiny, fold 0")
    other = Curve(labels=curve.curve.labels, held_out=3, points=(CurvePoint(iteration=10),))
    draw_curve(other, tmp_path / "nothing.png", "tiny, fold 0")
    with Image.open(curve.folder.progress_picture) as picture, Image.open(tmp_path / "nothing.png") as nothing:
        blue = [0, 0x72, 0xB2]
        shown, empty = (int((np.array(each.convert("RGB")) == blue).all(-1).sum()) for each in (picture, nothing))
        assert picture.size == nothing.size
        assert shown > 2 * empty > 0  # the line, and the legend's


def test_a_picture_that_cannot_be_drawn_costs_the_picture_only(tmp_path: Path) -> None:
    curve = logger(tmp_path)
    curve.folder.progress_picture.mkdir()
    tell_epoch(curve, 10, {10: 1.0}, 0.7)
    tell_epoch(curve, 20, {20: 1.0}, 0.7)
    assert len(curve.curve.points) == 2

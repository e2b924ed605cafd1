"""Detection of lesions: known answers, and agreement with pairing by hand."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.evaluation.lesions import Detection, detect


def row(text: str) -> np.ndarray:
    """A volume of one line, an object wherever there is a cross."""
    return np.array([[[letter == "x" for letter in text]]])


@pytest.mark.parametrize(
    ("reference", "prediction", "found", "missed", "invented"),
    [
        ("xxx..xx", "xxx..xx", 2, 0, 0),
        ("xxx..xx", "xxx....", 1, 1, 0),
        ("xxx....", "xxx..xx", 1, 0, 1),
        ("xxx....", ".....xx", 0, 1, 1),
        (".......", ".......", 0, 0, 0),
        ("xx.xx..", "xxxxx..", 1, 1, 0),  # one blob over two finds one of them
        ("xxxxx..", "xx.xx..", 1, 0, 1),  # two parts of one: one of them is too many
        ("xxx.xxxx", ".xxxxxxx", 1, 1, 0),
    ],
)
def test_lesions_are_paired_one_to_one(reference: str, prediction: str, found: int, missed: int, invented: int) -> None:
    assert detect(row(reference), row(prediction)) == Detection(found=found, missed=missed, invented=invented)


def test_too_little_overlap_is_none() -> None:
    reference, prediction = row("xxxxxxxxxx.........."), row(".........xxxxxxxxxxx")
    assert detect(reference, prediction).found == 0  # one of twenty
    assert detect(reference, prediction, least_iou=0.05).found == 1


def test_corners_connect() -> None:
    corner = np.zeros((2, 2, 2), bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    assert detect(corner, corner) == Detection(found=1, missed=0, invented=0)


def test_f1() -> None:
    assert Detection(found=2, missed=1, invented=3).f1 == 0.5
    assert Detection(found=0, missed=0, invented=0).f1 is None
    assert Detection(found=0, missed=0, invented=4).f1 == 0.0


def test_many_lesions_of_chance_are_counted_consistently() -> None:
    reference, prediction = np.random.default_rng(0).random((2, 20, 30, 30)) < 0.03
    one, other = detect(reference, prediction), detect(prediction, reference)
    assert one.found == other.found > 0
    assert (one.missed, one.invented) == (other.invented, other.missed)

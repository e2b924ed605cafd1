"""The picture of results: its rows and panels, and that it shows what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from autoseg.phantom import ORGANS, Phantom, make_phantom
from autoseg.report.overlay import COLOURS, EDGE_PIXELS, GAP, Shown, draw_overlays
from autoseg.values import AxisMap, Geometry, Volume

SHAPE, SPACING = (8, 40, 30), (3.0, 1.25, 1.25)


def phantom(seed: int = 0, stored: AxisMap | None = None) -> Phantom:
    return make_phantom(seed, shape=SHAPE, spacing=SPACING, stored=stored or AxisMap())


def shown(case: Phantom, prediction: np.ndarray | None = None) -> Shown:
    array = case.labels.array if prediction is None else prediction
    predicted = Volume(array=array, geometry=case.labels.geometry)
    return Shown(image=case.image, reference=case.labels, prediction=predicted)


def draw(path: Path, *cases: Shown) -> np.ndarray:
    draw_overlays(path, cases)
    return imread(path)


def panels(row: np.ndarray) -> list[np.ndarray]:
    width = (row.shape[1] - 2 * GAP) // 3
    return [row[:, start : start + width] for start in (0, width + GAP, 2 * (width + GAP))]


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(-1).any())


def test_there_is_a_row_per_case_and_a_gap_between(tmp_path: Path) -> None:
    picture = draw(tmp_path / "new" / "o.png", *(shown(phantom(seed)) for seed in range(3)))
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * EDGE_PIXELS + 2 * GAP, 3 * EDGE_PIXELS * 30 // 40 + 2 * GAP, 3)
    for row in range(2):
        assert not picture[(row + 1) * EDGE_PIXELS + row * GAP :][:GAP].any()
    rows = [picture[index * (EDGE_PIXELS + GAP) :][:EDGE_PIXELS] for index in range(3)]
    for seed, row in enumerate(rows):
        np.testing.assert_array_equal(row, draw(tmp_path / "one.png", shown(phantom(seed))))


def test_the_first_panel_is_grey_and_the_others_are_outlined(tmp_path: Path) -> None:
    case = phantom()
    index = int((case.labels.array[0] > 0).sum(axis=(1, 2)).argmax())
    visible = [label for label in range(1, len(ORGANS) + 1) if (case.labels.array[0, index] == label).any()]
    assert len(visible) >= 2
    image, reference, prediction = panels(draw(tmp_path / "o.png", shown(case, np.zeros_like(case.labels.array))))
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 1] == image[..., 2]).all()
    np.testing.assert_array_equal(prediction, image)  # nothing was predicted
    for label in visible:
        assert has_colour(reference, COLOURS[label - 1])
        assert not has_colour(image, COLOURS[label - 1])


def test_a_prediction_equal_to_the_reference_looks_the_same(tmp_path: Path) -> None:
    _, reference, prediction = panels(draw(tmp_path / "o.png", shown(phantom())))
    np.testing.assert_array_equal(reference, prediction)


@pytest.mark.parametrize(
    "stored",
    [
        AxisMap(order=(2, 0, 1)),
        AxisMap(flipped=(True, True, False)),
        AxisMap(order=(1, 2, 0), flipped=(False, True, True)),
    ],
    ids=str,
)
def test_the_picture_does_not_depend_on_how_the_scan_is_stored(tmp_path: Path, stored: AxisMap) -> None:
    upright, turned = (draw(tmp_path / "o.png", shown(phantom(1, axes))) for axes in (AxisMap(), stored))
    np.testing.assert_array_equal(turned, upright)


def box_case(spacing: tuple[float, float, float], place: tuple[slice, slice, slice]) -> Shown:
    geometry = Geometry(shape=(5, 20, 24), spacing=spacing)
    image, labels = np.zeros((1, 5, 20, 24), np.float32), np.zeros((1, 5, 20, 24), np.uint8)
    image[0, :, :, :] = np.arange(20)[:, None]
    labels[0][place] = 1
    volumes = (Volume(array=array, geometry=geometry) for array in (image, labels, labels))
    return Shown(**dict(zip(("image", "reference", "prediction"), volumes, strict=True)))


def test_pixels_are_stretched_to_equal_millimetres(tmp_path: Path) -> None:
    place = (slice(2, 3), slice(5, 15), slice(2, 12))
    square = draw(tmp_path / "o.png", box_case((1.0, 1.0, 1.0), place))
    tall = draw(tmp_path / "o.png", box_case((1.0, 2.4, 1.0), place))
    assert square.shape[0] == EDGE_PIXELS * 20 // 24
    assert square.shape[1] == 3 * EDGE_PIXELS + 2 * GAP
    assert tall.shape[0] == EDGE_PIXELS
    assert tall.shape[1] == 3 * EDGE_PIXELS // 2 + 2 * GAP


def test_the_slice_with_most_foreground_is_shown_with_its_right_side_on_the_left(tmp_path: Path) -> None:
    """The label lies in slice 3 alone, at small x: patient's right, so on the left of the panel; front is up."""
    place = (slice(3, 4), slice(1, 6), slice(2, 8))
    image, reference, _ = panels(draw(tmp_path / "o.png", box_case((1.0, 1.0, 1.0), place)))
    rows, columns = np.nonzero((reference == COLOURS[0]).all(-1))
    height, width = reference.shape[:2]
    assert rows.max() < height / 2
    assert columns.max() < width / 2
    assert image[0].mean() < image[-1].mean()


def test_a_case_without_foreground_is_shown_too(tmp_path: Path) -> None:
    case = box_case((1.0, 1.0, 1.0), (slice(0, 0), slice(0, 0), slice(0, 0)))
    image, reference, prediction = panels(draw(tmp_path / "o.png", case))
    np.testing.assert_array_equal(image, reference)
    np.testing.assert_array_equal(image, prediction)


def test_rows_of_different_width_share_one_picture(tmp_path: Path) -> None:
    wide, narrow = shown(phantom()), box_case((1.0, 2.4, 1.0), (slice(2, 3), slice(5, 15), slice(2, 12)))
    picture = draw(tmp_path / "o.png", wide, narrow)
    assert picture.shape[1] == 3 * EDGE_PIXELS * 30 // 40 + 2 * GAP
    assert not picture[EDGE_PIXELS + GAP :, 3 * EDGE_PIXELS // 2 + 2 * GAP :].any()


def test_drawing_again_replaces_the_picture_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    first = draw(tmp_path / "o.png", shown(phantom(0)))
    second = draw(tmp_path / "o.png", shown(phantom(1)))
    assert not np.array_equal(first, second)
    assert [file.name for file in tmp_path.iterdir()] == ["o.png"]

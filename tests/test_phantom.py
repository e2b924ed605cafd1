"""Phantoms: the same for a seed, whole, and at the same place in space however they are stored."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.io.formats import format_of
from autoseg.phantom import ORGANS, Phantom, make_phantom, write_phantom_dataset
from autoseg.values import AxisMap, Volume

SMALL = {"shape": (8, 24, 24), "spacing": (5.0, 2.0, 2.0)}
ALL_AXES = [
    AxisMap(order=order, flipped=flipped)
    for order in itertools.permutations(range(3))
    for flipped in itertools.product((False, True), repeat=3)
]


def centre_of_mass(volume: Volume, label: int) -> np.ndarray:
    """LPS millimetres of the centre of a label."""
    return np.array(volume.geometry.position(np.argwhere(volume.array[0] == label).mean(axis=0)))


def assert_same(one: Phantom, other: Phantom) -> None:
    for mine, theirs in ((one.image, other.image), (one.labels, other.labels)):
        assert mine.geometry == theirs.geometry
        np.testing.assert_array_equal(mine.array, theirs.array)


def test_the_same_seed_gives_the_same_phantom() -> None:
    np.random.seed(0)
    first = make_phantom(3, **SMALL)
    np.random.seed(1)
    assert_same(first, make_phantom(3, **SMALL))


def test_another_seed_gives_another_anatomy_and_orientation() -> None:
    phantoms = [make_phantom(seed, **SMALL) for seed in range(8)]
    assert len({phantom.image.array.tobytes() for phantom in phantoms}) == 8
    assert len({phantom.image.geometry.to_canonical() for phantom in phantoms}) > 4


def test_organs_are_at_the_same_place_in_every_stored_order() -> None:
    reference = make_phantom(5, **SMALL, stored=AxisMap())
    expected = [centre_of_mass(reference.labels, label) for label in range(1, len(ORGANS) + 1)]
    for axes in ALL_AXES:
        turned = make_phantom(5, **SMALL, stored=axes)
        assert turned.labels.array.shape[1:] == axes.reorder((8, 24, 24))
        for label, centre in enumerate(expected, start=1):
            np.testing.assert_allclose(centre_of_mass(turned.labels, label), centre, atol=1e-9)
        assert sorted(turned.image.array.ravel()) == sorted(reference.image.array.ravel())


def test_organs_are_where_they_are_described_whatever_the_grid() -> None:
    for seed, shape, spacing in ((0, (14, 40, 40), (3.0, 1.25, 1.25)), (1, (30, 30, 30), (1.6, 1.6, 1.6))):
        phantom = make_phantom(seed, shape=shape, spacing=spacing)
        for label, organ in enumerate(ORGANS[:2], start=1):
            np.testing.assert_allclose(centre_of_mass(phantom.labels, label), organ.centre, atol=4.0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", [{}, SMALL], ids=["default", "small"])
def test_every_organ_is_present_with_its_intensity(seed: int, options: dict) -> None:
    phantom = make_phantom(seed, **options)
    labels, image = phantom.labels.array[0], phantom.image.array[0]
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    means = [image[labels == label].mean() for label in range(1, 4)]
    assert all((labels == label).sum() > 20 for label in range(1, 4))
    assert image[labels == 0].mean() < means[0] < means[1] < means[2]


def test_image_and_labels_share_their_grid_and_number_types() -> None:
    phantom = make_phantom(0, **SMALL)
    assert phantom.image.geometry == phantom.labels.geometry
    assert phantom.image.array.dtype == np.int16
    assert phantom.labels.array.dtype == np.uint8
    assert phantom.image.array.min() >= 0
    assert phantom.image.array.flags.c_contiguous


@pytest.mark.parametrize("degrees", [0.0, 12.0])
def test_the_grid_is_tilted_by_no_more_than_asked_and_stays_rectangular(degrees: float) -> None:
    for seed in range(5):
        geometry = make_phantom(seed, **SMALL, oblique_degrees=degrees, stored=AxisMap()).image.geometry
        directions = np.array(geometry.directions)
        np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-9)
        angles = np.degrees(np.arccos(np.clip(np.abs(np.diag(directions[:, ::-1])), 0, 1)))
        assert angles.max() <= 2 * degrees + 1e-6
        assert (angles.max() > 0.1) == (degrees > 0)
        np.testing.assert_allclose(geometry.position([(size - 1) / 2 for size in geometry.shape]), 0, atol=1e-9)


def test_written_cases_are_at_the_same_place_for_an_independent_reader(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = write_phantom_dataset(tmp_path / "data", 3, seed=4, **SMALL)
    for seed in (4, 5, 6):
        phantom = make_phantom(seed, **SMALL)
        image = nibabel.load(folder / "imagesTr" / f"phantom_{seed:03d}_0000.nii.gz")
        labels = nibabel.load(folder / "labelsTr" / f"phantom_{seed:03d}.nii.gz")
        np.testing.assert_allclose(image.affine, labels.affine, atol=1e-4)
        for label in range(1, len(ORGANS) + 1):
            index = np.argwhere(np.asarray(labels.dataobj) == label).mean(axis=0)
            right_anterior_superior = nibabel.affines.apply_affine(labels.affine, index)
            expected = centre_of_mass(phantom.labels, label) * [-1, -1, 1]  # LPS to RAS
            np.testing.assert_allclose(right_anterior_superior, expected, atol=1e-3)


def test_a_training_set_is_in_nnunets_layout(tmp_path: Path) -> None:
    folder = write_phantom_dataset(tmp_path / "data", 2, seed=7, **SMALL)
    assert sorted(file.name for file in (folder / "imagesTr").iterdir()) == [
        "phantom_007_0000.nii.gz",
        "phantom_008_0000.nii.gz",
    ]
    assert sorted(file.name for file in (folder / "labelsTr").iterdir()) == ["phantom_007.nii.gz", "phantom_008.nii.gz"]
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "liver": 1, "spleen": 2, "spine": 3}
    assert description["numTraining"] == 2
    file = folder / "imagesTr" / "phantom_007_0000.nii.gz"
    np.testing.assert_array_equal(format_of(file).read(file).array, make_phantom(7, **SMALL).image.array)


def test_a_test_set_has_its_own_folders_and_no_description(tmp_path: Path) -> None:
    folder = write_phantom_dataset(tmp_path / "data", 1, seed=1000, train=False, **SMALL)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.nii.gz")) == [
        "imagesTs/phantom_1000_0000.nii.gz",
        "labelsTs/phantom_1000.nii.gz",
    ]
    assert not (folder / "dataset.json").exists()

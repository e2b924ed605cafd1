"""An image stored as no training image was is predicted right, and its record says that it is unlike them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from autoseg.files import read_document
from autoseg.inference.folder import predict_files
from autoseg.inference.likeness import unlike_training
from autoseg.inference.predict import Predictor
from autoseg.io.formats import format_of
from autoseg.networks.build import build_network
from autoseg.phantom import make_phantom
from autoseg.plan_stage import with_training_grids
from autoseg.values import (
    PREDICTION_RECORD,
    AxisMap,
    Case,
    CaseFingerprint,
    ExecutionPath,
    Fingerprint,
    Geometry,
    IntensityRange,
    Plan,
    PredictionRecord,
    TrainingImages,
)
from autoseg.volume.axes import reorder, reorder_volume
from tests.small_plans import ONE_LABEL, small_configuration, small_plan

ALL_MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


class Listening:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, kind: str, **fields: object) -> None:
        self.texts.append(str(fields.get("text", "")))

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def seen(plan: Plan, *geometries: Geometry) -> Plan:
    """The plan after a training on images of these grids."""
    cases = [
        CaseFingerprint(
            id=str(index),
            spacing=each.spacing,
            shape=each.shape,
            shape_after_crop=each.shape,
            to_canonical=each.to_canonical(),
            planar=each.planar,
            label_counts={"0": 1},
        )
        for index, each in enumerate(geometries)
    ]
    fingerprint = Fingerprint(
        dataset="D", channels=("MRI",), labels=ONE_LABEL, file_ending=".nii.gz", cases=tuple(cases), intensities=(None,)
    )
    return with_training_grids(plan, fingerprint)


def test_all_48_ways_to_store_an_image_give_the_same_label_map_and_all_but_one_a_warning(tmp_path: Path) -> None:
    """A random network, oblique voxels, resampling, mirroring: identical voxels after mapping back."""
    image = make_phantom(2, shape=(6, 16, 14), spacing=(4.0, 2.0, 2.5), stored=AxisMap()).image
    configuration = small_configuration(patch=(8, 16, 16), spacing=(3.0, 2.0, 2.0), mirror_axes=(2,))
    plan = seen(small_plan(configuration, axis_order=(0, 2, 1)), image.geometry)
    assert plan.orientations == ("LPS",)
    network = build_network(configuration.network, seed=3)
    predictor = Predictor([network], configuration, ExecutionPath(device="cpu", threads=1))
    cases = []
    for number, axes in enumerate(ALL_MAPS):
        name = f"map_{number:02d}"
        format_of(Path("x.nii.gz")).write(tmp_path / "in" / f"{name}.nii.gz", reorder_volume(image, axes))
        cases.append(Case(id=name, images=(f"{name}.nii.gz",)))
    logger = Listening()
    files = predict_files(predictor, plan, "weights", cases, tmp_path / "in", tmp_path / "out", logger)
    record = read_document(PredictionRecord, tmp_path / "out" / PREDICTION_RECORD)
    expected = None
    for case, axes in zip(cases, ALL_MAPS, strict=True):
        stored = format_of(files[case.id]).read(files[case.id])
        assert stored.geometry.orientation == image.geometry.mapped(axes).orientation
        back = reorder(stored.array, axes.inverse())
        expected = back if expected is None else expected
        np.testing.assert_array_equal(back, expected)
        warnings = record.cases[case.id].warnings
        assert len(warnings) == (axes != AxisMap()), axes
        assert all(f"oriented {stored.geometry.orientation}" in warning for warning in warnings)
        assert all("LPS" in warning and "turned" in warning for warning in warnings)
    assert 0.05 < expected.mean() < 0.95  # the random network says something
    assert sum("like none of the training images" in text for text in logger.texts) == 47


def test_a_plan_that_takes_images_as_stored_says_that_the_prediction_may_be_wrong() -> None:
    grid = Geometry(shape=(4, 5, 6), spacing=(3.0, 1.0, 1.0))
    plan = seen(small_plan(orientation="as_stored"), grid)
    assert unlike_training(grid, plan) == ()
    (warning,) = unlike_training(grid.mapped(AxisMap(flipped=(False, False, True))), plan)
    assert "oriented RPS" in warning
    assert "may be wrong" in warning


@pytest.mark.parametrize(
    ("spacing", "told"),
    [
        ((3.0, 1.0, 1.0), None),
        ((1.9, 0.45, 1.7), None),
        ((1.2, 1.0, 1.0), "1.2 mm along axis 0, 3 to 4 in training"),
        ((8.1, 1.0, 1.0), "8.1 mm along axis 0"),
        ((3.0, 1.0, 0.3), "0.3 mm along axis 2, 0.8 to 1 in training"),
    ],
)
def test_a_spacing_over_twice_out_of_the_range_is_told(spacing: tuple[float, float, float], told: str | None) -> None:
    grids = [Geometry(shape=(4, 5, 6), spacing=each) for each in ((3.0, 0.8, 0.8), (4.0, 1.0, 1.0))]
    plan = seen(small_plan(), *grids)
    assert plan.spacing_range == ((3.0, 4.0), (0.8, 1.0), (0.8, 1.0))
    warnings = unlike_training(Geometry(shape=(4, 5, 6), spacing=spacing), plan)
    assert len(warnings) == (told is not None)
    assert all(told in warning for warning in warnings)


def test_the_spacing_is_compared_along_the_axes_of_the_plan() -> None:
    grid = Geometry(shape=(4, 5, 6), spacing=(5.0, 1.0, 0.7))
    plan = seen(small_plan(axis_order=(2, 0, 1)), grid)
    assert plan.spacing_range == ((0.7, 0.7), (5.0, 5.0), (1.0, 1.0))
    for axes in ALL_MAPS:
        assert all("spacing" not in warning for warning in unlike_training(grid.mapped(axes), plan))


def test_pictures_have_no_orientation_and_no_slice_spacing() -> None:
    picture = Geometry(shape=(1, 5, 6), spacing=(9.0, 1.0, 1.0), planar=True)
    plan = seen(small_plan(), Geometry(shape=(1, 5, 6), spacing=(1.0, 1.0, 1.0), planar=True))
    assert plan.orientations == ()
    assert unlike_training(picture, plan) == ()


UNIT = IntensityRange(
    quantiles=((-1000.0, -990.0), (-200.0, 0.0), (0.0, 50.0), (40.0, 90.0), (300.0, 500.0)), spread=1400.0
)
IMAGES = TrainingImages(cases=9, sizes=((120.0, 200.0), (180.0, 220.0), (180.0, 220.0)), intensities=(UNIT,))
USUAL = (-995.0, -120.0, 20.0, 70.0, 400.0)


@pytest.mark.parametrize(
    ("quantiles", "told"),
    [
        (USUAL, ""),
        ((-1100.0, -190.0, 60.0, 100.0, 600.0), ""),
        ([10 * value for value in USUAL], "1 % of the voxels are below -9950, -1000 to -990 in training"),
        ([value + 1024 for value in USUAL], "50 % of the voxels are below 1044, 0 to 50 in training"),
        ([-value for value in reversed(USUAL)], "99 % of the voxels are below 995, 300 to 500 in training"),
        ([value / 1000 for value in USUAL], "1 % of the voxels are below -0.995"),
        ((), ""),
    ],
)
def test_intensities_of_another_unit_sign_or_scale_are_told(quantiles: Sequence[float], told: str) -> None:
    grid = Geometry(shape=(50, 200, 200), spacing=(3.0, 1.0, 1.0))
    plan = seen(small_plan(), grid)
    warnings = unlike_training(grid, plan, IMAGES, (quantiles,) if quantiles else ())
    assert len(warnings) == bool(told)
    assert all(told in warning and "of MRI" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((50, 200, 200), ""),
        ((22, 200, 200), ""),
        ((13, 200, 200), "39 mm along axis 0, 120 to 200 in training"),
        ((50, 50, 200), "50 mm along axis 1, 180 to 220"),
        ((50, 200, 450), "450 mm along axis 2, 180 to 220"),
    ],
)
def test_a_size_over_twice_out_of_the_range_is_told_along_the_axes_of_the_plan(
    shape: tuple[int, int, int], told: str
) -> None:
    grid = Geometry(shape=shape, spacing=(3.0, 1.0, 1.0))
    plan = seen(small_plan(), *(grid.mapped(axes) for axes in ALL_MAPS))
    for axes in ALL_MAPS:
        warnings = unlike_training(grid.mapped(axes), plan, IMAGES)
        assert len(warnings) == bool(told)
        assert all(told in warning for warning in warnings)


def test_a_picture_has_no_size_along_its_one_slice() -> None:
    picture = Geometry(shape=(1, 200, 200), spacing=(9.0, 1.0, 1.0), planar=True)
    assert unlike_training(picture, seen(small_plan(), picture), IMAGES) == ()


def test_an_older_plan_knows_nothing_and_tells_nothing_and_the_plan_stays_the_same_experiment() -> None:
    plan = small_plan()
    assert unlike_training(Geometry(shape=(4, 5, 6), spacing=(90.0, 1.0, 1.0)), plan) == ()
    grid = Geometry(shape=(4, 5, 6), spacing=(3.0, 1.0, 1.0))
    assert seen(plan, grid).id == plan.id
    assert msgspec.structs.replace(seen(plan, grid), seed=8).id != plan.id

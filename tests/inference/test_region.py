"""The region of interest: it holds what the coarse model found, and the label maps are those without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.files import read_document
from autoseg.inference.folder import predict_files
from autoseg.inference.predict import Predictor
from autoseg.inference.region import coarser, locator_of, logits_within, region_of
from autoseg.logs import SilentLogger
from autoseg.values import ExecutionPath, Geometry, NormalizationSpec, Plan, PredictionRecord, Volume
from autoseg.workspace import ModelFolder
from tests.inference.test_cases import LABELS, THRESHOLD, Threshold, read, write_scan
from tests.small_plans import small_configuration, small_plan

CPU = ExecutionPath(device="cpu", threads=1)


class Counting(Threshold):
    """Counts the tiles that it sees."""

    tiles = 0

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.tiles += len(x)
        return super().forward(x)


def make_plan() -> Plan:
    """A coarse configuration and a fine one, and one of slices that is coarse in its plane."""
    fine = small_configuration("fine", spacing=(1.0, 1.0, 1.0), mirror_axes=())
    coarse = small_configuration("coarse", spacing=(2.0, 2.0, 2.0), mirror_axes=())
    flat = small_configuration("flat", (8, 8), spacing=(None, 3.0, 3.0), mirror_axes=())
    return small_plan(fine, coarse, flat, labels=LABELS, normalization=(NormalizationSpec(scheme="none"),))


def predictors(*, region: bool) -> tuple[Predictor, Counting, Counting]:
    plan, fine, coarse = make_plan(), Counting(), Counting()
    predictor = Predictor([fine], plan.configuration("fine"), CPU)
    if region:
        predictor.earlier = (Predictor([coarse], plan.configuration("coarse"), CPU, mirroring=False),)
        predictor.only_region = True
    return predictor, fine, coarse


def image_of(*boxes: tuple[slice, slice, slice], shape: tuple[int, int, int] = (40, 48, 44)) -> Volume:
    array = np.full((1, *shape), 40, np.float32)
    for box in boxes:
        array[(0, *box)] = 220
    return Volume(array=array, geometry=Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize("seed", range(8))
def test_the_region_holds_what_was_found_and_a_margin_and_a_patch(seed: int) -> None:
    random = np.random.default_rng(seed)
    coarse, fine, patch = random.integers(6, 20, 3), random.integers(20, 60, 3), (8, 12, 4)
    logits = np.zeros((2, *coarse), np.float32)
    logits[1] = -1
    low = [int(random.integers(0, size)) for size in coarse]
    high = [int(random.integers(first + 1, size + 1)) for first, size in zip(low, coarse, strict=True)]
    logits[(1, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 1
    region = region_of(logits, tuple(fine), patch, regions=False)
    assert region is not None
    for side, first, end, size, wide, edge in zip(region, low, high, coarse, fine, patch, strict=True):
        margin = edge / 4
        assert side.start <= max(0, first * wide / size - margin)
        assert side.stop >= min(wide, end * wide / size + margin)
        assert side.stop - side.start >= min(edge, wide - side.start, side.stop)
        assert 0 <= side.start < side.stop <= wide
    of_regions = region_of(logits[1:], tuple(fine), patch, regions=True)
    assert of_regions == region
    assert region_of(np.stack([np.ones(coarse), np.zeros(coarse)]), tuple(fine), patch, regions=False) is None


def test_label_maps_are_the_same_and_most_of_the_image_is_not_computed(tmp_path: Path) -> None:
    plan, source = make_plan(), tmp_path / "in"
    images = {
        "small": image_of((slice(8, 12), slice(10, 15), slice(20, 24))),
        "corner": image_of((slice(0, 5), slice(0, 4), slice(40, 44))),
        "nothing": image_of(),
        "two": image_of((slice(2, 6),) * 3, (slice(30, 36),) * 3),
    }
    cases = [write_scan(source, name, volume) for name, volume in images.items()]
    tiles: dict[str, dict[bool, int]] = {name: {} for name in images}
    for region in (False, True):
        for case in cases:
            predictor, fine, coarse = predictors(region=region)
            out = tmp_path / f"out-{region}"
            written = predict_files(predictor, plan, "k", [case], source, out, SilentLogger())
            tiles[case.id][region] = fine.tiles
            assert bool(coarse.tiles) == region
            np.testing.assert_array_equal(read(written[case.id]).array, images[case.id].array > THRESHOLD)
    assert tiles["small"][True] < tiles["small"][False] / 5
    assert tiles["corner"][True] < tiles["corner"][False] / 5
    assert tiles["nothing"][True] == tiles["nothing"][False], "what the coarse model does not find may be there"
    record = read_document(PredictionRecord, tmp_path / "out-True" / "autoseg-prediction.json")
    assert {made.ways for made in record.cases.values()} == {("roi",)}
    usual = read_document(PredictionRecord, tmp_path / "out-False" / "autoseg-prediction.json")
    assert not {made.key for made in record.cases.values()} & {made.key for made in usual.cases.values()}


def test_what_reaches_a_border_of_the_region_is_not_cut_off() -> None:
    predictor, _, _ = predictors(region=False)
    image = image_of((slice(4, 30), slice(10, 14), slice(10, 14))).array
    region = (slice(0, 16), slice(4, 20), slice(4, 20))
    assert logits_within(predictor, image, region, lambda done, total: None) is None
    wide = (slice(0, 36), slice(4, 20), slice(4, 20))
    logits = logits_within(predictor, image, wide, lambda done, total: None)
    assert logits is not None
    np.testing.assert_array_equal(logits.argmax(0), image[0] > THRESHOLD)
    whole = (slice(0, 40), slice(0, 48), slice(0, 44))
    np.testing.assert_allclose(
        logits_within(predictor, image, whole, lambda done, total: None), predictor.logits(image), atol=1e-5
    )


def test_the_coarsest_trained_model_of_volumes_locates(tmp_path: Path) -> None:
    plan, model = make_plan(), ModelFolder(tmp_path)
    assert locator_of(model, plan, "fine") is None
    for name in ("fine", "flat"):
        folder = model.fold(name, "0")
        folder.path.mkdir(parents=True)
        folder.model.touch()
    assert locator_of(model, plan, "fine") is None, "slices are no volumes, and a model does not locate for itself"
    folder = model.fold("coarse", "0")
    folder.path.mkdir(parents=True)
    folder.model.touch()
    assert locator_of(model, plan, "fine") == "coarse"
    assert locator_of(model, plan, "coarse") is None
    assert list(coarser(plan, "fine")) == ["coarse"]
    assert not coarser(plan, "coarse")
    assert not coarser(plan, "flat"), "its pixels are coarser still"

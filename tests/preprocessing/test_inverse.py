"""The way back: what went forward comes back onto the grid and into the order of the files."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from autoseg.inference.export import label_map
from autoseg.phantom import make_phantom
from autoseg.preprocessing.forward import PreprocessedCase, preprocess_case
from autoseg.preprocessing.inverse import restore_labels, uncrop
from autoseg.values import AxisMap, Geometry, Label, Labels, Plan, PreprocessRecord, ResamplingSpec, Volume

MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
MakePlan = Callable[..., Plan]
GAPS = Labels(foreground=tuple(Label(name=str(value), values=(value,)) for value in (40, 2, 300)), ignore=17)


def scan(stored: AxisMap, *, shape: tuple[int, int, int] = (9, 22, 20), seed: int = 5) -> tuple[Volume, Volume]:
    """An oblique phantom and its labels in some stored order, with air (zeros) on all sides."""
    spacing = (45.0 / shape[0], 53.0 / shape[1], 52.0 / shape[2])
    phantom = make_phantom(seed, shape=shape, spacing=spacing, stored=stored)
    inside = np.zeros(phantom.image.array.shape, bool)
    inside[:, 1:-1, 2:-1, 1:-2] = True
    image = np.where(inside, phantom.image.array + 1, 0).astype(np.float32)
    labels = np.where(inside, phantom.labels.array, 0).astype(np.int32)
    return (
        Volume(array=image, geometry=phantom.image.geometry),
        Volume(array=labels, geometry=phantom.image.geometry),
    )


def preprocess(image: Volume, labels: Volume, plan: Plan) -> PreprocessedCase:
    return preprocess_case(image, labels, plan, plan.configurations[0], case_id="a", key="k")


@pytest.mark.parametrize("orientation", ["canonical", "as_stored"])
@pytest.mark.parametrize("axis_order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)], ids=str)
def test_labels_of_all_48_stored_orders_come_back(orientation: str, axis_order: tuple, make_plan: MakePlan) -> None:
    plan = make_plan(orientation=orientation, axis_order=axis_order)
    for stored in MAPS:
        image, labels = scan(stored)
        ready = preprocess(image, labels, plan)
        assert ready.record.crop_shape != ready.record.axes.reorder(image.geometry.shape)  # something was cropped
        restored = restore_labels(np.maximum(ready.segmentation, 0), ready.record)
        np.testing.assert_array_equal(restored.array, labels.array)
        assert restored.geometry == labels.geometry
        assert restored.array.flags.c_contiguous


def test_uncropping_pastes_into_background() -> None:
    record = PreprocessRecord(
        case_id="a",
        key="k",
        source=Geometry(shape=(4, 5, 6), spacing=(1.0, 1.0, 1.0)),
        axes=AxisMap(order=(2, 0, 1)),
        crop_start=(1, 2, 0),
        crop_shape=(3, 2, 5),
        spacing=(1.0, 1.0, 1.0),
        shape=(3, 2, 5),
        target_spacing=(1.0, 1.0, 1.0),
    )
    inner = np.arange(1, 31, dtype=np.uint16).reshape(3, 2, 5)
    whole = uncrop(inner, record)
    assert whole.shape == (6, 4, 5)
    assert whole.dtype == inner.dtype
    np.testing.assert_array_equal(whole[1:4, 2:4, :], inner)
    assert whole.sum() == inner.sum()


def one_hot(segmentation: np.ndarray, labels: Labels) -> np.ndarray:
    """Logits of a network that knows the truth."""
    if labels.has_regions:
        return np.stack([np.isin(segmentation, indices) - 0.5 for indices in labels.region_indices]).astype(np.float32)
    return np.stack([np.maximum(segmentation, 0) == index for index in range(labels.output_count)]).astype(np.float32)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (2.0, 1.5, 1.0), (1.5, 1.5, 1.5), (None, 1.0, 1.0)], ids=str)
@pytest.mark.parametrize("separate_axis_order", [0, 1])
@pytest.mark.parametrize("stored", [MAPS[0], MAPS[21], MAPS[44]], ids=str)
def test_a_perfect_network_gives_the_labels_back(
    spacing: tuple, separate_axis_order: int, stored: AxisMap, make_plan: MakePlan
) -> None:
    plan = make_plan(spacing=spacing, resampling=ResamplingSpec(separate_axis_order=separate_axis_order))
    image, labels = scan(stored, shape=(14, 40, 40))
    ready = preprocess(image, labels, plan)
    assert ready.record.shape != ready.record.crop_shape
    logits = one_hot(ready.segmentation, plan.labels)
    predicted = label_map(logits, ready.record, plan.configurations[0], plan.labels)
    assert predicted.geometry == labels.geometry
    for value in (1, 2, 3):
        assert dice(predicted.array == value, labels.array == value) > 0.9


def test_integers_with_gaps_are_written_as_they_were_and_ignored_voxels_as_background(make_plan: MakePlan) -> None:
    plan = make_plan(labels=GAPS)
    image, labels = scan(MAPS[33])
    given = np.array([0, 40, 2, 300])[labels.array].astype(np.int32)
    unknown = np.random.default_rng(0).random(given.shape) < 0.05
    marked = Volume(array=np.where(unknown, 17, given).astype(np.int32), geometry=labels.geometry)
    ready = preprocess(image, marked, plan)
    predicted = label_map(one_hot(ready.segmentation, GAPS), ready.record, plan.configurations[0], GAPS)
    cropped = np.zeros_like(unknown)
    cropped[:, 1:-1, 2:-1, 1:-2] = True
    np.testing.assert_array_equal(predicted.array[~unknown], given[~unknown])
    np.testing.assert_array_equal(predicted.array[unknown & cropped], 0)
    assert predicted.array.dtype == np.uint16


def test_regions_are_written_one_over_the_other(make_plan: MakePlan) -> None:
    regions = Labels(
        foreground=(
            Label(name="whole", values=(1, 2, 3)),
            Label(name="core", values=(2, 3)),
            Label(name="centre", values=(3,)),
        ),
        region_values=(1, 2, 3),
    )
    plan = make_plan(labels=regions)
    image, labels = scan(MAPS[10])
    ready = preprocess(image, labels, plan)
    predicted = label_map(one_hot(ready.segmentation, regions), ready.record, plan.configurations[0], regions)
    np.testing.assert_array_equal(predicted.array, labels.array)

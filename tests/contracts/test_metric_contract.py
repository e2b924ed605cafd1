"""What every installed metric must do: a number, or None where it is not defined; never NaN, never an error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autoseg import plugins
from autoseg.evaluation.overlap import Metric
from autoseg.values import Geometry
from autoseg.values.scores import MEASURES

GEOMETRY = Geometry(shape=(6, 9, 8), spacing=(3.0, 1.0, 1.25))


@pytest.fixture(params=plugins.available("metric"))
def metric(request: pytest.FixtureRequest) -> Metric:
    """A metric plug."""
    return plugins.load("metric", request.param)


def boxes(shift: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A box, and the same box displaced."""
    reference, prediction = np.zeros(GEOMETRY.shape, bool), np.zeros(GEOMETRY.shape, bool)
    reference[1:4, 2:6, 2:5] = True
    prediction[1:4, 2 + shift : 6 + shift, 2:5] = True
    return reference, prediction


EMPTY, FULL = np.zeros(GEOMETRY.shape, bool), np.ones(GEOMETRY.shape, bool)
PAIRS = {
    "displaced": boxes(),
    "apart": boxes(3),
    "both empty": (EMPTY, EMPTY),
    "nothing predicted": (boxes()[0], EMPTY),
    "nothing there": (EMPTY, boxes()[0]),
    "everything": (FULL, FULL),
    "one voxel": (np.eye(1, EMPTY.size, dtype=bool).reshape(EMPTY.shape), FULL),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def test_there_are_metrics() -> None:
    assert {"dice", "iou", *MEASURES} <= set(plugins.available("metric"))


@pairs
def test_it_is_a_finite_number_or_none(metric: Metric, pair: tuple[np.ndarray, np.ndarray]) -> None:
    value = metric(*pair, geometry=GEOMETRY)
    assert value is None or (type(value) is float and math.isfinite(value))


@pairs
def test_inputs_are_not_changed_and_the_value_is_repeatable(metric: Metric, pair) -> None:
    copies = [array.copy() for array in pair]
    for array in copies:
        array.flags.writeable = False  # writing raises
    assert metric(*copies, geometry=GEOMETRY) == metric(*copies, geometry=GEOMETRY)


def test_it_is_defined_where_both_are_there_and_tells_agreement_from_disagreement(metric: Metric) -> None:
    """Two objects: both found; most of one and a voxel elsewhere; nothing but two voxels far away."""
    reference, some, none = (np.zeros(GEOMETRY.shape, bool) for _ in range(3))
    reference[1:4, 1:4, 1:4] = reference[1:4, 5:8, 1:4] = True
    some[1:4, 2:4, 1:4] = some[0, 0, 7] = True
    none[5, [0, 8], 7] = True
    best, middle, worst = (metric(reference, array, geometry=GEOMETRY) for array in (reference, some, none))
    assert None not in (best, middle, worst)
    assert min(best, worst) < middle < max(best, worst)  # better or worse, but in order


def test_probabilities_may_be_given(metric: Metric) -> None:
    reference, prediction = boxes()
    probabilities = prediction.astype(np.float32) * 0.8 + 0.1
    assert metric(reference, prediction, probabilities=probabilities, geometry=GEOMETRY) is not None


def test_turning_both_around_changes_nothing(metric: Metric) -> None:
    reference, prediction = boxes()
    expected = metric(reference, prediction, geometry=GEOMETRY)
    for axes in ((0,), (1, 2), (0, 1, 2)):
        flipped = metric(np.flip(reference, axes), np.flip(prediction, axes), geometry=GEOMETRY)
        assert flipped == pytest.approx(expected)
    turned = Geometry(shape=(8, 6, 9), spacing=(1.25, 3.0, 1.0))
    both = (array.transpose(2, 0, 1) for array in (reference, prediction))
    assert metric(*both, geometry=turned) == pytest.approx(expected)


def test_a_single_slice_is_taken(metric: Metric) -> None:
    reference, prediction = (array[2:3] for array in boxes())
    thin = Geometry(shape=(1, 9, 8), spacing=(1.0, 1.0, 1.0))
    assert metric(reference, prediction, geometry=thin) is not None
    flat = Geometry(shape=(1, 9, 8), spacing=(1.0, 1.0, 1.0), planar=True)  # which has no volume
    value = metric(reference, prediction, geometry=flat)
    assert value is None or math.isfinite(value)

"""What is measured of a label map, against arrays of which the answer is known and against counts voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.comparison.measures import CaseMeasures, measure_case
from autoseg.evaluation.overlap import overlap_scores
from autoseg.values import AxisMap, Geometry, Label, Labels

ORGAN = Labels(foreground=(Label(name="organ", values=(1,)),))
TWO = Labels(foreground=(Label(name="organ", values=(1,)), Label(name="tumour", values=(3,))))


def measured(reference: np.ndarray, prediction: np.ndarray, labels: Labels = ORGAN, **options) -> CaseMeasures:
    geometry = options.pop("geometry", Geometry(shape=reference.shape, spacing=(5.0, 2.0, 1.0)))
    axes = options.pop("axes", AxisMap())
    return measure_case(reference, prediction, geometry, axes, labels, **options)


def column(slices: int = 10, before: int = 3, edge: int = 4) -> np.ndarray:
    """A block of so many slices in a larger image."""
    array = np.zeros((slices + 2 * before, edge + 2, edge + 3), np.uint8)
    array[before:-before, 1:-1, 1:-2] = 1
    return array


def test_an_error_at_the_ends_is_found_at_the_ends():
    reference, prediction = column(), column()
    prediction[3:5] = 0  # the first two of ten slices
    organ = measured(reference, prediction).labels["organ"]
    assert [part.dice for part in organ.parts] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert [part.wanted for part in organ.parts] == [32] * 5


def test_what_is_predicted_beyond_the_ends_counts_at_the_ends():
    reference, prediction = column(), column()
    prediction[:3] = prediction[3]
    prediction[-1] = prediction[3]
    parts = measured(reference, prediction).labels["organ"].parts
    assert [part.predicted for part in parts] == [32 + 48, 32, 32, 32, 32 + 16]


@pytest.mark.parametrize(("slices", "filled"), [(1, [2]), (2, [1, 3]), (3, [0, 2, 4]), (7, [0, 1, 2, 3, 4])])
def test_few_slices_have_few_parts(slices, filled):
    parts = measured(column(slices), column(slices)).labels["organ"].parts
    assert [place for place, part in enumerate(parts) if part.wanted] == filled


def test_a_map_that_flickers_agrees_less_with_itself():
    reference, prediction = column(), column()
    prediction[6] = 0  # one slice is lost
    organ = measured(reference, prediction).labels["organ"]
    assert organ.reference.agreement == 1.0
    assert organ.reference.flip_rate == 0.0
    assert organ.prediction.agreement == pytest.approx(2 * 7 * 16 / (16 * (7 * 2 + 2)))
    assert organ.prediction.flip_rate == pytest.approx(1 / 9)


def test_natural_ends_are_no_change():
    organ = measured(column(), column()).labels["organ"]
    assert (organ.prediction.agreement, organ.prediction.flips) == (1.0, 0)
    alone = measured(column(1), column(1)).labels["organ"].prediction
    assert (alone.agreement, alone.flip_rate) == (None, 1.0)


def test_an_empty_map_has_no_changes_and_an_empty_reference_no_parts():
    nothing = np.zeros_like(column())
    organ = measured(nothing, column()).labels["organ"]
    assert (organ.parts, organ.whole.dice, organ.reference.agreement) == ((), 0.0, None)
    assert measured(nothing, nothing).labels["organ"].whole.dice is None


def test_slices_are_those_of_the_plan_whatever_the_order_of_the_file():
    random = np.random.default_rng(0)
    reference, prediction = random.integers(0, 2, (2, 7, 8, 9)).astype(np.uint8)
    straight = measured(reference, prediction)
    axes = AxisMap(order=(2, 0, 1))
    turned = [array.transpose(axes.inverse().order) for array in (reference, prediction)]
    geometry = Geometry(shape=turned[0].shape, spacing=axes.inverse().reorder((5.0, 2.0, 1.0)))
    assert measured(*turned, geometry=geometry, axes=axes) == straight
    assert (straight.spacing, straight.voxel_ml) == (5.0, 0.01)


def test_a_planar_image_has_no_slices_and_no_volume():
    image = np.ones((1, 4, 5), np.uint8)
    geometry = Geometry(shape=(1, 4, 5), spacing=(1.0, 1.0, 1.0), planar=True)
    found = measured(image, image, geometry=geometry)
    assert (found.spacing, found.voxel_ml) == (None, None)


def test_what_the_reference_ignores_counts_nowhere():
    labels = Labels(foreground=ORGAN.foreground, ignore=2)
    reference, prediction = column(), column()
    reference[6] = 2
    prediction[6] = 0
    organ = measured(reference, prediction, labels).labels["organ"]
    assert organ.whole.dice == 1.0
    assert (organ.prediction.agreement, organ.prediction.flips) == (1.0, 0)


def test_labels_that_nobody_looked_for_are_not_measured():
    assert set(measured(column(), column(), TWO, annotated=["tumour"]).labels) == {"tumour"}


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_the_scores_and_of_a_walk_over_all_voxels(seed):
    random = np.random.default_rng(seed)
    labels = Labels(
        foreground=(Label(name="all", values=(1, 3)), Label(name="core", values=(3,))), ignore=4, region_values=(1, 3)
    )
    reference = random.choice([0, 0, 0, 1, 3, 4], (9, 5, 6)).astype(np.uint8)
    prediction = random.choice([0, 0, 1, 3], (9, 5, 6)).astype(np.int32)
    found, scores = measured(reference, prediction, labels), overlap_scores(reference, prediction, labels)
    for label, score in zip(labels.foreground, scores.values(), strict=True):
        of_label = found.labels[label.name]
        whole = of_label.whole
        assert (whole.both, whole.predicted, whole.wanted) == (score.tp, score.n_pred, score.n_ref)
        assert whole == sum(of_label.parts[1:], of_label.parts[0])
        known = reference != 4
        mask = np.isin(prediction, label.values) & known
        filled = np.flatnonzero(mask.any(axis=(1, 2)))
        shared = sizes = flips = 0
        for at in np.ndindex(5, 6):
            one, sure = mask[(slice(None), *at)], known[(slice(None), *at)]
            for place in range(filled[0], filled[-1]):
                if sure[place] and sure[place + 1]:
                    shared += int(one[place] and one[place + 1])
                    sizes += int(one[place]) + int(one[place + 1])
            flips += sum(
                bool(sure[place - 1 : place + 2].all() and one[place - 1] == one[place + 1] != one[place])
                for place in range(1, 8)
            )
        changes = of_label.prediction
        assert (changes.shared, changes.sizes, changes.flips, changes.voxels) == (shared, sizes, flips, mask.sum())

"""Experiments on made-up cases whose errors are known: at the ends, in small structures, from slice to slice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autoseg.comparison.measures import measure_case
from autoseg.comparison.reasons import Compared, kept_experiments
from autoseg.values import AxisMap, Experiment, Geometry, Label, Labels

ORGAN = Labels(foreground=(Label(name="organ", values=(1,)),))
Wrong = Callable[[np.ndarray, int], None]
CASES = 10


def nothing(array: np.ndarray, case: int) -> None:
    """The prediction is right."""


def ends_lost(array: np.ndarray, case: int) -> None:
    array[2 + (case % 2)] = array[-3] = 0
    array[2] = 0


def middle_lost(array: np.ndarray, case: int) -> None:
    array[6 + case % 3, :4] = 0


def flickering(array: np.ndarray, case: int) -> None:
    array[4 + case % 3, 1:3] = array[8 + case % 2, 1:3] = 0


def small_ones_lost(array: np.ndarray, case: int) -> None:
    """Half of what the smaller structures hold."""
    if case < CASES // 2:
        array[:, : array.shape[1] // 2] = 0


def compared(
    first: Wrong, second: Wrong, *, cases: int = CASES, spacing: Callable[[int], float] = lambda case: 3.0
) -> dict[str, Experiment]:
    """Experiments on blocks of 12 slices, larger from case to case, of two configurations that err like this."""
    measures: tuple[list, list] = ([], [])
    dice = np.empty((2, cases, 1))
    for case in range(cases):
        reference = np.zeros((16, 10 + case, 8), np.uint8)
        reference[2:-2, 1:-1, 1:-1] = 1
        geometry = Geometry(shape=reference.shape, spacing=(spacing(case), 1.0, 1.0))
        for place, wrong in enumerate((first, second)):
            prediction = reference.copy()
            wrong(prediction, case)
            measures[place].append(measure_case(reference, prediction, geometry, AxisMap(), ORGAN))
            dice[place, case, 0] = measures[place][-1].labels["organ"].whole.dice
    of = Compared(
        first="3d",
        second="2d",
        labels=("organ",),
        patients=tuple(f"p{case}" for case in range(cases)),
        measures=(tuple(measures[0]), tuple(measures[1])),
        dice=dice,
        left_out=0,
    )
    return {each.name: each for each in kept_experiments(of)}


def claim(experiment: Experiment) -> int:
    return experiment.contrasts[0].claim


def test_errors_at_the_ends_are_told():
    found = compared(nothing, ends_lost)["position_in_structure"]
    assert claim(found) == 1
    assert found.answer.startswith("At the ends of structures 3d does better against 2d than between them")
    at = {each.group: each.interval.mean for each in found.contrasts}
    assert at["first fifth"] > 0.1
    assert at["last fifth"] > 0.1
    assert at["third fifth"] == at["fourth fifth"] == 0
    assert claim(compared(ends_lost, nothing)["position_in_structure"]) == -1
    assert claim(compared(nothing, middle_lost)["position_in_structure"]) == -1


def test_predictions_that_flicker_are_told():
    found = compared(nothing, flickering)["slice_consistency"]
    assert claim(found) == 1
    assert "Predictions of 2d change more from slice to slice than those of 3d" in found.answer
    assert "Compared with the references, they agree less in those of 2d (" in found.answer
    flips = next(each for each in found.contrasts if each.quantity.startswith("voxels") and "2d" in each.quantity[-20:])
    assert flips.claim == -1
    assert claim(compared(flickering, nothing)["slice_consistency"]) == -1


def test_ends_that_are_lost_are_no_flicker():
    found = compared(nothing, ends_lost)["slice_consistency"]
    assert claim(found) == 0
    assert "is not sure" in found.answer


def test_errors_in_small_structures_are_told():
    found = compared(nothing, small_ones_lost, cases=18)["structure_size"]
    assert claim(found) == 1
    assert found.answer.startswith("3d does better against 2d in the smallest third")
    means = [each.interval.mean for each in found.contrasts[1:4]]
    assert means[0] > 0.2
    assert means[2] == 0
    few = compared(nothing, small_ones_lost)["structure_size"]  # thirds of three and four patients
    assert (claim(few), few.contrasts[0].interval.lower) == (0, None)


def test_slices_of_one_thickness_tell_nothing_of_thickness():
    found = compared(nothing, flickering)["slice_thickness"]
    assert (found.contrasts, found.missing) == ((), "All slices are about as thick: 3 mm.")


def test_errors_in_thick_slices_are_told():
    found = compared(nothing, small_ones_lost, cases=12, spacing=lambda case: 5.0 if case < 5 else 1.0)[
        "slice_thickness"
    ]
    assert claim(found) == 1
    assert found.answer.startswith("3d does better against 2d with thick slices")
    assert "5 mm apart against those with 1 mm" in found.method


def test_of_two_equal_ones_nothing_is_claimed():
    for experiment in compared(flickering, flickering).values():
        assert experiment.missing or claim(experiment) == 0


@pytest.mark.parametrize("pair", [(ends_lost, flickering), (middle_lost, small_ones_lost)])
def test_exchanging_the_two_turns_every_sign(pair):
    there, back = compared(*pair), compared(*pair[::-1])
    for name, experiment in there.items():
        assert claim(experiment) == -claim(back[name]) if experiment.contrasts else back[name].missing
        if experiment.contrasts:
            means = [each.contrasts[0].interval.mean for each in (experiment, back[name])]
            assert means[0] == pytest.approx(-means[1])


def test_without_any_case_every_experiment_says_why():
    for experiment in compared(nothing, nothing, cases=0).values():
        assert experiment.missing

"""A predicted Dice: exact where the relation is, never falling, right as often as it says, else refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from autoseg.statistics import COVERED, dice_predictor, why_not
from autoseg.values import Calibration


def calibration(soft: np.ndarray, dice: np.ndarray, patients: np.ndarray | None = None) -> Calibration:
    patients = np.arange(len(soft)) if patients is None else patients
    return Calibration(
        soft_dice=tuple(map(float, soft)), dice=tuple(map(float, dice)), patients=tuple(map(int, patients))
    )


def simulated(cases: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Certainty that goes with Dice, with residuals of heavy tails."""
    generator = np.random.default_rng(seed)
    certain = generator.normal(2, 1, cases)
    return expit(certain), expit(0.8 * certain - 0.5 + 0.4 * generator.standard_t(4, cases))


def test_a_relation_without_noise_is_found_and_its_interval_is_a_point() -> None:
    soft = np.linspace(0.5, 0.95, 12)
    predictor = dice_predictor(calibration(soft, expit(0.5 * logit(soft) - 1)))
    for place in (0.2, 0.6, 0.97):
        found, right = predictor(place), expit(0.5 * logit(place) - 1)
        assert (found.dice, found.lower, found.upper) == pytest.approx((right, right, right))
    assert predictor.least_soft_dice == 0.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cases=st.integers(10, 40))
def test_more_certain_is_never_predicted_worse_and_the_interval_holds_the_prediction(seed: int, cases: int) -> None:
    predictor = dice_predictor(calibration(*simulated(cases, seed)))
    if predictor is None:
        return
    found = [predictor(place) for place in np.linspace(0, 1, 21)]
    for part in ("dice", "lower", "upper"):
        assert (np.diff([getattr(each, part) for each in found]) >= -1e-12).all()
    assert all(0 <= each.lower <= each.dice <= each.upper <= 1 for each in found)


@pytest.mark.parametrize("cases", [10, 30, 100])
def test_the_interval_holds_as_many_new_cases_as_it_says(cases: int) -> None:
    within = []
    for seed in range(80):
        soft, dice = simulated(cases + 25, seed)
        predictor = dice_predictor(calibration(soft[:cases], dice[:cases]))
        if predictor is not None:
            found = [predictor(place) for place in soft[cases:]]
            within += [one.lower <= right <= one.upper for one, right in zip(found, dice[cases:], strict=True)]
    assert len(within) > 1500
    assert COVERED - 0.04 < np.mean(within) < COVERED + 0.08


def test_cases_of_one_patient_are_left_out_together() -> None:
    """Twice the same cases say no more: the interval is at least as wide as that of the patients alone."""
    soft, dice = simulated(15, 3)
    alone = dice_predictor(calibration(soft, dice))
    twice = dice_predictor(calibration(np.repeat(soft, 2), np.repeat(dice, 2), np.repeat(np.arange(15), 2)))
    taken_for_others = dice_predictor(calibration(np.repeat(soft, 2), np.repeat(dice, 2)))
    for place in (0.6, 0.9):
        assert twice(place).dice == pytest.approx(alone(place).dice)
        widths = [each(place).upper - each(place).lower for each in (twice, taken_for_others)]
        assert widths[0] > widths[1]


def test_too_few_patients_and_no_relation_are_refused_in_words() -> None:
    soft, dice = simulated(30, 1)
    assert "only 9 held-out patients" in why_not(calibration(soft[:9], dice[:9]))
    assert "only 9 held-out patients" in why_not(calibration(soft, dice, np.arange(30) % 9))
    assert "does not go with the certainty" in why_not(calibration(soft, 1 - dice))
    assert "alike" in why_not(calibration(np.full(30, 0.9), dice))
    assert why_not(calibration(soft, dice)) == ""
    assert dice_predictor(calibration(soft, 1 - dice)) is None
    assert "only 0" in why_not(Calibration(soft_dice=(), dice=(), patients=()))


def test_chance_is_seldom_taken_for_a_relation() -> None:
    generator = np.random.default_rng(0)
    taken = [not why_not(calibration(generator.uniform(size=20), generator.uniform(size=20))) for _ in range(300)]
    assert np.mean(taken) < 0.09

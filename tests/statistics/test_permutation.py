"""The paired permutation test: hand-worked cases, scipy's, its laws, and its promise about false alarms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autoseg.errors import InputError
from autoseg.statistics import false_alarm_rate, paired_permutation_test
from tests.statistics.scores import label_scores, two_runs


def test_three_cases_by_hand() -> None:
    """Differences 1, 2, 3: of eight assignments, the sums +6 and -6 alone are as large as the observed one."""
    test = paired_permutation_test(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert test.difference == 2.0
    assert test.p_value == 2 / 8
    assert (test.exact, test.draws, test.pairs, test.patients, test.left_out) == (True, 8, 3, 3, 0)


def test_a_difference_with_mixed_signs_by_hand() -> None:
    """Differences 1, -2, 4: observed 3; the sums are 7, 5, 3, 1 and their negatives, six of eight are at least 3."""
    test = paired_permutation_test(np.array([1.0, 0.0, 4.0]), np.array([0.0, 2.0, 0.0]))
    assert test.p_value == 6 / 8


def test_cases_of_a_patient_change_places_together_by_hand() -> None:
    """Four cases of two patients have two signs: 1+2 and 3+4 give 10, 4, -4, -10."""
    test = paired_permutation_test(np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4), ["P1", "P1", "P2", "P2"])
    assert test.p_value == 2 / 4
    assert test.patients == 2
    assert test.smallest_p_value == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_few_cases_have_scipys_exact_p_value(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(0.3, 1, 9), random.normal(0, 1, 9)
    wanted = stats.permutation_test(
        (first, second), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", n_resamples=np.inf
    )
    assert paired_permutation_test(first, second).p_value == pytest.approx(wanted.pvalue, abs=1e-12)


def test_many_cases_have_scipys_p_value_up_to_chance() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(0.2, 1, 60), random.normal(0, 1, 60)
    wanted = stats.permutation_test(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        n_resamples=9_999,
        rng=np.random.default_rng(1),
    )
    ours = paired_permutation_test(first, second)
    assert not ours.exact
    spread = np.sqrt(2 * ours.p_value * (1 - ours.p_value) / 10_000)
    assert abs(ours.p_value - wanted.pvalue) < 4 * spread


def test_random_assignments_approach_the_exact_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    first, second = random.normal(0.4, 1, 15), random.normal(0, 1, 15)
    exact = paired_permutation_test(first, second)
    monkeypatch.setattr("autoseg.statistics.permutation.EXACT_PATIENTS", 0)
    drawn = paired_permutation_test(first, second, draws=40_000)
    assert exact.exact
    assert not drawn.exact
    assert abs(drawn.p_value - exact.p_value) < 4 * np.sqrt(exact.p_value / 40_000)


def test_labels_have_equal_weight_and_one_sign_a_patient() -> None:
    """Against all assignments, one by one, with the pooled mean taken anew each time."""
    first, second = label_scores(8, 3, 0), label_scores(8, 3, 1)
    patients = np.array([0, 0, 1, 2, 3, 3, 4, 5])
    difference = first - second

    def mean(signs: np.ndarray) -> float:
        return float(np.nanmean(difference * signs[patients][:, None], axis=0).mean())

    sums = [mean(np.array(signs)) for signs in itertools.product((1, -1), repeat=6)]
    test = paired_permutation_test(first, second, patients)
    assert test.difference == pytest.approx(mean(np.ones(6)), abs=1e-15)
    assert test.p_value == np.mean(np.abs(sums) >= abs(sums[0]) - 1e-12)
    assert test.left_out == np.isnan(difference).sum()


@pytest.mark.parametrize("cases", [7, 40])
def test_neither_the_order_of_cases_nor_names_nor_who_is_first_matter(cases: int) -> None:
    first, second = label_scores(cases, 3, 0), label_scores(cases, 3, 1)
    patients = np.random.default_rng(2).integers(0, cases // 2 + 1, cases)
    order = np.random.default_rng(3).permutation(cases)
    one = paired_permutation_test(first, second, patients, draws=500)
    assert paired_permutation_test(first[order], second[order], 1000 - patients[order], draws=500) == one
    turned = paired_permutation_test(second, first, patients, draws=500)
    assert turned.p_value == one.p_value
    assert turned.difference == -one.difference


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=10), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_the_more_of_the_difference_points_one_way_the_smaller_p(good: list[float], bad: list[float]) -> None:
    """Turning the patients round in whom the other candidate is better only adds evidence."""
    mixed = paired_permutation_test(np.array(good + [-value for value in bad]), np.zeros(len(good) + len(bad)))
    one_way = paired_permutation_test(np.array(good + bad), np.zeros(len(good) + len(bad)))
    assert one_way.p_value <= mixed.p_value
    if min(good + bad) > 1e-6:  # what is smaller beside the others is rounding
        assert one_way.p_value == one_way.smallest_p_value


def test_p_never_is_zero_and_says_how_small_it_could_have_been() -> None:
    test = paired_permutation_test(np.ones(50), np.zeros(50), draws=99)
    assert test.p_value == test.smallest_p_value == 1 / 100
    assert paired_permutation_test(np.ones(5), np.zeros(5)).p_value == 2 / 32 > 0.05


def test_what_is_not_defined_is_left_out_and_counted() -> None:
    first = np.array([2.0, np.nan, 4.0, 6.0, 9.0])
    second = np.array([1.0, 5.0, 2.0, 3.0, np.nan])
    test = paired_permutation_test(first, second)
    assert (test.pairs, test.left_out, test.patients) == (3, 2, 3)
    assert test.p_value == 2 / 8


@pytest.mark.parametrize("scores", [np.full(4, np.nan), np.zeros(0), np.full((3, 2), np.nan)])
def test_nothing_defined_is_no_difference_and_no_evidence(scores: np.ndarray) -> None:
    test = paired_permutation_test(scores, scores)
    assert test.difference is None
    assert test.p_value == test.smallest_p_value == 1.0


def test_equal_scores_are_no_evidence() -> None:
    assert paired_permutation_test(np.linspace(0, 1, 30), np.linspace(0, 1, 30)).p_value == 1.0


@pytest.mark.parametrize(
    ("first", "second", "patients"),
    [
        (np.zeros(3), np.zeros(4), None),
        (np.zeros((3, 2)), np.zeros(3), None),
        (np.zeros(3), np.zeros(3), ["a", "b"]),
        (np.zeros(3), np.array([0, np.inf, 0]), None),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), None),
    ],
)
def test_what_does_not_fit_is_refused(first: np.ndarray, second: np.ndarray, patients: list[str] | None) -> None:
    with pytest.raises(InputError):
        paired_permutation_test(first, second, patients)


#: Thirty cases of eighteen patients, more than are tried exactly.
COHORT = np.arange(30) % 18


@pytest.mark.parametrize(
    ("simulations", "off"), [(1000, 0.021), pytest.param(10_000, 0.007, marks=pytest.mark.slow)], ids=str
)
def test_two_runs_of_one_configuration_differ_significantly_in_five_percent(simulations: int, off: float) -> None:
    first, second = two_runs(simulations, COHORT, seed=5)
    rate = false_alarm_rate(first, second, COHORT, draws=399)
    assert abs(rate - 0.05) <= off


def test_without_patients_the_check_finds_too_many_false_alarms() -> None:
    """Cases taken for independent that are alike: the check would notice a test that does not keep its promise."""
    first, second = two_runs(400, np.arange(60) % 12, seed=6)
    assert false_alarm_rate(first, second, None, draws=399) > 0.15
    assert false_alarm_rate(first, second, np.arange(60) % 12) < 0.09

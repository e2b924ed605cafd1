"""The bootstrap by patients: scipy's draws and intervals, hand-worked cases, laws, and how often bounds hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from autoseg.errors import InputError
from autoseg.statistics import bootstrap_means, bootstrap_of_mean, tail_bounds
from autoseg.statistics.bootstrap import BootstrapMeans
from autoseg.values.statistics import IntervalMethod
from tests.statistics.scores import label_scores

SCORES = np.sort(np.random.default_rng(0).beta(18, 2, 25))  # sorted, as ours are inside: then scipy draws the same


@pytest.mark.parametrize(("method", "scipys"), [("percentile", "percentile"), ("bca", "BCa")])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_is_scipys_with_the_same_draws(method: IntervalMethod, scipys: str, level: float) -> None:
    wanted = stats.bootstrap(
        (SCORES,),
        np.mean,
        n_resamples=2000,
        confidence_level=level,
        method=scipys,
        rng=np.random.default_rng(7),
    )
    ours = bootstrap_of_mean(SCORES, level=level, method=method, draws=2000, seed=7)
    drawn = bootstrap_means(SCORES[None, :, None], draws=2000, seed=7).drawn[:, 0]
    np.testing.assert_allclose(np.sort(drawn), np.sort(wanted.bootstrap_distribution), rtol=1e-13)
    assert (ours.lower, ours.upper) == pytest.approx(tuple(wanted.confidence_interval), abs=1e-12)
    assert (ours.method, ours.cases, ours.patients, ours.draws) == (method, 25, 25, 2000)


def test_two_patients_by_hand() -> None:
    """Drawn twice out of two: both alike in half of the draws, so the mean is 0, 2 or 1, as 1 to 1 to 2."""
    drawn = bootstrap_means(np.array([0.0, 2.0])[None, :, None], draws=20_000).drawn[:, 0]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0, 1, 2]
    assert np.abs(counts / 20_000 - [0.25, 0.5, 0.25]).max() < 0.015


def test_cases_of_a_patient_are_drawn_together_and_pooled() -> None:
    """A with scores 1, 1, 1 and B with 0: the mean is 1 (A twice), 0 (B twice) or 3/4, never another."""
    drawn = bootstrap_means(np.array([1.0, 1, 1, 0])[None, :, None], ["A", "A", "A", "B"], draws=500).drawn
    assert set(drawn[:, 0]) == {0.0, 0.75, 1.0}


def test_every_draw_is_the_pooled_mean_of_a_selection_of_patients() -> None:
    """All 27 selections of three patients with absent labels, by brute force."""
    table = np.array([[0.5, np.nan], [0.7, 0.2], [np.nan, 0.4], [0.9, np.nan]])
    patients = np.array([0, 1, 1, 2])
    possible = set()
    for chosen in itertools.product(range(3), repeat=3):
        rows = np.concatenate([table[patients == who] for who in chosen])
        means = [column[np.isfinite(column)].mean() for column in rows.T if np.isfinite(column).any()]
        possible.add(round(float(np.mean(means)), 12))
    drawn = bootstrap_means(table[None], patients, draws=3000).drawn[:, 0]
    assert {round(float(value), 12) for value in drawn} == possible


def test_candidates_are_drawn_together() -> None:
    tables = np.stack([label_scores(12, 3, seed) for seed in range(3)])
    tables[:, np.isnan(tables).any(axis=0)] = np.nan
    tables = np.concatenate([tables, tables[:1] - 0.25])
    means = bootstrap_means(tables, draws=300)
    np.testing.assert_allclose(means.drawn[:, 0] - means.drawn[:, 3], 0.25, atol=1e-12)
    bounds = tail_bounds(means.difference(0, 3), 0.05)
    assert bounds is not None
    assert bounds[:2] == pytest.approx((0.25, 0.25))


def test_what_is_left_without_a_patient_is_the_jackknife() -> None:
    table, patients = label_scores(10, 2, 4), np.arange(10) // 2
    means = bootstrap_means(table[None], patients, draws=10)
    wanted = [float(np.nanmean(table[patients != who], axis=0).mean()) for who in range(5)]
    np.testing.assert_allclose(np.sort(means.without[:, 0]), np.sort(wanted), atol=1e-14)


@pytest.mark.parametrize("method", ["expanded", "percentile", "bca"])
def test_neither_the_order_of_cases_nor_the_names_of_patients_matter(method: IntervalMethod) -> None:
    table, patients = label_scores(30, 3, 1), np.random.default_rng(2).integers(0, 12, 30)
    order = np.random.default_rng(3).permutation(30)
    names = [f"patient {99 - who}" for who in patients[order]]
    one = bootstrap_of_mean(table, patients, method=method, draws=400)
    assert bootstrap_of_mean(table[order], names, method=method, draws=400) == one
    assert bootstrap_of_mean(table, patients, method=method, draws=400, seed=1) != one


@pytest.mark.parametrize("method", ["expanded", "percentile", "bca"])
def test_the_interval_moves_and_stretches_with_the_scores(method: IntervalMethod) -> None:
    def bounds(values: np.ndarray) -> np.ndarray:
        interval = bootstrap_of_mean(values, method=method, draws=500)
        assert interval.lower is not None
        assert interval.upper is not None
        assert interval.mean is not None
        return np.array([interval.lower, interval.mean, interval.upper])

    np.testing.assert_allclose(bounds(SCORES + 3), bounds(SCORES) + 3, atol=1e-12)
    np.testing.assert_allclose(bounds(SCORES * 4), bounds(SCORES) * 4, atol=1e-12)
    assert (np.diff(bounds(SCORES)) > 0).all()


def test_a_higher_level_is_a_wider_interval_and_more_patients_a_narrower_one() -> None:
    def width(values: np.ndarray, level: float) -> float:
        interval = bootstrap_of_mean(values, level=level, draws=2000)
        assert interval.lower is not None
        assert interval.upper is not None
        return interval.upper - interval.lower

    assert width(SCORES, 0.8) < width(SCORES, 0.9) < width(SCORES, 0.99)
    assert width(np.tile(SCORES, 4), 0.95) < 0.6 * width(SCORES, 0.95)


def test_copies_of_cases_of_one_patient_are_no_new_evidence() -> None:
    patients = np.arange(25)
    once = bootstrap_of_mean(SCORES, patients, draws=1000)
    thrice = bootstrap_of_mean(np.tile(SCORES, 3), np.tile(patients, 3), draws=1000)
    assert (thrice.lower, thrice.upper) == pytest.approx((once.lower, once.upper), abs=1e-12)
    assert thrice.cases == 75
    assert thrice.patients == 25


def test_expanded_is_wider_than_percentile_by_students_t() -> None:
    """Of normal scores, where the exact answer is known: the t interval of 8 patients."""
    values = stats.norm.ppf((np.arange(8) + 0.5) / 8)
    expanded = bootstrap_of_mean(values, level=0.9, draws=20_000)
    percentile = bootstrap_of_mean(values, level=0.9, method="percentile", draws=20_000)
    exact = stats.t.interval(0.9, 7, values.mean(), stats.sem(values))
    assert expanded.upper is not None
    assert percentile.upper is not None
    assert expanded.upper == pytest.approx(exact[1], rel=0.05)
    assert percentile.upper < 0.9 * exact[1]


def test_of_one_patient_nothing_can_be_said() -> None:
    interval = bootstrap_of_mean(np.array([0.8, 0.9, np.nan]), ["a", "a", "b"])
    assert interval.mean == pytest.approx(0.85)
    assert (interval.lower, interval.upper, interval.patients, interval.cases) == (None, None, 1, 2)


def test_of_nothing_there_is_no_mean() -> None:
    interval = bootstrap_of_mean(np.full((3, 2), np.nan))
    assert (interval.mean, interval.lower, interval.upper, interval.cases, interval.patients) == (
        None,
        None,
        None,
        0,
        0,
    )


def test_equal_scores_have_a_point_for_an_interval_where_bca_does_not_apply() -> None:
    interval = bootstrap_of_mean(np.full(6, 0.5), method="bca", draws=100)
    assert (interval.lower, interval.mean, interval.upper) == (0.5, 0.5, 0.5)
    assert interval.method == "expanded"


def test_bca_does_not_apply_where_a_label_hangs_on_nobody_or_all_draws_lie_on_one_side() -> None:
    means = BootstrapMeans(np.array([1.0]), np.linspace(0, 0.5, 50)[:, None], np.array([[0.9], [1.1]]))
    assert tail_bounds(means, 0.05, "bca") == tail_bounds(means, 0.05, "expanded")


@pytest.mark.parametrize(
    "scores", [np.zeros((2, 3)), np.full((2, 3, 1), np.inf), np.stack([np.zeros((3, 1)), np.full((3, 1), np.nan)])]
)
def test_scores_that_say_nothing_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(InputError):
        bootstrap_means(scores, draws=10)


def test_bounds_of_normal_differences_hold_the_truth_as_often_as_promised() -> None:
    random = np.random.default_rng(11)
    held = 0
    for values in random.normal(0, 1, (400, 10)):
        bounds = tail_bounds(bootstrap_means(values[None, :, None], draws=400), 0.05)
        assert bounds is not None
        held += bounds[1] >= 0
    assert abs(held / 400 - 0.95) < 0.035


def test_where_a_draw_has_no_mean_there_are_no_bounds() -> None:
    """Of ten patients, one has the label: a third of the draws are without."""
    means = bootstrap_means(np.array([[[0.5]] + [[np.nan]] * 9]), draws=100)
    assert [tail_bounds(means, 0.05, method) for method in ("percentile", "expanded", "bca")] == [None] * 3

"""Effect sizes: by hand, against scipy, and exchanged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from autoseg.errors import InputError
from autoseg.statistics import effect_sizes


def test_four_cases_by_hand() -> None:
    """Differences 1, 2, -3, 0: ranks 1, 2, 3 of those that differ; (1 + 2 - 3) / 6 = 0."""
    sizes = effect_sizes(np.array([1.0, 2, 0, 5, np.nan]), np.array([0.0, 0, 3, 5, 1]))
    assert (sizes.better, sizes.worse, sizes.equal, sizes.left_out) == (2, 1, 1, 1)
    assert sizes.mean == 0
    assert sizes.median == 0.5
    assert sizes.rank_biserial == 0
    assert sizes.standardized == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_ranks_are_those_of_scipys_wilcoxon_test(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = np.round(random.normal(0.5, 2, 30)), np.round(random.normal(0, 2, 30))  # with ties and zeros
    differences = first - second
    positive = stats.wilcoxon(differences, alternative="greater", method="asymptotic").statistic
    number = np.count_nonzero(differences)
    sizes = effect_sizes(first, second)
    assert sizes.rank_biserial == pytest.approx(2 * positive / (number * (number + 1) / 2) - 1)
    wanted = stats.ttest_rel(first, second).statistic / np.sqrt(30)
    assert sizes.standardized == pytest.approx(wanted)


def test_exchanged_candidates_have_opposite_effects() -> None:
    random = np.random.default_rng(0)
    first, second = random.random(20), random.random(20)
    one, other = effect_sizes(first, second), effect_sizes(second, first)
    for name in ("mean", "median", "standardized", "rank_biserial"):
        assert getattr(one, name) == pytest.approx(-getattr(other, name))
    assert (one.better, one.worse) == (other.worse, other.better)


def test_better_everywhere_is_one() -> None:
    assert effect_sizes(np.arange(5) + 1.0, np.arange(5) * 0.5).rank_biserial == 1


def test_small_differences_can_count_as_none() -> None:
    sizes = effect_sizes(np.array([0.5, 0.9]), np.array([0.499, 0.5]), equal_within=0.005)
    assert (sizes.better, sizes.worse, sizes.equal) == (1, 0, 1)


@pytest.mark.parametrize("first", [np.zeros(0), np.full(3, np.nan), np.zeros(1), np.full(4, 0.5)])
def test_what_has_no_effect_has_none(first: np.ndarray) -> None:
    sizes = effect_sizes(first, first)
    assert sizes.standardized is None
    assert sizes.rank_biserial is None
    assert (sizes.mean is None) == (not np.isfinite(first).any())


def test_other_cases_are_refused() -> None:
    with pytest.raises(InputError):
        effect_sizes(np.zeros(3), np.zeros(4))

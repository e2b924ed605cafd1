"""What a comparison of scores says: an interval, a paired test, the size of an effect."""

from __future__ import annotations

from typing import Literal

from autoseg.values.json_form import Value, require

__all__ = ["EffectSizes", "Interval", "IntervalMethod", "PairedTest"]

#: How the bounds follow from the draws of a bootstrap; see ``autoseg.statistics.bootstrap``.
IntervalMethod = Literal["expanded", "percentile", "bca"]


class Interval(Value, frozen=True, kw_only=True):
    """A mean and the bounds that a bootstrap by patients gives it.

    Attributes:
        mean: observed, pooled over cases; None if no value is defined.
        lower: None where nothing can be said: of fewer than two patients.
        upper: likewise.
        level: share of such intervals that hold the true mean, as intended: 0.95 for example.
        method: of the bounds; the one asked for, or ``expanded`` where BCa does not apply.
        cases: with a defined value.
        patients: of these cases.
        draws: of the bootstrap.
    """

    mean: float | None
    lower: float | None
    upper: float | None
    level: float
    method: IntervalMethod
    cases: int
    patients: int
    draws: int

    def __post_init__(self) -> None:
        require(0 < self.level < 1, "out of range", field="level", found=self.level, expected="between 0 and 1")
        require((self.lower is None) == (self.upper is None), "an interval has both bounds or none", field="upper")


class PairedTest(Value, frozen=True, kw_only=True):
    """Whether two candidates' scores of the same cases differ by more than chance: a permutation test by patients.

    Attributes:
        difference: mean of the first minus the second; None if no pair is defined.
        p_value: two-sided; 1 if there is nothing to compare.
        smallest_p_value: that so many patients can give at all: with five, nothing is ever below 0.05.
        exact: every assignment of signs was tried; else so many of ``draws``.
        draws: assignments that were looked at.
        pairs: with both values defined.
        left_out: pairs of which a value is not defined.
        patients: of the pairs.
    """

    difference: float | None
    p_value: float
    smallest_p_value: float
    exact: bool
    draws: int
    pairs: int
    left_out: int
    patients: int

    def __post_init__(self) -> None:
        require(0 < self.p_value <= 1, "out of range", field="p_value", found=self.p_value, expected="over 0, up to 1")


class EffectSizes(Value, frozen=True, kw_only=True):
    """How large and how regular the difference of two candidates is, case by case; it describes and proves nothing.

    Attributes:
        mean: of the differences, first minus second; None if there is none, as below.
        median: of them.
        standardized: mean over standard deviation of the differences (Cohen's d_z); None if they do not vary.
        rank_biserial: matched-pairs rank-biserial correlation (Kerby 2014), -1 to 1: 1 if the first is better wherever
            they differ; None if they differ nowhere.
        better: cases in which the first is better.
        worse: cases in which the second is.
        equal: cases in which neither is.
        left_out: cases of which a value is not defined.
    """

    mean: float | None
    median: float | None
    standardized: float | None
    rank_biserial: float | None
    better: int
    worse: int
    equal: int
    left_out: int

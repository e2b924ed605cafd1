"""What is said of two configurations whose scores are made up: never more than they carry."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy import stats

from autoseg.comparison.contrasts import contrast, contrast_of_groups, corrected
from autoseg.comparison.difference import difference_of, mean_dice
from autoseg.comparison.report import report_of
from autoseg.comparison.words import answer_of, outcome_of, patients_needed
from autoseg.selection import choose, gather_evidence
from autoseg.statistics import holm, paired_permutation_test
from autoseg.values import Candidate, Comparison, Contrast, Cost, Evidence, Experiment

LABELS = ("heart", "lung")
NAMES = ("3d", "2d")
DIMENSIONS = {"3d": 3, "2d": 2}


def evidence_of(first: np.ndarray, second: np.ndarray, patients: list[str] | None = None) -> Evidence:
    """Of scores ``(cases, labels)``; NaN is not defined."""
    ids = [f"c{number:03d}" for number in range(len(first))]
    scores = {
        name: {
            case: {label: None if np.isnan(score) else float(score) for label, score in zip(LABELS, row, strict=False)}
            for case, row in zip(ids, table, strict=True)
        }
        for name, table in zip(NAMES, (first, second), strict=True)
    }
    candidates = [
        Candidate(name=name, members=(name,), cost=Cost(seconds_per_case=None, training_hours=None)) for name in NAMES
    ]
    return gather_evidence(candidates, scores, dict(zip(ids, patients, strict=True)) if patients else None)


def scores(cases: int, lead: float, noise: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Of both; the first leads by so many points in the mean, exactly, with noise in points."""
    random = np.random.default_rng(seed)
    second = random.uniform(0.7, 0.85, (cases, len(LABELS)))
    wobble = random.normal(0, noise, second.shape)
    return second + (lead + wobble - wobble.mean(axis=0)) / 100, second


def answered(evidence: Evidence, experiments: tuple[Experiment, ...] = (), **costs) -> Comparison:
    comparison = Comparison(
        plan="p" * 64,
        first="3d",
        second="2d",
        weights={"3d": {"0": "a" * 64}, "2d": {"0": "b" * 64}},
        dice=mean_dice(evidence),
        difference=difference_of(evidence, ["0"], DIMENSIONS),
        experiments=experiments,
        costs=costs or {"3d": {"seconds per case": 9.0}, "2d": {"seconds per case": 2.0}},
        answer="",
    )
    return msgspec.structs.replace(comparison, answer=answer_of(comparison))


def first_of(evidence: Evidence) -> Contrast:
    return difference_of(evidence, ["0"], DIMENSIONS).contrasts[0]


@pytest.mark.parametrize(
    ("lead", "noise", "outcome", "said"),
    [
        (2.0, 1.0, "first", "Is 3D better than 2D here (3d, 2d)? Yes: 3d is better than 2d here, by 2.00 points (95 %"),
        (-2.0, 1.0, "second", "No: 2d is better than 3d here, by 2.00 points (95 %"),
        (0.1, 0.5, "equal", "A tie: 3d minus 2d is 0.10 points (95 %"),
        (0.3, 6.0, "undecided", "Undecided: 3d is ahead of 2d by 0.30 points (95 %"),
        (-0.3, 6.0, "undecided", "Undecided: 2d is ahead of 3d by 0.30 points (95 %"),
    ],
)
def test_the_answer_is_what_the_scores_carry(lead, noise, outcome, said):
    evidence = evidence_of(*scores(30, lead, noise))
    assert outcome_of(first_of(evidence)) == outcome
    answer = answered(evidence).answer
    assert said in answer
    assert ("is better than" in answer) == (outcome in ("first", "second"))
    assert "9 instead of 2 seconds per case" in answer


def test_all_cases_of_equal_sign_are_counted():
    effects = first_of(evidence_of(*scores(30, 3.0, 0.5))).effects
    assert effects is not None
    assert (effects.better, effects.worse, effects.equal) == (30, 0, 0)


def test_equal_scores_are_a_tie():
    first, _ = scores(10, 0, 1)
    assert answered(evidence_of(first, first)).answer.startswith("Is 3D better than 2D here (3d, 2d)? A tie: ")


@pytest.mark.parametrize("cases", [1, 2, 4])
def test_of_few_patients_nothing_is_sure_however_large_the_lead(cases):
    evidence = evidence_of(*scores(cases, 9.0, 0.1))
    interval = first_of(evidence).interval
    assert (interval.lower, interval.upper, first_of(evidence).p_value) == (None, None, None)
    answer = answered(evidence).answer
    assert "Undecided: 3d is ahead of 2d by 9.00 points" in answer
    assert "of fewer than 5 nothing is sure" in answer
    assert "Of no label alone anything is sure." in answer


def test_many_cases_of_few_patients_are_few():
    evidence = evidence_of(*scores(30, 2.0, 0.5), patients=[f"p{number % 3}" for number in range(30)])
    assert outcome_of(first_of(evidence)) == "too few"


def test_an_interval_without_zero_is_no_claim_if_the_test_does_not_agree():
    """Of five patients no test can tell anything: 2 of 32 assignments are as extreme as any."""
    difference = first_of(evidence_of(*scores(5, 3.0, 0.5)))
    assert (difference.sign, difference.claim, difference.p_value) == (1, 0, 0.0625)
    answer = answered(evidence_of(*scores(5, 3.0, 0.5))).answer
    assert "Undecided: 3d is ahead of 2d by 3.00 points" in answer
    assert "by chance (p = 0.062)" in answer
    assert "about 6 patients to decide, here are 5" in answer


def test_a_label_that_is_nowhere_is_named_and_spoils_nothing():
    first, second = scores(20, 2.0, 0.5)
    first[:, 1] = second[:, 1] = np.nan
    answer = answered(evidence_of(first, second)).answer
    assert "Yes: 3d is better than 2d here, by 2.00 points" in answer
    assert "In no case is there a score of lung." in answer
    assert "surely better for heart (2.00)" in answer


def test_labels_may_go_different_ways():
    first, second = scores(20, 0.0, 0.5)
    first += np.array([0.03, -0.03])
    answer = answered(evidence_of(first, second)).answer
    assert "3d is surely better for heart (3.00). Label by label, 2d is surely better for lung (3.00)." in answer
    assert "A tie" in answer


def test_rightly_found_nothing_counts_as_in_the_selection():
    first, second = scores(12, 0.0, 1.0)
    first[0, 0], second[0, 0] = np.nan, 0.0
    evidence = evidence_of(first, second)
    standings = {each.candidate: each.mean for each in choose(evidence).standings}
    assert first_of(evidence).interval.mean == pytest.approx(standings["3d"] - standings["2d"])
    assert mean_dice(evidence)["3d"]["all"] == pytest.approx(standings["3d"])
    assert "In 1 score nothing was rightly found" in difference_of(evidence, ["0"], DIMENSIONS).method


def test_exchanging_the_two_turns_every_sign():
    first, second = scores(15, 1.0, 2.0)
    there = difference_of(evidence_of(first, second), ["0"], DIMENSIONS).contrasts
    back = difference_of(evidence_of(second, first), ["0"], DIMENSIONS).contrasts
    for one, other in zip(there, back, strict=True):
        assert one.interval.mean == pytest.approx(-other.interval.mean)
        assert one.interval.lower == pytest.approx(-other.interval.upper, abs=2e-4)  # other draws
        assert (one.p_value, one.claim) == (other.p_value, -other.claim)
        assert (one.effects.better, one.effects.worse) == (other.effects.worse, other.effects.better)


def test_p_values_of_labels_are_corrected_and_the_one_of_all_stands_alone():
    first, second = scores(15, 1.0, 2.0)
    contrasts = difference_of(evidence_of(first, second), ["0"], DIMENSIONS).contrasts
    alone = [paired_permutation_test(first[:, place], second[:, place]).p_value for place in range(2)]
    assert [each.p_value for each in contrasts] == [paired_permutation_test(first, second).p_value, *holm(alone)]
    assert [each.label for each in contrasts] == ["all", *LABELS]


def test_the_patients_that_it_takes_decide():
    """The same cases over and over have the same mean and scatter: with as many as told zero is out, with half it is in."""
    first, second = scores(20, 1.0, 10.0)
    needed = patients_needed(first_of(evidence_of(first, second)).interval)
    assert needed is not None
    assert needed > 60

    def repeated(times: int) -> Contrast:
        return first_of(evidence_of(np.tile(first, (times, 1)), np.tile(second, (times, 1))))

    assert repeated(needed // 20 + 1).sign == 1
    assert repeated(needed // 40).sign == 0


def test_groups_of_different_cases_are_compared_with_bounds_only_where_both_are_large_enough():
    random, cases = np.random.default_rng(0), [f"c{number}" for number in range(24)]
    values, thick = random.normal(0, 1, (24, 1)), np.arange(24)[:, None] < 12
    values[thick] += 5
    apart = contrast_of_groups("x", values, (thick, ~thick), cases, group="a minus b")
    assert apart.interval.mean == pytest.approx(values[:12].mean() - values[12:].mean())
    assert (apart.claim, apart.p_value) == (1, 1e-4)
    back = contrast_of_groups("x", values, (~thick, thick), cases, group="")
    assert (back.interval.mean, back.claim) == (pytest.approx(-apart.interval.mean), -1)
    pairs = contrast_of_groups("x", values, (thick, ~thick), [f"p{number // 2}" for number in range(24)], group="")
    assert (pairs.claim, pairs.p_value) == (1, None)  # cases of one patient are alike, so they are not dealt out
    few = np.arange(24)[:, None] < 4
    assert contrast_of_groups("x", values, (few, ~thick), cases, group="").interval.lower is None
    assert contrast_of_groups("x", values, (few & ~few, ~thick), cases, group="").interval.mean is None


@pytest.mark.parametrize("seed", range(3))
def test_the_test_of_groups_is_that_of_scipy(seed):
    random = np.random.default_rng(seed)
    values, first = random.normal(0, 1, (20, 1)), np.arange(20)[:, None] < 8
    found = contrast_of_groups("x", values, (first, ~first), [f"c{number}" for number in range(20)], group="")

    def apart(one, other, axis):
        return one.mean(axis=axis) - other.mean(axis=axis)

    expected = stats.permutation_test((values[:8, 0], values[8:, 0]), apart, n_resamples=9999, random_state=1)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.02)


def test_cases_in_another_order_have_the_same_test_of_groups():
    random = np.random.default_rng(0)
    values, first, cases = (
        random.normal(0, 1, (20, 2)),
        random.random((20, 2)) < 0.5,
        [f"c{number}" for number in range(20)],
    )
    values[3, 0] = np.nan
    order = random.permutation(20)
    there = contrast_of_groups("x", values, (first, ~first), cases, group="")
    back = contrast_of_groups("x", -values[order], (first[order], ~first[order]), cases, group="")
    assert there.p_value == back.p_value


def test_only_experiments_that_carry_a_claim_are_told_as_one():
    cases = [f"c{number}" for number in range(12)]
    sure = contrast("x", np.linspace(1, 2, 12), cases)
    open_one = contrast("x", np.linspace(-1, 1.1, 12), cases)
    experiments = (
        Experiment(name="sure_thing", question="A?", method="M.", contrasts=(sure,), answer="It is so."),
        Experiment(name="open_thing", question="B?", method="M.", contrasts=(open_one,), answer="It is not."),
        Experiment(name="no_thing", question="C?", method="M.", missing="None."),
    )
    answer = answered(evidence_of(*scores(30, 2.0, 1.0)), experiments).answer
    assert "It is so. These cases do not carry a claim about: open thing. Not measured: no thing." in answer
    assert "It is not." not in answer


def test_costs_that_were_not_measured_are_not_told():
    answer = answered(evidence_of(*scores(30, 2.0, 1.0)), **{"3d": {"hours": None}, "2d": {"hours": 1.0}}).answer
    assert "What the two cost was not measured." in answer


def test_the_report_holds_every_number_and_no_name_breaks_its_tables():
    first, second = scores(30, 2.0, 1.0)
    report = report_of(answered(evidence_of(first, second)))
    assert "| all | " in report
    for row in (line for line in report.splitlines() if line.startswith("| ")):
        assert row.endswith(" |")
    comparison = answered(evidence_of(first, second))
    odd = msgspec.structs.replace(comparison, left_out={"a": "<script> | x\n# y"})
    assert "| a | &lt;script> \\| x # y |" in report_of(odd)


def test_corrected_leaves_what_was_not_tested():
    cases = [f"c{number}" for number in range(3)]
    few = contrast("x", np.ones(3), cases)
    assert [each.p_value for each in corrected([few, few])] == [None, None]

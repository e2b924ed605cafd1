"""Which cases are compared, what is missing for more, and what cannot be compared at all."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.errors import InputError
from autoseg.selection import choose, gather_evidence
from autoseg.selection.evidence import with_right_absence
from autoseg.values import Fold, Missing, SelectionRule, Split
from tests.selection.tables import candidate, cohort, rows

TWO = [candidate("2d", 1), candidate("3d", 2)]
IDS = [f"c{number:02d}" for number in range(6)]
SPLIT: Split = tuple(
    Fold(train=tuple(sorted(set(IDS) - set(IDS[start : start + 2]))), val=tuple(IDS[start : start + 2]))
    for start in (0, 2, 4)
)
SCORES = cohort(6)


def test_cases_are_sorted_and_keep_their_scores_and_patients() -> None:
    backwards = dict(reversed(rows(SCORES).items()))
    patients = {case: case.upper() for case in IDS}
    evidence = gather_evidence(TWO, {"2d": backwards, "3d": rows(SCORES / 2)}, patients, SPLIT)
    assert list(evidence.cases) == IDS
    assert evidence.patients == tuple(patients.values())
    np.testing.assert_array_equal(evidence.dice["3d"], SCORES / 2)
    assert evidence.missing == ()


def test_one_fold_is_enough_and_the_others_are_missing() -> None:
    tables = {name: rows(SCORES[:2]) for name in ("2d", "3d")}
    evidence = gather_evidence(TWO, tables, None, SPLIT)
    assert evidence.cases == ("c00", "c01")
    assert [(each.candidate, each.folds, each.nothing) for each in evidence.missing] == [
        ("2d", ("1", "2"), False),
        ("3d", ("1", "2"), False),
    ]
    assert "2d, 3d: 4 cases not scored (nothing of fold 1, 2), which count for no candidate." in choose(evidence).reason


def test_an_unfinished_configuration_is_compared_on_what_it_has() -> None:
    evidence = gather_evidence(TWO, {"2d": rows(SCORES), "3d": rows(SCORES[:3])}, None, SPLIT)
    assert evidence.cases == ("c00", "c01", "c02")
    assert evidence.missing == (Missing(candidate="3d", cases=("c03", "c04", "c05"), folds=("2",)),)


def test_without_a_split_what_others_have_is_missing() -> None:
    evidence = gather_evidence(TWO, {"2d": rows(SCORES), "3d": rows(SCORES[:3])})
    assert evidence.missing == (Missing(candidate="3d", cases=("c03", "c04", "c05")),)


def test_a_configuration_without_a_score_is_named_and_not_compared() -> None:
    evidence = gather_evidence(TWO, {"2d": rows(SCORES)}, None, SPLIT)
    assert [each.name for each in evidence.candidates] == ["2d"]
    assert evidence.missing[0].nothing
    selection = choose(evidence)
    assert selection.verdict == "only"
    assert "3d: nothing is scored, so not compared." in selection.reason


def test_a_label_that_is_nowhere_is_named_and_spoils_nothing() -> None:
    scores = SCORES.copy()
    scores[:, 1] = np.nan
    evidence = gather_evidence(TWO, {"2d": rows(scores), "3d": rows(scores)})
    selection = choose(evidence, SelectionRule(draws=200))
    assert selection.standings[0].per_label == (pytest.approx(scores[:, 0].mean()), None)
    assert selection.standings[0].mean == pytest.approx(scores[:, 0].mean())
    assert "In no case is there a score of lung." in selection.reason


def test_many_candidates_with_the_same_gap_are_told_in_one_sentence() -> None:
    candidates = [candidate(name, 1) for name in "abcdef"]
    tables = {name: rows(SCORES[: 6 if name == "a" else 4]) for name in "abcdef"}
    reason = choose(gather_evidence(candidates, tables), SelectionRule(draws=200)).reason
    assert "b, c, d, e and 1 other: 2 cases not scored, which count for no candidate." in reason


def test_right_absence_by_hand() -> None:
    nan = np.nan
    dice = np.array([[[nan, nan, 0.5, 0.0]], [[nan, 0.0, 0.6, 0.0]], [[nan, nan, nan, 0.7]]])
    wanted = np.array([[[nan, 1.0, 0.5, 0.0]], [[nan, 0.0, 0.6, 0.0]], [[nan, 1.0, 1.0, 0.7]]])
    np.testing.assert_array_equal(with_right_absence(dice), wanted)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({}, "no candidate has a score"),
        ({"2d": rows(SCORES[:2]), "3d": rows(SCORES[:2], first=2)}, "no held-out case in common"),
        ({"2d": rows(SCORES), "3d": rows(SCORES[:3], first=5)}, "another split.*c06, c07"),
        ({"2d": rows(SCORES), "3d": rows(SCORES[:, :1])}, "other labels"),
        ({"2d": rows(np.full((6, 2), np.nan))}, "no label is defined"),
    ],
)
def test_what_cannot_be_compared_is_refused(tables: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        gather_evidence(TWO, tables, None, SPLIT)


def test_a_case_without_a_patient_is_refused() -> None:
    with pytest.raises(InputError, match="c05"):
        gather_evidence(TWO, {"2d": rows(SCORES)}, dict.fromkeys(IDS[:5], "P"), SPLIT)

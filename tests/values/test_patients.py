"""Patients: who has several cases, and whom folds divide."""

from __future__ import annotations

import pytest

from autoseg.values import Fold, Patients, Split

PATIENTS = Patients(source="names", patient_of={"b_2": "b", "a": "a", "c": "c_1", "b_1": "b", "d": "c_1"})


def test_patients_with_several_cases_are_told_with_them() -> None:
    assert PATIENTS.several == {"b": ("b_1", "b_2"), "c_1": ("c", "d")}


@pytest.mark.parametrize(
    ("train", "val", "divided"),
    [
        (("a", "b_1"), ("b_2", "c"), {"b": ("b_1", "b_2")}),
        (("a", "b_1", "b_2"), ("c", "d"), {}),
        (("b_1", "c"), ("b_2", "d", "a"), {"b": ("b_1", "b_2"), "c_1": ("c", "d")}),
        (("b_1",), ("a",), {}),
    ],
)
def test_folds_divide_a_patient_who_is_trained_on_and_held_out(train, val, divided) -> None:
    harmless = Fold(train=("a",), val=("c",))
    split: Split = (harmless, Fold(train=train, val=val))
    assert PATIENTS.divided_by(split) == divided


def test_standing_in_different_folds_is_no_division() -> None:
    assert PATIENTS.divided_by((Fold(train=("a",), val=("b_1",)), Fold(train=("a",), val=("b_2",)))) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "names", "rule": "P"}, "rule"),
        ({"source": "pattern"}, "rule"),
        ({"source": "table", "rule": ""}, "rule"),
        ({"source": "names", "patient_of": {"a": ""}}, "without a patient: a"),
    ],
)
def test_what_cannot_be_is_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Patients(**{"patient_of": {}, **fields})


def test_only_a_pattern_or_a_table_is_stated() -> None:
    assert not PATIENTS.stated
    assert Patients(source="table", rule="t.csv", patient_of={}).stated

"""Selections and postprocessings that contradict themselves are refused, naming the field."""

from __future__ import annotations

import msgspec
import pytest

from autoseg.selection import choose
from autoseg.values import (
    CaseEffects,
    ComponentStep,
    Cost,
    Evidence,
    Interval,
    PairedTest,
    Postprocessing,
    Selection,
    SelectionRule,
    TriedStep,
)
from tests.selection.tables import cohort, evidence_of

EVIDENCE = evidence_of({"a": cohort(3), "b": cohort(3, 1)}, [1, 2])
STEP = ComponentStep(name="heart", values=(1,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cases", ("c01", "c00", "c02")),
        ("cases", ("c00", "c01")),
        ("patients", ("c00",)),
        ("candidates", EVIDENCE.candidates[:1]),
        ("candidates", EVIDENCE.candidates[:1] * 2),
        ("dice", {"a": EVIDENCE.dice["a"]}),
        ("dice", {**EVIDENCE.dice, "a": EVIDENCE.dice["a"][:2]}),
        ("dice", {**EVIDENCE.dice, "a": ((1.5, 0.5),) * 3}),
        ("labels", ("heart",)),
    ],
)
def test_evidence_that_does_not_fit_together_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"case|candidate|row|range"):
        msgspec.structs.replace(EVIDENCE, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("margin", -0.1), ("confidence", 1.0), ("confidence", 0.4), ("draws", 10), ("fewest_patients", 1)],
)
def test_a_rule_that_makes_no_sense_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        msgspec.structs.replace(SelectionRule(), **{field: value})


def test_a_selection_is_among_its_candidates_and_knows_the_members_of_its_winner() -> None:
    selection: Selection = choose(evidence_of({"a+b": cohort(3)}, [1]), SelectionRule(draws=100))
    assert selection.members == ("a", "b")
    for field, value in (("winner", "c"), ("best", "c"), ("standings", ())):
        with pytest.raises(ValueError, match=field):
            msgspec.structs.replace(selection, **{field: value})


def test_the_steps_of_a_postprocessing_are_those_that_were_adopted() -> None:
    tried = TriedStep(step=STEP, adopted=False, before=0.5, after=0.25, changed=1)
    assert Postprocessing(tried=(tried,)).steps == ()
    with pytest.raises(ValueError, match="adopted"):
        Postprocessing(steps=(STEP,), tried=(tried,))


@pytest.mark.parametrize("values", [(), (0,), (1, 0)])
def test_background_is_no_object(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="values"):
        ComponentStep(name="x", values=values)


@pytest.mark.parametrize("dice", [(), (((0.5,),),), (((0.5,),), ()), (((0.5, 0.5, 0.5),), ((0.5, 0.5, 0.5),))])
def test_effects_need_scores_of_every_set_of_steps(dice: tuple) -> None:
    with pytest.raises(ValueError, match="dice"):
        CaseEffects(dice=dice)


def test_costs_levels_and_p_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="training_hours"):
        Cost(seconds_per_case=1, training_hours=-1)
    with pytest.raises(ValueError, match="level"):
        Interval(mean=1, lower=0, upper=2, level=95, method="bca", cases=2, patients=2, draws=9)
    with pytest.raises(ValueError, match="upper"):
        Interval(mean=1, lower=0, upper=None, level=0.9, method="bca", cases=2, patients=2, draws=9)
    with pytest.raises(ValueError, match="p_value"):
        PairedTest(difference=1, p_value=0, smallest_p_value=0, exact=True, draws=4, pairs=2, left_out=0, patients=2)


def test_evidence_of_one_candidate_may_be_all_there_is() -> None:
    assert isinstance(evidence_of({"a": cohort(1)}, [None]), Evidence)

"""Tables and texts of the terminal: aligned, and nothing that was decided or scored is left out."""

from __future__ import annotations

import msgspec
import pytest

from autoseg.cli.tables import patients_text, plan_text, summary_text, table
from autoseg.planning import Budget
from autoseg.values import Fold, MeanScore, Measuring, Patients, Plan, Summary
from planners.unet import DefaultPlanner, NnunetPlanner
from tests.planners.synthetic import CPU_COST, fingerprint

GROUPS = [((3.6, 0.625, 0.625), (20, 320, 320), 32)]


def test_columns_are_aligned_numbers_to_the_right_and_text_to_the_left():
    rows = [["label", "Dice", "cases"], ["liver", "0.5", "12"], ["gall bladder", "–", "7"], ["x", "-1.25", ""]]
    assert table(rows).splitlines() == [
        "label          Dice  cases",
        "────────────  ─────  ─────",
        "liver           0.5     12",
        "gall bladder      –      7",
        "x             -1.25",
    ]


@pytest.mark.parametrize("cell", ["1.2.3", "1e5", "12 GiB", "-"])
def test_a_column_with_anything_else_stands_to_the_left(cell):
    assert table([["long header"], ["1"], [cell]]).splitlines()[2:] == ["1", cell]


def test_without_a_header_the_first_row_is_like_the_others():
    assert table([["1", "a"], ["10", "b"]], header=False) == " 1  a\n10  b"


def plan(planner: type, **options: object) -> Plan:
    return planner().plan(fingerprint(GROUPS, **options), Budget(), CPU_COST, name="mine")


def unwrapped(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("planner", [DefaultPlanner, NnunetPlanner])
def test_every_choice_of_a_plan_is_shown_with_its_reason(planner):
    made = plan(planner, channels=["CT", "T1"], names=["left kidney", "right kidney"], crop=0.5)
    text = plan_text(made)
    reasons = [*made.reasons.values(), *(spec.reason for spec in made.normalization)]
    for each in made.configurations:
        reasons += each.reasons.values()
        assert " x ".join(map(str, each.patch_size)) in text
        assert f"{each.training.iterations} iterations" in text
        assert "-".join(map(str, each.network.features)) in text
    for reason in reasons:
        assert unwrapped(reason) in unwrapped(text)
    assert "own x 0.625 x 0.625 mm" in text
    assert "zscore in mask" in text


def test_every_reason_of_a_plan_is_shown_that_a_planner_of_ones_own_gives():
    made = plan(DefaultPlanner)
    assert "because I say so" in plan_text(msgspec.structs.replace(made, reasons={"whim": "because I say so"}))


def test_every_reason_of_a_configuration_is_shown_that_a_planner_of_ones_own_gives():
    made = plan(DefaultPlanner)
    first = msgspec.structs.replace(made.configurations[0], reasons={"whim": "because I say so"})
    assert "because I say so" in plan_text(msgspec.structs.replace(made, configurations=(first,)))


def test_lines_of_a_plan_are_not_much_longer_than_a_terminal():
    assert max(map(len, plan_text(plan(DefaultPlanner, names=["left lung", "right lung"])).splitlines())) <= 120


def mean(dice: float | None, iou: float | None, cases: int) -> MeanScore:
    return MeanScore(dice=dice, iou=iou, tp=1.0, fp=0.0, fn=0.0, tn=0.0, n_pred=1.0, n_ref=1.0, cases=cases)


def test_a_summary_names_labels_and_tells_which_never_occur():
    summary = Summary(
        foreground_mean=mean(0.51234, 0.25, 1),
        mean={"1": mean(0.51234, 0.25, 12), "(2, 3)": mean(None, None, 0)},
        metric_per_case=(),
        label_names={"1": "liver", "(2, 3)": "whole tumour"},
        absent_labels=("whole tumour",),
    )
    lines = summary_text(summary).splitlines()
    assert lines[2].split() == ["liver", "(1)", "0.5123", "0.2500", "12"]
    assert lines[3].startswith("whole tumour")
    assert lines[3].split()[-3:] == ["–", "–", "0"]
    assert lines[4].split() == ["mean", "of", "labels", "0.5123", "0.2500"]
    assert lines[5] == "never in reference or prediction, so not in the mean: whole tumour"
    assert "never" not in summary_text(msgspec.structs.replace(summary, absent_labels=()))


def test_distances_are_shown_where_they_were_measured_with_what_they_leave_out():
    counts = {"tp": 1.0, "fp": 1.0, "fn": 1.0, "tn": 1.0, "n_pred": 2.0, "n_ref": 2.0}
    behind = {"HD95": 10, "ASSD": 10, "NSD": 12}
    liver = MeanScore(dice=0.5, iou=0.25, **counts, cases=12, hd95=12.345, assd=None, nsd=0.9, cases_of=behind)
    summary = Summary(
        foreground_mean=liver,
        mean={"1": liver},
        metric_per_case=(),
        label_names={"1": "liver"},
        measured_with=Measuring(tolerance_mm=2.5),
    )
    lines = summary_text(summary).splitlines()
    assert lines[0].split() == ["label", "Dice", "IoU", "HD95", "ASSD", "NSD", "cases"]
    assert lines[2].split() == ["liver", "(1)", "0.5000", "0.2500", "12.35", "–", "0.9000", "12"]
    assert lines[4] == "HD95 and ASSD in mm; NSD: the part of the surfaces within 2.5 mm"
    assert lines[5] == "liver: 2 cases without distances: nothing there, or nothing predicted"


def test_of_many_patients_and_visits_the_first_are_named():
    cases = {f"P{patient}_t{visit}": f"P{patient}" for patient in range(5) for visit in range(6)}
    split = (Fold(train=("P0_t0",), val=("P1_t0",)),)
    assert patients_text(Patients(source="names", patient_of=cases | {"x": "x"}), split) == (
        "patients: 6 in 31 cases, by their names (P0: P0_t0, P0_t1, P0_t2, P0_t3, …; P1: P1_t0, P1_t1, P1_t2, P1_t3, …; "
        "P2: P2_t0, P2_t1, P2_t2, P2_t3, …; …); none stands on both sides of a fold. Not so? --group-by tells."
    )


def test_patients_on_both_sides_are_not_denied():
    patients = Patients(source="pattern", rule="P", patient_of={"a": "1", "b": "1", "c": "2"})
    text = patients_text(patients, (Fold(train=("a", "c"), val=("b",)),))
    assert text == "patients: 2 in 3 cases, by the pattern 'P' (1: a, b); 1 on both sides of a fold."

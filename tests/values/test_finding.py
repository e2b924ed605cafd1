"""A finding reads as one sentence with everything that is known."""

from __future__ import annotations

import pytest

from autoseg.values import CheckReport, Finding, findings_text


def test_a_finding_names_severity_case_found_expected_file_and_remedy_in_that_order() -> None:
    finding = Finding(
        severity="error",
        what="wrong number of channels",
        case="a7",
        found="2",
        expected="1",
        file="x.mha",
        remedy="Go.",
    )
    assert str(finding) == "error: case a7: wrong number of channels; found 2, expected 1 [x.mha]. Go."


def test_parts_that_are_not_known_are_left_out() -> None:
    assert str(Finding(severity="note", what="fine")) == "note: fine"


def test_findings_are_told_by_severity_with_what_to_do_and_many_equal_ones_once() -> None:
    equal = [Finding(severity="error", what="broken", case=f"c{index}", remedy="Mend it.") for index in range(9)]
    others = [
        Finding(severity="note", what="fine"),
        Finding(severity="error", what="turned", case="b", remedy="Turn it.", fix="reorder"),
    ]
    assert findings_text([*others, *reversed(equal)]).splitlines() == [
        "10 errors:",
        "  - case b: turned",
        "      Turn it. --fix does it.",
        *(line for index in range(5) for line in (f"  - case c{index}: broken", "      Mend it.")),
        "      The same of 4 more: c5, c6, c7, c8",
        "1 note:",
        "  - fine",
    ]
    assert findings_text([]) == ""


def test_the_summary_counts_findings_and_cases_that_can_be_fixed() -> None:
    findings = (
        Finding(severity="error", what="turned", case="b", fix="reorder"),
        Finding(severity="error", what="mask", case="b", fix="relabel"),
        Finding(severity="warning", what="odd"),
    )
    report = CheckReport(dataset="D", cases=("a", "b"), annotated=1, findings=findings)
    assert report.summary == (
        "D: 2 cases, 1 with labels: 2 errors, 1 warning, 0 notes; 1 case can be fixed safely: --fix"
    )
    assert CheckReport(dataset="D", cases=("a",), annotated=1, findings=()).summary == (
        "D: 1 case, 1 with labels: 0 errors, 0 warnings, 0 notes"
    )


def test_only_fixes_that_exist_can_be_offered() -> None:
    with pytest.raises(ValueError, match="erase"):
        Finding(severity="error", what="odd", fix="erase")

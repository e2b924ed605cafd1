"""A finding reads as one sentence with everything that is known."""

from __future__ import annotations

from autoseg.values import Finding


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

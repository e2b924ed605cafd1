"""Errors say everything that is known, and lead to the right exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg import errors
from autoseg.errors import (
    AutosegError,
    CasesFailedError,
    DocumentError,
    FindingsError,
    InputError,
    InterruptedRunError,
    MissingPartError,
    UnknownNameError,
    UnreadableFileError,
    describe,
)


def test_a_description_has_every_part_in_order() -> None:
    text = describe("wrong shape", case="a", file=Path("x/a.mha"), found=(1, 2), expected=(2, 1), remedy="Turn it.")
    assert text == f"case a: wrong shape; found (1, 2), expected (2, 1) [{Path('x/a.mha')}]. Turn it."


def test_unknown_parts_are_left_out_and_zero_is_known() -> None:
    assert describe("empty") == "empty"
    assert describe("empty", expected="something") == "empty; expected something"
    assert describe("too few", found=0) == "too few; found 0"


def test_an_input_error_is_a_value_error_that_remembers_its_parts() -> None:
    error = InputError("wrong", case="a", file="f", found=0, expected=1, remedy="Do.")
    assert isinstance(error, ValueError)
    assert (error.what, error.case, error.file, error.found, error.expected, error.remedy) == (
        "wrong",
        "a",
        "f",
        0,
        1,
        "Do.",
    )
    assert str(error) == describe("wrong", case="a", file="f", found=0, expected=1, remedy="Do.")


@pytest.mark.parametrize("kind", [DocumentError, UnknownNameError, UnreadableFileError, FindingsError])
def test_kinds_of_wrong_input_are_input_errors(kind: type) -> None:
    assert issubclass(kind, InputError)


def test_exit_codes_tell_wrong_input_failed_cases_and_interruption_apart() -> None:
    codes = {kind: kind.exit_code for kind in (InputError, MissingPartError, CasesFailedError, InterruptedRunError)}
    assert codes == {InputError: 2, MissingPartError: 2, CasesFailedError: 1, InterruptedRunError: 130}


def test_findings_are_all_listed() -> None:
    error = FindingsError("nothing fits:", ["first", "second"])
    assert error.findings == ("first", "second")
    assert str(error).splitlines() == ["nothing fits:", "  - first", "  - second"]


def test_failed_cases_are_named_with_their_errors_and_counted() -> None:
    error = CasesFailedError("preprocess", {"a": InputError("bad"), "b": MemoryError()}, 5)
    assert error.failures.keys() == {"a", "b"}
    assert "2 of 7 cases failed" in str(error)
    assert "- a: bad" in str(error)
    assert "- b: MemoryError" in str(error)  # an error without words has at least its name


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn: dict[str, str | None] = {}
    ancestors: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None:
            continue
        depth = line.index(name)
        ancestors = [(column, parent) for column, parent in ancestors if column < depth]
        drawn[name] = ancestors[-1][1] if ancestors else None
        ancestors.append((depth, name))
    actual = {
        name: next((base.__name__ for base in getattr(errors, name).__bases__ if issubclass(base, AutosegError)), None)
        for name in errors.__all__
    }
    assert drawn == actual

"""Patients: whose cases are whose, by the user's pattern or table, else as far as the names tell."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

import msgspec

from autoseg.errors import InputError, UnreadableFileError
from autoseg.files import read_document, table_text
from autoseg.io.formats import split_ending
from autoseg.values import Case, Dataset, Patients
from autoseg.workspace import Workspace

__all__ = ["current_patients", "group_by_patient", "joined"]

TABLE_ENDINGS = (".csv", ".tsv")
CASE_COLUMNS = ("case", "case_id", "id", "image")
PATIENT_COLUMNS = ("patient", "patient_id", "subject", "group")
_VISIT = re.compile(r"^(?P<stem>.*?[A-Za-z0-9])[_\-. ]+[A-Za-z]*\d+$")
_CHANNEL_SUFFIX = re.compile(r"_\d{4}$")
_TABLE_REMEDY = f"It needs a header with a column {CASE_COLUMNS[0]!r} and a column {PATIENT_COLUMNS[0]!r}."


def current_patients(workspace: Workspace, dataset: Dataset, group_by: str | None = None) -> Patients:
    """The patient of every annotated case: by the rule that is given; else by the one remembered; else by what the data set
    itself says; else by the names.

    Args:
        workspace: remembers the rule of the last planning.
        dataset: whose annotated cases each need a patient.
        group_by: a table's path or a pattern for case ids; None to go on as before.

    Raises:
        InputError: the rule cannot be understood, or leaves a case without a patient.
    """
    cases = [case.id for case in dataset.annotated_cases]
    if group_by is not None:
        table = _named_table(group_by)
        return _by_table(table, dataset) if table else _by_pattern(group_by, cases)
    kept = read_document(Patients, workspace.patients_path) if workspace.patients_path.is_file() else None
    if kept is None or kept.source in ("names", "dataset"):
        if any(case.patient for case in dataset.annotated_cases):
            return _by_dataset(dataset)
        return Patients(source="names", patient_of=_by_names(cases, kept))
    if kept.source == "pattern":
        return _by_pattern(kept.rule, cases, remembered=workspace.patients_path)
    if Path(kept.rule).is_file():
        return _by_table(Path(kept.rule), dataset)
    return Patients(source="table", rule=kept.rule, patient_of=_remembered(kept, cases))


def joined(patients: Patients, groups: Collection[Sequence[str]]) -> Patients:
    """The patients, with each group of cases in the hands of one: those whose images are equal, for example."""
    patient_of = dict(patients.patient_of)
    for first, *others in groups:
        for other in others:
            absorbed, absorbing = patient_of[other], patient_of[first]
            patient_of = {case: absorbing if who == absorbed else who for case, who in patient_of.items()}
    return msgspec.structs.replace(patients, patient_of=patient_of, joined=any(len(group) > 1 for group in groups))


def _by_dataset(dataset: Dataset) -> Patients:
    """As a table of the data set, or the names of its folders, say."""
    missing = [case.id for case in dataset.annotated_cases if not case.patient]
    if missing:
        raise InputError(
            f"the data set names a patient for some cases, and none for {len(missing)}",
            file=dataset.root,
            found=_first(missing),
            remedy="Name the patient of each, or tell otherwise with --group-by.",
        )
    patient_of = {case.id: case.patient for case in dataset.annotated_cases if case.patient}
    return Patients(source="dataset", rule=dataset.layout or dataset.name, patient_of=patient_of)


def group_by_patient(cases: Sequence[str]) -> dict[str, str] | None:
    """Case id to patient, as far as the names tell: ``P08_t0`` and ``P08_t1`` are two visits of P08.

    Cases are grouped by a shared stem only when at least two stems own several cases each and no stem owns more than half
    of all: ``hippocampus_001`` or ``em_07`` are single cases. None if there is nothing to group.
    """
    stems = {case: _stem(case) for case in cases}
    owners: dict[str, int] = defaultdict(int)
    for stem in stems.values():
        owners[stem] += 1
    several = [count for count in owners.values() if count > 1]
    if len(several) < 2 or max(owners.values()) > len(cases) / 2:
        return None
    return stems


def _stem(case: str) -> str:
    match = _VISIT.match(case)
    return match["stem"] if match else case


def _by_names(cases: Sequence[str], kept: Patients | None) -> dict[str, str]:
    """As ``group_by_patient``; who was found to be a patient once stays one, though the other cases come and go."""
    groups = group_by_patient(cases)
    if groups is not None:
        return groups
    known = set(kept.patient_of.values()) if kept and kept.several else set()
    return {case: stem if (stem := _stem(case)) in known else case for case in cases}


def _by_pattern(pattern: str, cases: Sequence[str], *, remembered: Path | None = None) -> Patients:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            "the pattern of --group-by is not a regular expression",
            found=f"{pattern!r}: {error}",
            expected=f"one such as 'P\\d+', or a table that ends in {' or '.join(TABLE_ENDINGS)}",
        ) from error
    group = "patient" if "patient" in compiled.groupindex else 1 if compiled.groups else 0
    patient_of = {case: match[group] for case in cases if (match := compiled.match(case)) and match[group]}
    missing = [case for case in cases if case not in patient_of]
    if missing:
        raise InputError(
            f"the pattern of --group-by names no patient for {len(missing)} of {len(cases)} annotated cases",
            file=remembered,
            found=_first(missing),
            expected=f"ids whose beginning {pattern!r} matches",
            remedy="Widen the pattern, or name a table (CSV) of cases and patients instead.",
        )
    return Patients(source="pattern", rule=pattern, patient_of=patient_of)


def _named_table(group_by: str) -> Path | None:
    """The table, if a file is meant; None for a pattern."""
    path = Path(group_by)
    try:
        there = path.is_file()
    except OSError:  # too long to be a path
        there = False
    is_table = path.suffix.lower() in TABLE_ENDINGS
    if is_table and not there:
        raise InputError("there is no such table", file=path.absolute(), remedy="Give --group-by the path of a file.")
    if there and path.suffix and not is_table:
        raise InputError(
            "--group-by names a file that is not a table",
            file=path.absolute(),
            expected=f"a file that ends in {' or '.join(TABLE_ENDINGS)}, or a pattern",
            remedy="Save the table as CSV.",
        )
    return path.absolute() if is_table else None


def _by_table(path: Path, dataset: Dataset) -> Patients:
    stated = _stated_patients(path, dataset)
    cases = [case.id for case in dataset.annotated_cases]
    missing = [case for case in cases if case not in stated]
    if missing:
        raise InputError(
            f"the table names no patient for {len(missing)} of {len(cases)} annotated cases",
            file=path,
            found=f"no row for {_first(missing)}",
            remedy="Add a row for each; a case is named by its id or by the name of an image file.",
        )
    return Patients(source="table", rule=str(path), patient_of={case: stated[case] for case in cases})


def _remembered(kept: Patients, cases: Sequence[str]) -> dict[str, str]:
    missing = [case for case in cases if case not in kept.patient_of]
    if missing:
        raise InputError(
            "the table of patients is gone, and there are new cases that nobody remembers the patient of",
            file=kept.rule,
            found=_first(missing),
            remedy="Put the table back, with rows for them, or name another with --group-by.",
        )
    return {case: kept.patient_of[case] for case in cases}


def _stated_patients(path: Path, dataset: Dataset) -> dict[str, str]:
    """Case id to patient of a table; rows about cases that the data set does not have are passed over."""
    header, *rows = _rows(path)
    case_column, patient_column = _columns(path, [cell.strip() for cell in header[1]])
    ids = _ids_by_name(dataset.cases)
    patient_of: dict[str, str] = {}
    seen: set[str] = set()
    for line, row in rows:
        if len(row) != len(header[1]):
            _refuse_row(path, line, f"has {len(row)} cells under {len(header[1])} columns")
        name, patient = row[case_column].strip(), row[patient_column].strip()
        if not name or not patient:
            _refuse_row(path, line, f"names no {'patient' if name else 'case'}")
        case = _case_named(name, ids)
        if case is None:
            continue
        if name in seen:
            _refuse_row(path, line, f"names the case {name} once more")
        if patient_of.setdefault(case, patient) != patient:  # by another of its channels
            _refuse_row(path, line, f"gives the case {case} to {patient}, an earlier one to {patient_of[case]}")
        seen.add(name)
    return patient_of


def _refuse_row(path: Path, line: int, what: str) -> NoReturn:
    raise InputError(
        f"line {line} of the table {what}",
        file=path,
        remedy="Correct the row: each names a case and its patient, once.",
    )


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank, the header first."""
    text, stated = table_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = stated or max(",;\t", key=lambda each: len(next(csv.reader([first], delimiter=each), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UnreadableFileError(
            f"line {reader.line_num} of the table cannot be read: {error}", file=path, remedy="Correct the row."
        ) from error
    if not rows:
        raise InputError("the table is empty", file=path, remedy=_TABLE_REMEDY)
    return rows


def _columns(path: Path, header: Sequence[str]) -> tuple[int, int]:
    """Positions of the case and the patient; in a table of two columns it is enough that one of them is known."""
    lower = [name.casefold() for name in header]
    case, patient = (
        next((lower.index(name) for name in names if name in lower), None) for names in (CASE_COLUMNS, PATIENT_COLUMNS)
    )
    if len(header) == 2:
        case = 1 - patient if case is None and patient is not None else case
        patient = 1 - case if patient is None and case is not None else patient
    if case is None or patient is None or lower.count(lower[case]) > 1 or lower.count(lower[patient]) > 1:
        raise InputError(
            "the header of the table does not tell which column names the case and which the patient",
            file=path,
            found=", ".join(header),
            expected=f"one of {', '.join(CASE_COLUMNS)}, and one of {', '.join(PATIENT_COLUMNS)}",
            remedy="Rename the columns, each name once; a table without a header needs one.",
        )
    return case, patient


def _ids_by_name(cases: Sequence[Case]) -> dict[str, str]:
    """What a table may call a case: its id, or an image as the data set lists it."""
    return {**{image: case.id for case in cases for image in case.images}, **{case.id: case.id for case in cases}}


def _case_named(name: str, ids: Mapping[str, str]) -> str | None:
    """The case that is meant by an id, a path, or a file name with or without ending and channel suffix."""
    file = PurePosixPath(name.replace("\\", "/")).name
    bare = split_ending(file)[0]
    forms = (name, name.replace("\\", "/"), file, bare, _CHANNEL_SUFFIX.sub("", bare))
    return next((ids[form] for form in forms if form in ids), None)


def _first(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (" …" if len(names) > count else "")

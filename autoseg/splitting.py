"""Folds: equal to nnU-Net's for the same ids, with patients kept together, and stable when cases are added."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import InputError, counted
from autoseg.files import read_document
from autoseg.io.layouts import read_split
from autoseg.values import Dataset, Finding, Fold, Patients, Split
from autoseg.workspace import Workspace

__all__ = ["current_split", "division_findings", "extend_split", "split_cases"]

FOLDS, SPLIT_SEED = 5, 12345


def current_split(workspace: Workspace, dataset: Dataset, patients: Patients) -> Split:
    """The folds: those that came with the data set; else those there are, extended by new cases; else made now.

    Folds that autoseg made and nobody has trained on yet are made anew if they divide a patient.

    Raises:
        InputError: the folds of the data set are not valid, or not those that the workspace has used so far; or they
            divide a patient whom the user's pattern or table names.
    """
    cases = [case.id for case in dataset.annotated_cases]
    file = Path(dataset.root) / "splits_final.json"
    brought = read_split(file, cases) if file.is_file() else None
    kept = read_document(Split, workspace.split_path) if workspace.split_path.is_file() else None
    if brought and kept and brought != kept:
        raise InputError(
            "the folds of the data set and of the workspace differ",
            file=file,
            expected=f"the same as in {workspace.split_path}",
            remedy="Remove the one that is not to count. Folds do not change under their trainings.",
        )
    if brought:
        split = brought
    elif kept:
        split = extend_split(kept, cases, patients.patient_of)
    else:
        split = split_cases(cases, patients.patient_of)
    divided = patients.divided_by(split)
    if divided and not brought and kept and _may_be_replaced(workspace, kept):
        return split_cases(cases, patients.patient_of)
    if divided and patients.stated:
        _refuse_division(divided, patients, file if brought else workspace.split_path, brought=bool(brought))
    return split


def _may_be_replaced(workspace: Workspace, kept: Split) -> bool:
    """Whether folds are nobody's decision and under no training: exactly as autoseg made them, and not used yet."""
    if workspace.has_trainings() or not workspace.patients_path.is_file():
        return False
    before = read_document(Patients, workspace.patients_path).patient_of
    return {case for fold in kept for case in (*fold.train, *fold.val)} == set(before) and kept == split_cases(
        list(before), before
    )


def _refuse_division(divided: Mapping[str, Sequence[str]], patients: Patients, file: Path, *, brought: bool) -> None:
    remedy = "Correct the file, remove it to let autoseg make the folds, or plan without --group-by."
    if not brought:
        table = " correct the table," if patients.source == "table" else ""
        remedy = f"Folds stay as they are: name another workspace with -w,{table} or plan without --group-by."
    raise InputError(
        "the folds that there are would train on one case of a patient and hold out another",
        file=file,
        found=_shown(divided),
        expected="all cases of a patient on one side",
        remedy=remedy,
    )


def division_findings(split: Split, patients: Patients) -> tuple[Finding, ...]:
    """A warning if folds that stay as they are divide what, by the names of the cases, are patients."""
    divided = patients.divided_by(split)
    if not divided:
        return ()
    return (
        Finding(
            severity="warning",
            what="the folds train on one case of a patient and hold out another, as far as the names tell",
            found=_shown(divided),
            remedy="If so, scores are too good: let autoseg make the folds, in another workspace (-w). If these are "
            "different patients: --group-by '.*'.",
        ),
    )


def _shown(divided: Mapping[str, Sequence[str]], count: int = 3) -> str:
    shown = [f"{patient} ({', '.join(cases[:5])})" for patient, cases in list(divided.items())[:count]]
    return "patient " + ", ".join(shown) + (" …" if len(divided) > count else "")


def split_cases(cases: Sequence[str], groups: Mapping[str, str] | None = None, *, folds: int = FOLDS) -> Split:
    """Divides the cases into folds, shuffled by a fixed seed as scikit-learn's KFold does.

    Args:
        cases: ids, in any order.
        groups: case id to patient; cases of one patient stay in one fold. None: every case is its own.
        folds: as many; with fewer patients than that, each is held out once (leave-one-out).

    Raises:
        InputError: fewer than two patients, so that nothing can be held out.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(cases):
        members[groups[case] if groups else case].append(case)
    names = sorted(members)
    _check_enough(cases, groups)
    order = np.arange(len(names))
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    split = []
    for held_out in np.array_split(order, min(folds, len(names))):
        val = {case for position in held_out for case in members[names[position]]}
        split.append(Fold(train=tuple(case for case in sorted(cases) if case not in val), val=tuple(sorted(val))))
    return tuple(split)


def _check_enough(cases: Sequence[str], groups: Mapping[str, str] | None) -> None:
    patients = {groups[case] if groups else case for case in cases}
    if len(patients) < 2:
        raise InputError(
            "cross-validation needs at least two cases of different patients",
            found=f"{counted(len(cases), 'case')} of {counted(len(patients), 'patient')}",
            remedy="Add annotated cases."
            if len(patients) == len(cases)
            else "Cases with identical images count as one patient. Add cases of others, or see --group-by.",
        )


def extend_split(split: Split, cases: Sequence[str], groups: Mapping[str, str] | None = None) -> Split:
    """Brings a split up to date: new cases join their patient's fold or else the smallest, nobody else moves.

    Args:
        split: as it was.
        cases: ids that there are now; the others are dropped.
        groups: case id to patient.

    Raises:
        InputError: too few cases are left, or a fold has nothing to hold out any more.
    """
    known = {case for fold in split for case in (*fold.train, *fold.val)}
    present = set(cases)
    _check_enough(cases, groups)

    def patient_of(case: str) -> str:
        return groups[case] if groups else case

    held_out = [[case for case in fold.val if case in present] for fold in split]
    homes: dict[str, set[int]] = defaultdict(set)  # in somebody's own folds a case may be held out more than once
    for index, val in enumerate(held_out):
        for case in val:
            homes[patient_of(case)].add(index)
    trained_on = {patient_of(case) for fold in split for case in fold.train if case in present}
    for case in sorted(present - known):
        patient = patient_of(case)
        if patient in trained_on and patient not in homes:
            continue  # in somebody's own folds, a patient who is never held out stays so
        if patient not in homes:
            homes[patient] = {min(range(len(held_out)), key=lambda index: len(held_out[index]))}
        for index in homes[patient]:
            held_out[index].append(case)
    emptied = [str(index) for index, fold in enumerate(split) if fold.val and not held_out[index]]
    if emptied:
        raise InputError(
            f"all held-out cases of fold {', '.join(emptied)} are gone from the data set",
            remedy="Put them back, or name another workspace with -w to begin anew.",
        )
    if all(len(fold.train) + len(fold.val) == len(known) for fold in split):  # ordinary cross-validation
        train = [sorted(present.difference(val)) for val in held_out]
    else:  # somebody's own folds: they gain the new cases, and keep what they left out
        train = [
            sorted(present.intersection(fold.train) | (present - known).difference(val))
            for fold, val in zip(split, held_out, strict=True)
        ]
    return tuple(Fold(train=tuple(kept), val=tuple(sorted(val))) for kept, val in zip(train, held_out, strict=True))

"""Folds: equal to nnU-Net's for the same ids, with patients kept together, and stable when cases are added."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import InputError
from autoseg.files import read_document
from autoseg.io.dataset import read_split
from autoseg.values import Dataset, Fold, Split
from autoseg.workspace import Workspace

__all__ = ["current_split", "extend_split", "group_by_patient", "split_cases"]

FOLDS, SPLIT_SEED = 5, 12345
_VISIT = re.compile(r"^(?P<stem>.*?[A-Za-z0-9])[_\-. ]+[A-Za-z]*\d+$")


def current_split(workspace: Workspace, dataset: Dataset) -> Split:
    """The folds: those that came with the data set; else those there are, extended by new cases; else made now.

    Raises:
        InputError: the folds of the data set are not valid, or not those that the workspace has used so far.
    """
    cases = [case.id for case in dataset.annotated_cases]
    groups = group_by_patient(cases)
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
        return brought
    return extend_split(kept, cases, groups) if kept else split_cases(cases, groups)


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
            found=f"{len(cases)} case(s) of {len(patients)} patient(s)",
            remedy="Add annotated cases.",
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
    held_out = [[case for case in fold.val if case in present] for fold in split]
    home = {(groups[case] if groups else case): index for index, fold in enumerate(held_out) for case in fold}
    trained_on = {groups[case] if groups else case for fold in split for case in fold.train}
    for case in sorted(present - known):
        patient = groups[case] if groups else case
        if patient in trained_on and patient not in home:
            continue  # in somebody's own folds, a patient who is never held out stays so
        index = home.setdefault(patient, min(range(len(held_out)), key=lambda index: len(held_out[index])))
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


def group_by_patient(cases: Sequence[str]) -> dict[str, str] | None:
    """Case id to patient, as far as the names tell: ``P08_t0`` and ``P08_t1`` are two visits of P08.

    Cases are grouped by a shared stem only when at least two stems own several cases each and no stem owns more than half
    of all: ``hippocampus_001`` or ``em_07`` are single cases. None if there is nothing to group.
    """
    stems = {case: match["stem"] if (match := _VISIT.match(case)) else case for case in cases}
    owners: dict[str, int] = defaultdict(int)
    for stem in stems.values():
        owners[stem] += 1
    several = [count for count in owners.values() if count > 1]
    if len(several) < 2 or max(owners.values()) > len(cases) / 2:
        return None
    return stems

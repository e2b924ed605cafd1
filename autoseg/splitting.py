"""Folds: equal to nnU-Net's for the same ids, with patients kept together, and stable when cases are added."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import InputError
from autoseg.io.dataset import read_split
from autoseg.values import Dataset, Fold, Split
from autoseg.workspace import Workspace, read_document

__all__ = ["current_split", "extend_split", "group_by_patient", "split_cases"]

FOLDS, SPLIT_SEED = 5, 12345
_VISIT = re.compile(r"^(?P<stem>.*?[A-Za-z0-9])[_\-. ]+[A-Za-z]*\d+$")


def current_split(workspace: Workspace, dataset: Dataset) -> Split:
    """The folds: those there are, extended by new cases; else those that came with the data set; else made now."""
    cases = [case.id for case in dataset.annotated_cases]
    groups = group_by_patient(cases)
    if workspace.split_path.is_file():
        return extend_split(read_document(Split, workspace.split_path), cases, groups)
    brought = Path(dataset.root) / "splits_final.json"
    if brought.is_file():
        return read_split(brought, cases)
    return split_cases(cases, groups)


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
    if len(names) < 2:
        raise InputError(
            "cross-validation needs at least two cases of different patients",
            found=f"{len(cases)} case(s) of {len(names)} patient(s)",
            remedy="Add annotated cases.",
        )
    order = np.arange(len(names))
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    split = []
    for held_out in np.array_split(order, min(folds, len(names))):
        val = {case for position in held_out for case in members[names[position]]}
        split.append(Fold(train=tuple(case for case in sorted(cases) if case not in val), val=tuple(sorted(val))))
    return tuple(split)


def extend_split(split: Split, cases: Sequence[str], groups: Mapping[str, str] | None = None) -> Split:
    """Brings a split up to date: new cases join their patient's fold or else the smallest, nobody else moves.

    Args:
        split: as it was.
        cases: ids that there are now; the others are dropped.
        groups: case id to patient.
    """
    known = {case for fold in split for case in (*fold.train, *fold.val)}
    held_out = [[case for case in fold.val if case in set(cases)] for fold in split]
    home = {(groups[case] if groups else case): index for index, fold in enumerate(held_out) for case in fold}
    trained_on = {groups[case] if groups else case for fold in split for case in fold.train}
    for case in sorted(set(cases) - known):
        patient = groups[case] if groups else case
        if patient in trained_on and patient not in home:
            continue  # in somebody's own folds, a patient who is never held out stays so
        index = home.setdefault(patient, min(range(len(held_out)), key=lambda index: len(held_out[index])))
        held_out[index].append(case)
    if all(len(fold.train) + len(fold.val) == len(known) for fold in split):  # ordinary cross-validation
        train = [[case for case in sorted(cases) if case not in set(val)] for val in held_out]
    else:  # somebody's own folds: they gain the new cases, and keep what they left out
        new = set(cases) - known
        train = [
            sorted([case for case in fold.train if case in set(cases)] + [case for case in new if case not in set(val)])
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

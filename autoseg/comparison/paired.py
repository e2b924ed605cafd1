"""Dice of the same cases in two ways, one minus the other, as contrasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from autoseg.comparison.contrasts import contrast
from autoseg.files import read_document
from autoseg.selection.evidence import with_right_absence
from autoseg.values import Contrast, Patients
from autoseg.workspace import Workspace

__all__ = ["Dice", "PatientOf", "paired_contrasts", "patients_of"]

#: Of one case: label name to Dice, None where it is not defined.
Dice = Mapping[str, float | None]
PatientOf = Callable[[str], str]


def patients_of(workspace: Workspace) -> PatientOf:
    """Tells the patient of a case; every case is its own where nothing is known."""
    known = read_document(Patients, workspace.patients_path).patient_of if workspace.patients_path.is_file() else {}
    return lambda case: known.get(case, case)


def paired_contrasts(
    one: Mapping[str, Dice], other: Mapping[str, Dice], quantity: str, patient_of: PatientOf
) -> list[Contrast]:
    """Of all labels together, then of each if there are several; none where no Dice is defined in any case.

    Args:
        one: case to Dice.
        other: that is subtracted; cases that one of the two lacks do not count.
        quantity: what the difference is, in words.
        patient_of: tells the patient of a case.
    """
    cases = sorted(set(one) & set(other))
    if not cases:
        return []
    labels = list(one[cases[0]])
    table = [[[_number(dice[case][label]) for label in labels] for case in cases] for dice in (one, other)]
    first, second = with_right_absence(np.array(table, np.float64))
    differences, patients = first - second, [patient_of(case) for case in cases]
    columns = {label: differences[:, place] for place, label in enumerate(labels)}
    defined = {label: column for label, column in columns.items() if np.isfinite(column).any()}
    if not defined:
        return []
    each = [contrast(quantity, column, patients, label=label) for label, column in defined.items()]
    return [contrast(quantity, differences, patients), *(each if len(labels) > 1 else [])]


def _number(dice: float | None) -> float:
    return float("nan") if dice is None else dice

"""Values of cases summed by patient, in an order that depends on nothing but the values.

All of this room works on such sums: cases of one patient are alike, so patients are what is drawn or exchanged. The mean
everywhere is the pooled one of ``summary.json``: per label over the cases in which it is defined, then over labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from autoseg.errors import InputError

__all__ = ["as_table", "patient_numbers", "pooled_mean", "sums_by_patient"]


def as_table(values: np.ndarray) -> np.ndarray:
    """Values ``(cases,)`` or ``(cases, labels)`` as float64 ``(cases, labels)``; NaN is a value that is not defined.

    Raises:
        InputError: another number of axes, or an infinite value.
    """
    table = np.asarray(values, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2:
        raise InputError(
            "scores have another form", found=f"an array of shape {table.shape}", expected="(cases,) or (cases, labels)"
        )
    if np.isinf(table).any():
        raise InputError("a score is infinite", expected="numbers, and NaN where a score is not defined")
    return table


def patient_numbers(cases: int, patients: Sequence[str | int] | np.ndarray | None) -> np.ndarray:
    """The patient of every case as an integer from 0; every case is a patient of its own if None is given.

    Raises:
        InputError: there is not one patient for every case.
    """
    if patients is None:
        return np.arange(cases)
    if len(patients) != cases:
        raise InputError("every case needs a patient", found=f"{len(patients)} for {cases} cases")
    return np.unique(np.asarray(patients), return_inverse=True)[1]


def pooled_mean(table: np.ndarray) -> float | None:
    """Mean over labels of the mean over cases ``(cases, labels)``, each rounded once; None if nothing is defined."""
    means = [fmean(column[defined]) for column in table.T if (defined := np.isfinite(column)).any()]
    return fmean(means) if means else None


def sums_by_patient(tables: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per patient the sum and the number of defined values.

    Cases are added up in the order of their values, and patients are sorted by their sums, so that neither the order of
    cases nor the names of patients make any difference, not even of rounding. Patients without any value are left out.

    Args:
        tables: ``(tables, cases, labels)``, NaN where not defined.
        patients: integer of each case.

    Returns:
        Sums and counts, each ``(patients, tables, labels)`` float64.
    """
    rows = np.moveaxis(tables, 1, 0)
    columns = rows.reshape(len(rows), -1)
    order = np.lexsort(columns.T[::-1]) if columns.size else np.arange(len(rows))
    rows, patients = rows[order], patients[order]
    shape = (int(patients.max(initial=-1)) + 1, *rows.shape[1:])
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, patients, np.nan_to_num(rows))
    np.add.at(counts, patients, np.isfinite(rows))
    some = counts.any(axis=(1, 2))
    sums, counts = sums[some], counts[some]
    keys = np.concatenate([sums.reshape(len(sums), -1), counts.reshape(len(sums), -1)], axis=1)
    order = np.lexsort(keys.T[::-1]) if keys.size else np.arange(len(sums))
    return sums[order], counts[order]

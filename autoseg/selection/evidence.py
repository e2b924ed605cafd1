"""From scores of every candidate to the table of cases that all of them have, and what is missing for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from autoseg.errors import InputError
from autoseg.values import Candidate, Evidence, Missing, Selection, Split

__all__ = ["Scores", "as_array", "gather_evidence", "with_right_absence", "without_names"]

#: Of one candidate: case id to label name to Dice, None where it is not defined.
Scores = Mapping[str, Mapping[str, float | None]]


def gather_evidence(
    candidates: Sequence[Candidate],
    scores: Mapping[str, Scores],
    patients: Mapping[str, str] | None = None,
    split: Split | None = None,
) -> Evidence:
    """The scores of the cases that every candidate with any score has; it works with one fold and half-done trainings.

    Args:
        candidates: in their order.
        scores: candidate to the scores of its held-out cases; a candidate without any may be left out.
        patients: of every case; every case is its own if None.
        split: the folds, so that it can be told what is missing of which; else what others have is missing.

    Raises:
        InputError: nothing is scored, the candidates share no case, a scored case is held out in no fold or has no
            patient, a score lacks a label that others have, or no label is defined anywhere.
    """
    scored = {each.name: scores.get(each.name, {}) for each in candidates}
    compared = [each for each in candidates if scored[each.name]]
    if not compared:
        raise InputError("no candidate has a score", remedy="Train a fold of at least one configuration first.")
    folds = {case: str(number) for number, fold in enumerate(split or ()) for case in fold.val}
    expected = set(folds) if split is not None else set().union(*scored.values())
    cases = sorted(set.intersection(*(set(scored[each.name]) for each in compared)))
    _check_cases(scored, cases, expected, patients)
    labels = _labels(scored)
    evidence = Evidence(
        labels=labels,
        cases=tuple(cases),
        patients=tuple(patients[case] if patients is not None else case for case in cases),
        candidates=tuple(compared),
        dice={
            each.name: tuple(tuple(scored[each.name][case][label] for label in labels) for case in cases)
            for each in compared
        },
        missing=tuple(
            missing for each in candidates if (missing := _missing(each.name, scored[each.name], expected, folds))
        ),
    )
    if not np.isfinite(as_array(evidence)).any():
        raise InputError(
            "no label is defined in any case that all candidates have",
            found=f"{len(cases)} cases without {', '.join(labels)}",
            expected="at least one case with one of the labels",
            remedy="Train more folds.",
        )
    return evidence


def _check_cases(
    scored: Mapping[str, Scores], cases: Sequence[str], expected: set[str], patients: Mapping[str, str] | None
) -> None:
    for name, table in scored.items():
        strange = sorted(set(table) - expected)
        if strange:
            raise InputError(
                f"{name} has scores of cases that no fold holds out: it was trained with another split",
                found=", ".join(strange[:5]),
                remedy="Train it again with the present split, or leave it out.",
            )
    if not cases:
        have = "; ".join(f"{name}: {', '.join(sorted(table)[:3])}, …" for name, table in scored.items() if table)
        raise InputError(
            "the candidates have no held-out case in common, so they cannot be compared",
            found=have,
            expected="one fold at least that all have finished",
            remedy="Train the same fold of each, or name the configurations to compare.",
        )
    homeless = [case for case in cases if patients is not None and case not in patients]
    if homeless:
        raise InputError("cases have no patient", found=", ".join(homeless[:5]))


def _labels(scored: Mapping[str, Scores]) -> tuple[str, ...]:
    """The labels of all scores, which must be the same everywhere."""
    labels: tuple[str, ...] | None = None
    for name, table in scored.items():
        for case, row in table.items():
            labels = tuple(row) if labels is None else labels
            if set(row) != set(labels):
                raise InputError(
                    f"the scores of {name} are of other labels",
                    case=case,
                    found=", ".join(row),
                    expected=", ".join(labels),
                    remedy="Score all candidates against the same references.",
                )
    return labels or ()


def _missing(name: str, table: Scores, expected: set[str], folds: Mapping[str, str]) -> Missing | None:
    absent = sorted(expected - set(table))
    if not absent:
        return None
    whole = sorted({folds[case] for case in absent if folds} - {folds[case] for case in table if folds}, key=int)
    return Missing(candidate=name, cases=tuple(absent), folds=tuple(whole), nothing=not table)


def as_array(evidence: Evidence) -> np.ndarray:
    """Dice ``(candidates, cases, labels)`` float64, NaN where not defined."""
    rows = [evidence.dice[each.name] for each in evidence.candidates]
    return np.array([[[np.nan if score is None else score for score in row] for row in table] for table in rows])


def with_right_absence(dice: np.ndarray) -> np.ndarray:
    """Dice ``(candidates, cases, labels)`` in which all candidates are judged by the same cases.

    Where nothing is to be found, a candidate that finds nothing has no Dice, and one that finds something has 0. If any
    has, the others get 1 there, for they were right. Where none has, or where a label was not looked for, the case says
    nothing of the label.
    """
    defined = np.isfinite(dice)
    return np.where(~defined & defined.any(axis=0), 1.0, dice)


def without_names(selection: Selection) -> Selection:
    """The same choice with numbers in the place of the names of cases and patients, for models that leave the house.

    It can still be made again from its evidence, for names do not count in it.
    """
    evidence = selection.evidence
    ids = sorted({*evidence.cases, *(case for each in evidence.missing for case in each.cases)})
    case_numbers = _numbered("case", ids)
    patient_numbers = _numbered("patient", sorted(set(evidence.patients)))
    anonymous = msgspec.structs.replace(
        evidence,
        cases=tuple(case_numbers[case] for case in evidence.cases),
        patients=tuple(patient_numbers[patient] for patient in evidence.patients),
        missing=tuple(
            msgspec.structs.replace(each, cases=tuple(case_numbers[case] for case in each.cases))
            for each in evidence.missing
        ),
    )
    return msgspec.structs.replace(selection, evidence=anonymous)


def _numbered(kind: str, names: Sequence[str]) -> dict[str, str]:
    """Numbers of equal length, so that they sort as the names do."""
    digits = len(str(len(names)))
    return {name: f"{kind} {number:0{digits}d}" for number, name in enumerate(names, start=1)}

"""What held-out cases tell of how right networks are when they are this certain: the calibration of a predicted Dice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoseg.crossvalidation.ensembles import Dice
from autoseg.crossvalidation.finished import FinishedFold
from autoseg.crossvalidation.held_out import HeldOut
from autoseg.values import Calibration, CalibrationSet, ModelCalibration, Plan

__all__ = ["calibrations"]


def calibrations(
    held_out: HeldOut,
    plan: Plan,
    finished: Mapping[str, Mapping[str, FinishedFold]],
    candidates: Mapping[str, Sequence[str]],
    scores: Mapping[str, Mapping[str, Dice]],
    patient_of: Callable[[str], str],
) -> CalibrationSet:
    """The calibrations of candidates, from what is kept of the held-out cases: no network is run.

    Args:
        held_out: the cases.
        plan: of all candidates.
        finished: configuration to its finished folds.
        candidates: to their members; those whose probabilities are not all kept are left out.
        scores: candidate to case to its Dice.
        patient_of: case to patient.

    Raises:
        CasesFailedError: some probabilities are damaged.
        InterruptedRunError: it was stopped; what is known is kept.
    """
    soft = held_out.soft_dice({name: members for name, members in candidates.items() if scores.get(name)})
    found = {}
    for name, of_case in soft.items():
        weights = {
            member: {fold: each.weights for fold, each in finished[member].items()} for member in candidates[name]
        }
        pairs = {case: _pairs(certain, scores[name][case]) for case, certain in of_case.items() if case in scores[name]}
        patients = list(dict.fromkeys(patient_of(case) for case in pairs))
        number = {case: patients.index(patient_of(case)) for case in pairs}
        labels = [label.name for label in plan.labels.foreground]
        found[name] = ModelCalibration(
            weights=weights,
            labels={
                label: _calibration([(number[case], *each[label]) for case, each in pairs.items() if label in each])
                for label in labels
            },
            mean=_calibration([(number[case], *_mean(each)) for case, each in pairs.items() if each]),
        )
    return CalibrationSet(plan=plan.id, candidates=found)


def _pairs(soft: Dice, dice: Dice) -> dict[str, tuple[float, float]]:
    """Soft Dice and Dice of the labels that were found and are scored.

    A label that was not found has no probabilities to judge by: what its absence is worth is not predicted.
    """
    return {
        name: (certain, right)
        for name, certain in soft.items()
        if certain is not None and (right := dice[name]) is not None
    }


def _mean(pairs: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    soft, dice = zip(*pairs.values(), strict=True)
    return sum(soft) / len(soft), sum(dice) / len(dice)


def _calibration(points: Sequence[tuple[int, float, float]]) -> Calibration:
    return Calibration(
        soft_dice=tuple(round(soft, 6) for _, soft, _ in points),
        dice=tuple(round(min(dice, 1.0), 6) for _, _, dice in points),
        patients=tuple(patient for patient, _, _ in points),
    )

"""Cross-validation: what the finished folds of a plan say together, and what ensembles of them would have said."""

from autoseg.crossvalidation.calibration import calibrations
from autoseg.crossvalidation.costs import costs_of, place_of, told_place
from autoseg.crossvalidation.ensembles import EnsembleScores, HeldOutCase, PostprocessingEffects
from autoseg.crossvalidation.finished import FinishedFold, check_contents, dice_per_case, finished_trainings
from autoseg.crossvalidation.held_out import HeldOut

__all__ = [
    "EnsembleScores",
    "FinishedFold",
    "HeldOut",
    "HeldOutCase",
    "PostprocessingEffects",
    "calibrations",
    "check_contents",
    "costs_of",
    "dice_per_case",
    "finished_trainings",
    "place_of",
    "told_place",
]

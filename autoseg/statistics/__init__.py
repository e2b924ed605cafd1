"""Statistics of scores: what a difference between two configurations is worth, patient by patient.

Whatever is drawn at random follows from a seed and from the set of values, not from the order of cases or from names.
"""

from autoseg.statistics.bootstrap import (
    DRAWS,
    BootstrapMeans,
    bootstrap_means,
    bootstrap_of_mean,
    interval_of,
    tail_bounds,
)
from autoseg.statistics.calibration import false_alarm_rate
from autoseg.statistics.effects import effect_sizes
from autoseg.statistics.permutation import PERMUTATIONS, paired_permutation_test
from autoseg.statistics.predicted_dice import COVERED, DicePredictor, PredictedDice, dice_predictor, why_not
from autoseg.statistics.several import holm

__all__ = [
    "COVERED",
    "DRAWS",
    "PERMUTATIONS",
    "BootstrapMeans",
    "DicePredictor",
    "PredictedDice",
    "bootstrap_means",
    "bootstrap_of_mean",
    "dice_predictor",
    "effect_sizes",
    "false_alarm_rate",
    "holm",
    "interval_of",
    "paired_permutation_test",
    "tail_bounds",
    "why_not",
]

"""Comparison of two configurations: which is better, how sure that is, what it costs, and what goes with it."""

from autoseg.comparison.difference import compared_dice, difference_of, mean_dice, question_of
from autoseg.comparison.kept import measured_cases
from autoseg.comparison.reasons import Compared, kept_experiments
from autoseg.comparison.words import answer_of

__all__ = [
    "Compared",
    "answer_of",
    "compared_dice",
    "difference_of",
    "kept_experiments",
    "mean_dice",
    "measured_cases",
    "question_of",
]

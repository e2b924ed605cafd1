"""What Dice a case will have, from the soft Dice of its probabilities and from those of cases whose Dice is known.

A straight line is fitted on the logit scale, where Dice has no ends, and never one that falls. The interval is that of the
jackknife+ (Barber, Candès, Ramdas and Tibshirani, "Predictive inference with the jackknife+", The Annals of Statistics 49,
2021), with signed residuals, as label maps fail to one side; whole patients are left out instead of single cases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from autoseg.values import Calibration

__all__ = ["COVERED", "FEWEST_PATIENTS", "DicePredictor", "PredictedDice", "dice_predictor", "why_not"]

#: Share of the cases whose Dice lies within the interval, half of the others on each side.
COVERED = 0.8
#: With fewer no end of the interval can be told: each needs a case beyond it.
FEWEST_PATIENTS = 10
#: A relation is carried by the cases if chance makes as good a one less often than this.
CHANCE = 0.05
#: Dice this near to 0 or 1 is taken for this near; the logit of 0 is not finite.
NEAREST = 0.005


@dataclass(frozen=True)
class PredictedDice:
    """A Dice with the ends of its interval."""

    dice: float
    lower: float
    upper: float


class DicePredictor:
    """Predicts the Dice of cases; more soft Dice never gives less.

    Args:
        calibration: that ``why_not`` has nothing against.

    Attributes:
        least_soft_dice: of the cases that it rests on; what is below is told by the line alone.
        low_dice: Dice that one in twenty of them was below.
    """

    def __init__(self, calibration: Calibration) -> None:
        soft, dice = _logits(calibration.soft_dice), _logits(calibration.dice)
        patients = np.array(calibration.patients)
        self.least_soft_dice = min(calibration.soft_dice)
        self.low_dice = float(np.quantile(calibration.dice, 0.05))
        self._line = _line(soft, dice)
        without = {patient: _line(soft[patients != patient], dice[patients != patient]) for patient in set(patients)}
        #: For each case the line without its patient, and how far the case's own Dice is above that.
        self._slopes = np.array([without[patient][0] for patient in patients])
        self._starts = np.array([without[patient][1] for patient in patients])
        self._residuals = dice - (self._slopes * soft + self._starts)

    def __call__(self, soft_dice: float) -> PredictedDice:
        """The Dice that a case of this soft Dice is likely to have."""
        place = float(_logits([soft_dice])[0])
        slope, start = self._line
        middle = float(expit(slope * place + start))
        ends = np.sort(expit(self._slopes * place + self._starts + self._residuals))
        rank = math.floor((1 - COVERED) / 2 * (len(ends) + 1))  # that many cases are beyond each end, or fewer
        lower, upper = (float(ends[rank - 1]), float(ends[-rank])) if rank else (0.0, 1.0)
        return PredictedDice(middle, min(lower, middle), max(upper, middle))


def dice_predictor(calibration: Calibration) -> DicePredictor | None:
    """What predicts by these cases; None where they do not carry a prediction."""
    return None if why_not(calibration) else DicePredictor(calibration)


def why_not(calibration: Calibration) -> str:
    """Why these cases do not carry a prediction, in words; empty if they do."""
    patients = len(set(calibration.patients))
    if patients < FEWEST_PATIENTS:
        return f"only {patients} held-out patients have it, and {FEWEST_PATIENTS} are needed"
    if len(set(calibration.soft_dice)) == 1 or len(set(calibration.dice)) == 1:
        return "all held-out cases are alike in it"
    found = stats.spearmanr(calibration.soft_dice, calibration.dice, alternative="greater")
    if not found.pvalue < CHANCE:
        return "on the held-out cases its Dice does not go with the certainty of the networks"
    return ""


def _logits(values: object) -> np.ndarray:
    found: np.ndarray = logit(np.clip(np.asarray(values, np.float64), NEAREST, 1 - NEAREST))
    return found


def _line(soft: np.ndarray, dice: np.ndarray) -> tuple[float, float]:
    """Slope and start by least squares; a line that falls is laid level."""
    centred = soft - soft.mean()
    total = float(centred @ centred)
    slope = max(0.0, float(centred @ dice) / total) if total else 0.0
    return slope, float(dice.mean() - slope * soft.mean())

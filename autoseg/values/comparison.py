"""What ``autoseg compare`` finds out: measurements with their intervals, experiments made of them, and the whole answer."""

from __future__ import annotations

from typing import Literal

from autoseg.values.json_form import Value, require
from autoseg.values.statistics import EffectSizes, Interval

__all__ = ["ALL_LABELS", "Comparison", "Contrast", "Experiment"]

#: Stands for the mean over the labels.
ALL_LABELS = "all"
#: 1 - 0.95 is not quite 0.05.
ROUNDING = 1e-12


class Contrast(Value, frozen=True, kw_only=True):
    """One number of an experiment, and how sure it is.

    Attributes:
        quantity: what was measured, in words: ``Dice of 3d_fullres minus Dice of 2d``.
        label: name of the label, or ``all``.
        group: part of the data that it is of: ``first fifth of the axis``; empty for all of it.
        interval: mean over cases, with bounds by patients.
        p_value: of "it is zero", of a permutation test by patients; None where nothing was tested. The first of an
            experiment answers its question and is tested alone; the others are corrected by Holm among each other.
        effects: how the numbers of single cases lie; None where they are no differences of cases.
    """

    quantity: str
    label: str = ALL_LABELS
    group: str = ""
    interval: Interval
    p_value: float | None = None
    effects: EffectSizes | None = None

    def __post_init__(self) -> None:
        possible = self.p_value is None or 0 < self.p_value <= 1
        require(possible, "out of range", field="p_value", found=self.p_value, expected="over 0, up to 1")

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """Which side of zero the whole interval is on; 0 where it is on both, or where there is none."""
        if self.interval.lower is None or self.interval.upper is None:
            return 0
        return 1 if self.interval.lower > 0 else -1 if self.interval.upper < 0 else 0

    @property
    def claim(self) -> Literal[-1, 0, 1]:
        """The sign that may be stated: of the interval, unless the test, where one was made, does not agree."""
        agrees = self.p_value is None or self.p_value <= 1 - self.interval.level + ROUNDING
        return self.sign if agrees else 0


class Experiment(Value, frozen=True, kw_only=True):
    """One measured reason, or the lack of one.

    Attributes:
        name: for files and options: ``shuffled_slices``.
        question: that it answers, a sentence.
        method: what was done, in sentences, with the number of cases.
        contrasts: all that was measured, the one that answers the question first.
        answer: a sentence made from the numbers; says so where the intervals do not carry a claim.
        missing: why it could not be made, and what to do; then there are no contrasts.
        failures: case, or training made for this, to why it failed: the numbers are without it.
    """

    name: str
    question: str
    method: str
    contrasts: tuple[Contrast, ...] = ()
    answer: str = ""
    missing: str = ""
    failures: dict[str, str] = {}

    def __post_init__(self) -> None:
        told = bool(self.answer) != bool(self.missing)
        require(told, "an experiment has an answer, or a reason why there is none", field="answer", found=self.answer)
        measured = bool(self.contrasts) == bool(self.answer)
        require(measured, "an answer needs contrasts, and they need an answer", field="contrasts", found=self.name)


class Comparison(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.comparison/1"):
    """The answer to "is a 3D network better than a 2D one here, and why?".

    Attributes:
        plan: its id.
        first: the configuration that is asked about: a 3D one, unless the user named others.
        second: the one that it is compared with: ``2d``, likewise.
        weights: configuration to its folds to the SHA-256 of their weights, of all that was compared.
        dice: configuration to label to its mean Dice, ``all`` first; None where it is defined in no case.
        difference: first minus second, per label and over all, the one over all labels first.
        experiments: reasons.
        costs: name of the configuration to quantity (``seconds per case``) to its value; None where not measured.
        left_out: case to why its label maps say nothing in experiments; its Dice counts all the same.
        answer: a paragraph in plain words made from all of these numbers.
    """

    plan: str
    first: str
    second: str
    weights: dict[str, dict[str, str]]
    dice: dict[str, dict[str, float | None]]
    difference: Experiment
    experiments: tuple[Experiment, ...]
    costs: dict[str, dict[str, float | None]]
    left_out: dict[str, str] = {}
    answer: str

    @property
    def failures(self) -> dict[str, str]:
        """Case, or training, to why it failed, of label maps and in every experiment."""
        found = dict(self.left_out)
        for experiment in self.experiments:
            found = {**experiment.failures, **found}
        return found

    def __post_init__(self) -> None:
        require(self.first != self.second, "a configuration is compared with itself", field="second", found=self.first)

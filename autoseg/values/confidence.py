"""How far a label map can be trusted: Confidence of a case, and CalibrationSet, the held-out cases that it is told by."""

from __future__ import annotations

from autoseg.values.json_form import Value, require

__all__ = ["Calibration", "CalibrationSet", "Confidence", "LabelConfidence", "ModelCalibration"]


def _require_share(value: float | None, field: str) -> None:
    require(value is None or 0 <= value <= 1, "out of range", field=field, found=value, expected="0 to 1, or null")


class LabelConfidence(Value, frozen=True, kw_only=True):
    """How far one label of a label map can be trusted, or all of them on average; Dice from 0 to 1.

    Attributes:
        agreement: Dice of the networks' own answers with each other, 1 where all are the same; None of one network, or
            where none of them finds the label.
        soft_dice: of the averaged probabilities with their own decision; None where the label is not found.
        predicted_dice: what held-out cases of such a soft Dice had; None where nothing is calibrated.
        lower: end of the interval of the predicted Dice.
        upper: the other end.
    """

    agreement: float | None = None
    soft_dice: float | None = None
    predicted_dice: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            _require_share(getattr(self, field), field)
        stated = [each is None for each in (self.predicted_dice, self.lower, self.upper)]
        require(len(set(stated)) == 1, "a predicted Dice has an interval, and only that", field="predicted_dice")
        ordered = self.lower is None or self.upper is None or self.lower <= self.upper
        require(ordered, "the ends of the interval are exchanged", field="lower", found=self.lower, expected=self.upper)


class Confidence(Value, frozen=True, kw_only=True):
    """How far the label map of a case can be trusted.

    Attributes:
        networks: that were averaged, of all configurations together.
        mean: of the labels that were found.
        labels: by name.
        not_told: why something is missing, each a plain sentence.
    """

    networks: int
    mean: LabelConfidence
    labels: dict[str, LabelConfidence]
    not_told: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.networks >= 1, "out of range", field="networks", found=self.networks, expected="1 or more")


class Calibration(Value, frozen=True, kw_only=True):
    """Held-out cases of which a network that did not see them was this certain, and this right; without names.

    Attributes:
        soft_dice: of each case.
        dice: with its reference.
        patients: numbers that are equal for cases of one patient.
    """

    soft_dice: tuple[float, ...]
    dice: tuple[float, ...]
    patients: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.soft_dice), len(self.dice), len(self.patients)}
        require(len(lengths) == 1, "soft_dice, dice and patients differ in number")
        for field in ("soft_dice", "dice"):
            for value in getattr(self, field):
                _require_share(value, field)


class ModelCalibration(Value, frozen=True, kw_only=True):
    """The calibration of one candidate: a configuration, or an ensemble of several.

    Attributes:
        weights: configuration to its folds to the SHA-256 of their weights, which the held-out cases were predicted by.
        labels: label to its cases.
        mean: of the labels that were found, case by case.
    """

    weights: dict[str, dict[str, str]]
    labels: dict[str, Calibration]
    mean: Calibration

    def __post_init__(self) -> None:
        require(bool(self.weights) and all(self.weights.values()), "no weights are named", field="weights")


class CalibrationSet(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.calibration/1"):
    """Calibrations of the candidates of a plan.

    Attributes:
        plan: its id.
        candidates: by name.
    """

    plan: str
    candidates: dict[str, ModelCalibration]

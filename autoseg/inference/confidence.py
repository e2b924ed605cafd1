"""How far the label map of a new image can be trusted, gathered while it is predicted: Watch, which becomes a Confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoseg import plugins
from autoseg.inference.disagreement import Disagreement, information_of
from autoseg.inference.predict import Predictor
from autoseg.inference.probabilities import LEVELS, Probabilities, parts_of_box
from autoseg.inference.soft_dice import VALUES_AT_ONCE, levels_in, soft_dice_of_levels, soft_dice_of_logits
from autoseg.preprocessing.inverse import restore_labels
from autoseg.statistics import DicePredictor, dice_predictor, why_not
from autoseg.values import (
    Confidence,
    Configuration,
    LabelConfidence,
    Labels,
    ModelCalibration,
    PreprocessRecord,
    TrainingImages,
    Volume,
)

__all__ = ["MAP_LEVELS", "Experience", "Watch", "poor_confidence"]

#: In a map of disagreement, the integer that stands for the most that is possible.
MAP_LEVELS = 65_535


@dataclass(frozen=True)
class Experience:
    """What is known from a model's training and cross-validation, by which its answers to new images are judged.

    Attributes:
        calibration: of exactly these weights; None if there is none.
        why_not: in a plain sentence, why there is none.
        images: what the training images were like; None of a model from before that was kept.
    """

    calibration: ModelCalibration | None = None
    why_not: str = "no Dice is predicted: nothing was calibrated, which autoseg select does"
    images: TrainingImages | None = None

    @cached_property
    def predictors(self) -> dict[str, DicePredictor]:
        """By label, that of the mean under the empty name; only those that the cases carry."""
        if self.calibration is None:
            return {}
        given = {"": self.calibration.mean, **self.calibration.labels}
        return {name: made for name, each in given.items() if (made := dice_predictor(each)) is not None}

    @cached_property
    def not_told(self) -> tuple[str, ...]:
        """Why no Dice is predicted of some labels, or of all."""
        if self.calibration is None:
            return (self.why_not,)
        reasons = {name: why_not(each) for name, each in self.calibration.labels.items()}
        told = [f"no Dice is predicted of {name!r}: {reason}" for name, reason in reasons.items() if reason]
        mean = why_not(self.calibration.mean)
        return (*told, *([f"no mean Dice is predicted: {mean}"] if mean else []))


class Watch:
    """Sees what happens to one image on its way through the networks.

    Args:
        members: that predict it; of several the probabilities are averaged.
        labels: what their outputs mean.
        with_map: make a map of the disagreement, too: for each voxel four bytes on each grid that it passes.
    """

    def __init__(self, members: Sequence[Predictor], labels: Labels, *, with_map: bool = False) -> None:
        self._labels, self._with_map = labels, with_map
        self._configurations = [each.configuration for each in members]
        self._networks = sum(len(each.networks) for each in members)
        self.folds = [Disagreement(labels, with_map=with_map) for _ in members]
        self._soft_dice: dict[str, float | None] = {}
        self._between: dict[str, float | None] = {}
        #: Mutual information in nats on the case's box, the mean of the members' own.
        self._information: np.ndarray | None = None

    def member_done(self, number: int, record: PreprocessRecord) -> None:
        """Takes the map of a member to the case's own box, as soon as that member has predicted."""
        information = self.folds[number].information
        self.folds[number].information = None
        if self._with_map and information is not None:
            found = _on_box(information, record, self._configurations[number])
            found /= len(self._configurations)
            self._information = found if self._information is None else np.add(self._information, found, out=found)

    def see_logits(self, logits: np.ndarray) -> None:
        """Looks at the averaged logits of the only member, on the network's grid."""
        self._soft_dice = soft_dice_of_logits(logits, self._labels)

    def see_members(self, kept: Sequence[Probabilities]) -> None:
        """Looks at the probabilities of all of several members, on the case's box."""
        self._soft_dice = soft_dice_of_levels(kept, self._labels)
        shape = kept[0].record.crop_shape
        if self._with_map and self._information is None:
            self._information = np.zeros(shape, np.float32)
        between = Disagreement(self._labels)
        between.begin(shape)
        for box in parts_of_box(shape, VALUES_AT_ONCE // self._labels.output_count // len(kept)):
            self._see_part(between, box, kept)
        self._between = between.agreement()

    def _see_part(self, between: Disagreement, box: tuple[slice, slice, slice], kept: Sequence[Probabilities]) -> None:
        probabilities = [levels_in(each, box).div_(LEVELS)[None] for each in kept]
        shift = 0.5 if self._labels.has_regions else 0.0  # a region is decided for above one half, a logit above 0
        ones = np.ones(probabilities[0].shape[2], np.float32)
        found = between.look([each - shift for each in probabilities], ones)
        assert found is not None
        between.add(0, box, found, ones)
        if self._information is not None:  # what they disagree about together: within the members, and between them
            part = information_of(probabilities, regions=self._labels.has_regions)[0].numpy()
            self._information[box] += part.reshape(self._information[box].shape)

    def confidence(self, experience: Experience) -> Confidence:
        """All of it, after the image was predicted."""
        agreement = self._agreement()
        labels = {
            label.name: _judged(agreement[label.name], self._soft_dice.get(label.name), experience, label.name)
            for label in self._labels.foreground
        }
        found = [each for each in labels.values() if each.soft_dice is not None]
        together = _judged(
            _mean([each.agreement for each in labels.values()]),
            _mean([each.soft_dice for each in found]),
            experience,
            "",
        )
        not_told = experience.not_told
        if self._networks == 1:
            not_told = ("disagreement cannot be measured: one network predicts alone", *not_told)
        return Confidence(networks=self._networks, mean=together, labels=labels, not_told=not_told)

    def _agreement(self) -> dict[str, float | None]:
        """Of the folds of each member, and of the members: where these differ, the worst."""
        found = [each.agreement() for each in self.folds] + ([self._between] if self._between else [])
        worst: dict[str, float | None] = {}
        for label in self._labels.foreground:
            known = [value for each in found if (value := each[label.name]) is not None]
            worst[label.name] = round(min(known), 6) if known else None
        return worst

    def map(self, record: PreprocessRecord) -> Volume | None:
        """The map ``(1, *spatial)`` uint16 on the grid and in the order of the case's files; None of one network.

        0 stands for equal answers, ``MAP_LEVELS`` for as much disagreement as so many networks and labels can have.
        """
        if self._information is None:
            return None
        answers = 2 if self._labels.has_regions else self._labels.output_count
        most = math.log(min(self._networks, answers))
        share = np.clip(self._information, 0, most, out=self._information)
        share *= MAP_LEVELS / most
        return restore_labels(np.rint(share, out=share).astype(np.uint16), record)


def _on_box(information: np.ndarray, record: PreprocessRecord, configuration: Configuration) -> np.ndarray:
    """A map on the network's grid, brought to the case's box in the way of its logits."""
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)
    found = resampler.logits(information[None], record.crop_shape, record.target_spacing, record.spacing)[0]
    return np.array(found, np.float32)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _judged(agreement: float | None, soft_dice: float | None, experience: Experience, name: str) -> LabelConfidence:
    predictor = experience.predictors.get(name)
    if predictor is None or soft_dice is None:
        return LabelConfidence(agreement=agreement, soft_dice=soft_dice)
    found = predictor(soft_dice)
    return LabelConfidence(
        agreement=agreement, soft_dice=soft_dice, predicted_dice=found.dice, lower=found.lower, upper=found.upper
    )


def poor_confidence(confidence: Confidence, experience: Experience) -> tuple[str, ...]:
    """One sentence if the label map is likely to be worse than nearly all of the held-out cases' were; else none."""
    poor: Mapping[str, LabelConfidence] = {
        name: each
        for name, each in {"": confidence.mean, **confidence.labels}.items()
        if each.predicted_dice is not None
        and each.soft_dice is not None
        and _is_poor(each, experience.predictors[name])
    }
    if not poor:
        return ()
    told = [
        f"{repr(name) if name else 'all labels together'} {each.predicted_dice:.2f} ({each.lower:.2f} to {each.upper:.2f})"
        for name, each in poor.items()
    ]
    return (f"poor confidence: the Dice is likely to be low, of {', '.join(told)}; look at this label map",)


def _is_poor(each: LabelConfidence, predictor: DicePredictor) -> bool:
    assert each.predicted_dice is not None
    assert each.soft_dice is not None
    return each.predicted_dice < predictor.low_dice or each.soft_dice < predictor.least_soft_dice

"""What predicts of a model folder: the configuration that is named, or what was selected or exported, or the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from autoseg.files import content_hash, read_document
from autoseg.held_out_files import SelectionFiles, training_images_file
from autoseg.inference.confidence import Experience
from autoseg.inference.fast import made_fast
from autoseg.inference.model import Choice, choose_model, parts_trained_with
from autoseg.inference.predict import Predictor
from autoseg.inference.stages import load_staged_predictor, stages_of
from autoseg.logs import Logger
from autoseg.networks.weights import weights_id
from autoseg.plan_check import USED_IN_PREDICTION, changed_parts, usable_plan
from autoseg.selected import Selected, read_selection
from autoseg.sharing.layout import METRICS, read_export
from autoseg.values import (
    CalibrationSet,
    ComponentStep,
    Exported,
    Metrics,
    ModelCalibration,
    Plan,
    TrainingImages,
    digest,
)
from autoseg.workspace import ModelFolder

__all__ = ["Chosen", "choose"]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What predicts.

    Attributes:
        model: folder.
        choices: configurations with their folds; of several the probabilities are averaged.
        steps: what is done to every label map.
        selection: that says so; None where it was chosen otherwise.
    """

    model: ModelFolder
    choices: tuple[Choice, ...]
    steps: tuple[ComponentStep, ...] = ()
    selection: Selected | None = None

    @property
    def selected(self) -> bool:
        """Whether ``autoseg select`` had chosen it."""
        return self.selection is not None

    def stages(self) -> list[Choice]:
        """The configurations, each after the stages that it needs before it."""
        plan = self.model.plan()
        return [stage for choice in self.choices for stage in stages_of(self.model, plan, choice)]

    def weights(self) -> str:
        """Digest of all weights that are used."""
        used = [(stage.configuration, fold) for stage in self.stages() for fold in stage.folds]
        return digest([content_hash(self.model.fold(configuration, fold).model) for configuration, fold in used])

    def experience(self, *, mirroring: bool = True, usual: bool = True) -> Experience:
        """What the training and the cross-validation left to judge answers to new images by.

        Args:
            mirroring: images are predicted with flips, as held-out cases were, where there are any.
            usual: they are predicted in the usual way otherwise, too; of others no Dice is predicted.
        """
        images = training_images_file(self.model)
        calibration, why_not = self._calibration()
        known = read_document(TrainingImages, images) if images.is_file() else None
        plan = self.model.plan()
        flips = any(plan.configuration(each.configuration).augmentation.mirror_axes for each in self.choices)
        if calibration is not None and not (usual and (mirroring or not flips)):
            calibration, why_not = (
                None,
                "no Dice is predicted: held-out cases were predicted with flips, in the usual way",
            )
        if calibration is not None:
            return Experience(calibration, images=known)
        return Experience(None, why_not, known) if why_not else Experience(images=known)

    def _calibration(self) -> tuple[ModelCalibration | None, str]:
        """The calibration of exactly what predicts; or None, and why a calibration that is there is not used."""
        path = SelectionFiles(self.model).calibration
        if not path.is_file():
            return None, ""
        found, plan = read_document(CalibrationSet, path), self.model.plan()
        members = {choice.configuration: choice.folds for choice in self.choices}
        for candidate in found.candidates.values():
            if found.plan == plan.id and set(candidate.weights) == set(members):
                then = ((name, fold, candidate.weights[name].get(fold)) for name, of in members.items() for fold in of)
                if all(weights_id(self.model.fold(name, fold).model) == weights for name, fold, weights in then):
                    return candidate, ""
        return None, "no Dice is predicted: the networks that predict are not calibrated, which autoseg select does"

    def usable_plan(self, logger: Logger) -> Plan:
        """The plan, after all that it names is found to be here; tells of code that has changed since the training."""
        stages = self.stages()
        records = [record for stage in stages for record in parts_trained_with(self.model, stage)]
        names = list(dict.fromkeys(stage.configuration for stage in stages))
        plan = usable_plan(self.model, configurations=names, kinds=USED_IN_PREDICTION, records=records)
        for text in dict.fromkeys(
            text for name in names for text in changed_parts(plan, name, records, kinds=USED_IN_PREDICTION)
        ):
            logger.event("message", text=text)
        return plan

    def load(self, device: str, *, mirroring: bool, fast: bool = False, only_region: bool = False) -> list[Predictor]:
        """A predictor for each of the configurations, with those of the stages before it."""
        made = [
            load_staged_predictor(self.model, each, device=device, mirroring=mirroring, only_region=only_region)
            for each in self.choices
        ]
        return [made_fast(each) for each in made] if fast else made


def choose(models: Sequence[ModelFolder], configuration: str | None, folds: Sequence[str]) -> Chosen:
    """What predicts of these model folders.

    Args:
        models: the preferred one first.
        configuration: None for what was selected in the first that has a training, or else was exported to predict, or
            else has the best validation Dice.
        folds: to average; empty for all that are trained.

    Raises:
        InputError: nothing suitable is trained; or the selection is not of the trainings that are there now.
    """
    trained = [each for each in models if any(each.trained(name) for name in each.plan().names)]
    if configuration is None and trained:
        selected, exported = read_selection(trained[0]), read_export(trained[0])
        members = selected.folds if selected else exported.members if exported else {}
        choices = [choose_model(trained[:1], member, folds or there)[1] for member, there in members.items()]
        if exported is not None:
            choices = [_with_dice(trained[0], exported, choice) for choice in choices]
        if choices:
            steps = selected.steps if selected else ()
            return Chosen(model=trained[0], choices=tuple(choices), steps=steps, selection=selected)
    model, choice = choose_model(models, configuration, folds)
    return Chosen(model=model, choices=(choice,))


def _with_dice(model: ModelFolder, exported: Exported, choice: Choice) -> Choice:
    """An export holds the scores of all folds together, in the place of one file for each fold."""
    if choice.folds != exported.members.get(choice.configuration):
        return choice
    dice = read_document(Metrics, model.path / METRICS).validation.get(choice.configuration)
    return msgspec.structs.replace(choice, dice=dice)

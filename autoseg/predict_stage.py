"""The prediction stage: which trained model predicts, one configuration or the selected candidate, and new images by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.executors import Executor
from autoseg.logs import Logger, SilentLogger
from autoseg.plan_check import (
    USED_IN_PREDICTION,
    changed_parts,
    check_no_foreign_code,
    usable_plan,
)
from autoseg.values import PREDICTION_RECORD, Case, ComponentStep, Plan
from autoseg.workspace import ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.inference.model import Choice
    from autoseg.inference.predict import Predictor

__all__ = ["Chosen", "Predicted", "choose", "predict"]

SILENT = SilentLogger()


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What ``predict`` made.

    Attributes:
        files: label files by case.
        choices: the configurations that were used, whose probabilities were averaged if there are several.
        model: their folder.
        steps: what was done to every label map.
        selected: whether ``autoseg select`` had chosen them.
    """

    files: dict[str, Path]
    choices: tuple[Choice, ...]
    model: ModelFolder
    steps: tuple[ComponentStep, ...] = ()
    selected: bool = False

    @property
    def choice(self) -> Choice:
        """The first of the configurations."""
        return self.choices[0]


def predict(
    source: Path,
    target: Path,
    *,
    workspace: Workspace | None = None,
    model: ModelFolder | None = None,
    configuration: str | None = None,
    folds: Sequence[str] = (),
    device: str = "auto",
    mirroring: bool = True,
    trust_code: bool = False,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Predicted:
    """Predicts new images with what was selected, or with the configuration that is named.

    Without a name and without a selection, that is the configuration with the best validation Dice.

    Args:
        source: a folder of images, or one image file.
        target: folder for the label maps; made if missing.
        workspace: with a trained model.
        model: a model folder, instead of a workspace.
        configuration: None for what was selected.
        folds: to average; empty for all that are trained.
        device: cpu, cuda, mps or auto.
        mirroring: average over flips.
        trust_code: let a model folder that is named, and so may come from elsewhere, run code that is no installed plug.
        executor: reads the images.
        logger: for events.

    Raises:
        InputError: nothing to predict, no model, or a selection that is not of the trainings that are there now.
        CasesFailedError: some cases failed; the others are written.
    """
    from autoseg.inference.cases import predict_files
    from autoseg.io.formats import split_ending
    from autoseg.io.layouts import read_inputs
    from autoseg.io.outputs import check_no_links_out, check_outside
    from autoseg.networks.execution import resolve_device

    chosen = choose(workspace, model, configuration, folds, trust_code=trust_code)
    model, plan = chosen.model, chosen.usable_plan(logger)
    cases: tuple[Case, ...] = read_inputs(source, plan.channels)
    folder = source if source.is_dir() else source.parent
    check_outside(target, folder, whole=source.is_dir())
    ids = {case.id for case in cases}
    check_no_links_out(target, lambda name: name == PREDICTION_RECORD or split_ending(name)[0] in ids)
    for choice in chosen.choices:
        logger.event("model", plan=plan.name, configuration=choice.configuration, folds=choice.folds, dice=choice.dice)
    first, *others = chosen.load(resolve_device(device), mirroring=mirroring)
    files = predict_files(
        *(first, plan, chosen.weights(), cases, folder, target, logger, executor), others=others, steps=chosen.steps
    )
    return Predicted(files=files, choices=chosen.choices, model=model, steps=chosen.steps, selected=chosen.selected)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is to predict.

    Attributes:
        model: folder.
        choices: the configurations, whose probabilities are averaged if there are several.
        steps: what is done to every label map.
        selected: whether ``autoseg select`` had chosen them.
    """

    model: ModelFolder
    choices: tuple[Choice, ...]
    steps: tuple[ComponentStep, ...] = ()
    selected: bool = False

    def stages(self) -> list[Choice]:
        """The configurations, each after the stages that it needs before it."""
        from autoseg.inference.stages import stages_of

        plan = self.model.plan()
        return [stage for choice in self.choices for stage in stages_of(self.model, plan, choice)]

    def weights(self) -> str:
        """Digest of all weights that are used."""
        from autoseg.files import content_hash
        from autoseg.values import digest

        used = [(stage.configuration, fold) for stage in self.stages() for fold in stage.folds]
        return digest([content_hash(self.model.fold(configuration, fold).model) for configuration, fold in used])

    def load(self, device: str, *, mirroring: bool) -> list[Predictor]:
        """A predictor for each of the configurations, with those of the stages before it."""
        from autoseg.inference.stages import load_staged_predictor

        return [load_staged_predictor(self.model, each, device=device, mirroring=mirroring) for each in self.choices]

    def usable_plan(self, logger: Logger) -> Plan:
        """The plan, after all that it names is found to be here; tells of code that has changed since the training."""
        from autoseg.inference.model import parts_trained_with

        stages = self.stages()
        records = [record for stage in stages for record in parts_trained_with(self.model, stage)]
        names = list(dict.fromkeys(stage.configuration for stage in stages))
        plan = usable_plan(self.model, configurations=names, kinds=USED_IN_PREDICTION, records=records)
        for text in dict.fromkeys(
            text for name in names for text in changed_parts(plan, name, records, kinds=USED_IN_PREDICTION)
        ):
            logger.event("message", text=text)
        return plan


def choose(
    workspace: Workspace | None,
    model: ModelFolder | None,
    configuration: str | None,
    folds: Sequence[str],
    *,
    trust_code: bool,
) -> Chosen:
    """The configuration that is named, or what was selected in the first model folder with a training, or the best one.

    Args:
        workspace: whose model folders are looked at, if ``model`` is None; the one in the working directory if both are.
        model: a model folder, which may come from elsewhere.
        configuration: None for what was selected.
        folds: to average; empty for all that are trained.
        trust_code: let ``model`` run code that is no installed plug.

    Raises:
        InputError: no such model, or a selection that is not of the trainings that are there now.
    """
    from autoseg.inference.model import choose_model
    from autoseg.selected import read_selection

    if model is not None and not trust_code:
        check_no_foreign_code(model)
    models = [model] if model else (workspace or Workspace()).models()
    if configuration is None:
        trained = [each for each in models if any(each.trained(name) for name in each.plan().names)]
        selected = read_selection(trained[0]) if trained else None
        if selected is not None:
            choices = [choose_model(trained[:1], member, folds or there)[1] for member, there in selected.folds.items()]
            return Chosen(model=trained[0], choices=tuple(choices), steps=selected.steps, selected=True)
    model, choice = choose_model(models, configuration, folds)
    return Chosen(model=model, choices=(choice,))

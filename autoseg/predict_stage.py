"""The prediction stage: which trained model predicts, one configuration or the selected candidate, and new images by it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.executors import Executor
from autoseg.logs import Logger, SilentLogger
from autoseg.plan_check import check_no_foreign_code
from autoseg.values import DISAGREEMENT, PREDICTION_RECORD, PROBABILITIES, Case, ComponentStep, Part, Plan
from autoseg.workspace import ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.inference.model import Choice
    from autoseg.inference.predict import Predictor

__all__ = ["Predicted", "predict"]

SILENT = SilentLogger()
WHOLE = Part()


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What ``predict`` made.

    Attributes:
        files: label files by case.
        choices: the configurations that were used, whose probabilities were averaged if there are several.
        model: their folder; of an archive one that is gone.
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
    fast: bool = False,
    only_region: bool = False,
    disagreement_maps: bool = False,
    probabilities: bool = False,
    part: Part = WHOLE,
    trust_code: bool = False,
    label_format: str | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Predicted:
    """Predicts new images with what was selected, or with the configuration that is named.

    Without a name and without a selection, that is the configuration with the best validation Dice.

    Args:
        source: a folder of images, or one image file.
        target: folder for the label maps; made if missing.
        workspace: with a trained model.
        model: a model folder, or the path of an exported archive as one, instead of a workspace.
        configuration: None for what was selected, or was exported to predict.
        folds: to average; empty for all that are trained.
        device: cpu, cuda, mps or auto.
        mirroring: average over flips.
        fast: no flips, fewer tiles, none where the image is empty; what that costs is told where it was measured.
        only_region: predict only where a coarser model that is trained, too, finds something; everywhere if there is none.
        disagreement_maps: write a map of the networks' disagreement for each image, too, if there are several networks.
        probabilities: write those that decided, too; ``autoseg.open_probabilities`` reads them.
        part: predict only this of several parts of the images, dealt out in turn by name.
        trust_code: let a model folder that is named, and so may come from elsewhere, run code that is no installed plug.
        label_format: of the label maps: an ending such as ``nii.gz``, or ``dicom-seg``; None for that of the images.
        executor: reads the images.
        logger: for events.

    Raises:
        MissingPartError: the format needs a package that is not installed.
        InputError: nothing to predict, no model, or a selection that is not of the trainings that are there now.
        CasesFailedError: some cases failed; the others are written.
    """
    from autoseg.errors import InputError
    from autoseg.sharing.reading import opened_model

    if only_region and disagreement_maps:
        raise InputError("a map of disagreement is of the whole image", remedy="Leave out --roi or --uncertainty.")

    with opened_model(model.path) if model else contextlib.nullcontext() as opened:
        if opened is not None and not trust_code:
            check_no_foreign_code(opened)
        models = [opened] if opened else (workspace or Workspace()).models()
        return _predicted(
            *(models, configuration, folds, source, target),
            device=device,
            mirroring=mirroring and not fast,
            fast=fast,
            only_region=only_region,
            label_format=label_format,
            extras={"disagreement_maps": disagreement_maps, "probabilities": probabilities, "part": part},
            executor=executor,
            logger=logger,
        )


def _predicted(
    models: Sequence[ModelFolder],
    configuration: str | None,
    folds: Sequence[str],
    source: Path,
    target: Path,
    *,
    device: str,
    mirroring: bool,
    fast: bool,
    only_region: bool,
    label_format: str | None,
    extras: Mapping[str, Any],
    executor: Executor | None,
    logger: Logger,
) -> Predicted:
    from autoseg.chosen import choose
    from autoseg.inference.fast import fast_loss, told
    from autoseg.inference.folder import Extras, predict_files
    from autoseg.io.formats import split_ending
    from autoseg.io.label_files import label_files
    from autoseg.io.layouts import read_inputs
    from autoseg.io.outputs import check_no_links_out, check_outside
    from autoseg.networks.execution import resolve_device

    chosen = choose(models, configuration, folds)
    plan = chosen.usable_plan(logger)
    weights = chosen.weights()
    output = label_files(label_format, plan.labels, plan=plan.name, weights=weights)
    part: Part = extras["part"]
    cases: tuple[Case, ...] = _of_part(read_inputs(source, plan.channels), part)
    folder = source if source.is_dir() else source.parent
    check_outside(target, folder, whole=source.is_dir())
    records = (part.file_name(stem) for stem in ("run", PREDICTION_RECORD.removesuffix(".json")))
    names = {PREDICTION_RECORD, DISAGREEMENT, PROBABILITIES, *records, *(output.name(case) for case in cases)}
    ids = {case.id for case in cases}
    check_no_links_out(target, lambda name: name in names or split_ending(name)[0] in ids)
    for choice in chosen.choices:
        logger.event("model", plan=plan.name, configuration=choice.configuration, folds=choice.folds, dice=choice.dice)
    models_told = tuple(f"{choice.configuration}, fold {', '.join(choice.folds)}" for choice in chosen.choices)
    if fast:
        logger.event("message", text=told(fast_loss(chosen.model, chosen.choices), chosen.choices))
    first, *others = chosen.load(resolve_device(device), mirroring=mirroring, fast=fast, only_region=only_region)
    if only_region:
        _tell_region((first, *others), plan, logger)
    files = predict_files(
        *(first, plan, weights, cases, folder, target, logger, executor),
        others=others,
        steps=chosen.steps,
        output=output,
        experience=chosen.experience(mirroring=mirroring, usual=not fast and not first.only_region),
        extras=Extras(plan_name=plan.name, models=models_told, **extras),
    )
    return Predicted(
        files=files, choices=chosen.choices, model=chosen.model, steps=chosen.steps, selected=chosen.selected
    )


def _of_part(cases: Sequence[Case], part: Part) -> tuple[Case, ...]:
    """Those of a part: dealt out in turn, so that all parts have about the same number."""
    return tuple(sorted(cases, key=lambda case: case.id)[part.number :: part.of]) if part.of > 1 else tuple(cases)


def _tell_region(members: Sequence[Predictor], plan: Plan, logger: Logger) -> None:
    from autoseg.inference.region import coarser

    for each in members:
        name = each.configuration.name
        if each.only_region:
            text = f"--roi: {name} predicts only where {each.earlier[-1].configuration.name} finds something"
        elif there := coarser(plan, name):
            text = f"--roi: {name} predicts everywhere: train a coarser configuration first, autoseg train {min(there)} all"
        else:
            text = f"--roi: {name} predicts everywhere, as the plan has no coarser configuration of volumes"
        logger.event("message", text=text)

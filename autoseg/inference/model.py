"""Trained models: which ones a model folder holds, which is best, and a Predictor made of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import torch

from autoseg.earlier_stages import folds_to_use
from autoseg.errors import InputError, UnknownNameError, UnreadableFileError
from autoseg.files import read_document
from autoseg.inference.predict import Predictor
from autoseg.networks.build import build_network
from autoseg.networks.execution import default_execution, usable_here
from autoseg.networks.weights import load_metadata, load_tensors, load_weights
from autoseg.values import ExecutionPath, PartRecord, Summary
from autoseg.values.json_form import Value
from autoseg.workspace import ModelFolder

__all__ = [
    "Choice",
    "choose_model",
    "load_predictor",
    "parts_trained_with",
    "predictor_of_weights",
    "validation_dice",
]


class Choice(Value, frozen=True, kw_only=True):
    """A trained model: a configuration and the folds that are averaged.

    ``dice`` is the mean validation Dice over these folds, None where none was scored.
    """

    configuration: str
    folds: tuple[str, ...]
    dice: float | None


def validation_dice(model: ModelFolder, configuration: str, folds: Sequence[str]) -> float | None:
    """Mean foreground Dice over the folds that have been scored on their held-out cases."""
    scores = []
    for fold in folds:
        path = model.fold(configuration, fold).summary
        if path.is_file():
            dice = read_document(Summary, path).foreground_mean.dice
            if dice is not None:
                scores.append(dice)
    return sum(scores) / len(scores) if scores else None


def choose_model(
    models: Sequence[ModelFolder], configuration: str | None = None, folds: Sequence[str] = ()
) -> tuple[ModelFolder, Choice]:
    """The trained model that was named, or the one with the best validation Dice on the folds that all of them have.

    Args:
        models: folders to choose from, the preferred one first.
        configuration: its name; None to choose.
        folds: to average; empty for all that are trained (the full model only where there is nothing else).

    Raises:
        UnknownNameError: a configuration or fold that does not exist.
        InputError: nothing suitable has been trained.
    """
    assert models
    plans = [model.plan() for model in models]
    if configuration and all(configuration not in plan.names for plan in plans):
        plans[0].configuration(configuration)  # says which there are
    trained = [
        (model, name, model.trained(name))
        for model, plan in zip(models, plans, strict=True)
        for name in plan.names
        if configuration in (None, name) and model.trained(name)
    ]
    if not trained:
        raise InputError(
            f"no model of {configuration} has been trained yet" if configuration else "no model has been trained yet",
            file=models[0].path,
            remedy=f"Train one: autoseg train {configuration or plans[0].main_configuration} 0",
        )
    choices = [
        (model, Choice(configuration=name, folds=used, dice=validation_dice(model, name, used)))
        for model, name, there in trained
        if (used := folds_to_use(there, folds))
    ]
    if not choices:
        _, name, there = trained[0]
        missing = [fold for fold in folds if fold not in there]
        raise UnknownNameError(
            f"{name} has no trained fold {', '.join(missing)}",
            expected=" or ".join(there),
            remedy=f"Train it: autoseg train {name} {missing[0]}",
        )
    # on equal terms: by the folds that all of them have, if there are any
    shared = sorted(set.intersection(*(set(choice.folds) for _, choice in choices)))

    def score(candidate: tuple[ModelFolder, Choice]) -> float:
        model, choice = candidate
        dice = validation_dice(model, choice.configuration, shared or choice.folds)
        return -1.0 if dice is None else dice

    return max(choices, key=score)


def parts_trained_with(model: ModelFolder, choice: Choice) -> tuple[PartRecord, ...]:
    """Where the plugs of a trained model came from that are not autoseg's own, as its weights say.

    Raises:
        UnreadableFileError: the weights are damaged, or tell something else.
    """
    found: dict[PartRecord, None] = {}
    for fold in choice.folds:
        path = model.fold(choice.configuration, fold).model
        try:
            told = msgspec.convert(load_metadata(path).get("parts", []), tuple[PartRecord, ...])
        except msgspec.ValidationError as error:
            raise UnreadableFileError(
                f"the weights do not tell their parts in the known form: {error}", file=path
            ) from error
        found |= dict.fromkeys(told)
    return tuple(found)


def load_predictor(model: ModelFolder, choice: Choice, *, device: str, mirroring: bool = True) -> Predictor:
    """The networks of a choice with their weights, ready to predict on a device.

    Raises:
        InputError: weights are missing, damaged, or of another plan.
    """
    plan = model.plan()
    configuration = plan.configuration(choice.configuration)
    networks = []
    for fold in choice.folds:
        path = model.fold(choice.configuration, fold).model
        tensors, texts = load_tensors(path)
        if texts.get("plan") != plan.id:
            raise InputError(
                "the weights were trained with another plan than the one beside them",
                file=path,
                found=texts.get("plan"),
                expected=plan.id,
                remedy="Restore the plan.json that they were trained with.",
            )
        network = build_network(configuration.network, seed=0)
        load_weights(network, tensors, source=path)
        networks.append(network)
    predictor = Predictor(networks, configuration, _execution(model, choice, device), mirroring=mirroring)
    predictor.regions = plan.labels.has_regions
    return predictor


def predictor_of_weights(
    model: ModelFolder, choice: Choice, weights: Mapping[str, torch.Tensor], *, device: str, mirroring: bool
) -> Predictor:
    """A predictor of the one fold of a choice as ``load_predictor`` makes it, with weights of a training that still runs.

    The weights are copied: the training may go on with them.
    """
    configuration = model.plan().configuration(choice.configuration)
    network = build_network(configuration.network, seed=0)
    load_weights(network, weights, source=model.fold(choice.configuration, choice.folds[0]).path)
    return Predictor([network], configuration, _execution(model, choice, device), mirroring=mirroring)


def _execution(model: ModelFolder, choice: Choice, device: str) -> ExecutionPath:
    """The path that training measured to be fast and right, if this machine can run it; never compiled."""
    path = model.fold(choice.configuration, choice.folds[0]).execution
    default = default_execution(device)
    if path.is_file():
        trained = read_document(ExecutionPath, path)
        chosen = msgspec.structs.replace(trained, compiled=False, graphs=False, threads=default.threads)
        if chosen.device == device and usable_here(chosen):
            return chosen
    return default

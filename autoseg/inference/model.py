"""Trained models: which ones a model folder holds, which is best, and a Predictor made of one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from autoseg.errors import InputError, UnknownNameError
from autoseg.inference.predict import Predictor
from autoseg.networks.build import build_network
from autoseg.networks.execution import default_execution, usable_here
from autoseg.networks.weights import load_tensors, load_weights
from autoseg.values import ExecutionPath, Summary
from autoseg.values.json_form import Value
from autoseg.workspace import ModelFolder, read_document

__all__ = ["Choice", "choose_model", "load_predictor", "validation_dice"]


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
        path = model.fold(configuration, fold) / "validation" / "summary.json"
        if path.is_file():
            dice = read_document(Summary, path).foreground_mean.dice
            if dice is not None:
                scores.append(dice)
    return sum(scores) / len(scores) if scores else None


def choose_model(model: ModelFolder, configuration: str | None = None, folds: Sequence[str] = ()) -> Choice:
    """The trained model that was named, or the one with the best validation Dice.

    Args:
        model: folder of the plan.
        configuration: its name; None to choose.
        folds: to average; empty for all that are trained (the full model only where there is nothing else).

    Raises:
        UnknownNameError: a configuration or fold that does not exist.
        InputError: nothing suitable has been trained.
    """
    plan = model.plan()
    names = (plan.configuration(configuration).name,) if configuration else plan.names
    choices = []
    for name in names:
        trained = model.trained(name)
        missing = [fold for fold in folds if fold not in trained]
        if missing and configuration:
            raise UnknownNameError(
                f"{name} has no trained fold {', '.join(missing)}",
                expected=" or ".join(trained) or None,
                remedy=f"Train it: autoseg train {name} {missing[0]}",
            )
        usable = tuple(folds) or tuple(fold for fold in trained if fold != "full") or trained
        if usable and not missing:
            choices.append(Choice(configuration=name, folds=usable, dice=validation_dice(model, name, usable)))
    if not choices:
        raise InputError(
            f"no model of {configuration} has been trained yet" if configuration else "no model has been trained yet",
            file=model.path,
            remedy=f"Train one: autoseg train {names[-1]} 0",
        )
    return max(choices, key=lambda choice: -1.0 if choice.dice is None else choice.dice)


def load_predictor(model: ModelFolder, choice: Choice, *, device: str, mirroring: bool = True) -> Predictor:
    """The networks of a choice with their weights, ready to predict on a device.

    Raises:
        InputError: weights are missing, damaged, or of another plan.
    """
    plan = model.plan()
    configuration = plan.configuration(choice.configuration)
    networks = []
    for fold in choice.folds:
        path = model.fold(choice.configuration, fold) / "model.safetensors"
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
    execution = _execution(model, choice, device)
    return Predictor(networks, configuration, execution, mirroring=mirroring)


def _execution(model: ModelFolder, choice: Choice, device: str) -> ExecutionPath:
    """The path that training measured to be fast and right, if this machine can run it; never compiled."""
    path = model.fold(choice.configuration, choice.folds[0]) / "execution.json"
    default = default_execution(device)
    if path.is_file():
        chosen = read_document(ExecutionPath, path)
        if chosen.device == device and usable_here(chosen):
            return msgspec.structs.replace(chosen, compiled=False, threads=default.threads)
    return default

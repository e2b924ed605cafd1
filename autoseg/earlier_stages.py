"""The stages of a cascade in a model folder: which folds of each predict, and that they are those that were trained with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from autoseg.errors import InputError, UnreadableFileError
from autoseg.networks.weights import load_metadata, weights_id
from autoseg.values import Plan
from autoseg.workspace import ModelFolder

__all__ = ["Stages", "folds_to_use", "require_same_earlier", "stages_with_folds", "weights_of_earlier"]

#: Configurations that predict one after another, each with its folds.
Stages = tuple[tuple[str, tuple[str, ...]], ...]


def folds_to_use(trained: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted folds if all are trained; without a wish all folds, or the full model where there is nothing else."""
    if wanted:
        return tuple(dict.fromkeys(wanted)) if set(wanted) <= set(trained) else ()
    return tuple(fold for fold in trained if fold != "full") or tuple(trained)


def stages_with_folds(model: ModelFolder, plan: Plan, configuration: str, folds: Sequence[str]) -> Stages:
    """What predicts one after another, the configuration itself last.

    An earlier stage predicts with the same folds; where these are not all trained, with all that are; none if none is.

    Args:
        model: folder of all stages.
        plan: its plan.
        configuration: of the last stage.
        folds: that it predicts with.
    """
    before = []
    for name in plan.stages(configuration)[:-1]:
        trained = model.trained(name)
        before.append((name, folds_to_use(trained, folds) or folds_to_use(trained, ())))
    return (*before, (configuration, tuple(folds)))


def require_same_earlier(model: ModelFolder, stages: Stages) -> None:
    """Sees to it that every stage was trained with what the weights of the stage before predicted that stand there now.

    Args:
        model: folder of all stages.
        stages: with the folds that predict. A fold before that a stage knows nothing of, such as ``full``, counts for it.

    Raises:
        InputError: it was not.
    """
    for (first, firsts), (second, seconds) in itertools.pairwise(stages):
        now = {fold: weights_id(model.fold(first, fold).model) for fold in firsts}
        for fold in seconds:
            then = _recorded(model, second, fold)
            changed = next((each for each in firsts if then.get(each, now[each]) != now[each]), None)
            if changed is not None:
                raise InputError(
                    f"fold {fold} of {second!r} was trained with what {first!r}, fold {changed}, predicted by other "
                    "weights than those that stand there",
                    file=model.fold(first, changed).model,
                    found=f"weights {now[changed][:12]}",
                    expected=f"weights {then[changed][:12]}",
                    remedy=f"Restore these weights; or move the folder of {second}, fold {fold}, away and train it anew: "
                    f"autoseg train {second} {fold}",
                )


def _recorded(model: ModelFolder, configuration: str, fold: str) -> dict[str, str]:
    """Fold of the stage before to its weights, as the weights of this stage tell it."""
    file = model.fold(configuration, fold).model
    told = load_metadata(file).get("previous_weights", {})
    if not (isinstance(told, dict) and all(isinstance(each, str) for each in told.values())):
        raise UnreadableFileError("the weights do not tell those of the stage before in the known form", file=file)
    return told


def weights_of_earlier(model: ModelFolder, plan: Plan, configuration: str) -> dict[str, dict[str, str]]:
    """Of every stage before a configuration, the SHA-256 of the weights of all folds that may predict.

    Args:
        model: folder of all stages.
        plan: its plan.
        configuration: one without a stage before needs nothing.
    """
    return {
        name: {fold: weights_id(model.fold(name, fold).model) for fold in folds_to_use(model.trained(name), ())}
        for name in plan.stages(configuration)[:-1]
    }

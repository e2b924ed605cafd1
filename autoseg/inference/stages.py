"""Predicting new images in the stages of a cascade: what one stage predicts is an input of the next, and stays in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autoseg.earlier_stages import folds_to_use, require_same_earlier, stages_with_folds
from autoseg.errors import InputError
from autoseg.inference.disagreement import Disagreement
from autoseg.inference.export import label_map
from autoseg.inference.inputs import OnGrid
from autoseg.inference.model import Choice, load_predictor
from autoseg.inference.predict import Predictor
from autoseg.inference.region import Region, locator_of, logits_within, region_of
from autoseg.io.chunks import Readable
from autoseg.io.earlier_store import WithChannels
from autoseg.preprocessing.earlier import earlier_on_grid
from autoseg.values import Plan
from autoseg.workspace import ModelFolder

__all__ = ["load_staged_predictor", "logits_of", "stages_of"]


def stages_of(model: ModelFolder, plan: Plan, choice: Choice) -> tuple[Choice, ...]:
    """What predicts one after another, the choice itself last: of a configuration without a stage before, only that.

    An earlier stage predicts with the same folds; where these are not all trained, with all that are.

    Args:
        model: folder of all stages.
        plan: its plan.
        choice: of the last stage.

    Raises:
        InputError: an earlier stage is not trained.
    """
    *before, _ = stages_with_folds(model, plan, choice.configuration, choice.folds)
    names = [*(name for name, _ in before), choice.configuration]
    for (name, folds), following in zip(before, names[1:], strict=True):
        if not folds:
            raise InputError(
                f"{following!r} takes what {name!r} predicts, and no fold of that is trained here",
                file=model.path,
                remedy=f"Train it: autoseg train {name} all. Or predict with another configuration: -c NAME",
            )
    return (*(Choice(configuration=name, folds=folds, dice=None) for name, folds in before), choice)


def load_staged_predictor(
    model: ModelFolder, choice: Choice, *, device: str, mirroring: bool = True, only_region: bool = False
) -> Predictor:
    """The predictor of a choice, as of ``load_predictor``, with those of the stages before it.

    With ``only_region`` it predicts where the stage before found something, or without one, where a coarser model does that
    is trained here, if there is one: without flips, with all its folds.

    Raises:
        InputError: an earlier stage is not trained, or has other weights than those that the next one was trained with;
            weights are missing, damaged, or of another plan.
    """
    stages = stages_of(model, model.plan(), choice)
    require_same_earlier(model, tuple((stage.configuration, stage.folds) for stage in stages))
    *earlier, predictor = (load_predictor(model, stage, device=device, mirroring=mirroring) for stage in stages)
    predictor.earlier = tuple(earlier)
    if only_region and not earlier and (name := locator_of(model, model.plan(), choice.configuration)) is not None:
        locator = Choice(configuration=name, folds=folds_to_use(model.trained(name), ()), dice=None)
        predictor.earlier = (load_predictor(model, locator, device=device, mirroring=False),)
    predictor.only_region = only_region and bool(predictor.earlier)
    return predictor


def logits_of(
    predictor: Predictor,
    plan: Plan,
    prepared: OnGrid,
    advance: Callable[[int, int], None],
    disagreement: Disagreement | None = None,
) -> np.ndarray:
    """Logits ``(outputs, *spatial)`` of an image, after all stages before the predictor's.

    A label map goes from stage to stage on the grid of the image's file, as it would be written.

    Args:
        predictor: with those of the stages before.
        plan: they belong to.
        prepared: the image on the grids of all stages.
        advance: told how many tiles are done, of how many; every stage counts alike.
        disagreement: of the folds of the last stage, to be gathered.

    Raises:
        AutosegError: an output is not finite.
    """
    labels: np.ndarray | None = None
    region: Region | None = None
    count = len(predictor.earlier) + 1
    for index, (stage, grid) in enumerate(zip(predictor.earlier, prepared.earlier, strict=True)):
        logits = _logits_of_stage(stage, plan, grid, labels, _part(advance, index, count))
        labels = label_map(logits, grid.record, stage.configuration, plan.labels).array
        if predictor.only_region and index == count - 2:
            patch = predictor.configuration.full_patch_size
            region = region_of(logits, prepared.record.shape, patch, regions=plan.labels.has_regions)
        del logits  # before the next stage's are made
    if predictor.configuration.previous_stage is None:
        labels = None  # they only located
    return _logits_of_stage(predictor, plan, prepared, labels, _part(advance, count - 1, count), disagreement, region)


def _logits_of_stage(
    predictor: Predictor,
    plan: Plan,
    grid: OnGrid,
    labels: np.ndarray | None,
    advance: Callable[[int, int], None],
    disagreement: Disagreement | None = None,
    region: Region | None = None,
) -> np.ndarray:
    """Logits of one stage; ``labels`` is what the one before predicted, on the grid of the image's file."""
    with grid.image() as image:
        seen: Readable = image
        if labels is not None:
            channels = earlier_on_grid(labels, grid.record, plan, predictor.configuration.name)
            seen = WithChannels(image, channels, len(plan.labels.foreground))
        if region is not None:
            found = logits_within(predictor, seen, region, advance, disagreement, grid.scratch)
            if found is not None:
                return found
        return predictor.logits(seen, advance, disagreement, grid.scratch)


def _part(advance: Callable[[int, int], None], index: int, count: int) -> Callable[[int, int], None]:
    """What one of several stages tells of its tiles, as a part of the whole."""
    return lambda done, total: advance(index * total + done, count * total)

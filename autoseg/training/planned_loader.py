"""The loader of a plan's training: the only place that knows which of the plan's choices a batch depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoseg import plugins
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.streams import TRAINING, VALIDATION
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger
from autoseg.training.batches import PatchLoader
from autoseg.training.looked_for import LookedFor
from autoseg.values import Configuration, Plan

__all__ = ["planned_loader"]


def planned_loader(
    plan: Plan,
    configuration: Configuration,
    store: CaseStore,
    keys: Mapping[str, str],
    seed: int,
    *,
    annotated: Mapping[str, tuple[str, ...]] | None = None,
    train: bool = True,
    skipped: Mapping[str, int] | None = None,
    positions: Sequence[int] | None = None,
    logger: Logger | None = None,
) -> PatchLoader:
    """Patches of training cases, augmented, or of held-out cases as they are.

    Args:
        plan: its labels and normalization.
        configuration: of the plan: its patch, batch and recipe.
        store: of the preprocessed cases.
        keys: case id to content key, of the cases to draw from.
        seed: of the training.
        annotated: case id to the labels that were looked for, of the cases in which not all were.
        train: augment.
        skipped: see ``PatchLoader``, and so ``positions``.
        positions: of the samples of a batch that are made.
        logger: for events.
    """
    recipe = Recipe()
    if train:
        recipe = plugins.load("recipe", configuration.augmentation.recipe)(configuration.augmentation)
    return PatchLoader(
        store,
        dict(keys),
        configuration.patch_size,
        configuration.batch_size,
        foreground_share=configuration.training.foreground_share,
        foreground_place=configuration.training.foreground_place,
        recipe=recipe,
        seed=seed,
        purpose=TRAINING if train else VALIDATION,
        skipped=skipped,
        positions=positions,
        masked_channels=[index for index, spec in enumerate(plan.normalization) if spec.use_mask],
        looked_for=LookedFor(plan.labels, annotated) if annotated is not None else None,
        logger=logger,
    )

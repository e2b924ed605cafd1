"""The loaders of a training: patches of the cases that it learns from, and of those that are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoseg import plugins
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.streams import TRAINING, VALIDATION
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger
from autoseg.training.batches import PatchLoader
from autoseg.values import Plan, TrainJob

__all__ = ["loader_of"]


def loader_of(
    job: TrainJob,
    plan: Plan,
    store: CaseStore,
    logger: Logger,
    *,
    train: bool,
    skipped: Mapping[str, int] | None = None,
    positions: Sequence[int] | None = None,
) -> PatchLoader:
    """Patches of the training cases, augmented, or of the held-out cases as they are.

    Args:
        job: the training.
        plan: that it belongs to.
        store: of the preprocessed cases.
        logger: for events.
        train: which of both.
        skipped: see ``PatchLoader``.
        positions: see ``PatchLoader``.
    """
    configuration = plan.configuration(job.configuration)
    augmentation, spec = configuration.augmentation, configuration.training
    recipe: Recipe = plugins.load("recipe", augmentation.recipe)(augmentation) if train else Recipe()
    cases = job.cases.train if train else job.cases.val
    return PatchLoader(
        store,
        {case: job.case_keys[case] for case in cases},
        configuration.patch_size,
        configuration.batch_size,
        foreground_share=spec.foreground_share,
        foreground_place=spec.foreground_place,
        recipe=recipe,
        seed=job.seed,
        purpose=TRAINING if train else VALIDATION,
        skipped=skipped,
        positions=positions,
        masked_channels=[index for index, each in enumerate(plan.normalization) if each.use_mask],
        looked_for={case: plan.labels.looked_for(names) for case, names in job.annotated.items()},
        logger=logger,
    )

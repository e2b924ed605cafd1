"""Preprocessing all cases of a configuration: what is stored for the same content and parameters is left alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import (
    CasesFailedError,
    CompressedStoreError,
    DamagedCaseError,
    DiskFullError,
    InputError,
    InterruptedRunError,
)
from autoseg.executors import Executor
from autoseg.files import ContentIndex, sweep
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.io.cases import check_case
from autoseg.io.dtypes import smallest_integers
from autoseg.io.formats import parts_of
from autoseg.logs import Logger, reported
from autoseg.preprocessing.forward import case_key, parameters_key, preprocess_case
from autoseg.values import Case, Configuration, Dataset, Plan

__all__ = ["preprocess_cases"]


def preprocess_cases(
    dataset: Dataset,
    cases: Sequence[Case],
    plan: Plan,
    configuration: Configuration,
    store: CaseStore,
    contents: ContentIndex,
    executor: Executor,
    logger: Logger,
    stop: Callable[[], bool],
    *,
    verify: bool = False,
    spared: Collection[str] = (),
) -> dict[str, str]:
    """Sees to it that all cases are in the store, whole; those that are damaged are made anew.

    Args:
        dataset: that the cases are of.
        cases: annotated ones.
        plan: what all configurations share.
        configuration: the grid.
        store: to keep them in.
        contents: hashes of the data set's files.
        executor: runs the cases.
        logger: for progress, and for the names of damaged cases.
        stop: asked after every case.
        verify: read all files of the data set and of the store again, whatever their sizes and times.
        spared: content keys of older entries that are still needed.

    Returns:
        Case id to content key.

    Raises:
        CasesFailedError: some cases could not be preprocessed; the others are stored.
        DiskFullError: there is no room for more; what is stored stays.
        CompressedStoreError: there are compressed cases, and blosc2 is not installed.
        InterruptedRunError: ``stop`` said so; what is stored stays.
    """
    sweep(store.folder)
    parameters = parameters_key(plan, configuration)
    keys: dict[str, str] = {}
    failures: dict[str, BaseException] = {}

    def work(case: Case) -> _Done:
        if case.label is None:
            raise InputError("the case has no label file", case=case.id)
        files = [part for name in (*case.images, case.label) for part in parts_of(Path(dataset.root, name))]
        key = case_key(parameters, [contents.sha256(file, again=verify) for file in files])
        damage = None
        if store.has(case.id, key):
            damage = _damage(store, case.id, key, verify=verify)
            if damage is None:
                return _Done(key=key)
        ready = _preprocessed(dataset, case, plan, configuration, key, damage)
        if damage:
            store.discard(case.id, key)
        store.save(ready, spared=spared)
        return _Done(key=key, made=True, damage=damage)

    made = 0
    try:
        for done, outcome in enumerate(executor.run(work, cases), start=1):
            logger.event("progress", stage=f"preprocess {configuration.name}", done=done, total=len(cases))
            if isinstance(outcome.error, DiskFullError | CompressedStoreError):
                raise outcome.error  # the next case would meet the same
            if outcome.result is None:
                failures[outcome.item.id] = outcome.error or InputError("unknown failure")
                logger.event("case_failed", stage="preprocess", case=outcome.item.id, **reported(outcome.error))
            else:
                keys[outcome.item.id] = outcome.result.key
                made += outcome.result.made
                if outcome.result.damage:
                    logger.event("case_mended", case=outcome.item.id, damage=outcome.result.damage)
                    logger.event("message", text=f"{outcome.item.id} was damaged and has been made anew")
            if stop():
                raise InterruptedRunError(f"stopped preprocessing after {done} of {len(cases)} cases; they are kept")
    finally:
        contents.save()
    logger.event("preprocessed", configuration=configuration.name, made=made, kept=len(keys) - made)
    if failures:
        raise CasesFailedError(f"preprocess {configuration.name}", failures, len(keys))
    return dict(sorted(keys.items()))


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What was done about a case: its key, whether it was made now, and what was damaged before, if anything."""

    key: str
    made: bool = False
    damage: str | None = None


def _damage(store: CaseStore, case_id: str, key: str, *, verify: bool) -> str | None:
    """What is damaged of a stored case; None if it is whole."""
    try:
        store.check(case_id, key, always=verify)
    except DamagedCaseError as error:
        return str(error.what)
    return None


def _preprocessed(
    dataset: Dataset, case: Case, plan: Plan, configuration: Configuration, key: str, damage: str | None
) -> StoredCase:
    image, labels, findings = check_case(dataset, case)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors or image is None or labels is None:
        told = "; ".join(str(error) for error in errors)
        raise InputError(f"{damage}; and it cannot be made anew: {told}" if damage else told)
    ready = preprocess_case(image, labels, plan, configuration, case_id=case.id, key=key)
    return StoredCase(
        record=ready.record,
        image=ready.image,
        segmentation=ready.segmentation,
        locations=ready.locations,
        reference=smallest_integers(labels.array[0]),
    )

"""Preprocessing all cases of a configuration: what is stored for the same content and parameters is left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from autoseg.errors import CasesFailedError, InputError, InterruptedRunError
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
) -> dict[str, str]:
    """Sees to it that all cases are in the store.

    Returns:
        Case id to content key.

    Raises:
        CasesFailedError: some cases could not be preprocessed; the others are stored.
        InterruptedRunError: ``stop`` said so; what is stored stays.
    """
    sweep(store.folder)
    parameters = parameters_key(plan, configuration)
    keys: dict[str, str] = {}
    failures: dict[str, BaseException] = {}

    def work(case: Case) -> tuple[str, bool]:
        if case.label is None:
            raise InputError("the case has no label file", case=case.id)
        files = [part for name in (*case.images, case.label) for part in parts_of(Path(dataset.root, name))]
        key = case_key(parameters, [contents.sha256(file) for file in files])
        if store.has(case.id, key):
            return key, False
        store.save(_preprocessed(dataset, case, plan, configuration, key))
        return key, True

    made = 0
    try:
        for done, outcome in enumerate(executor.run(work, cases), start=1):
            logger.event("progress", stage=f"preprocess {configuration.name}", done=done, total=len(cases))
            if outcome.result is None:
                failures[outcome.item.id] = outcome.error or InputError("unknown failure")
                logger.event("case_failed", stage="preprocess", case=outcome.item.id, **reported(outcome.error))
            else:
                keys[outcome.item.id] = outcome.result[0]
                made += outcome.result[1]
            if stop():
                raise InterruptedRunError(f"stopped preprocessing after {done} of {len(cases)} cases; they are kept")
    finally:
        contents.save()
    logger.event("preprocessed", configuration=configuration.name, made=made, kept=len(keys) - made)
    if failures:
        raise CasesFailedError(f"preprocess {configuration.name}", failures, len(keys))
    return dict(sorted(keys.items()))


def _preprocessed(dataset: Dataset, case: Case, plan: Plan, configuration: Configuration, key: str) -> StoredCase:
    image, labels, findings = check_case(dataset, case)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors or image is None or labels is None:
        raise InputError("; ".join(str(error) for error in errors))
    ready = preprocess_case(image, labels, plan, configuration, case_id=case.id, key=key)
    return StoredCase(
        record=ready.record,
        image=ready.image,
        segmentation=ready.segmentation,
        locations=ready.locations,
        reference=smallest_integers(labels.array[0]),
    )

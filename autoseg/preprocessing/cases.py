"""Preprocessing all cases of a configuration: what is stored for the same content and parameters is left alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from autoseg.errors import CasesFailedError, InputError, InterruptedRunError
from autoseg.executors import Executor, Outcome
from autoseg.files import Content, ContentIndex, sweep
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.io.case_work import CaseFiles, remember, run_admitted
from autoseg.io.cases import check_case
from autoseg.io.dtypes import smallest_integers
from autoseg.io.headers import Header
from autoseg.logs import Logger, reported
from autoseg.preprocessing.forward import case_key, parameters_key, preprocess_case
from autoseg.preprocessing.memory import preprocessing_bytes
from autoseg.values import Case, Configuration, Dataset, Plan
from autoseg.values.json_form import Value

__all__ = ["Made", "PreprocessCase", "preprocess_cases"]


class Made(Value, frozen=True, kw_only=True):
    """What became of one case: its content key, whether it had to be made, and which files were read for the key."""

    key: str
    made: bool
    read: dict[str, Content] = {}


class PreprocessCase(Value, frozen=True, kw_only=True):
    """Brings a case to the grid of a configuration and stores it, unless it is stored already; a task for any executor.

    Attributes:
        dataset: its root, channels and labels; cases are not needed.
        plan: what all configurations share.
        configuration: the name of the grid.
        parameters: digest of all parameters.
        store: folder of the preprocessed cases.
    """

    dataset: Dataset
    plan: Plan
    configuration: str
    parameters: str
    store: str

    @property
    def stage(self) -> str:
        """For messages."""
        return f"preprocess {self.configuration}"

    def __call__(self, item: CaseFiles) -> Made:
        """Stores the case.

        Raises:
            InputError: the case cannot be used.
        """
        hashes, read = item.look()
        key, store = case_key(self.parameters, hashes), CaseStore(Path(self.store))
        if store.has(item.id, key):
            return Made(key=key, made=False, read=read)
        store.save(_preprocessed(self.dataset, item.case, self.plan, self.plan.configuration(self.configuration), key))
        return Made(key=key, made=True, read=read)

    def bytes(self, item: CaseFiles, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on a case takes at most."""
        return preprocessing_bytes(headers[:-1], headers[-1], self.plan, self.plan.configuration(self.configuration))


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
    task = PreprocessCase(
        dataset=msgspec.structs.replace(dataset, cases=()),
        plan=plan,
        configuration=configuration.name,
        parameters=parameters_key(plan, configuration),
        store=str(store.folder),
    )
    keys: dict[str, str] = {}
    failures: dict[str, BaseException] = {}
    made = 0
    try:
        with closing(_outcomes(task, cases, store, contents, executor)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                logger.event("progress", stage=task.stage, done=done, total=len(cases))
                if outcome.result is None:
                    failures[outcome.item.id] = outcome.error or InputError("unknown failure")
                    logger.event("case_failed", stage="preprocess", case=outcome.item.id, **reported(outcome.error))
                else:
                    keys[outcome.item.id] = outcome.result.key
                    made += outcome.result.made
                    remember(contents, outcome.result.read)
                if stop():
                    raise InterruptedRunError(
                        f"stopped preprocessing after {done} of {len(cases)} cases; they are kept"
                    )
    finally:
        contents.save()
    logger.event("preprocessed", configuration=configuration.name, made=made, kept=len(keys) - made)
    if failures:
        raise CasesFailedError(f"preprocess {configuration.name}", failures, len(keys))
    return dict(sorted(keys.items()))


def _outcomes(
    task: PreprocessCase, cases: Sequence[Case], store: CaseStore, contents: ContentIndex, executor: Executor
) -> Generator[Outcome[CaseFiles, Made]]:
    """First what can be told without any work, then the work."""
    items = []
    for item in (CaseFiles.of(case, task.dataset.root, contents) for case in cases):
        key = case_key(task.parameters, item.hashes) if item.hashes else None
        if item.case.label is None:
            yield Outcome(item=item, error=InputError("the case has no label file", case=item.id))
        elif key is not None and store.has(item.id, key):
            yield Outcome(item=item, result=Made(key=key, made=False))
        else:
            items.append(item)
    if items:
        yield from run_admitted(executor, task, items, task.bytes)


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

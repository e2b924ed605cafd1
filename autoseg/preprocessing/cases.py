"""Preprocessing all cases of a configuration: what is stored for the same content and parameters is left alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from autoseg.errors import (
    CasesFailedError,
    CompressedStoreError,
    DamagedCaseError,
    DiskFullError,
    InputError,
    InterruptedRunError,
)
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
    """What became of one case.

    Attributes:
        key: of its content.
        made: it had to be made.
        damage: what was damaged of it before, if anything.
        read: the files that were read for the key.
    """

    key: str
    made: bool = False
    damage: str | None = None
    read: dict[str, Content] = {}


class PreprocessCase(Value, frozen=True, kw_only=True):
    """Brings a case to the grid of a configuration and stores it, unless it is stored already; a task for any executor.

    Attributes:
        dataset: its root, channels and labels; cases are not needed.
        plan: what all configurations share.
        configuration: the name of the grid.
        parameters: digest of all parameters.
        store: folder of the preprocessed cases.
        verify: stored cases are read again, whatever the sizes and times of their files.
        spared: content keys of older entries that are still needed.
    """

    dataset: Dataset
    plan: Plan
    configuration: str
    parameters: str
    store: str
    verify: bool = False
    spared: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """For messages."""
        return f"preprocess {self.configuration}"

    def __call__(self, item: CaseFiles) -> Made:
        """Stores the case.

        Raises:
            InputError: the case cannot be used.
            DiskFullError: there is no room for it.
            CompressedStoreError: it is stored compressed, and blosc2 is not installed.
        """
        hashes, read = item.look()
        configuration = self.plan.configuration(self.configuration)
        key = case_key(self.parameters, hashes)
        store, damage = CaseStore(Path(self.store), patch_size=configuration.patch_size), None
        if store.has(item.id, key):
            damage = _damage(store, item.id, key, verify=self.verify)
            if damage is None:
                return Made(key=key, read=read)
        ready = _preprocessed(self.dataset, item.case, self.plan, configuration, key, damage)
        if damage:
            store.discard(item.id, key)
        store.save(ready, spared=self.spared)
        return Made(key=key, made=True, damage=damage, read=read)

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
    task = PreprocessCase(
        dataset=msgspec.structs.replace(dataset, cases=()),
        plan=plan,
        configuration=configuration.name,
        parameters=parameters_key(plan, configuration),
        store=str(store.folder),
        verify=verify,
        spared=tuple(sorted(spared)),
    )
    keys: dict[str, str] = {}
    failures: dict[str, BaseException] = {}
    made = 0
    try:
        with closing(_outcomes(task, cases, store, contents, executor)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                logger.event("progress", stage=task.stage, done=done, total=len(cases))
                if isinstance(outcome.error, DiskFullError | CompressedStoreError):
                    raise outcome.error  # the next case would meet the same
                if outcome.result is None:
                    failures[outcome.item.id] = outcome.error or InputError("unknown failure")
                    logger.event("case_failed", stage="preprocess", case=outcome.item.id, **reported(outcome.error))
                else:
                    keys[outcome.item.id] = outcome.result.key
                    made += outcome.result.made
                    remember(contents, outcome.result.read)
                    if outcome.result.damage:
                        logger.event("case_mended", case=outcome.item.id, damage=outcome.result.damage)
                        logger.event("message", text=f"{outcome.item.id} was damaged and has been made anew")
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
        if task.verify and all(Path(part).exists() for part in item.parts):  # what is gone keeps its last known hash
            item = msgspec.structs.replace(item, known=(None,) * len(item.parts))
        key = case_key(task.parameters, item.hashes) if item.hashes else None
        if item.case.label is None:
            yield Outcome(item=item, error=InputError("the case has no label file", case=item.id))
        elif key is not None and not task.verify and store.is_known_whole(item.id, key):
            yield Outcome(item=item, result=Made(key=key))
        else:
            items.append(item)
    if items:
        yield from run_admitted(executor, task, items, task.bytes)


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

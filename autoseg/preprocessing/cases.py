"""Preprocessing all cases of some configurations: what is stored for the same content and parameters is left alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from autoseg.errors import (
    AutosegError,
    CasesFailedError,
    CompressedStoreError,
    DiskFullError,
    InputError,
    InterruptedRunError,
)
from autoseg.executors import Executor, Outcome
from autoseg.files import ContentIndex, sweep
from autoseg.io.case_store import CaseStore
from autoseg.io.case_work import CaseFiles, remember, run_admitted
from autoseg.logs import Logger, reported
from autoseg.preprocessing.case_task import CaseToPreprocess, Grid, Made, MadeCase, PreprocessCase, stage_of
from autoseg.preprocessing.forward import case_key, parameters_key
from autoseg.processes.wire import rebuilt
from autoseg.values import Case, Dataset, Plan

__all__ = ["preprocess_cases"]


def preprocess_cases(
    dataset: Dataset,
    cases: Sequence[Case],
    plan: Plan,
    stores: Mapping[str, CaseStore],
    contents: ContentIndex,
    executor: Executor,
    logger: Logger,
    stop: Callable[[], bool],
    *,
    verify: bool = False,
    spared: Collection[str] = (),
) -> dict[str, dict[str, str]]:
    """Sees to it that all cases are in the stores, whole; those that are damaged are made anew.

    Args:
        dataset: that the cases are of.
        cases: annotated ones.
        plan: what all configurations share.
        stores: where to keep the cases of each configuration, by its name; one folder of several is filled once.
        contents: hashes of the data set's files.
        executor: runs the cases.
        logger: for progress, and for the names of damaged cases.
        stop: asked after every case.
        verify: read all files of the data set and of the stores again, whatever their sizes and times.
        spared: content keys of older entries that are still needed.

    Returns:
        Per configuration: case id to content key.

    Raises:
        CasesFailedError: some cases could not be preprocessed; the others are stored.
        DiskFullError: there is no room for more; what is stored stays.
        CompressedStoreError: there are compressed cases, and blosc2 is not installed.
        InterruptedRunError: ``stop`` said so; what is stored stays.
    """
    first: dict[Path, str] = {}
    for name, store in stores.items():
        first.setdefault(store.folder, name)
        sweep(store.folder)
    task = PreprocessCase(
        dataset=msgspec.structs.replace(dataset, cases=()),
        plan=plan,
        grids=tuple(_grid(plan, name, folder) for folder, name in first.items()),
        verify=verify,
        spared=tuple(sorted(spared)),
    )
    tally = _Tally(task, {name: stores[name] for name in first.values()}, logger)
    try:
        with closing(_outcomes(task, cases, tally.stores, contents, executor)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                logger.event("progress", stage=task.stage, done=done, total=len(cases))
                if isinstance(outcome.error, DiskFullError | CompressedStoreError):
                    raise outcome.error  # the next case would meet the same
                if outcome.result is not None:
                    remember(contents, outcome.result.read)
                tally.take(outcome)
                if stop():
                    raise InterruptedRunError(
                        f"stopped preprocessing after {done} of {len(cases)} cases; they are kept"
                    )
    finally:
        contents.save()
    for name, store in stores.items():
        filled = first[store.folder]
        made, ready = len(tally.made[filled]) if name == filled else 0, len(tally.keys[filled])
        logger.event("preprocessed", configuration=name, made=made, kept=ready - made)
    tally.require_all(len(cases))
    return {name: dict(sorted(tally.keys[first[store.folder]].items())) for name, store in stores.items()}


def _grid(plan: Plan, configuration: str, folder: Path) -> Grid:
    parameters = parameters_key(plan, plan.configuration(configuration))
    return Grid(configuration=configuration, parameters=parameters, store=str(folder))


def _outcomes(
    task: PreprocessCase,
    cases: Sequence[Case],
    stores: Mapping[str, CaseStore],
    contents: ContentIndex,
    executor: Executor,
) -> Generator[Outcome[CaseToPreprocess, MadeCase]]:
    """First what can be told without any work, then the work."""
    items = []
    for files in (CaseFiles.of(case, task.dataset.root, contents) for case in cases):
        if files.case.label is None:
            item = CaseToPreprocess(files=files, wanted=tuple(stores))
            yield Outcome(item=item, error=InputError("the case has no label file", case=item.id))
            continue
        if task.verify and all(Path(part).exists() for part in files.parts):  # what is gone keeps its last known hash
            files = msgspec.structs.replace(files, known=(None,) * len(files.parts))
        whole = _known_whole(task, stores, files)
        item = CaseToPreprocess(files=files, whole=whole, wanted=tuple(name for name in stores if name not in whole))
        if item.wanted:
            items.append(item)
        else:
            yield Outcome(item=item, result=MadeCase(grids={}))
    if items:
        yield from run_admitted(executor, task, items, task.bytes)


def _known_whole(task: PreprocessCase, stores: Mapping[str, CaseStore], files: CaseFiles) -> dict[str, str]:
    """Content keys by configuration, where sizes and times tell that what is stored is whole, and that is enough."""
    if files.hashes is None or task.verify:
        return {}
    keys = {grid.configuration: case_key(grid.parameters, files.hashes) for grid in task.grids}
    return {name: key for name, key in keys.items() if stores[name].is_known_whole(files.id, key)}


class _Tally:
    """What has become of the cases so far.

    Args:
        task: that is done on them.
        stores: of the task's grids, by configuration.
        logger: hears of what failed and what was damaged.
    """

    def __init__(self, task: PreprocessCase, stores: Mapping[str, CaseStore], logger: Logger) -> None:
        self.task, self.stores, self.logger = task, stores, logger
        self.keys: dict[str, dict[str, str]] = {name: {} for name in stores}
        self.made: dict[str, set[str]] = {name: set() for name in stores}
        self.failures: dict[str, dict[str, Exception]] = {}

    def take(self, outcome: Outcome[CaseToPreprocess, MadeCase]) -> None:
        """Counts a case."""
        case, failed = outcome.item.id, dict[str, Exception]()
        for name, key in outcome.item.whole.items():
            self.keys[name][case] = key
        for name, made in self._results(outcome).items():
            if isinstance(made, Exception):
                failed[name] = made
                continue
            self.keys[name][case] = made.key
            if made.made:
                self.made[name].add(case)
            if made.damage:
                self.logger.event("case_mended", case=case, configuration=name, damage=made.damage)
                which = f"{case} ({name})" if len(self.stores) > 1 else case
                self.logger.event("message", text=f"{which} was damaged and has been made anew")
        if failed:
            self.failures[case] = failed
        for error, names in _distinct(failed):
            self.logger.event("case_failed", stage=stage_of(names), case=case, **reported(error))

    def _results(self, outcome: Outcome[CaseToPreprocess, MadeCase]) -> dict[str, Made | Exception]:
        """What became of the case on every grid that it was wanted on."""
        item, result = outcome.item, outcome.result
        if result is not None:
            return {name: rebuilt(made.error) if made.error else made for name, made in result.grids.items()}
        error = outcome.error or InputError("unknown failure")
        # a worker that was lost on one grid may have stored the case on another before
        stored = {} if item.files.case.label is None else _known_whole(self.task, self.stores, item.files)
        return {name: Made(key=stored[name], made=True) if name in stored else error for name in item.wanted}

    def require_all(self, total: int) -> None:
        """Raises ``CasesFailedError``, which names all cases that failed, and on which grids if not on all that any did."""
        if not self.failures:
            return
        names = [name for name in self.stores if any(name in failed for failed in self.failures.values())]
        told: dict[str, BaseException] = {}
        for case, failed in self.failures.items():
            distinct = _distinct(failed)
            if len(failed) == len(names) and len(distinct) == 1:
                told[case] = distinct[0][0]
                continue
            text = "; ".join(f"{', '.join(where)}: {reported(error)['error']}" for error, where in distinct)
            by_input = all(isinstance(error, InputError) for error in failed.values())
            told[case] = InputError(text) if by_input else AutosegError(text)
        raise CasesFailedError(stage_of(names), told, total - len(told))


def _distinct(failed: Mapping[str, Exception]) -> list[tuple[Exception, list[str]]]:
    """Errors by configuration as errors that differ, each with its configurations."""
    found: dict[str, tuple[Exception, list[str]]] = {}
    for name, error in failed.items():
        found.setdefault(f"{type(error).__name__}: {error}", (error, []))[1].append(name)
    return list(found.values())

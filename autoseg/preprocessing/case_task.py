"""Preprocessing one case for some configurations: it is read and checked once, then made for each in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from autoseg.errors import CompressedStoreError, DamagedCaseError, DiskFullError, InputError
from autoseg.files import Content
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.io.case_work import CaseFiles
from autoseg.io.cases import check_case
from autoseg.io.dtypes import smallest_integers
from autoseg.io.headers import Header
from autoseg.preprocessing.forward import case_key, preprocess_case
from autoseg.preprocessing.memory import preprocessing_bytes
from autoseg.processes.wire import SentError, sent
from autoseg.values import Case, Dataset, Plan, Volume
from autoseg.values.json_form import Value

__all__ = ["CaseToPreprocess", "Grid", "Made", "MadeCase", "PreprocessCase", "stage_of"]


def stage_of(configurations: Iterable[str]) -> str:
    """What preprocessing for some configurations is called in messages."""
    return f"preprocess {', '.join(configurations)}"


class Grid(Value, frozen=True, kw_only=True):
    """What a configuration's cases are made with, and where they are kept.

    Attributes:
        configuration: its name.
        parameters: digest of all parameters.
        store: folder of the preprocessed cases.
    """

    configuration: str
    parameters: str
    store: str


class CaseToPreprocess(Value, frozen=True, kw_only=True):
    """A case, and what is to be seen to.

    Attributes:
        files: the case's.
        whole: content keys by configuration, where what is stored is known to be whole.
        wanted: names of the other configurations.
    """

    files: CaseFiles
    whole: dict[str, str] = {}
    wanted: tuple[str, ...]

    @property
    def id(self) -> str:
        """The case's."""
        return self.files.id

    @property
    def paths(self) -> tuple[str, ...]:
        """Its images and, last, its label file."""
        return self.files.paths


class Made(Value, frozen=True, kw_only=True):
    """What became of one case on one grid.

    Attributes:
        key: of its content.
        made: it had to be made.
        damage: what was damaged of it before, if anything.
        error: why it could not be made.
    """

    key: str
    made: bool = False
    damage: str | None = None
    error: SentError | None = None


class MadeCase(Value, frozen=True, kw_only=True):
    """What became of one case: by configuration; and the files that were read for the keys."""

    grids: dict[str, Made]
    read: dict[str, Content] = {}


class PreprocessCase(Value, frozen=True, kw_only=True):
    """Brings a case to the grids that it is wanted on and stores it, unless it is stored already; for any executor.

    Attributes:
        dataset: its root, channels and labels; cases are not needed.
        plan: what all configurations share.
        grids: of all configurations.
        verify: stored cases are read again, whatever the sizes and times of their files.
        spared: content keys of older entries that are still needed.
    """

    dataset: Dataset
    plan: Plan
    grids: tuple[Grid, ...]
    verify: bool = False
    spared: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """For messages."""
        return stage_of(grid.configuration for grid in self.grids)

    def __call__(self, item: CaseToPreprocess) -> MadeCase:
        """Stores the case. What fails on one grid only is told in the result.

        Raises:
            InputError: the case cannot be used.
            DiskFullError: there is no room for it.
            CompressedStoreError: it is stored compressed, and blosc2 is not installed.
        """
        hashes, read = item.files.look()
        results: dict[str, Made] = {}
        missing: list[tuple[Grid, Made]] = []
        for grid in (grid for grid in self.grids if grid.configuration in item.wanted):
            key = case_key(grid.parameters, hashes)
            store = self._store(grid)
            there = store.has(item.id, key)
            damage = _damage(store, item.id, key, verify=self.verify) if there else None
            if there and damage is None:
                results[grid.configuration] = Made(key=key)
            else:
                missing.append((grid, Made(key=key, made=True, damage=damage)))
        if missing:
            results |= self._made(item.files.case, missing)
        return MadeCase(grids=results, read=read)

    def _made(self, case: Case, missing: Sequence[tuple[Grid, Made]]) -> dict[str, Made]:
        """Reads the case once; what is made of it for one grid is gone before the next begins."""
        results: dict[str, Made] = {}
        try:
            image, labels = _checked(self.dataset, case)
        except InputError as error:
            for grid, made in missing:
                told = InputError(f"{made.damage}; and it cannot be made anew: {error}") if made.damage else error
                results[grid.configuration] = msgspec.structs.replace(made, error=sent(told))
            return results
        for grid, made in missing:
            try:
                self._make(image, labels, case.id, grid, made)
                results[grid.configuration] = made
            except (DiskFullError, CompressedStoreError):
                raise
            except Exception as error:  # of a plug, for example: the other grids do not suffer from it
                results[grid.configuration] = msgspec.structs.replace(made, error=sent(error))
        return results

    def _make(self, image: Volume, labels: Volume, case_id: str, grid: Grid, made: Made) -> None:
        configuration, store = self.plan.configuration(grid.configuration), self._store(grid)
        ready = preprocess_case(image, labels, self.plan, configuration, case_id=case_id, key=made.key)
        if made.damage:
            store.discard(case_id, made.key)
        stored = StoredCase(
            record=ready.record,
            image=ready.image,
            segmentation=ready.segmentation,
            locations=ready.locations,
            reference=labels.array[0],
        )
        store.save(stored, spared=self.spared)

    def _store(self, grid: Grid) -> CaseStore:
        return CaseStore(Path(grid.store), patch_size=self.plan.configuration(grid.configuration).patch_size)

    def bytes(self, item: CaseToPreprocess, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on a case takes at most: that of the grid that takes most."""
        wanted = [self.plan.configuration(name) for name in item.wanted]
        return max(preprocessing_bytes(headers[:-1], headers[-1], self.plan, each) for each in wanted)


def _damage(store: CaseStore, case_id: str, key: str, *, verify: bool) -> str | None:
    """What is damaged of a stored case; None if it is whole."""
    try:
        store.check(case_id, key, always=verify)
    except DamagedCaseError as error:
        return str(error.what)
    return None


def _checked(dataset: Dataset, case: Case) -> tuple[Volume, Volume]:
    """A case as it is read: float32 ``(channels, *spatial)`` and labels ``(1, *spatial)`` of the smallest type, read-only.

    Several configurations are made of them in turn: a plug that would change them must not change what comes after it.

    Raises:
        InputError: anything is wrong with it.
    """
    image, labels, findings = check_case(dataset, case)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors or image is None or labels is None:
        raise InputError("; ".join(errors))
    labels = Volume(array=smallest_integers(labels.array), geometry=labels.geometry)
    for volume in (image, labels):
        volume.array.flags.writeable = False
    return image, labels

"""The integers that label files hold, found by looking into each once: several at a time, and remembered by content."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import DocumentError, InputError, TooLargeError, WorkerLostError
from autoseg.executors import Executor, ThreadExecutor
from autoseg.files import Content, content_of, read_document, write_document
from autoseg.io.case_work import READER_COPIES, SLACK, FileList, remember, run_admitted
from autoseg.io.colours import as_labels
from autoseg.io.formats import format_of, parts_of
from autoseg.io.headers import Header
from autoseg.values.json_form import Value
from autoseg.workspace import Workspace

__all__ = ["FindIntegers", "FoundIntegers", "IntegerCache", "integers_in"]

#: Sorting the values of a slice, or counting them.
BYTES_OF_SLICE = 32


class IntegerCache:
    """What was found in label files before, by the SHA-256 of their content.

    Args:
        workspace: keeps it.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._contents = workspace.contents
        self._path = workspace.label_integers_path
        self._known: dict[str, list[int]] = {}
        self._changed = False
        if self._path.is_file():
            with contextlib.suppress(DocumentError):  # a damaged cache is as good as none
                self._known = read_document(dict[str, list[int]], self._path)

    def integers(self, file: Path) -> list[int] | None:
        """The integers of a file that has not changed since it was looked into; None for any other."""
        key = self._contents.known(file) if file.is_file() else None
        return None if key is None else self._known.get(key)

    def add(self, found: FoundIntegers) -> None:
        """Takes what a worker has found."""
        remember(self._contents, found.read)
        self._changed |= bool(found.read)
        for content in found.read.values():
            self._known[content.sha256] = list(found.integers)

    def save(self) -> None:
        """Keeps what was found."""
        if self._changed:
            self._contents.save()
            write_document(self._path, dict(sorted(self._known.items())))
            self._changed = False


class FoundIntegers(Value, frozen=True, kw_only=True):
    """What a label file holds.

    Attributes:
        integers: different ones.
        read: the file's content, for which they hold; empty if it need not be known, or other files belong to it.
    """

    integers: tuple[int, ...]
    read: dict[str, Content] = {}


class FindIntegers(Value, frozen=True, kw_only=True):
    """Looks into a label file; a task for any executor.

    Attributes:
        remembered: somebody wants to know the file's content, too.
    """

    remembered: bool = False

    @property
    def stage(self) -> str:
        """For messages."""
        return "look for labels"

    def __call__(self, item: FileList) -> FoundIntegers:
        """The integers of the one file.

        Raises:
            InputError: it cannot be read.
        """
        (file,) = map(Path, item.paths)
        alone = self.remembered and file.is_file() and parts_of(file) == (file,)
        read = {str(file): content_of(file)} if alone else {}  # before it is looked into: it may change meanwhile
        return FoundIntegers(integers=tuple(_look(file)), read=read)

    def bytes(self, item: FileList, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on a file takes at most."""
        known = [header for header in headers if header is not None]
        slices = max((header.voxels // header.geometry.shape[0] for header in known), default=0)
        return READER_COPIES * sum(header.bytes for header in known) + BYTES_OF_SLICE * slices + SLACK


def integers_in(
    files: Sequence[Path], known: IntegerCache | None = None, executor: Executor | None = None
) -> list[list[int]]:
    """The integers of each label file, in no order; nothing for a file that cannot be read, or that ends whoever reads it:
    reading the cases tells of it.

    Args:
        files: of label maps; one that is named twice is looked into once.
        known: from an earlier pass; takes what is found now.
        executor: looks into the files; threads by default.
    """
    found, items = [], []
    for file in dict.fromkeys(files):
        integers = known.integers(file) if known else None
        if integers is None:
            items.append(FileList(id=str(file), paths=(str(file),)))
        else:
            found.append(integers)
    if not items:
        return found
    task = FindIntegers(remembered=known is not None)
    with contextlib.closing(run_admitted(executor or ThreadExecutor(), task, items, task.bytes)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome.error, InputError | WorkerLostError | TooLargeError):
                continue
            if outcome.error is not None:
                raise outcome.error
            if outcome.result is not None:
                found.append(list(outcome.result.integers))
                if known:
                    known.add(outcome.result)
    return found


def _look(file: Path) -> list[int]:
    """Whole numbers in the first channel; fractions and infinite values are no labels, and are told of elsewhere."""
    array = as_labels(format_of(file).read(file)).array[0]
    values = _distinct(array)
    with np.errstate(invalid="ignore"):
        return [
            int(value) for value in values if np.isfinite(value) and value == np.floor(value) and abs(value) < 2**31
        ]


def _distinct(array: np.ndarray) -> np.ndarray:
    """Distinct values, slab by slab; without sorting where the values are small integers."""
    low, high = array.min(), array.max()
    if array.dtype == bool or (np.issubdtype(array.dtype, np.integer) and low >= 0 and high < 2**16):
        counts = np.zeros(int(high) + 1, np.int64)
        for slab in array:
            counts += np.bincount(slab.reshape(-1).astype(np.int64), minlength=len(counts))
        return np.flatnonzero(counts)
    found = np.empty(0, array.dtype)
    for slab in array:
        found = np.union1d(found, np.unique(slab))
        if len(found) > 2**16:  # no label map
            break
    return found

"""The integers that label files hold, found by looking into each once: several at a time, and remembered by content."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import DocumentError, InputError
from autoseg.executors import ThreadExecutor
from autoseg.files import read_document, write_document
from autoseg.io.colours import as_labels
from autoseg.io.formats import format_of
from autoseg.workspace import Workspace

__all__ = ["IntegerCache", "integers_in"]


class IntegerCache:
    """What was found in label files before, by the SHA-256 of their content.

    Args:
        workspace: keeps it.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._contents = workspace.contents
        self._path = workspace.label_integers_path
        self._known: dict[str, list[int]] = {}
        if self._path.is_file():
            with contextlib.suppress(DocumentError):  # a damaged cache is as good as none
                self._known = read_document(dict[str, list[int]], self._path)

    def integers(self, file: Path) -> list[int]:
        """The integers of a file, looked into only if that was not done before."""
        if not file.is_file():
            return _look(file)
        key = self._contents.sha256(file)
        known = self._known.get(key)
        if known is None:
            self._known[key] = known = _look(file)
        return known

    def save(self) -> None:
        """Keeps what was found."""
        self._contents.save()
        write_document(self._path, dict(sorted(self._known.items())))


def integers_in(files: Sequence[Path], known: IntegerCache | None = None) -> list[list[int]]:
    """The integers of each label file, in no order; nothing for a file that cannot be read, which reading the cases tells.

    Args:
        files: of label maps.
        known: from an earlier pass; keeps what is found now.
    """
    found = []
    for outcome in ThreadExecutor().run(known.integers if known else _look, files):
        if isinstance(outcome.error, InputError):
            continue
        if outcome.error is not None:
            raise outcome.error
        found.append(outcome.result or [])
    if known and any(found):
        known.save()
    return found


def _look(file: Path) -> list[int]:
    """Whole numbers in the first channel; fractions and infinite values are no labels, and are told of elsewhere."""
    array = as_labels(format_of(file).read(file)).array[0]
    if array.dtype == bool or array.dtype == np.uint8:
        return [int(value) for value in np.flatnonzero(np.bincount(array.reshape(-1), minlength=1))]
    values = _distinct(array)
    with np.errstate(invalid="ignore"):
        return [
            int(value) for value in values if np.isfinite(value) and value == np.floor(value) and abs(value) < 2**31
        ]


def _distinct(array: np.ndarray) -> np.ndarray:
    """Distinct values, slab by slab; without sorting whole volumes where the values are small integers."""
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.integer) and low >= 0 and high < 2**16:
        return np.flatnonzero(np.bincount(array.reshape(-1)))
    found = np.empty(0, array.dtype)
    for slab in array:
        found = np.union1d(found, np.unique(slab))
        if len(found) > 2**16:  # no label map
            break
    return found

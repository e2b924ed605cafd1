"""The store of preprocessed cases: one folder per case, named by its content, read through memory maps.

A folder holds ``record.json`` and four arrays without pickle: ``image.npy`` float32 ``(channels, *spatial)``,
``segmentation.npy`` (small integers, -1 outside the non-zero region), ``locations.npy`` (rows of class, position) and
``reference.npy``, the label map on the original grid, so that a machine without SimpleITK can train and score.
"""

from __future__ import annotations

import shutil
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import InputError
from autoseg.files import read_document, write_document, written_folder
from autoseg.values import PreprocessRecord

__all__ = ["CaseStore", "StoredCase"]


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """A preprocessed case; arrays may be memory maps.

    Attributes:
        record: what was done to it.
        image: float32 ``(channels, *spatial)``.
        segmentation: integers ``(*spatial)``: positions in ``Labels.integers``, ``ignore_index``, or -1.
        locations: class (1 + position among the foreground entries; 0: any annotated voxel, kept only with an ignore
            label) to voxel positions ``(n, 3)``.
        reference: the label file's integers on the original grid, in stored order.
    """

    record: PreprocessRecord
    image: np.ndarray
    segmentation: np.ndarray
    locations: Mapping[int, np.ndarray]
    reference: np.ndarray


class CaseStore:
    """The preprocessed cases of one configuration.

    Args:
        folder: ``preprocessed/CONFIGURATION-PARAMETERS`` of the workspace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, case_id: str, key: str) -> Path:
        return self.folder / f"{case_id}-{key[:16]}"

    def has(self, case_id: str, key: str) -> bool:
        """True if the case is stored whole, made from exactly the content behind ``key``."""
        return (self._path(case_id, key) / "record.json").is_file()

    def save(self, case: StoredCase) -> None:
        """Stores a case atomically, then drops what was stored of it from older content."""
        record = case.record
        rows = [
            np.column_stack([np.full(len(at), label), at]) for label, at in sorted(case.locations.items()) if len(at)
        ]
        target = self._path(record.case_id, record.key)
        if not self.has(record.case_id, record.key):  # what a kill left of a removal would stand in the way
            shutil.rmtree(target, ignore_errors=True)
        with written_folder(target) as folder:
            np.save(folder / "image.npy", case.image)
            np.save(folder / "segmentation.npy", case.segmentation)
            np.save(folder / "locations.npy", np.concatenate(rows or [np.empty((0, 4))]).astype(np.int32))
            np.save(folder / "reference.npy", case.reference)
            write_document(folder / "record.json", record)
        for older in self.folder.glob("*-" + "[0-9a-f]" * 16):
            if older.name[:-17] == record.case_id and older != target:
                shutil.rmtree(older, ignore_errors=True)

    def open(self, case_id: str, key: str) -> StoredCase:
        """A stored case with its large arrays mapped, not read.

        Raises:
            InputError: the case is not stored, or its files are damaged.
        """
        folder = self._path(case_id, key)
        try:
            record = read_document(PreprocessRecord, folder / "record.json")
            image = np.load(folder / "image.npy", mmap_mode="r", allow_pickle=False)
            segmentation = np.load(folder / "segmentation.npy", mmap_mode="r", allow_pickle=False)
            reference = np.load(folder / "reference.npy", mmap_mode="r", allow_pickle=False)
            rows = np.load(folder / "locations.npy", allow_pickle=False)
            shapes = (image.shape[1:], segmentation.shape, reference.shape)
            if shapes != (record.shape, record.shape, record.source.shape):
                raise ValueError(f"array shapes {shapes} differ from the record")
        except (InputError, OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
            raise InputError(
                f"the preprocessed case is missing or damaged: {error}",
                case=case_id,
                file=folder,
                remedy="Remove that folder and repeat the command: the case is made anew.",
            ) from error
        locations = {int(label): rows[rows[:, 0] == label, 1:] for label in np.unique(rows[:, 0])}
        return StoredCase(
            record=record, image=image, segmentation=segmentation, locations=locations, reference=reference
        )

"""What a cascade's stage before predicted of preprocessed cases: stored beside them, and read as channels of their images.

One folder per case, named by its content, holds ``record.json`` and one array without pickle, ``labels``: small integers
``(*spatial)``, compressed where blosc2 is installed. It is turned into channels of zeros and ones as it is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import tokenize
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import DamagedCaseError, DiskFullError, InputError
from autoseg.files import discard, read_document, write_document, written_folder
from autoseg.io.case_store import NO_ROOM, WHOLE_VOXELS, CaseStore, StoredCase
from autoseg.io.checked import StoredArray, checksum_of, is_sealed, mapped_npy, sealed, write_npy
from autoseg.io.chunks import ChunkedArray, Readable, can_compress, chunk_shape, write_chunks
from autoseg.values.json_form import Value

__all__ = ["EarlierStore", "ReferenceStore", "StagedStore", "WithChannels"]


class _MapDocument(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.stored-prediction/1"):
    """All that is known of a stored label map; ``checksum`` is the digest of everything else in it."""

    case_id: str
    key: str
    labels: StoredArray
    checksum: str = ""


class EarlierStore:
    """Predicted label maps on one grid.

    Args:
        folder: of the maps of one stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, case_id: str, key: str) -> Path:
        return self.folder / f"{case_id}-{key[:16]}"

    def save(
        self, case_id: str, key: str, labels: np.ndarray, *, patch_size: Sequence[int], spared: Collection[str] = ()
    ) -> None:
        """Stores a label map atomically, then drops those of the case from older content.

        Args:
            case_id: of the case.
            key: content key of the label map.
            labels: unsigned integers ``(*spatial)``.
            patch_size: that training reads; two entries: slices of axis 0.
            spared: keys of older entries that are still needed.

        Raises:
            DiskFullError: there is no room; nothing half-written stays.
        """
        target = self._path(case_id, key)
        if target.exists() and not self.is_whole(case_id, key):
            discard(target)
        try:
            with written_folder(target) as folder:
                if can_compress():
                    patch = (1,) * (3 - len(patch_size)) + tuple(patch_size)
                    small = math.prod(labels.shape) <= WHOLE_VOXELS
                    chunk = labels.shape if small else chunk_shape(labels.shape, patch)
                    stored = write_chunks(folder / "labels.chunks", labels, chunk)
                else:
                    stored = write_npy(folder / "labels.npy", labels)
                document = _MapDocument(case_id=case_id, key=key, labels=stored)
                document = sealed(document)
                write_document(folder / "record.json", document)
        except OSError as error:
            if error.errno in NO_ROOM:
                what = f"what was predicted of {case_id} could not be stored ({error.strerror})"
                raise DiskFullError(self.folder, what) from error
            raise
        kept = {target, *(self._path(case_id, each) for each in spared)}
        for other in os.listdir(self.folder):
            if other.startswith(f"{case_id}-") and len(other) == len(target.name) and self.folder / other not in kept:
                shutil.rmtree(self.folder / other, ignore_errors=True)

    def is_whole(self, case_id: str, key: str) -> bool:
        """True if the label map is stored, as it was written. All of it is read: compressed label maps are small."""
        try:
            document = self._document(case_id, key)
            return checksum_of(self._path(case_id, key) / document.labels.file) == document.labels.checksum
        except (DamagedCaseError, OSError):
            return False

    def open(self, case_id: str, key: str) -> Readable:
        """The label map, whose file is opened whenever it is sliced.

        Raises:
            DamagedCaseError: when made or when read: it is not stored, or damaged.
            CompressedStoreError: it is stored compressed, and blosc2 is not installed.
        """
        return _OnDemand(case_id, self._path(case_id, key), self._document(case_id, key).labels)

    def _document(self, case_id: str, key: str) -> _MapDocument:
        folder = self._path(case_id, key)
        with _telling(case_id, folder):
            document = read_document(_MapDocument, folder / "record.json")
            if (document.case_id, document.key) != (case_id, key) or not is_sealed(document):
                raise ValueError("record.json is not as it was written")
            if "uint" not in document.labels.dtype or len(document.labels.shape) != 3:
                raise ValueError("the record tells of no label map")
            size = (folder / document.labels.file).stat().st_size
            if size != document.labels.bytes:
                raise ValueError(f"{document.labels.file} has {size} bytes instead of {document.labels.bytes}")
            return document


@contextlib.contextmanager
def _telling(case_id: str, folder: Path) -> Iterator[None]:
    """Whatever is found within is told as damage of the case."""
    try:
        yield
    except DamagedCaseError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, InputError) as error:
        raise DamagedCaseError(case_id, str(error), file=folder) from error


class _OnDemand:
    """A label map in a file that is open only while it is read: a training keeps three files of every case open already."""

    def __init__(self, case_id: str, folder: Path, stored: StoredArray) -> None:
        self._case_id, self._folder, self._stored = case_id, folder, stored
        self.shape, self.dtype, self.ndim = stored.shape, np.dtype(stored.dtype), len(stored.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.array(self[...])
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:
        file = self._folder / self._stored.file
        with _telling(self._case_id, self._folder):
            if self._stored.chunk is not None:
                return ChunkedArray(file, self._stored, case_id=self._case_id)[index]
            return np.array(mapped_npy(file, self._stored)[index])


class WithChannels:
    """An image with channels of zeros and ones under its own, one for each label of a label map; read as it is sliced.

    Args:
        image: float32 ``(channels, *spatial)``.
        labels: integers ``(*spatial)``: 1 for the first of these channels, and so on; others have none.
        count: how many there are.
    """

    def __init__(self, image: Readable, labels: Readable, count: int) -> None:
        if image.shape[1:] != labels.shape:
            raise ValueError(f"the label map has the shape {labels.shape} and the image {image.shape[1:]}")
        self._image, self._labels, self._count = image, labels, count
        self.shape, self.dtype = (image.shape[0] + count, *image.shape[1:]), np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._read(())
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:
        """Slices of all channels; whatever else asks for is read as a whole."""
        box = index if isinstance(index, tuple) else (index,)
        if box and all(isinstance(side, slice) for side in box) and box[0] == slice(None):
            return self._read(box[1:])
        return np.asarray(self)[index]

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        labels = np.asarray(self._labels[box] if box else self._labels)
        first = self.shape[0] - self._count
        result = np.empty((self.shape[0], *labels.shape), np.float32)
        result[:first] = self._image[(slice(None), *box)]
        for channel in range(self._count):
            np.equal(labels, channel + 1, out=result[first + channel], casting="unsafe")
        return result


class StagedStore(CaseStore):
    """Preprocessed cases whose images have what the stage before predicted as further channels.

    Args:
        cases: store of the cases.
        maps: store of the label maps.
        keys: case id to content key of its label map.
        channels: how many the label maps have.
        remake: makes the label map of a case anew.
    """

    def __init__(
        self,
        cases: CaseStore,
        maps: EarlierStore,
        keys: Mapping[str, str],
        channels: int,
        remake: Callable[[str], object],
    ) -> None:
        super().__init__(cases.folder)
        self._cases, self._maps, self._keys, self._channels, self._remake = cases, maps, keys, channels, remake

    def open(self, case_id: str, key: str, *, verify: bool = False) -> StoredCase:
        """A stored case, as of ``CaseStore``, with these channels.

        Raises:
            DamagedCaseError: the case or its label map is not stored, or damaged.
        """
        stored = self._cases.open(case_id, key, verify=verify)
        labels = self._maps.open(case_id, self._keys[case_id])
        try:
            image = WithChannels(stored.image, labels, self._channels)
        except ValueError as error:
            raise DamagedCaseError(case_id, str(error), file=self._maps.folder) from error
        return dataclasses.replace(stored, image=image)

    def mend(self, damage: DamagedCaseError, key: str) -> None:
        """Makes anew what is damaged: the case, or its label map.

        Raises:
            DamagedCaseError: that is not possible here, or its files have changed since.
        """
        if not Path(str(damage.file)).is_relative_to(self._maps.folder):
            return self._cases.mend(damage, key)
        case = str(damage.case)
        self._remake(case)
        if not self._maps.is_whole(case, self._keys[case]):
            raise damage


class ReferenceStore(CaseStore):
    """Preprocessed cases whose references stand for what the stage before predicts: enough to measure time with.

    Args:
        cases: store of the cases.
        channels: that the labels have.
    """

    def __init__(self, cases: CaseStore, channels: int) -> None:
        super().__init__(cases.folder)
        self._channels = channels

    def open(self, case_id: str, key: str, *, verify: bool = False) -> StoredCase:
        """A stored case, as of ``CaseStore``, with these channels."""
        stored = super().open(case_id, key, verify=verify)
        return dataclasses.replace(stored, image=WithChannels(stored.image, stored.segmentation, self._channels))

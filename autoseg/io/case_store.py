"""The store of preprocessed cases: one folder per case, named by its content, checksummed, read in pieces.

A folder holds ``record.json`` and four arrays without pickle: ``image``, float32 ``(channels, *spatial)``,
``segmentation`` (small integers, -1 outside the non-zero region), ``locations`` (flat places of foreground voxels) and
``reference``, the label map on the original grid, so that a machine without SimpleITK can train and score. Each is a
``.npy`` file that is memory-mapped, or, where the package blosc2 is installed, a ``.chunks`` file (io/chunks.py) with the
image in 16 bits (io/levels.py). The record tells which, and every file's size and checksum.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import tokenize
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import DamagedCaseError, DiskFullError, InputError
from autoseg.files import discard, read_document, write_document, written_folder
from autoseg.io.checked import StoredArray, checksum_of, is_sealed, mapped_npy, sealed, write_npy
from autoseg.io.chunks import ChunkedArray, Readable, can_compress, chunk_shape, write_chunks
from autoseg.io.levels import choose_levels
from autoseg.io.locations import Locations, flat_locations
from autoseg.values import PreprocessRecord
from autoseg.values.json_form import Value

__all__ = ["CaseStore", "StoredCase"]

ARRAYS = ("image", "segmentation", "locations", "reference")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Entries of a compressed one-dimensional array that are compressed together.
FLAT_CHUNK = 2**16
#: Compressed arrays of no more voxels are one chunk, or one per channel.
WHOLE_VOXELS = 2**17


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """A preprocessed case; from a store, its arrays are read when they are sliced.

    Attributes:
        record: what was done to it.
        image: float32 ``(channels, *spatial)``.
        segmentation: integers ``(*spatial)``: positions in ``Labels.integers``, ``ignore_index``, or -1.
        locations: class (1 + position among the foreground entries; 0: any annotated voxel, kept only with an ignore
            label) to voxel positions ``(n, 3)``.
        reference: the label file's integers on the original grid, in stored order.
    """

    record: PreprocessRecord
    image: Readable
    segmentation: Readable
    locations: Mapping[int, np.ndarray]
    reference: Readable

    def draw_location(self, label: int, random: np.random.Generator) -> tuple[int, ...]:
        """One of the positions of a class, all with equal chance."""
        if isinstance(self.locations, Locations):
            return self.locations.draw(label, random)
        positions = self.locations[label]
        return tuple(int(at) for at in positions[int(random.integers(len(positions)))])


class _CaseDocument(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.stored-case/1"):
    """All that is known of a stored case; ``checksum`` is the digest of everything else in it."""

    record: PreprocessRecord
    arrays: dict[str, StoredArray]
    location_counts: tuple[tuple[int, int], ...]
    checksum: str = ""

    def require_fitting(self) -> None:
        """Raises ``ValueError`` unless the arrays are those that such a record goes with."""
        image, segmentation, locations, reference = (self.arrays[name] for name in ARRAYS)
        record, counts = self.record, [count for _, count in self.location_counts]
        if (image.dtype, image.shape[1:], segmentation.shape) != ("float32", record.shape, record.shape):
            raise ValueError(f"the record tells of other arrays than float32 and integers of shape {record.shape}")
        if reference.shape != record.source.shape or not all("int" in each.dtype for each in (segmentation, reference)):
            raise ValueError(f"the record tells of another reference than integers of shape {record.source.shape}")
        if locations.dtype[0] != "u" or locations.shape != (sum(counts),) or min(counts, default=1) < 1:
            raise ValueError(f"the record tells of {locations.shape} places, and of {counts} of the classes")


class _Verified(Value, frozen=True, kw_only=True):
    """Size and time of the files whose content was found right."""

    files: dict[str, tuple[int, int]]


class CaseStore:
    """The preprocessed cases of one configuration.

    Args:
        folder: ``preprocessed/CONFIGURATION-PARAMETERS`` of the workspace.
        patch_size: that training reads; chunks of compressed arrays have its proportions. Two entries: slices of axis 0.
        compressed: how new cases are stored; None: compressed if blosc2 is installed. Both are read from one store.
        rebuild: makes a case anew (its id), for ``mend``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        patch_size: Sequence[int] = (),
        compressed: bool | None = None,
        rebuild: Callable[[str], object] | None = None,
    ) -> None:
        self.folder, self._compressed, self._rebuild = folder, compressed, rebuild
        self._patch_size = (1,) * (3 - len(patch_size)) + tuple(patch_size) if patch_size else ()

    def _path(self, case_id: str, key: str) -> Path:
        return self.folder / f"{case_id}-{key[:16]}"

    @property
    def compressed(self) -> bool:
        """Whether new cases are stored compressed."""
        return can_compress() if self._compressed is None else self._compressed

    def has(self, case_id: str, key: str) -> bool:
        """True if the case is stored, made from exactly the content behind ``key``; whether it is whole, ``check`` tells."""
        return (self._path(case_id, key) / "record.json").is_file()

    def case_ids(self) -> set[str]:
        """The cases of which something is stored, from whatever content."""
        return {path.name[:-17] for path in self.folder.glob("[!.]*-" + "[0-9a-f]" * 16)}

    def save(self, case: StoredCase, *, spared: Collection[str] = ()) -> None:
        """Stores a case atomically, then drops what was stored of it from older content.

        Args:
            case: its arrays are NumPy's.
            spared: content keys of older entries that are still needed.

        Raises:
            DiskFullError: there is no room; nothing half-written stays.
        """
        target = self._path(case.record.case_id, case.record.key)
        if not self.has(case.record.case_id, case.record.key):  # what a kill left of a removal would stand in the way
            shutil.rmtree(target, ignore_errors=True)
        try:
            with written_folder(target) as folder:
                self._write(folder, case)
        except OSError as error:
            if error.errno in NO_ROOM:
                what = f"{case.record.case_id} could not be stored ({error.strerror})"
                raise DiskFullError(self.folder, what) from error
            raise
        kept = {target, *(self._path(case.record.case_id, key) for key in spared)}
        name = f"{case.record.case_id}-"
        # by names alone: with thousands of cases, each of which looks here, more would take longer than the work
        for other in os.listdir(self.folder):
            if other.startswith(name) and len(other) == len(target.name) and self.folder / other not in kept:
                discard(self.folder / other)

    def _write(self, folder: Path, case: StoredCase) -> None:
        compressed = self.compressed
        places, counts = flat_locations(case.locations, case.record.shape)
        image = np.asarray(case.image)
        arrays = {
            "segmentation": np.asarray(case.segmentation),
            "reference": np.asarray(case.reference),
            # differences of ascending places are small and compress well; those between classes wrap around
            "locations": np.diff(places, prepend=places.dtype.type(0)) if compressed else places,
        }
        if compressed:
            found = [choose_levels(channel) for channel in image]
            levels = [each for each in found if each is not None]
            chunk = (1, *self._chunk(image.shape[1:]))
            stored = {
                "image": write_chunks(
                    folder / "image.chunks", image, chunk, levels if len(levels) == len(image) else ()
                )
            }
            for name, array in arrays.items():
                chunk = (min(FLAT_CHUNK, max(1, array.size)),) if array.ndim == 1 else self._chunk(array.shape)
                stored[name] = write_chunks(folder / f"{name}.chunks", array, chunk)
        else:
            stored = {
                name: write_npy(folder / f"{name}.npy", each) for name, each in {"image": image, **arrays}.items()
            }
        document = _CaseDocument(record=case.record, arrays=stored, location_counts=tuple(counts.items()))
        document = sealed(document)
        write_document(folder / "record.json", document)
        write_document(folder / "verified.json", _times(folder, document))

    def _chunk(self, shape: Sequence[int]) -> tuple[int, ...]:
        small = math.prod(shape) <= WHOLE_VOXELS  # reading all of it takes less than finding pieces
        return tuple(shape) if small else chunk_shape(shape, self._patch_size or shape)

    def open(self, case_id: str, key: str, *, verify: bool = False) -> StoredCase:
        """A stored case; its large arrays are read when they are sliced.

        Args:
            case_id: of the case.
            key: its content key.
            verify: read all of it first, to see whether it is as it was written.

        Raises:
            DamagedCaseError: the case is not stored, or its files are damaged.
            CompressedStoreError: it is stored compressed, and blosc2 is not installed.
        """
        if verify:
            self.check(case_id, key, always=True)
        folder = self._path(case_id, key)
        with self._telling(case_id, folder):
            document = self._document(case_id, key)
            arrays = {name: _opened(folder, document.arrays[name], case_id) for name in ARRAYS[:2]}
            places, reference = document.arrays["locations"], document.arrays["reference"]
            shape = document.record.shape

            def read_places() -> Readable:
                with self._telling(case_id, folder):
                    stored = _opened(folder, places, case_id)
                    # a copy, small beside the image, so that no fourth file stays mapped
                    flat = np.cumsum(np.asarray(stored), dtype=places.dtype) if places.chunk else np.array(stored)
                    if flat.size and int(flat.max()) >= math.prod(shape):
                        raise ValueError(f"{places.file} tells of places outside of {shape}")
                    return flat

            return StoredCase(
                record=document.record,
                image=arrays["image"],
                segmentation=arrays["segmentation"],
                locations=Locations(read_places, dict(document.location_counts), shape),
                reference=_opened(folder, reference, case_id),
            )

    def is_known_whole(self, case_id: str, key: str) -> bool:
        """True if the case is stored, and its files have the size and time that they had when they were found right."""
        folder = self._path(case_id, key)
        try:
            document = self._document(case_id, key)
            return _times(folder, document) == read_document(_Verified, folder / "verified.json")
        except (InputError, OSError, ValueError):
            return False

    def check(self, case_id: str, key: str, *, always: bool = False) -> None:
        """Sees to it that a stored case is whole: record and sizes at once, the content unless it was found right before.

        Args:
            case_id: of the case.
            key: its content key.
            always: read the content even if its files have the size and time that they had when it was found right.

        Raises:
            DamagedCaseError: it is not, or it is not stored.
            CompressedStoreError: it is stored compressed, and blosc2 is not installed.
        """
        folder = self._path(case_id, key)
        with self._telling(case_id, folder):
            document = self._document(case_id, key)
            for array in document.arrays.values():
                _opened(folder, array, case_id)
            now, before = _times(folder, document), None
            with contextlib.suppress(InputError):  # none, or a damaged one
                before = read_document(_Verified, folder / "verified.json")
            if now == before and not always:
                return
            for array in document.arrays.values():
                if checksum_of(folder / array.file) != array.checksum:
                    raise ValueError(f"{array.file} is not as it was written")
            with contextlib.suppress(OSError):  # a folder that is only read
                write_document(folder / "verified.json", now)

    def mend(self, damage: DamagedCaseError, key: str) -> None:
        """Makes a damaged case anew.

        Raises:
            DamagedCaseError: that is not possible here, or its files have changed since.
        """
        assert damage.case is not None
        # size and time do not tell of it
        (self._path(damage.case, key) / "verified.json").unlink(missing_ok=True)
        if self._rebuild is None:
            raise damage
        self._rebuild(damage.case)
        if not self.has(damage.case, key):
            raise damage

    def discard(self, case_id: str, key: str) -> None:
        """Removes a stored case, at once for whoever looks."""
        discard(self._path(case_id, key))

    def _document(self, case_id: str, key: str) -> _CaseDocument:
        folder = self._path(case_id, key)
        document = read_document(_CaseDocument, folder / "record.json")
        if not is_sealed(document):
            raise ValueError("record.json is not as it was written")
        if (document.record.case_id, document.record.key) != (case_id, key):
            raise ValueError(f"record.json is that of case {document.record.case_id}, or of other content")
        if set(document.arrays) != set(ARRAYS):
            raise ValueError(f"the record tells of {', '.join(document.arrays)}")
        document.require_fitting()
        for array in document.arrays.values():
            size = (folder / array.file).stat().st_size
            if size != array.bytes:
                raise ValueError(f"{array.file} has {size} bytes instead of {array.bytes}")
        return document

    @contextlib.contextmanager
    def _telling(self, case_id: str, folder: Path) -> Iterator[None]:
        """Whatever is found within is told as damage of the case."""
        try:
            yield
        except DamagedCaseError:
            raise
        except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
            raise DamagedCaseError(case_id, str(error), file=folder) from error


def _times(folder: Path, document: _CaseDocument) -> _Verified:
    status = {array.file: (folder / array.file).stat() for array in document.arrays.values()}
    return _Verified(files={name: (each.st_size, each.st_mtime_ns) for name, each in status.items()})


def _opened(folder: Path, stored: StoredArray, case_id: str) -> Readable:
    if stored.chunk is not None:
        return ChunkedArray(folder / stored.file, stored, case_id=case_id)
    return mapped_npy(folder / stored.file, stored)

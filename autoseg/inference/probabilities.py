"""Probabilities of a case on its own grid, kept so that any ensemble can be made without running a network again.

They lie on the box around what is not zero in the case's image, which all configurations of a plan share, so that several
can be averaged voxel by voxel. Each is kept in 16 bits, as the nearest of 65,536 levels (half-way goes down): no kept
probability is further than 1 / 131,070 from the computed one, so what is decided from them can differ from what the exact
ones say only where the two most likely answers are within 1 / 65,535 of each other.

A case is a folder with ``record.json`` and the levels ``(outputs, *box)``, compressed in pieces where blosc2 is installed,
else as ``.npy``; both are read in pieces.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autoseg import plugins
from autoseg.errors import DamagedCaseError, InputError, UnknownNameError
from autoseg.files import read_document, write_document, written_folder
from autoseg.io.checked import StoredArray, checksum_of, is_sealed, mapped_npy, sealed
from autoseg.io.chunks import ChunkedArray, Readable, can_compress, write_chunks
from autoseg.preprocessing.inverse import restore_labels
from autoseg.values import Configuration, Labels, PreprocessRecord, Volume
from autoseg.values.json_form import Value
from autoseg.volume.spline import in_threads, slice_groups

__all__ = [
    "LEVELS",
    "HeldProbabilities",
    "KeptProbabilities",
    "Probabilities",
    "keep_mean",
    "keep_probabilities",
    "levels_of",
    "open_probabilities",
    "parts_of_box",
]

#: The level that stands for certainty.
LEVELS = 65_535
#: Name of the first output where labels compete.
BACKGROUND = "background"
#: Voxels that are compressed together: those of some whole slices, or of some rows of one.
VOXELS_IN_CHUNK = 2**16


class _Document(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.probabilities/1"):
    """All that is known of kept probabilities; ``checksum`` is the digest of everything else in it."""

    record: PreprocessRecord
    weights: str
    levels: StoredArray
    names: tuple[str, ...] = ()
    checksum: str = ""


class Probabilities(Protocol):
    """Levels of a case's outputs on its box, wherever they are."""

    @property
    def record(self) -> PreprocessRecord:
        """What was done to the case's image."""
        ...

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        ...

    def levels(self, output: int, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Levels of an output, uint16, in a part of the case's box."""
        ...


@dataclass(frozen=True)
class HeldProbabilities:
    """Probabilities of a case in memory.

    Attributes:
        record: what was done to the case's image.
        array: levels uint16 ``(outputs, *box)``.
    """

    record: PreprocessRecord
    array: np.ndarray

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.array)

    def levels(self, output: int, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Levels of an output, uint16, in a part of the case's box."""
        return np.asarray(self.array[(output, *box)])


class KeptProbabilities:
    """Probabilities of a case, read where they are sliced.

    Args:
        folder: as ``keep_probabilities`` made it.

    Attributes:
        record: what was done to the case's image.
        weights: SHA-256 of the weights that predicted.
        names: of the outputs; empty where they were kept before these were told.
        id: digest of everything; equal ids, equal probabilities.

    Raises:
        InputError: there are none, or they are damaged; also when they are read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            document = read_document(_Document, folder / "record.json")
            stored = document.levels
            if not is_sealed(document):
                raise ValueError("record.json is not as it was written")
            if stored.shape[1:] != document.record.crop_shape or stored.dtype != "uint16":
                raise ValueError("the record tells of something else than levels on the box of the case")
            size = (folder / stored.file).stat().st_size
            if size != stored.bytes:
                raise ValueError(f"{stored.file} has {size} bytes instead of {stored.bytes}")
            self._levels: Readable = (
                mapped_npy(folder / stored.file, stored)
                if stored.chunk is None
                else ChunkedArray(folder / stored.file, stored, case_id=document.record.case_id)
            )
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        self.record, self.weights, self.id = document.record, document.weights, document.checksum
        self.names = document.names

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self._levels.shape[0]

    def levels(self, output: int, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Levels of an output, uint16, in a part of the case's box."""
        try:
            return np.asarray(self._levels[(output, *box)])
        except DamagedCaseError as error:
            raise self._damaged(error) from error

    def volume(self, name: str) -> Volume:
        """The probability of a label or region ``(1, *spatial)``, float32 from 0 to 1, on the grid of the case's files.

        Raises:
            UnknownNameError: there is no such output.
        """
        if name not in self.names:
            raise UnknownNameError(f"no output is called {name!r}", expected=" or ".join(self.names))
        output = self.names.index(name)
        everywhere = tuple(slice(0, edge) for edge in self.record.crop_shape)
        levels = self.levels(output, (everywhere[0], everywhere[1], everywhere[2]))
        if not output and name == BACKGROUND:  # beyond the box there is nothing else
            return _shares(restore_labels(LEVELS - levels, self.record), inverted=True)
        return _shares(restore_labels(levels, self.record))

    def _damaged(self, error: Exception) -> InputError:
        return InputError(
            f"the kept probabilities of a case are missing or damaged: {error}",
            file=self._folder,
            remedy="Remove that folder and repeat the command that made it (autoseg train …, or autoseg predict …).",
        )


def _shares(levels: Volume, *, inverted: bool = False) -> Volume:
    array = levels.array.astype(np.float32) / LEVELS
    return dataclasses.replace(levels, array=1 - array if inverted else array)


def open_probabilities(folder: str | Path) -> KeptProbabilities:
    """Opens the probabilities of a case, as ``autoseg predict --save-probabilities`` wrote them; read as they are asked for.

    ``names`` are those of the outputs, ``volume(name)`` gives one as a float32 volume on the grid of the image, and
    ``levels(number, box)`` a part of one, in integers to 65,535, on the box around what is not zero in the image.

    Args:
        folder: of the case, ``OUT/probabilities/CASE``.

    Raises:
        InputError: there are none, or they are damaged.
    """
    return KeptProbabilities(Path(folder))


def keep_probabilities(
    folder: Path,
    logits: np.ndarray,
    record: PreprocessRecord,
    configuration: Configuration,
    labels: Labels,
    weights: str,
) -> None:
    """Writes the probabilities of a case, in the place of older ones; a kill leaves all of them or none.

    Args:
        folder: to make.
        logits: float32 ``(outputs, *spatial)`` on the configuration's grid.
        record: of the case.
        configuration: how to resample.
        labels: what the outputs mean; regions are independent of each other, labels sum up to 1.
        weights: SHA-256 of the weights that predicted.
    """
    _keep(folder, levels_of(logits, record, configuration, labels), record, labels, weights)


def keep_mean(folder: Path, members: Sequence[Probabilities], labels: Labels, weights: str) -> None:
    """Writes the mean of several probabilities of a case as ``keep_probabilities`` does, read slice by slice.

    Args:
        folder: to make.
        members: on the same box.
        labels: what the outputs mean.
        weights: digest of the weights that predicted.
    """
    record = members[0].record

    def mean(output: int) -> np.ndarray:
        result = np.empty(record.crop_shape, np.uint16)
        for box in parts_of_box(record.crop_shape, 2**20):
            total = sum(each.levels(output, box).astype(np.uint32) for each in members)
            result[box] = (2 * total + len(members) - 1) // (2 * len(members))  # half-way goes down
        return result

    _keep(folder, map(mean, range(labels.output_count)), record, labels, weights)


def _keep(folder: Path, channels: Iterator[np.ndarray], record: PreprocessRecord, labels: Labels, weights: str) -> None:
    shape = (labels.output_count, *record.crop_shape)
    names = tuple(label.name for label in labels.foreground)
    names = names if labels.has_regions else (BACKGROUND, *names)
    shutil.rmtree(folder, ignore_errors=True)
    with written_folder(folder) as beside:
        if can_compress():
            stored = write_chunks(beside / "levels.chunks", _InTurn(channels, shape), _chunk(shape))
        else:
            stored = _write_npy(beside / "levels.npy", channels, shape)
        document = _Document(record=record, weights=weights, levels=stored, names=names)
        document = sealed(document)
        write_document(beside / "record.json", document)


def levels_of(
    logits: np.ndarray, record: PreprocessRecord, configuration: Configuration, labels: Labels
) -> Iterator[np.ndarray]:
    """Levels uint16 ``(*box)`` of one output after the other, of softmax over labels or of the sigmoid of each region.

    Logits are resampled to the case's own grid first, as for a label map. For softmax that is done twice: once for the sum
    over all outputs, and again for each, so that never more than one output is held at the size of the case.
    """
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)

    def resampled() -> Iterator[np.ndarray]:
        for channel in logits:
            yield resampler.logits(channel[None], record.crop_shape, record.target_spacing, record.spacing)[0]

    if labels.has_regions:
        for values in resampled():
            yield _levels(values, lambda part, rows: 1 / (1 + np.exp(-part)))
        return
    largest, total = _largest_and_sum(resampled(), record.crop_shape)
    for values in resampled():
        yield _levels(values, lambda part, rows: np.exp(part - largest[rows]) / total[rows])


def _largest_and_sum(channels: Iterator[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Per voxel the largest logit, and the sum of all exponentials relative to that."""
    largest, total = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.float32)
    for values in channels:

        def work(rows: slice, values: np.ndarray = values) -> None:
            higher = np.maximum(largest[rows], values[rows])
            total[rows] *= np.exp(largest[rows] - higher)
            total[rows] += np.exp(values[rows] - higher)
            largest[rows] = higher

        in_threads(work, slice_groups(shape), total.size)
    return largest, total


def _levels(values: np.ndarray, probability: Callable[[np.ndarray, slice], np.ndarray]) -> np.ndarray:
    result = np.empty(values.shape, np.uint16)

    def work(rows: slice) -> None:
        with np.errstate(over="ignore"):  # the exponential of a very unlikely region is infinite, its probability 0
            result[rows] = np.ceil(probability(values[rows], rows) * np.float32(LEVELS) - np.float32(0.5))

    in_threads(work, slice_groups(values.shape), result.size)
    return result


def _chunk(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Edges of the compressed pieces: whole slices as far as they are small, so that an ensemble is made slice by slice."""
    _, slices, rows, columns = shape
    columns = min(columns, VOXELS_IN_CHUNK)
    rows = min(rows, max(1, VOXELS_IN_CHUNK // columns))
    return (1, min(slices, max(1, VOXELS_IN_CHUNK // (rows * columns))), rows, columns)


def _write_npy(path: Path, channels: Iterator[np.ndarray], shape: Sequence[int]) -> StoredArray:
    array = np.lib.format.open_memmap(path, "w+", np.uint16, tuple(shape))
    for place, channel in enumerate(channels):
        array[place] = channel
    array.flush()
    return StoredArray(
        file=path.name,
        bytes=path.stat().st_size,
        checksum=checksum_of(path),
        shape=tuple(shape),
        dtype="uint16",
    )


class _InTurn:
    """Channels that are made one after the other, as an array of which each is read while it is the newest.

    Args:
        channels: in order.
        shape: of all of them together.
    """

    dtype = np.dtype(np.uint16)

    def __init__(self, channels: Iterator[np.ndarray], shape: Sequence[int]) -> None:
        self._channels, self.shape, self.ndim = channels, tuple(shape), len(shape)
        self._number, self._newest = -1, np.empty(0, np.uint16)

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        while self._number < box[0].start:
            self._number, self._newest = self._number + 1, next(self._channels)
        return self._newest[box[1:]][None]

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        raise TypeError("these channels are made one after the other")


def parts_of_box(shape: Sequence[int], voxels: int) -> Iterator[tuple[slice, slice, slice]]:
    """Parts of a box ``(slices, rows, columns)`` of about so many voxels, cut where the compressed pieces are cut."""
    _, thick, high, _ = _chunk((1, *shape))
    slices, rows, columns = shape
    tall = min(rows, max(high, voxels // columns // high * high)) if rows * columns > voxels else rows
    thick = max(thick, voxels // (tall * columns) // thick * thick)
    for first in range(0, slices, thick):
        for row in range(0, rows, tall):
            yield slice(first, min(first + thick, slices)), slice(row, min(row + tall, rows)), slice(0, columns)

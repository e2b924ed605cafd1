"""Converting one case: each channel a file, labels with consecutive integers, each file whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import InputError
from autoseg.files import content_hash, replacing
from autoseg.io.case_work import READER_COPIES, SLACK
from autoseg.io.cases import grid_conflict, read_labels, undeclared_values
from autoseg.io.colours import as_image, on_grid_of
from autoseg.io.dtypes import smallest_integers
from autoseg.io.formats import format_of, parts_of, read_header
from autoseg.io.headers import Header
from autoseg.values import Case, Dataset, Geometry, Volume, digest
from autoseg.values.json_form import Value

__all__ = ["CaseToConvert", "ConvertCase", "copy_file"]

#: Raise this when equal files are converted otherwise than before.
_VERSION = "1"
#: Bytes per pixel of a picture with a palette: its colours, twice, and the numbers of the colours as indices.
BYTES_PER_COLOUR = 14
#: A label map of 32 bits, its values sorted, and the new integers while they are written.
BYTES_PER_LABEL = 16


class CaseToConvert(Value, frozen=True, kw_only=True):
    """A case and where it goes.

    Attributes:
        case: it.
        paths: its images and, last, its label file if it has one.
        images: folder for its images.
        labels: folder for its label map; None if none is written.
        known: key of the case as it was converted before, if it was.
    """

    case: Case
    paths: tuple[str, ...]
    images: str
    labels: str | None = None
    known: str | None = None

    @classmethod
    def of(cls, case: Case, root: Path | str, images: Path, labels: Path | None = None) -> CaseToConvert:
        """A case of the data set in ``root``."""
        paths = tuple(str(Path(root, name)) for name in (*case.images, *filter(None, [case.label])))
        return cls(case=case, paths=paths, images=str(images), labels=None if labels is None else str(labels))

    @property
    def id(self) -> str:
        """``imagesTr/CASE``."""
        return f"{Path(self.images).name}/{self.case.id}"


class ConvertCase(Value, frozen=True, kw_only=True):
    """Writes the files of a case, unless they were made before from the same; a task for any executor.

    Attributes:
        dataset: its root, channels and labels; cases are not needed.
        ending: of all files that are written.
        integers: of label files: before -> after.
    """

    dataset: Dataset
    ending: str
    integers: dict[int, int]

    @property
    def stage(self) -> str:
        """For messages."""
        return "convert"

    def __call__(self, item: CaseToConvert) -> str:
        """The case's key, once its files are there.

        Raises:
            InputError: the case cannot be converted.
        """
        case, folder = item.case, Path(item.images)
        images = [folder / f"{case.id}_{index:04d}{self.ending}" for index in range(len(self.dataset.channels))]
        label = Path(item.labels, f"{case.id}{self.ending}") if item.labels and case.label else None
        key = self.key(item)
        if key == item.known and all(file.is_file() for file in (*images, *filter(None, [label]))):
            return key
        folder.mkdir(exist_ok=True)
        geometry = self._write_images(case, images)
        if label is not None:
            self._write_label(case, label, geometry)
        return key

    def key(self, item: CaseToConvert) -> str:
        """Digest of the case's files and of how they are written."""
        content = [content_hash(part) for file in item.paths for part in parts_of(Path(file))]
        stated = sorted(f"{before} {after}" for before, after in self.integers.items())
        return digest([_VERSION, self.ending, str(len(self.dataset.channels)), *stated, *content])

    def bytes(self, item: CaseToConvert, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on a case takes: all its images, one of them being read or written; then its label map."""
        count = len(item.case.images)
        images = [header for header in headers[:count] if header is not None]
        labels = [header for header in headers[count:] if header is not None]
        held = [header.bytes * (BYTES_PER_COLOUR if header.palette else 1) for header in images]
        mapped = [READER_COPIES * header.bytes + BYTES_PER_LABEL * header.voxels for header in labels]
        return max(sum(held) + (READER_COPIES - 1) * max(held, default=0), *mapped, 0) + SLACK

    def _write_images(self, case: Case, targets: Sequence[Path]) -> Geometry:
        """One file per channel: copied where the source is such a file, else written; returns the grid."""
        channels: list[tuple[Volume, Path | None]] = []
        for name in case.images:
            path = Path(self.dataset.root, name)
            volume = as_image(format_of(path).read(path))
            plain = len(volume.array) == 1 and not path.is_dir() and name.casefold().endswith(self.ending)
            as_stored = plain and parts_of(path) == (path,) and not read_header(path).palette
            channels += [
                (_one_channel(volume, index), path if as_stored else None) for index in range(len(volume.array))
            ]
        if len(channels) != len(targets):
            raise InputError(
                "wrong number of channels",
                case=case.id,
                found=f"{len(channels)} in {', '.join(case.images)}",
                expected=f"{len(targets)} ({', '.join(self.dataset.channels)})",
            )
        first = channels[0][0].geometry
        for (volume, copied), target in zip(channels, targets, strict=True):
            placed = on_grid_of(volume, first)
            if problem := grid_conflict(first, placed.geometry):
                raise InputError(f"the channels lie on different grids: {problem}", case=case.id, file=copied or target)
            if copied is not None:
                copy_file(copied, target)
            else:
                format_of(target).write(target, placed)
        return first

    def _write_label(self, case: Case, target: Path, geometry: Geometry) -> None:
        """The label map with consecutive integers, copied where they are so already."""
        source = Path(self.dataset.root, str(case.label))
        volume = on_grid_of(read_labels(source, case.id), geometry)
        surplus = undeclared_values(volume.array, self.dataset.labels)
        if surplus:
            raise InputError(
                "the label file holds values that are not declared",
                case=case.id,
                file=source,
                found=", ".join(map(str, surplus[:10])),
                expected=", ".join(map(str, self.dataset.labels.allowed_integers)),
            )
        if problem := grid_conflict(geometry, volume.geometry):
            raise InputError(f"image and label file lie on different grids: {problem}", case=case.id, file=source)
        same = all(before == after for before, after in self.integers.items())
        as_stored = source.name.casefold().endswith(self.ending) and parts_of(source) == (source,)
        if same and as_stored and not volume.palette:
            return copy_file(source, target)
        table = np.zeros(max(self.integers) + 1, np.uint16)
        table[list(self.integers)] = list(self.integers.values())
        array = smallest_integers(table[volume.array])
        format_of(target).write(target, Volume(array=array, geometry=volume.geometry))


def _one_channel(volume: Volume, index: int) -> Volume:
    return Volume(array=volume.array[index : index + 1], geometry=volume.geometry)


def copy_file(source: Path, target: Path) -> None:
    """Byte by byte, atomically; the content of a link, not the link."""
    with replacing(target) as beside:
        shutil.copyfile(source, beside)

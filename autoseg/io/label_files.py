"""How the label maps of predicted images become files: like their images, of one ending, or as DICOM segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoseg.errors import InputError, UnknownNameError
from autoseg.io.case_work import CaseFiles
from autoseg.io.dicom_files import is_dicom
from autoseg.io.dicom_seg import DicomSegmentation, check_source, require_library, segments_of, write_segmentation
from autoseg.io.dicom_source import source_series
from autoseg.io.formats import format_of, is_series, known_endings, label_ending, split_ending
from autoseg.values import Case, Labels, Volume

__all__ = ["DICOM_SEG", "AsDicomSegmentations", "AsFiles", "LabelFiles", "label_files", "label_formats"]

#: The name of the format that is no ending.
DICOM_SEG = "dicom-seg"


class LabelFiles(Protocol):
    """Names and writes the label maps of cases.

    Attributes:
        identity: what the files depend on beside their content; empty for none.
    """

    @property
    def identity(self) -> str:
        """What the files depend on beside the label maps; empty for nothing."""
        ...

    def name(self, case: Case) -> str:
        """The file name of a case's label map."""
        ...

    def check(self, case: Case, root: Path) -> None:
        """Sees to it, before a case is predicted, that its label map can be written.

        Raises:
            InputError: it cannot.
        """
        ...

    def write(self, file: Path, volume: Volume, case: Case, root: Path, hashes: Sequence[str]) -> None:
        """Writes a label map ``(1, z, y, x)``, on the grid of the case's image, atomically.

        Args:
            file: to write.
            volume: the label map.
            case: whose it is.
            root: folder that the paths of its images are relative to.
            hashes: of the images as they were read, see ``CaseFiles.look``.

        Raises:
            InputError: such a file cannot hold it, or refers to images that have changed since.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class AsFiles:
    """Image files that hold integers.

    Attributes:
        ending: of all of them, with its dot; empty for that of each image, or the one that label maps for such images get.
    """

    ending: str = ""
    identity: str = ""

    def name(self, case: Case) -> str:
        """The case's, with the ending."""
        return f"{case.id}{self.ending or label_ending(split_ending(case.images[0])[1])}"

    def check(self, case: Case, root: Path) -> None:
        """Nothing can be wrong before the label map is there."""

    def write(self, file: Path, volume: Volume, case: Case, root: Path, hashes: Sequence[str]) -> None:
        """By the format of the ending."""
        format_of(file).write(file, volume)


@dataclass(frozen=True, kw_only=True)
class AsDicomSegmentations:
    """A DICOM segmentation (SEG) for each case, of the series that is its first image.

    Attributes:
        how: label maps become segmentations.
    """

    how: DicomSegmentation

    @property
    def identity(self) -> str:
        """The format, and what the objects say of the model."""
        return f"{DICOM_SEG}, {self.how.plan}"

    def name(self, case: Case) -> str:
        """The case's, with ``.dcm``."""
        return f"{case.id}.dcm"

    def check(self, case: Case, root: Path) -> None:
        """The case must be a DICOM series that says enough about itself.

        Raises:
            InputError: it is not.
        """
        path = root / case.images[0]
        if not (is_series(path) or (path.is_file() and is_dicom(path))):
            raise InputError(
                f"--format {DICOM_SEG} needs a DICOM series, and this image is none",
                case=case.id,
                file=path,
                remedy="Predict the series itself, or leave out the option.",
            )
        check_source(self.how, path, case.id)

    def write(self, file: Path, volume: Volume, case: Case, root: Path, hashes: Sequence[str]) -> None:
        """Beside the case's series in the archive, not on the disk: it refers to it.

        Raises:
            InputError: the files are not those that were predicted. They may be of somebody else on the same grid.
        """
        path = root / case.images[0]
        series = source_series(path, case.id)
        if CaseFiles.of(case, root).look()[0] != list(
            hashes
        ):  # after reading, so that what was read is what is compared
            raise InputError(
                "the files of the DICOM series have changed while it was predicted",
                case=case.id,
                file=path,
                remedy="Repeat the command when nothing is written there any more.",
            )
        write_segmentation(file, volume, series, self.how, case.id)


def label_formats() -> tuple[str, ...]:
    """What label maps can be written as: ``dicom-seg``, and the endings of files that can hold them, without dot."""
    endings = [ending for ending in known_endings() if label_ending(ending) == ending]
    return (DICOM_SEG, *sorted(ending.removeprefix(".") for ending in endings))


def label_files(name: str | None, labels: Labels, *, plan: str = "", weights: str = "") -> LabelFiles:
    """How label maps are written.

    Args:
        name: one of ``label_formats``; None for files like the images.
        labels: what the integers mean.
        plan: name of the plan of the model that predicts.
        weights: digest of its weights.

    Raises:
        UnknownNameError: there is no such format.
        MissingPartError: it needs a package that is not installed.
    """
    if name is None:
        return AsFiles()
    wanted = name.lower().removeprefix(".")
    if wanted == DICOM_SEG:
        require_library()
        return AsDicomSegmentations(how=DicomSegmentation(segments=segments_of(labels), plan=plan, weights=weights))
    if wanted not in label_formats():
        raise UnknownNameError(
            f"there is no format {name!r} for label maps", expected=f"one of {', '.join(label_formats())}"
        )
    return AsFiles(ending=f".{wanted}")

"""Reading a case: its channels into one volume, its label map, and all that is wrong with either, at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import InputError
from autoseg.io.checks import (
    channel_count_finding,
    grid_findings,
    image_findings,
    label_findings,
    outside_findings,
    swapped_finding,
    undeclared_values,
)
from autoseg.io.colours import as_image, as_labels, on_grid_of
from autoseg.io.formats import format_of
from autoseg.io.grids import grid_conflict
from autoseg.scratch import contiguous
from autoseg.values import Case, Dataset, Finding, Volume

__all__ = ["check_case", "grid_conflict", "image_of", "read_image", "read_labels", "undeclared_values"]

#: Values that are this near to integers were integers before some program computed with them.
NEARLY = 1e-3


def read_image(case: Case, root: Path | str, channels: Sequence[str]) -> Volume:
    """All channels of a case as one float32 volume ``(channels, z, y, x)``.

    Args:
        case: with one file per channel, or one file that holds all.
        root: folder that the paths are relative to.
        channels: their names, as planned.

    Raises:
        InputError: unreadable, the wrong number of channels, channels on different grids, or NaN.
    """
    return _usable(*_image(case, root, channels))


def image_of(volumes: Sequence[Volume], channels: Sequence[str], case: str, names: Sequence[str]) -> Volume:
    """As ``read_image``, of volumes that are read already.

    Args:
        volumes: each with one channel or more.
        channels: as many names as there are in all of them.
        case: its id.
        names: of the volumes, for messages.

    Raises:
        InputError: the wrong number of channels, channels on different grids, or NaN.
    """
    return _usable(*_joined([as_image(volume) for volume in volumes], channels, case, names))


def read_labels(file: Path, case: str) -> Volume:
    """A label map as int32 volume ``(1, z, y, x)``.

    Raises:
        InputError: unreadable, more than one channel, or values that are no integers.
    """
    return _usable(*_labels(file, str(file), case))


def check_case(dataset: Dataset, case: Case) -> tuple[Volume | None, Volume | None, list[Finding]]:
    """Reads a case and collects everything that is wrong with it, instead of stopping at the first.

    Returns:
        Image and label map, None where unreadable, and the findings.
    """
    image, findings = _image(case, dataset.root, dataset.channels)
    if case.label is None:
        return image, None, findings
    labels, about_labels = _labels(Path(dataset.root, case.label), case.label, case.id)
    if labels is not None and image is not None:
        labels = on_grid_of(labels, image.geometry)
    if labels is not None:
        about_labels.extend(label_findings(labels.array, dataset.labels, case.id, case.label))
    errors = [finding for finding in about_labels if finding.severity == "error"]
    if image is not None and errors:
        swapped = swapped_finding(image, dataset.labels, errors[0].found or "no labels", case.id, case.label)
        if swapped is not None:
            findings, about_labels = [swapped], []
    if image is not None and labels is not None:
        about_labels.extend(grid_findings(image.geometry, labels.geometry, "the label file", case.id, case.label))
        if image.geometry.shape == labels.geometry.shape:
            about_labels.extend(outside_findings(image, labels.array[0], case.id, case.label))
    return image, labels, [*findings, *about_labels]


def _usable(volume: Volume | None, findings: Sequence[Finding]) -> Volume:
    """The volume, if nothing about it is an error."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors or volume is None:
        raise _error_of(errors[0])
    return volume


def _image(case: Case, root: Path | str, channels: Sequence[str]) -> tuple[Volume | None, list[Finding]]:
    """The image, None if there is none to look at, and what is wrong with it."""
    findings: list[Finding] = []
    volumes = []
    for file in case.images:
        try:
            volumes.append(as_image(format_of(Path(root, file)).read(Path(root, file))))
        except InputError as error:
            findings.append(_finding_of(error, case.id, file))
    if len(volumes) < len(case.images):
        return None, findings
    image, about_channels = _joined(volumes, channels, case.id, case.images)
    return image, [*findings, *about_channels]


def _joined(
    volumes: Sequence[Volume], channels: Sequence[str], case: str, names: Sequence[str]
) -> tuple[Volume | None, list[Finding]]:
    """The image of all channels, None if they do not fit together, and what is wrong with it."""
    first, findings = volumes[0].geometry, list[Finding]()
    volumes = [volumes[0], *(on_grid_of(volume, first) for volume in volumes[1:])]
    for name, volume in zip(names[1:], volumes[1:], strict=True):
        findings.extend(grid_findings(first, volume.geometry, "a channel", case, name))
    if any(volume.geometry.shape != first.shape for volume in volumes):
        return None, findings
    array = np.concatenate([volume.array for volume in volumes]) if len(volumes) > 1 else volumes[0].array
    if len(array) != len(channels):
        return None, [*findings, channel_count_finding(len(array), array.dtype, channels, case, names)]
    with np.errstate(over="ignore"):  # what becomes infinite is found
        image = Volume(array=contiguous(array, np.float32), geometry=first)
    findings.extend(image_findings(image, channels, case, names))
    return image, findings


def _labels(path: Path, file: str, case: str) -> tuple[Volume | None, list[Finding]]:
    """The label map as int32, rounded if need be, None if there is none to look at, and what is wrong with it."""
    try:
        volume = as_labels(format_of(path).read(path))
    except InputError as error:
        return None, [_finding_of(error, case, file)]
    if len(volume.array) != 1:
        several = Finding(
            severity="error",
            what="a label file must have one channel",
            case=case,
            file=file,
            found=str(len(volume.array)),
            expected="1",
            remedy="Save it as one grey or integer channel; a colour picture holds colours, not labels.",
        )
        return None, [several]
    integers, findings = _as_integers(volume.array, file, case)
    return None if integers is None else dataclasses.replace(volume, array=integers), findings


def _as_integers(array: np.ndarray, file: str, case: str) -> tuple[np.ndarray | None, list[Finding]]:
    def not_integers(found: str, remedy: str, fix: str | None = None) -> Finding:
        return Finding(
            severity="error",
            what="a label file must hold integers",
            case=case,
            file=file,
            found=found,
            expected="the declared integers",
            remedy=remedy,
            fix=fix,
        )

    low, high = array.min(), array.max()  # NaN, if there is any
    if not (np.isfinite(low) and np.isfinite(high)):
        return None, [not_integers("NaN or infinite values", "Save the label map anew, with integers.")]
    limits = np.iinfo(np.int32)
    if low < limits.min or high > limits.max:
        return None, [not_integers(f"values from {low:g} to {high:g}", "Save the label map anew, with its integers.")]
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.int32), []
    integers = np.rint(array).astype(np.int32)
    apart = float(np.abs(array - integers).max())
    if apart == 0:
        floats = Finding(
            severity="note",
            what="the label file holds floating-point numbers; they are integers, and are read as such",
            case=case,
            file=file,
            found=str(array.dtype),
            remedy="Nothing is to be done; saved as integers, the file would be smaller.",
        )
        return integers, [floats]
    if apart <= NEARLY:
        remedy = "They are nearly integers, as after some computation: round them."
        return integers, [not_integers(f"fractions, at most {apart:.2g} from integers", remedy, "round")]
    return None, [not_integers("fractions", "Save the label map without interpolation.")]


def _finding_of(error: InputError, case: str, file: str) -> Finding:
    return Finding(
        severity="error",
        what=error.what,
        case=case,
        file=file,
        found=None if error.found is None else str(error.found),
        expected=None if error.expected is None else str(error.expected),
        remedy=error.remedy or "Restore or remove the file.",
    )


def _error_of(finding: Finding) -> InputError:
    return InputError(
        finding.what,
        case=finding.case,
        file=finding.file,
        found=finding.found,
        expected=finding.expected,
        remedy=finding.remedy,
    )

"""Reading a case: its channels into one volume, its label map, and the checks that both must pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import InputError
from autoseg.io.colours import as_image, as_labels, on_grid_of
from autoseg.io.formats import format_of
from autoseg.values import Case, Dataset, Finding, Geometry, Labels, Volume

__all__ = ["check_case", "grid_conflict", "read_image", "read_labels", "undeclared_values"]

#: Grids that differ by less are the same grid, written by different programs.
NOISE_VOXELS = 1e-3
#: Above these, image and label show different places.
CONFLICT_VOXELS, CONFLICT_DEGREES = 0.5, 1.0


def read_image(case: Case, root: Path | str, channels: Sequence[str]) -> Volume:
    """All channels of a case as one float32 volume ``(channels, z, y, x)``.

    Args:
        case: with one file per channel, or one file that holds all.
        root: folder that the paths are relative to.
        channels: their names, as planned.

    Raises:
        InputError: unreadable, the wrong number of channels, channels on different grids, or NaN.
    """
    files = [Path(root, file) for file in case.images]
    volumes = [as_image(format_of(file).read(file)) for file in files]
    first = volumes[0]
    volumes[1:] = [on_grid_of(volume, first.geometry) for volume in volumes[1:]]
    for file, volume in zip(case.images[1:], volumes[1:], strict=True):
        problem = grid_conflict(first.geometry, volume.geometry)
        if problem:
            raise InputError(
                f"the channels lie on different grids: {problem}",
                case=case.id,
                file=file,
                remedy="Resample them onto one grid first.",
            )
    array = np.concatenate([volume.array for volume in volumes]) if len(volumes) > 1 else first.array
    if len(array) != len(channels):
        raise InputError(
            "wrong number of channels",
            case=case.id,
            found=f"{len(array)} in {', '.join(case.images)}",
            expected=f"{len(channels)} ({', '.join(channels)})",
            remedy="Give one file per channel (CASE_0000, CASE_0001, …), or one file that holds all of them.",
        )
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(
            "the image holds NaN or infinite values",
            case=case.id,
            found=f"{int((~np.isfinite(array)).sum())} of {array.size} voxels",
            expected="finite numbers",
            remedy="Replace them, with the background's value for example, or remove the case.",
        )
    return Volume(array=array, geometry=first.geometry)


def read_labels(file: Path, case: str) -> Volume:
    """A label map as int32 volume ``(1, z, y, x)``.

    Raises:
        InputError: unreadable, more than one channel, or values that are no integers.
    """
    volume = as_labels(format_of(file).read(file))
    if len(volume.array) != 1:
        raise InputError(
            "a label file must have one channel",
            case=case,
            file=file,
            found=len(volume.array),
            remedy="Save it as one grey or integer channel; a colour picture holds colours, not labels.",
        )
    array = volume.array.astype(np.int32, casting="unsafe") if np.isfinite(volume.array).all() else None
    if array is None or not np.array_equal(array, volume.array):
        raise InputError(
            "a label file must hold integers",
            case=case,
            file=file,
            found="NaN or infinite values" if array is None else "fractions",
            remedy="Save the label map without interpolation.",
        )
    return dataclasses.replace(volume, array=array)


def check_case(dataset: Dataset, case: Case) -> tuple[Volume | None, Volume | None, list[Finding]]:
    """Reads a case and collects everything that is wrong with it, instead of stopping at the first.

    Returns:
        Image and label map, None where unreadable, and the findings.
    """
    findings: list[Finding] = []
    image = labels = None
    try:
        image = read_image(case, dataset.root, dataset.channels)
    except InputError as error:
        findings.append(_finding_of(error, case))
    try:
        if case.label is not None:
            labels = read_labels(Path(dataset.root, case.label), case.id)
    except InputError as error:
        findings.append(_finding_of(error, case))
    if labels is not None and image is not None:
        labels = on_grid_of(labels, image.geometry)
    if labels is not None:
        findings.extend(_check_values(labels, dataset.labels, case))
        if image is not None:
            findings.extend(_check_grids(image.geometry, labels.geometry, case))
    return image, labels, findings


def _finding_of(error: InputError, case: Case) -> Finding:
    return Finding(
        severity="error",
        what=error.what,
        case=case.id,
        file=None if error.file is None else str(error.file),
        found=None if error.found is None else str(error.found),
        expected=None if error.expected is None else str(error.expected),
        remedy=error.remedy,
    )


def _check_values(labels: Volume, declared: Labels, case: Case) -> Iterator[Finding]:
    surplus = undeclared_values(labels.array, declared)
    if surplus:
        yield Finding(
            severity="error",
            what="the label file holds values that dataset.json does not declare",
            case=case.id,
            file=case.label,
            found=", ".join(map(str, surplus[:10])) + (" …" if len(surplus) > 10 else ""),
            expected=", ".join(map(str, declared.allowed_integers)),
            remedy="Declare them in dataset.json, or correct the label file.",
        )
    elif not labels.array.any():
        yield Finding(severity="note", what="the label file holds background only", case=case.id, file=case.label)


def undeclared_values(labels: np.ndarray, declared: Labels) -> list[int]:
    """The integers of a label map that are not declared, sorted."""
    return sorted({int(value) for value in np.unique(labels)}.difference(declared.allowed_integers))


def _check_grids(image: Geometry, labels: Geometry, case: Case) -> Iterator[Finding]:
    problem = grid_conflict(image, labels)
    if problem:
        yield Finding(
            severity="error",
            what=f"image and label file lie on different grids: {problem}",
            case=case.id,
            file=case.label,
            remedy="Resample the label onto the image's grid (nearest neighbour), or pair the right files.",
        )
    elif image.displacement_from(labels) > NOISE_VOXELS:
        yield Finding(
            severity="warning",
            what="image and label file are slightly displaced; voxels are paired by index",
            case=case.id,
            file=case.label,
            found=f"{image.displacement_from(labels):.3g} voxels",
        )


def grid_conflict(one: Geometry, other: Geometry) -> str | None:
    """How two grids that should be equal differ, or None."""
    if one.shape != other.shape:
        return f"shape {one.shape} and {other.shape} (z, y, x)"
    if any(abs(a - b) > 1e-3 * max(a, b) for a, b in zip(one.spacing, other.spacing, strict=True)):
        return f"spacing {_rounded(one.spacing)} and {_rounded(other.spacing)} mm (z, y, x)"
    if one.angle_from(other) > CONFLICT_DEGREES:
        return f"directions differ by {one.angle_from(other):.1f} degrees"
    if one.displacement_from(other) > CONFLICT_VOXELS:
        return f"they are {one.displacement_from(other):.1f} voxels apart"
    return None


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)

"""What is looked for in one case: each check is a function of arrays and grids that yields findings with a remedy.

Checks are cheap, a pass or two over an array: extremes instead of sorted values, a table of integers instead of a search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from autoseg.io.grids import covers_the_same_space, grid_conflict, is_noise, reordering
from autoseg.values import Finding, Geometry, Labels, Volume

__all__ = [
    "LARGEST_SPACING",
    "MASK_VALUE",
    "channel_count_finding",
    "grid_findings",
    "image_findings",
    "label_findings",
    "outside_findings",
    "present_integers",
    "swapped_finding",
    "undeclared_values",
]

#: Millimetres between voxels beyond which a header probably tells another unit.
LARGEST_SPACING = 100.0
#: What programs that know no number of their own write for "here".
MASK_VALUE = 255
#: Integers up to this are found by a table, which is quicker than sorting.
LARGEST_TABLE = 2**16


def image_findings(image: Volume, channels: Sequence[str], case: str, files: Sequence[str]) -> Iterator[Finding]:
    """Values that cannot be trained on, channels without content, and sizes and spacings that hardly are meant so.

    Args:
        image: float32 ``(channels, *spatial)``.
        channels: their names, as many.
        case: its id.
        files: of the channels, or the one file of all.
    """
    low, high = image.array.min(axis=(1, 2, 3)), image.array.max(axis=(1, 2, 3))  # NaN, if there is any
    bad = [index for index in range(len(low)) if not (np.isfinite(low[index]) and np.isfinite(high[index]))]
    if bad:
        broken = ~np.isfinite(image.array)
        yield Finding(
            severity="error",
            what="the image holds NaN or infinite values",
            case=case,
            file=_file(files, bad[0]),
            found=f"{int(broken.sum())} of {broken.size} voxels",
            expected="finite numbers",
            remedy="Replace them, with the background's value for example, or remove the case.",
        )
    for index in map(int, np.flatnonzero(low == high)):
        yield Finding(
            severity="warning",
            what="the image is constant: nothing can be seen in it",
            case=case,
            file=_file(files, index),
            found=f"{low[index]:g} everywhere in channel {channels[index]}",
            remedy="Look at the file; restore it, or remove the case.",
        )
    yield from _size_findings(image.geometry, case, files[0])


def _size_findings(geometry: Geometry, case: str, file: str) -> Iterator[Finding]:
    if geometry.planar:
        return
    single = sum(size == 1 for size in geometry.shape)
    if single:
        yield Finding(
            severity="note" if single == 1 else "warning",
            what="the image is one voxel thick" if single == 1 else "the image is a line of voxels, or a single one",
            case=case,
            file=file,
            found=f"shape {geometry.shape} (z, y, x)",
            remedy="Nothing is to be done if it is a single slice." if single == 1 else "Look at the file.",
        )
    if max(geometry.spacing) > LARGEST_SPACING:
        yield Finding(
            severity="warning",
            what="voxels are implausibly far apart: the header may tell another unit than millimetres",
            case=case,
            file=file,
            found=f"spacing {_short(geometry.spacing)} mm (z, y, x)",
            expected=f"at most {LARGEST_SPACING:g} mm",
            remedy="Correct the spacing in the headers of image and label file.",
        )


def channel_count_finding(
    found: int, file_type: np.dtype, channels: Sequence[str], case: str, files: Sequence[str]
) -> Finding:
    """The error of an image with another number of channels than is declared."""
    colours = len(files) == 1 and file_type == np.uint8 and found in (3, 4)
    several = "Give one file per channel (CASE_0000, CASE_0001, …), or one file that holds all of them."
    if colours:
        several = "It is a colour picture: save it as grey, or declare the channels red, green, blue" + (
            ", and leave out its transparency." if found == 4 else "."
        )
    elif len(files) == 1 and len(channels) == 1:
        several = "It holds several volumes (a 4D file?): give the one to learn from, or declare each as a channel."
    return Finding(
        severity="error",
        what="wrong number of channels",
        case=case,
        file=files[0] if len(files) == 1 else None,
        found=f"{found} in {', '.join(files)}",
        expected=f"{len(channels)} ({', '.join(channels)})",
        remedy=several,
    )


def grid_findings(image: Geometry, other: Geometry, what: str, case: str, file: str) -> Iterator[Finding]:
    """How the grid of a label file or of a further channel differs from the image's.

    Args:
        image: grid of the first channel.
        other: the grid that should equal it.
        what: "the label file" or "a channel".
        case: its id.
        file: of the other grid.
    """
    problem = grid_conflict(image, other)
    if problem is None:
        if not is_noise(image, other):
            yield Finding(
                severity="warning",
                what=f"the grid of {what} is slightly displaced from the image's; voxels are paired by index",
                case=case,
                file=file,
                found=f"{image.displacement_from(other):.2g} voxels, {image.angle_from(other):.2g} degrees",
                remedy="Nothing is to be done if they belong together; from half a voxel or one degree on it is an error.",
            )
        return
    axes, same_space, is_label = reordering(image, other), covers_the_same_space(image, other), what == "the label file"
    remedy, fix = "Correct the header that is wrong, or pair the right files.", None
    if axes is not None:
        remedy, fix = "Its axes are stored in another order, at the same place: reorder them.", "reorder"
    elif same_space:
        remedy, fix = "It covers the same space with other voxels: resample it onto the image's grid.", "resample"
    yield Finding(
        severity="error",
        what=f"{what} lies on another grid than the image" if is_label else "the channels lie on different grids",
        case=case,
        file=file,
        found=problem,
        expected="the same grid, to half a voxel and one degree",
        remedy=remedy if is_label or axes is not None or same_space else "Resample them onto one grid first.",
        fix=fix if is_label else None,
    )


def label_findings(labels: np.ndarray, declared: Labels, case: str, file: str) -> Iterator[Finding]:
    """Integers that are not declared, and an empty map.

    Args:
        labels: int32.
        declared: what may occur.
        case: its id.
        file: of the label map.
    """
    present = present_integers(labels)
    surplus = sorted(set(present).difference(declared.allowed_integers))
    if surplus:
        is_mask = set(present) <= {0, MASK_VALUE} and len(declared.allowed_integers) == 2
        label = declared.integers[-1]
        yield Finding(
            severity="error",
            what="the label file holds values that the data set does not declare",
            case=case,
            file=file,
            found=", ".join(map(str, surplus[:10])) + (" …" if len(surplus) > 10 else ""),
            expected=", ".join(map(str, declared.allowed_integers)),
            remedy=f"It is a mask of 0 and {MASK_VALUE}: write {label} for {MASK_VALUE}."
            if is_mask
            else "Declare them in dataset.json, or correct the label file.",
            fix="relabel" if is_mask else None,
        )
    elif present == [0]:
        yield Finding(
            severity="note",
            what="the label file holds background only",
            case=case,
            file=file,
            remedy="Nothing is to be done if there is nothing of the labels in the image.",
        )


def outside_findings(image: Volume, labels: np.ndarray, case: str, file: str) -> Iterator[Finding]:
    """A warning if all foreground lies where the image is zero in every channel.

    Args:
        image: ``(channels, *spatial)``.
        labels: ``(*spatial)``.
        case: its id.
        file: of the label map.
    """
    places = np.flatnonzero(labels)
    if places.size and not any(channel.reshape(-1)[places].any() for channel in image.array):
        yield Finding(
            severity="warning",
            what="the label map marks only voxels where the image is zero",
            case=case,
            file=file,
            found=f"{places.size} voxels",
            remedy="Look at both files: do they belong together?",
        )


def swapped_finding(image: Volume, declared: Labels, found: str, case: str, file: str) -> Finding | None:
    """The error of image and label file that have changed places, if the image's voxels are labels and nothing else.

    Args:
        image: of one channel; for several there is no exchange.
        declared: what label maps may hold.
        found: what the label file holds instead of labels.
        case: its id.
        file: of the label map.
    """
    if len(image.array) != 1 or image.array.min() < 0 or image.array.max() > max(declared.allowed_integers):
        return None
    integers = image.array.astype(np.int32)
    present = present_integers(integers)
    if not np.array_equal(integers, image.array) or present == [0] or undeclared_values(integers, declared):
        return None
    return Finding(
        severity="error",
        what="image and label file seem to have changed places",
        case=case,
        file=file,
        found=f"the image holds only {', '.join(map(str, present))}, the label file {found}",
        remedy="Exchange the two files.",
        fix="swap",
    )


def present_integers(labels: np.ndarray) -> list[int]:
    """The integers of a label map, sorted."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= LARGEST_TABLE:
        return [int(value) for value in np.unique(labels)]
    seen = np.zeros(high + 1, bool)
    seen[labels.reshape(-1)] = True
    return [int(value) for value in np.flatnonzero(seen)]


def undeclared_values(labels: np.ndarray, declared: Labels) -> list[int]:
    """The integers of a label map that are not declared, sorted."""
    return sorted(set(present_integers(labels)).difference(declared.allowed_integers))


def _file(files: Sequence[str], channel: int) -> str:
    return files[channel] if channel < len(files) else files[0]


def _short(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"

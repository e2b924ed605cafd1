"""Images that a program hands over: arrays, images of SimpleITK or nibabel, files; all become volumes as files do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import InputError
from autoseg.io.cases import image_of
from autoseg.io.formats import format_of
from autoseg.values import Geometry, Volume

__all__ = ["handed_image"]

#: NIfTI's codes of units of length; nibabel tells their names.
UNITS = {"meter": 1, "mm": 2, "micron": 3}


def handed_image(image: Any, spacing: Sequence[float] | None, channels: Sequence[str], name: str) -> Volume:
    """All channels as one float32 volume ``(channels, z, y, x)``.

    Args:
        image: one of these, or a list or tuple of them, one for each channel or more channels each: a path of an image file
            or of a folder with a DICOM series; a SimpleITK image; a nibabel image; a Volume; an array ``(y, x)``,
            ``(z, y, x)`` or ``(channels, z, y, x)``, taken to run to posterior (y), left (x) and superior (z).
        spacing: millimetres between voxels of arrays, in the order of their axes, without channels; None where there
            are none.
        channels: their names, as planned.
        name: of the image, for messages.

    Raises:
        InputError: unreadable, of unknown kind, without its spacing, the wrong number of channels, channels on different
            grids, or NaN.
    """
    parts = list(image) if isinstance(image, list | tuple) else [image]
    if not parts:
        raise InputError("there is no image", case=name, expected=f"{len(channels)} ({', '.join(channels)})")
    if spacing is not None and not any(isinstance(part, np.ndarray) for part in parts):
        raise InputError(
            "a spacing is given, and the image has its own",
            case=name,
            found=tuple(spacing),
            remedy="Leave spacing out; it is for arrays.",
        )
    volumes = [_volume(part, spacing, name) for part in parts]
    return image_of(volumes, channels, name, [_kind(part) for part in parts])


def _kind(part: Any) -> str:
    return str(part) if isinstance(part, str | Path) else f"{type(part).__module__}.{type(part).__name__}"


def _volume(part: Any, spacing: Sequence[float] | None, name: str) -> Volume:
    if isinstance(part, Volume):
        return part
    if isinstance(part, str | Path):
        return format_of(Path(part)).read(Path(part))
    home = type(part).__module__.split(".")[0]
    try:
        if isinstance(part, np.ndarray):
            return _of_array(part, spacing)
        if home == "SimpleITK":
            from autoseg.io.simpleitk_format import itk_volume

            return itk_volume(part)
        if hasattr(part, "dataobj") and hasattr(part, "affine"):
            return _of_nibabel(part)
    except (ValueError, TypeError) as error:
        raise InputError(str(error), case=name, found=_kind(part)) from error
    raise InputError(
        "an image of a kind that is not known",
        case=name,
        found=_kind(part),
        expected="a path, an array with its spacing, an image of SimpleITK or nibabel, or a list with one for each channel",
    )


def _of_array(array: np.ndarray, spacing: Sequence[float] | None) -> Volume:
    """A planar volume of two axes, else one of three, with channels before them if there are four."""
    if array.ndim not in (2, 3, 4):
        raise ValueError(
            f"an array with {array.ndim} axes is not supported; (y, x), (z, y, x) or (channels, z, y, x) are"
        )
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating) or array.dtype == bool):
        raise ValueError(f"voxels of type {array.dtype} are not supported; real numbers are")
    axes = min(array.ndim, 3)
    if spacing is None or len(spacing) != axes:
        given = "none is given" if spacing is None else f"{len(spacing)} are given"
        raise ValueError(f"an array needs its spacing, {axes} millimetres in the order of its axes; {given}")
    steps = [float(step) for step in spacing]
    planar = array.ndim == 2
    first, second, third = [max(steps), *steps] if planar else steps
    array = array[None, None] if planar else array[None] if array.ndim == 3 else array
    shape = (int(array.shape[1]), int(array.shape[2]), int(array.shape[3]))
    return Volume(array=array, geometry=Geometry(shape=shape, spacing=(first, second, third), planar=planar))


def _of_nibabel(image: Any) -> Volume:
    from autoseg.io.nifti_affine import affine_geometry, array_shape

    if image.affine is None:
        raise ValueError("the image has no affine, so its place is not known")
    shape = array_shape(image.shape)
    units = 2
    if hasattr(image.header, "get_xyzt_units"):
        units = UNITS.get(image.header.get_xyzt_units()[0], 2)
    voxels = np.asanyarray(image.dataobj)
    if not (np.issubdtype(voxels.dtype, np.integer) or np.issubdtype(voxels.dtype, np.floating)):
        raise ValueError(f"voxels of type {voxels.dtype} are not supported; real numbers are")
    geometry = affine_geometry(np.asarray(image.affine, float), shape[1:], units, planar=len(image.shape) == 2)
    return Volume(array=voxels.T.reshape(shape), geometry=geometry)

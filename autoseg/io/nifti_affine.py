"""NIfTI files whose place ITK cannot read, or would read wrong: through nibabel, which keeps the affine as it is.

These are NIfTI-2, axes that are not quite at right angles, and spacings that the affine contradicts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import MissingPartError
from autoseg.io.headers import Header
from autoseg.io.nifti import Placement, RawHeader
from autoseg.values import Geometry, Volume

__all__ = ["affine_geometry", "array_shape", "read_affine", "read_affine_header"]

#: From NIfTI's world (right, anterior, superior) to ours (left, posterior, superior).
TO_LPS = np.diag([-1.0, -1.0, 1.0])
#: Millimetres per unit of length, by NIfTI's code.
MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingPartError(
            "this NIfTI file (NIfTI-2, or axes that ITK does not take) needs nibabel; "
            "install it with: pip install 'autoseg[nibabel]'"
        ) from error
    return nibabel


def read_affine_header(path: Path, raw: RawHeader, placed: Placement) -> Header:
    """What the file holds; voxels are not read.

    Raises:
        MissingPartError: nibabel is not installed.
        ValueError: voxels or axes that are not supported.
    """
    image = _nibabel().load(path)
    shape = array_shape(image.shape)
    return Header(
        channels=shape[0],
        dtype=_dtype(image, raw).name,
        geometry=affine_geometry(image.affine, shape[1:], raw.units, planar=len(image.shape) == 2),
        notes=placed.notes,
    )


def read_affine(path: Path, raw: RawHeader, placed: Placement) -> Volume:
    """The file's voxels, as ``read_affine_header`` says."""
    header = read_affine_header(path, raw, placed)
    image = _nibabel().load(path, mmap=False)  # a mapped file could change under the array
    array = np.asarray(image.dataobj).T.reshape(header.channels, *header.geometry.shape)
    return Volume(array=array.astype(header.dtype, copy=False), geometry=header.geometry)


def affine_geometry(affine: np.ndarray, shape: tuple[int, ...], units: int, *, planar: bool) -> Geometry:
    """The geometry of an affine in NIfTI's world; directions are those of the nearest rotation.

    Args:
        affine: ``(4, 4)``, file order (x, y, z) to right, anterior, superior.
        shape: of the array ``(z, y, x)``.
        units: NIfTI's code of length.
        planar: the file is 2D.
    """
    scaled = TO_LPS @ affine[:3] * MILLIMETRES.get(units, 1.0)
    steps = np.linalg.norm(scaled[:, :3], axis=0)
    left, _, right = np.linalg.svd(scaled[:, :3] / steps)
    columns = (left @ right).T[::-1]  # array order
    directions = [tuple(float(part) for part in column) for column in columns]
    spacing = [float(step) for step in steps[::-1]]
    return Geometry(
        shape=(shape[0], shape[1], shape[2]),
        spacing=(max(spacing[1:]) if planar else spacing[0], spacing[1], spacing[2]),
        origin=(float(scaled[0, 3]), float(scaled[1, 3]), 0.0 if planar else float(scaled[2, 3])),
        directions=(directions[0], directions[1], directions[2]),  # type: ignore[arg-type]
        planar=planar,
    )


def array_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Channels, z, y, x of a file's sizes; vector components (the fifth axis) are channels as the fourth is."""
    sizes = [*shape, *[1] * (5 - len(shape))]
    if len(shape) > 5 or (sizes[3] > 1 and sizes[4] > 1) or len(shape) < 2:
        raise ValueError(f"an image with {len(shape)} dimensions is not supported; 2, 3 or 4 are")
    return (sizes[3] * sizes[4], sizes[2], sizes[1], sizes[0])


def _dtype(image: Any, raw: RawHeader) -> np.dtype[Any]:
    stored = np.dtype(image.get_data_dtype()).newbyteorder("=")
    if not (np.issubdtype(stored, np.integer) or np.issubdtype(stored, np.floating)):
        raise ValueError(f"voxels of type {stored} are not supported; real numbers are")
    slope, inter = raw.scale
    scaled = np.isfinite([slope, inter]).all() and slope != 0 and (slope, inter) != (1.0, 0.0)
    if not scaled:
        return stored
    return np.dtype(np.float32 if stored.itemsize <= 4 and stored != np.int32 else np.float64)

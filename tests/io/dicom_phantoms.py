"""DICOM series for tests, written by SimpleITK slice by slice, as scanners do: one file per slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK

from autoseg.values import Geometry

#: Directions (z, y, x) of the usual ways to scan; in each the slices run along row direction x column direction.
DIRECTIONS = {
    "axial": ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    "sagittal": ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "coronal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0)),
    "oblique": ((0.0, 0.6, 0.8), (0.0, 0.8, -0.6), (1.0, 0.0, 0.0)),
}


def grid(way: str = "axial", shape: tuple[int, int, int] = (6, 8, 10)) -> Geometry:
    """An anisotropic grid away from the origin."""
    return Geometry(shape=shape, spacing=(2.5, 0.75, 0.5), origin=(-12.0, 30.5, 7.25), directions=DIRECTIONS[way])


def noise(geometry: Geometry, seed: int = 0) -> np.ndarray:
    """Integers ``(z, y, x)`` from -1000 to 2000."""
    return np.random.default_rng(seed).integers(-1000, 2000, geometry.shape, dtype=np.int16)


def write_series(
    folder: Path,
    array: np.ndarray,
    geometry: Geometry,
    *,
    series: str = "1.2.3.4",
    title: str = "T1 ax",
    order: Sequence[int] | None = None,
    names: str = "IM{:04d}.dcm",
    shear_mm: float = 0.0,
    tags: dict[str, str] | None = None,
) -> list[Path]:
    """Writes a series; file ``n`` of it is slice ``order[n]``.

    Args:
        folder: to write into.
        array: ``(z, y, x)``.
        geometry: of the whole.
        series: its UID.
        title: its description.
        order: slices in the order in which they are written; those left out are missing.
        names: of the files, by their number.
        shear_mm: by how much each slice is shifted along its rows against the one before.
        tags: further DICOM tags, by their ``group|element``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, index in enumerate(range(len(array)) if order is None else order):
        image = SimpleITK.GetImageFromArray(array[index][None])
        image.SetSpacing(geometry.spacing[::-1])
        row, column = geometry.directions[2], geometry.directions[1]
        at = [
            centre + index * shear_mm * along
            for centre, along in zip(geometry.position((index, 0, 0)), row, strict=True)
        ]
        image.SetOrigin(at)
        image.SetDirection([part for world in zip(row, column, geometry.directions[0], strict=True) for part in world])
        stated = {
            "0008|0060": "MR",
            "0008|103e": title,
            "0008|0018": f"{series}.{index + 1}",
            "0020|000e": series,
            "0020|000d": "1.2.3",
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(f"{value:.6f}" for value in at),
            "0020|0037": "\\".join(f"{value:.8f}" for value in (*row, *column)),
            **(tags or {}),
        }
        for tag, value in stated.items():
            image.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / names.format(number)))
        writer.Execute(image)
        files.append(folder / names.format(number))
    return files


def tilt(degrees: float, geometry: Geometry) -> float:
    """The shift per slice, in millimetres, of a gantry tilted so."""
    return geometry.spacing[0] * math.tan(math.radians(degrees))

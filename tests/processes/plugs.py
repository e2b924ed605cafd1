"""Plugs that take their process along: a normalizer where an image is glaring, a format whose files may be cracked."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autoseg.io.headers import Header
from autoseg.values import Geometry, Volume

#: Values in a file of glass that its reader does not survive: when it reads the header, or the voxels.
CRACKED_HEADER, CRACKED = 98, 99


def fragile(image: np.ndarray, mask: np.ndarray | None, properties: object) -> np.ndarray:
    """Float32, or a crash."""
    if image.max() > 20_000:
        ctypes.string_at(0)
    return image.astype(np.float32)


class GlassFormat:
    """Arrays ``(z, y, x)`` as numpy keeps them, of voxels of 1 mm; some of them crack."""

    endings = (".glass",)
    label_endings: Mapping[str, str] = {}

    def parts(self, path: Path) -> tuple[Path, ...]:
        return (path,)

    def header(self, path: Path) -> Header:
        volume = _glass(path, CRACKED_HEADER)
        return Header(channels=1, dtype=volume.array.dtype.name, geometry=volume.geometry)

    def read(self, path: Path) -> Volume:
        return _glass(path, CRACKED)

    def write(self, path: Path, volume: Volume) -> None:
        with path.open("wb") as file:
            np.save(file, volume.array[0])


def _glass(path: Path, deadly: int) -> Volume:
    with path.open("rb") as file:
        array = np.load(file, allow_pickle=False)
    if (array == deadly).any():
        ctypes.string_at(0)
    return Volume(array=array[None], geometry=Geometry(shape=array.shape, spacing=(1.0, 1.0, 1.0)))

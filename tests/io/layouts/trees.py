"""Small data sets on disk, from a list of names: every file holds a real image or label map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK

__all__ = ["write_dicom", "write_image", "write_label", "write_tree"]

SHAPE = (3, 4, 5)


def write_tree(
    folder: Path, images: Iterable[str] = (), labels: Iterable[str] = (), values: Sequence[int] = (1,)
) -> Path:
    """Writes files of these names, with folders; label maps hold the values."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(images):
        write_image(folder / name, seed=seed)
    for name in labels:
        write_label(folder / name, values)
    return folder


def write_image(path: Path, *, seed: int = 0, channels: int = 1) -> Path:
    """A random image; pictures have one slice, volumes with several channels are 4D."""
    array = np.random.default_rng(seed).integers(0, 200, (channels, *SHAPE)).astype(np.uint8)
    return _write(path, array)


def write_label(path: Path, values: Sequence[int] = (1,)) -> Path:
    """A label map with the values and background."""
    array = np.zeros((1, *SHAPE), np.int16 if max(values) > 255 or min(values) < 0 else np.uint8)
    array.reshape(-1)[1 : 1 + len(values)] = values
    return _write(path, array)


def _write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".png", ".jpg", ".bmp")):
        pixels = array[:, 0]
        image = SimpleITK.GetImageFromArray(np.moveaxis(pixels, 0, -1).squeeze(), isVector=len(pixels) > 1)
    elif len(array) > 1:
        image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(channel) for channel in array])
    else:
        image = SimpleITK.GetImageFromArray(array[0])
    SimpleITK.WriteImage(image, str(path))
    return path


def write_dicom(folder: Path, *, seed: int = 0) -> Path:
    """A series of slices with the tags that readers need."""
    folder.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.int16)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for place, pixels in enumerate(array):
        slice_ = SimpleITK.GetImageFromArray(pixels)
        tags = {
            "0008|0060": "MR",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.{seed}.{place + 1}",
            "0020|000d": f"1.2.826.0.1.3680043.2.1125.{seed}",
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.{seed}.0",
            "0020|0032": f"0\\0\\{place * 2}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(place + 1),
            "0018|0050": "2",
        }
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{place + 1}.dcm"))
        writer.Execute(slice_)
    return folder

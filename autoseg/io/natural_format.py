"""PNG images: planar volumes without physical spacing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from autoseg.errors import InputError, UnreadableFileError
from autoseg.files import replacing
from autoseg.io.dtypes import smallest_integers
from autoseg.io.headers import Header
from autoseg.values import Geometry, Volume

__all__ = ["NaturalFormat"]


class NaturalFormat:
    """Photographs and micrographs: grey or colour pixels, spacing one pixel."""

    endings = (".png",)

    def header(self, path: Path) -> Header:
        """Channels, number type and geometry; pictures are read for it."""
        volume = self.read(path)
        return Header(channels=len(volume.array), dtype=volume.array.dtype.name, geometry=volume.geometry)

    def read(self, path: Path) -> Volume:
        """The pixels as ``(channels, 1, y, x)``; colours are channels."""
        from skimage.io import imread

        if not path.is_file():
            raise UnreadableFileError("there is no such file", file=path)
        try:
            pixels = np.asarray(imread(path))
        except Exception as error:  # the libraries behind raise whatever they like
            raise UnreadableFileError(
                f"cannot read this as an image: {error}", file=path, remedy="Restore or remove the file."
            ) from error
        if pixels.ndim not in (2, 3) or pixels.size == 0:
            raise UnreadableFileError("this is not a single 2D image", file=path, found=f"shape {pixels.shape}")
        channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        array = channels[:, None].astype(np.uint8 if pixels.dtype == bool else pixels.dtype)
        return Volume(array=array, geometry=Geometry(shape=array.shape[1:], spacing=(1.0, 1.0, 1.0), planar=True))

    def write(self, path: Path, volume: Volume) -> None:
        """Writes the label map as grey values, 8 or 16 bits."""
        from skimage.io import imsave

        if volume.array.shape[:2] != (1, 1):
            raise InputError(
                "a picture holds one slice of one channel",
                file=path,
                found=f"shape {volume.array.shape} (channels, slices, rows, columns)",
                remedy="Write a volume as .nii.gz, .nrrd or .mha.",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "low contrast image": label maps are
            imsave(beside, smallest_integers(volume.array[0, 0]), check_contrast=False)

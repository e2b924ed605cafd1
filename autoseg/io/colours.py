"""What the pixels of pictures mean for an image, and for a label map: the same file can be either."""

from __future__ import annotations

import dataclasses

import numpy as np

from autoseg.io.headers import Header
from autoseg.values import Geometry, Volume

__all__ = ["as_image", "as_labels", "image_channels", "on_grid_of"]


def as_image(volume: Volume) -> Volume:
    """The volume with colours in the place of their numbers in a palette: three channels, or one if all colours are grey.

    The numbers are no intensities: neighbouring ones may be any two colours.
    """
    if not volume.palette:
        return volume
    colours = np.array(volume.palette, np.uint8)
    if (colours == colours[:, :1]).all():
        colours = colours[:, :1]
    table = np.zeros((max(len(colours), int(volume.array.max(initial=0)) + 1), colours.shape[1]), np.uint8)
    table[: len(colours)] = colours
    array = np.stack([table[:, channel][volume.array[0]] for channel in range(table.shape[1])])
    return dataclasses.replace(volume, array=array, palette=())


def image_channels(header: Header) -> int:
    """How many channels ``as_image`` gives of a file with that header."""
    if not header.palette:
        return header.channels
    return 1 if all(len(set(colour)) == 1 for colour in header.palette) else 3


def as_labels(volume: Volume) -> Volume:
    """The volume with one channel, if it is grey that was saved as three equal colours."""
    array = volume.array
    if len(array) == 3 and np.array_equal(array[0], array[1]) and np.array_equal(array[0], array[2]):
        return dataclasses.replace(volume, array=array[:1])
    return volume


def on_grid_of(volume: Volume, geometry: Geometry) -> Volume:
    """The volume on another file's grid, if it says nothing about millimetres itself and has as many voxels."""
    if volume.spaced or volume.geometry.shape != geometry.shape:
        return volume
    return dataclasses.replace(volume, geometry=geometry)

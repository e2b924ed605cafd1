"""Phantoms: synthetic scans of organ-like shapes, for the demo and the tests. Nothing is downloaded.

A phantom is drawn in world coordinates and then sampled on a grid of its own: anisotropic, oblique, and stored in any axis
order, as scanners do. So its label map is right only if geometry is handled right everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.files import write_atomically
from autoseg.io.formats import format_of
from autoseg.values import AxisMap, Geometry, Volume
from autoseg.volume.axes import reorder_volume

__all__ = ["ORGANS", "Phantom", "make_phantom", "write_phantom_dataset"]


@dataclass(frozen=True, kw_only=True)
class Organ:
    """An ellipsoid in LPS millimetres relative to the body's centre, with the intensity of its tissue."""

    name: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    intensity: float


#: None of them has a mirror image: two lie on one side, so a swapped side is seen at once.
ORGANS = (
    Organ(name="liver", centre=(-9.0, -2.0, 3.0), radii=(9.0, 10.0, 13.0), intensity=150),
    Organ(name="spleen", centre=(12.0, 5.0, 4.0), radii=(5.5, 6.0, 11.0), intensity=210),
    Organ(name="spine", centre=(1.0, 13.0, 0.0), radii=(5.0, 5.0, 40.0), intensity=300),
)
BODY_RADII, BODY_INTENSITY = (23.0, 21.0, 60.0), 90.0
NOISE, BIAS, TEXTURE = 12.0, 0.15, 8.0


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A scan and its truth, on the same grid in stored axis order."""

    image: Volume
    labels: Volume


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (14, 40, 40),
    spacing: tuple[float, float, float] = (3.0, 1.25, 1.25),
    oblique_degrees: float = 12.0,
    stored: AxisMap | None = None,
) -> Phantom:
    """One phantom.

    Args:
        seed: of its anatomy, noise and orientation.
        shape: voxels along its slices (z, y, x), before the axes are stored in another order.
        spacing: millimetres along the same axes.
        oblique_degrees: largest tilt of the grid about each axis.
        stored: axis order of the file; drawn if None.
    """
    random = np.random.default_rng(seed)
    geometry = _oblique_grid(random, shape, spacing, oblique_degrees)
    points = _positions(geometry)
    labels = np.zeros(shape, np.uint8)
    tissue = np.where(_inside(random, points, (0.0, 0.0, 0.0), BODY_RADII, 0.0), BODY_INTENSITY, 0.0)
    for integer, organ in enumerate(ORGANS, start=1):
        centre = [position + random.uniform(-1.5, 1.5) for position in organ.centre]
        radii = [radius * random.uniform(0.85, 1.15) for radius in organ.radii]
        inside = _inside(random, points, centre, radii, 0.25)
        labels[inside] = integer
        tissue[inside] = organ.intensity * random.uniform(0.9, 1.1)
    image = Volume(array=_scanned(random, tissue)[None], geometry=geometry)
    axes = stored if stored is not None else _any_order(random)
    truth = Volume(array=labels[None], geometry=geometry)
    return Phantom(image=_copied(reorder_volume(image, axes)), labels=_copied(reorder_volume(truth, axes)))


def _oblique_grid(
    random: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float], degrees: float
) -> Geometry:
    """A grid around the body's centre, tilted about every axis."""
    rotation = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(random.uniform(-degrees, degrees))
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        rotation = turn @ rotation
    directions = [tuple(float(part) for part in rotation[:, world]) for world in (2, 1, 0)]
    centred = Geometry(shape=shape, spacing=spacing, directions=(directions[0], directions[1], directions[2]))  # type: ignore[arg-type]
    middle = centred.position([(size - 1) / 2 for size in shape])
    return Geometry(
        shape=shape,
        spacing=spacing,
        origin=(-middle[0], -middle[1], -middle[2]),
        directions=centred.directions,
    )


def _positions(geometry: Geometry) -> np.ndarray:
    """LPS millimetres ``(3, *shape)`` of all voxel centres."""
    index = np.indices(geometry.shape, dtype=np.float64)
    steps = np.array(geometry.directions) * np.array(geometry.spacing)[:, None]  # (array axis, world)
    return np.tensordot(steps.T, index, axes=1) + np.reshape(geometry.origin, (3, 1, 1, 1))


def _inside(
    random: np.random.Generator,
    points: np.ndarray,
    centre: Sequence[float],
    radii: Sequence[float],
    bumps: float,
) -> np.ndarray:
    """An ellipsoid with a bumpy surface."""
    scaled = (points - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    field = ndimage.gaussian_filter(random.standard_normal(points.shape[1:]), (1.5, 4, 4))
    return np.asarray((scaled**2).sum(0) < 1 + bumps * field / max(float(np.abs(field).max()), 1e-6))


def _scanned(random: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """Texture, partial volume, uneven sensitivity and Rician noise, as a magnetic resonance scanner adds them."""
    texture = ndimage.gaussian_filter(random.standard_normal(tissue.shape), 1.0)
    signal = ndimage.gaussian_filter(tissue + TEXTURE * texture / texture.std() * (tissue > 0), (0.3, 0.6, 0.6))
    bias = ndimage.gaussian_filter(random.standard_normal(tissue.shape), [size / 3 for size in tissue.shape])
    signal = signal * (1 + BIAS * bias / max(float(np.abs(bias).max()), 1e-6)) * random.uniform(0.8, 1.25)
    real, imaginary = random.normal(0, NOISE, (2, *tissue.shape))
    return np.rint(np.hypot(signal + real, imaginary)).astype(np.int16)


def _any_order(random: np.random.Generator) -> AxisMap:
    order = random.permutation(3)
    flips = random.random(3) < 0.5
    return AxisMap(
        order=(int(order[0]), int(order[1]), int(order[2])), flipped=(bool(flips[0]), bool(flips[1]), bool(flips[2]))
    )


def _copied(volume: Volume) -> Volume:
    return Volume(array=np.ascontiguousarray(volume.array), geometry=volume.geometry)


def write_phantom_dataset(folder: Path, cases: int, *, seed: int = 0, train: bool = True, **options: object) -> Path:
    """Writes phantoms in nnU-Net's layout.

    Args:
        folder: of the data set; existing files are replaced.
        cases: how many.
        seed: of the first; the others follow.
        train: into imagesTr and labelsTr, with a dataset.json; else into imagesTs and labelsTs.
        options: of ``make_phantom``.

    Returns:
        The folder.
    """
    images, labels = ("imagesTr", "labelsTr") if train else ("imagesTs", "labelsTs")
    for index in range(cases):
        phantom = make_phantom(seed + index, **options)  # type: ignore[arg-type]
        name = f"phantom_{seed + index:03d}"
        for file, volume in (
            (f"{images}/{name}_0000.nii.gz", phantom.image),
            (f"{labels}/{name}.nii.gz", phantom.labels),
        ):
            format_of(Path(file)).write(folder / file, volume)
    if train:
        description = {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, **{organ.name: index for index, organ in enumerate(ORGANS, start=1)}},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
        write_atomically(folder / "dataset.json", json.dumps(description, indent=1).encode())
    return folder

"""Stored cases: patches from memory maps against compressed chunks, and the room that they take beside their source.

``python -m tests.benchmarks.cache`` prints the table of sizes and errors.
"""

from __future__ import annotations

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.augmentation.contract import Recipe
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.training.batches import PatchLoader
from autoseg.values import AxisMap, Geometry, IntensityProperties, PreprocessRecord, digest
from autoseg.volume.normalize import ct, zscore
from tests.benchmarks.pairs import Pair, measure

SHAPE = (160, 256, 256)


def hounsfield_units(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A body in a few ellipses, with correlated noise of 20 HU: int16, and the labels of its two organs."""
    random = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    units = np.full(shape, -1000, np.float32)
    units[np.broadcast_to((x / 0.85) ** 2 + (y / 0.7) ** 2 < 1, shape)] = -90
    units[np.broadcast_to((x / 0.78) ** 2 + (y / 0.62) ** 2 < 1, shape)] = 45
    for side in (-1, 1):
        units[((x - 0.35 * side) / 0.28) ** 2 + (y / 0.42) ** 2 + ((z - 0.7) / 0.6) ** 2 < 1] = -830
    units[np.broadcast_to((x / 0.1) ** 2 + ((y - 0.45) / 0.1) ** 2 < 1, shape)] = 350
    labels = np.zeros(shape, np.uint8)
    for label, (centre, value) in enumerate((((-0.5, -0.1, 0.35), 105), ((0.5, 0.0, 0.2), 130)), start=1):
        inside = ((z - centre[0]) / 0.5) ** 2 + ((y - centre[1]) / 0.3) ** 2 + ((x - centre[2]) / 0.25) ** 2 < 1
        units[inside], labels[inside] = value, label
    noise = ndimage.gaussian_filter(random.standard_normal(shape, np.float32), (0.3, 0.7, 0.7))
    units += noise * np.float32(20 / noise.std())
    return np.rint(np.clip(units, -1024, 3071)).astype(np.int16), labels


def statistics_of(units: np.ndarray) -> IntensityProperties:
    """What a fingerprint says of the voxels given."""
    low, middle, high = (float(value) for value in np.percentile(units, (0.5, 50, 99.5)))
    return IntensityProperties(
        mean=float(units.mean()),
        median=middle,
        std=float(units.std()),
        min=float(units.min()),
        max=float(units.max()),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def save(store: CaseStore, image: np.ndarray, labels: np.ndarray) -> str:
    """Stores a case that was neither cropped nor resampled."""
    shape, key = labels.shape, digest(["case"])
    record = PreprocessRecord(
        case_id="case",
        key=key,
        source=Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)),
        axes=AxisMap(),
        crop_start=(0, 0, 0),
        crop_shape=shape,
        spacing=(1.0, 1.0, 1.0),
        shape=shape,
        target_spacing=(1.0, 1.0, 1.0),
    )
    random = np.random.default_rng(0)
    locations = {}
    for label in (1, 2):
        positions = np.argwhere(labels == label)
        locations[label] = positions[random.choice(len(positions), min(len(positions), 10_000), replace=False)]
    store.save(
        StoredCase(
            record=record, image=image, segmentation=labels.astype(np.int8), locations=locations, reference=labels
        )
    )
    return key


def loader(
    folder: Path, image: np.ndarray, labels: np.ndarray, patch: Sequence[int], *, compressed: bool
) -> PatchLoader:
    """Batches of two patches of one case, as they are."""
    store = CaseStore(folder, patch_size=patch, compressed=compressed)
    return PatchLoader(
        store,
        {"case": save(store, image, labels)},
        patch,
        2 if len(patch) == 3 else 12,
        foreground_share=0.33,
        recipe=Recipe(),
        seed=0,
        purpose=0,
    )


def run() -> Iterator[Pair]:
    """Batches of 3D and 2D patches from one large case that the system has in memory; checksums."""
    yield from checksums()
    units, labels = hounsfield_units()
    image = zscore(ndimage.gaussian_filter(units.astype(np.float32), 0.6), None, None)[None]
    for patch in ((96, 128, 128), (256, 256)):
        with tempfile.TemporaryDirectory() as folder:
            mapped = loader(Path(folder, "mapped"), image, labels, patch, compressed=False)
            chunked = loader(Path(folder, "compressed"), image, labels, patch, compressed=True)
            size = " x ".join(map(str, patch))
            yield measure(
                f"{'2 patches' if len(patch) == 3 else '12 patches'} of {size} read",
                ("compressed", lambda chunked=chunked: chunked.batch(3)),
                ("memory maps", lambda mapped=mapped: mapped.batch(3)),
            )


def checksums() -> Iterator[Pair]:
    """What verifying costs beside reading, were it done with the project's hash of files."""
    data = np.random.default_rng(0).bytes(2**27)
    yield measure(
        "checksum of 128 MiB",
        ("SHA-256", lambda: hashlib.sha256(data).digest()),
        ("CRC-32", lambda: zlib.crc32(data)),
    )


def sizes() -> Iterator[str]:
    """A table line for each way to keep equal voxels: bytes beside the compressed source, and the largest error."""
    units, labels = hounsfield_units()
    source, truth = (len(gzip.compress(array.tobytes(), 6)) for array in (units, labels))
    yield f"| source, gzip level 6 as in .nii.gz | {8 * source / units.size:.2f} | 1.00 | 0 | {truth / 1000:.0f} kB |"
    organs, body = units[labels > 0], units[units > -200]
    smooth = ndimage.gaussian_filter(units.astype(np.float32), 0.6)  # no two voxels equal, as after resampling
    forms = {
        "CT, statistics of two organs": ct(units, None, statistics_of(organs)),
        "CT, statistics of the whole body": ct(units, None, statistics_of(body)),
        "z-score": zscore(units, None, None),
        "z-score of interpolated voxels": zscore(smooth, None, None),
    }
    for name, image in forms.items():
        for compressed in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                store = CaseStore(Path(folder), patch_size=(128, 128, 128), compressed=compressed)
                key = save(store, image[None], labels)
                files = {file.stem: file for file in Path(folder).glob("*/*")}
                error = float(np.abs(np.asarray(store.open("case", key).image)[0] - image).max())
                rest = sum(files[each].stat().st_size for each in ("segmentation", "reference", "locations", "record"))
                size = files["image"].stat().st_size
            cells = (
                f"{name}, {'compressed' if compressed else 'memory maps'}",
                f"{8 * size / units.size:.2f}",
                f"{size / source:.2f}",
                f"{error:.2g}",
                f"{rest / 1000:.0f} kB",
            )
            yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("| image | bits a voxel | beside the source | largest error | all other files |\n|---|---|---|---|---|")
    for line in sizes():
        print(line, flush=True)

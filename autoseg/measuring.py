"""Measuring one case: it is read, checked, and its sizes, spacings, intensities and labels are measured and kept.

Intensities are those of foreground voxels (ignore label excluded). A case gives its exact mean and deviation and a fixed
number of its quantiles.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from autoseg.files import Content, write_atomically
from autoseg.io.case_work import CaseFiles
from autoseg.io.cases import check_case
from autoseg.io.headers import Header
from autoseg.preprocessing.memory import measuring_bytes
from autoseg.values import Case, CaseFingerprint, Dataset, Finding, Labels, Volume, decode, encode
from autoseg.values.json_form import Value
from autoseg.volume.crop import bounding_box
from autoseg.volume.moments import mean_and_variance
from autoseg.volume.quantiles import image_quantiles
from autoseg.workspace import Workspace

__all__ = ["CaseMeasurement", "MeasureCase", "Measured", "MeasuredCase", "load_measurement", "measure_case"]

QUANTILES = 4096
#: Voxels of a label map that are looked at together: enough for numpy, little for memory.
VOXELS_AT_ONCE = 2**20
#: Raise this when measurements change for equal files: cached ones are then made anew.
FORMAT_VERSION = 6


@dataclass(frozen=True, kw_only=True)
class CaseMeasurement:
    """What one case adds to the fingerprint.

    Attributes:
        case: sizes, label counts and centroids.
        moments: ``(channels, 4)``: mean, variance, minimum, maximum of foreground intensities; empty ``(0, 4)`` for a
            case without foreground.
        quantiles: ``(channels, QUANTILES)`` of foreground intensities, or ``(0, QUANTILES)``.
    """

    case: CaseFingerprint
    moments: np.ndarray
    quantiles: np.ndarray


#: A measurement, None if a finding is an error, and all findings.
Measured = tuple[CaseMeasurement | None, list[Finding]]


class _Kept(Value, frozen=True, kw_only=True):
    """What is kept of a measurement beside its arrays; ``checksum`` is the CRC-32 of all else and of the arrays."""

    key: str
    case: CaseFingerprint
    findings: tuple[Finding, ...]
    checksum: int = 0

    def own_checksum(self, moments: np.ndarray, quantiles: np.ndarray) -> int:
        """What ``checksum`` must be."""
        checksum = zlib.crc32(encode(msgspec.structs.replace(self, checksum=0)))
        for array in (moments, quantiles):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return checksum


class MeasuredCase(Value, frozen=True, kw_only=True):
    """What became of one case: the key of its measurement, None if a finding is an error; and the files read for it."""

    key: str | None
    findings: tuple[Finding, ...]
    read: dict[str, Content] = {}


class MeasureCase(Value, frozen=True, kw_only=True):
    """Reads, checks and measures a case and keeps the measurement in a file; a task for any executor.

    Attributes:
        dataset: its root, channels and labels; cases are not needed.
        folder: of the measurements.
    """

    dataset: Dataset
    folder: str

    @classmethod
    def of(cls, dataset: Dataset, workspace: Workspace) -> MeasureCase:
        """The task for a data set and the workspace that keeps its measurements."""
        folder = workspace.case_fingerprint_path("").parent
        return cls(dataset=msgspec.structs.replace(dataset, cases=()), folder=str(folder))

    @property
    def stage(self) -> str:
        """For messages."""
        return "check and measure"

    def path(self, item: CaseFiles) -> Path:
        """Where the measurement of a case is kept."""
        return Path(self.folder, f"{item.id}.safetensors")

    def key(self, case: Case, hashes: Sequence[str]) -> str:
        """Digest of all that a measurement depends on: also the files' names, which its findings tell."""
        forms = [encode(part).decode() for part in (self.dataset.labels, case)]
        stated = [str(FORMAT_VERSION), *forms, *self.dataset.channels, *hashes]
        return hashlib.sha256("\n".join(stated).encode()).hexdigest()

    def bytes(self, item: CaseFiles, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on a case takes at most."""
        return measuring_bytes(headers[:-1], headers[-1])

    def __call__(self, item: CaseFiles) -> MeasuredCase:
        """Measures the case, unless that has been done."""
        if not all(Path(file).exists() for file in item.paths):
            _, findings = measure_case(self.dataset, item.case)  # which says what is missing
            return MeasuredCase(key=None, findings=tuple(findings))
        hashes, read = item.look()
        key = self.key(item.case, hashes)
        known = load_measurement(self.path(item), key)
        if known is not None:
            return MeasuredCase(key=key, findings=tuple(known[1]), read=read)
        measurement, findings = measure_case(self.dataset, item.case)
        if measurement is None:
            return MeasuredCase(key=None, findings=tuple(findings), read=read)
        arrays = {"moments": measurement.moments, "quantiles": measurement.quantiles}
        kept = _Kept(key=key, case=measurement.case, findings=tuple(findings))
        kept = msgspec.structs.replace(kept, checksum=kept.own_checksum(**arrays))
        write_atomically(self.path(item), to_bytes(arrays, {"measurement": encode(kept).decode()}))
        return MeasuredCase(key=key, findings=tuple(findings), read=read)


def load_measurement(path: Path, key: str) -> Measured | None:
    """A kept measurement, or None if there is none for this content."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            kept = decode(_Kept, (file.metadata() or {})["measurement"], source=path)
            if kept.key != key:
                return None
            moments, quantiles = file.get_tensor("moments"), file.get_tensor("quantiles")
        if not _belong_together(moments, quantiles) or kept.checksum != kept.own_checksum(moments, quantiles):
            return None
        return CaseMeasurement(case=kept.case, moments=moments, quantiles=quantiles), list(kept.findings)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # a damaged cache is as good as none
        return None


def _belong_together(moments: np.ndarray, quantiles: np.ndarray) -> bool:
    """Whether these are the arrays of a measurement, of equally many channels."""
    types, shapes = (moments.dtype.name, quantiles.dtype.name), (moments.shape, quantiles.shape)
    return types == ("float64", "float32") and shapes == ((len(moments), 4), (len(moments), QUANTILES))


def measure_case(dataset: Dataset, case: Case) -> tuple[CaseMeasurement | None, list[Finding]]:
    """Reads, checks and measures one annotated case.

    Returns:
        The measurement, None if a finding is an error, and all findings.
    """
    image, labels, findings = check_case(dataset, case)
    if image is None or labels is None or any(finding.severity == "error" for finding in findings):
        return None, findings
    return _measure(image, labels, dataset.labels, case.id), findings


def _measure(image: Volume, labels: Volume, declared: Labels, case_id: str) -> CaseMeasurement:
    box = bounding_box(image.array)
    counts, centres = _label_places(labels.array[0], image.geometry.spacing)
    inner = labels.array[0][box]
    foreground = inner > 0
    if declared.ignore is not None:
        foreground &= inner != declared.ignore
    case = CaseFingerprint(
        id=case_id,
        spacing=image.geometry.spacing,
        shape=image.geometry.shape,
        shape_after_crop=(
            box[0].stop - box[0].start,
            box[1].stop - box[1].start,
            box[2].stop - box[2].start,
        ),
        to_canonical=image.geometry.to_canonical(),
        planar=image.geometry.planar,
        label_counts=counts,
        label_centres=centres,
        image_digest=_digest(image.array),
        label_digest=_digest(labels.array),
        image_quantiles=image_quantiles(image.array),
    )
    if not foreground.any():
        return CaseMeasurement(case=case, moments=np.empty((0, 4)), quantiles=np.empty((0, QUANTILES), np.float32))
    measured = [_intensities(channel[box][foreground]) for channel in image.array]
    return CaseMeasurement(
        case=case,
        moments=np.stack([moments for moments, _ in measured]),
        quantiles=np.stack([quantiles for _, quantiles in measured]),
    )


def _intensities(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, variance, minimum, maximum in float64, and quantiles in float32, of float32 values, which get sorted."""
    mean, variance = mean_and_variance(values)
    values.sort()
    ranks = ((np.arange(QUANTILES) + 0.5) / QUANTILES * len(values)).astype(int)
    return np.array([mean, variance, values[0], values[-1]], np.float64), values[ranks]


def _digest(array: np.ndarray) -> str:
    """By which equal arrays are known."""
    known = hashlib.sha256(repr(array.shape).encode())
    known.update(np.ascontiguousarray(array).data)
    return known.hexdigest()[:32]


def _label_places(
    labels: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[dict[str, int], dict[str, tuple[float, float, float]]]:
    """Voxels of every integer of a label map ``(axis 0, axis 1, axis 2)``, and of all but background the centroid.

    Sums of voxel indices are integers far below 2**53, so they are exact in float64, whatever the size of the chunks.
    """
    flat, length = labels.reshape(-1), int(labels.max()) + 1
    counts, sums = np.zeros(length, np.int64), np.zeros((3, length))
    for begin in range(0, flat.size, VOXELS_AT_ONCE):
        chunk = flat[begin : begin + VOXELS_AT_ONCE]
        places = np.flatnonzero(chunk)  # background, most of the volume, is counted by what is left
        values = chunk[places]
        counts += np.bincount(values, minlength=length)
        for axis, index in enumerate(np.unravel_index(places + begin, labels.shape)):
            sums[axis] += np.bincount(values, index, minlength=length)
    counts[0] = flat.size - counts.sum()
    present = [int(integer) for integer in np.flatnonzero(counts)]
    centres = {
        str(integer): (
            float(sums[0, integer] / counts[integer] * spacing[0]),
            float(sums[1, integer] / counts[integer] * spacing[1]),
            float(sums[2, integer] / counts[integer] * spacing[2]),
        )
        for integer in present
        if integer > 0
    }
    return {str(integer): int(counts[integer]) for integer in present}, centres

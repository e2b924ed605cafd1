"""The fingerprint: one pass over all cases that checks them and measures sizes, spacings, intensities and labels.

Intensities are those of foreground voxels (ignore label excluded), every case with equal weight. nnU-Net draws equally
many voxels of each case at random; here each case gives its exact mean and deviation and a fixed number of its quantiles,
which is what those draws estimate, without randomness and in bounded memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from autoseg.errors import DocumentError, FindingsError, InputError
from autoseg.executors import Executor
from autoseg.files import write_atomically
from autoseg.io.cases import check_case
from autoseg.io.formats import parts_of
from autoseg.logs import Logger, reported
from autoseg.values import (
    Case,
    CaseFingerprint,
    Dataset,
    Finding,
    Fingerprint,
    IntensityProperties,
    Labels,
    Volume,
    decode,
    encode,
)
from autoseg.values.json_form import Value
from autoseg.volume.crop import bounding_box
from autoseg.workspace import Workspace

__all__ = ["CaseMeasurement", "fingerprint_dataset", "measure_case", "pool_fingerprint"]

QUANTILES = 4096
#: Voxels of a label map that are looked at together: enough for numpy, little for memory.
VOXELS_AT_ONCE = 2**20
#: Raise this when measurements change for equal files: cached ones are then made anew.
FORMAT_VERSION = 3


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


class _Kept(Value, frozen=True, kw_only=True):
    """What is kept of a measurement beside its arrays."""

    key: str
    case: CaseFingerprint
    findings: tuple[Finding, ...]


def fingerprint_dataset(
    dataset: Dataset, known: Sequence[Finding], workspace: Workspace, executor: Executor, logger: Logger
) -> tuple[Fingerprint, list[Finding]]:
    """The fingerprint of a data set and all findings about it; what was measured before and has not changed is reused.

    Args:
        dataset: what to read.
        known: findings from looking at its folders.
        workspace: keeps the measurements.
        executor: runs the cases.
        logger: for progress.

    Raises:
        FindingsError: any finding is an error; all findings are listed.
    """
    findings, measurements = list(known), []
    cases = dataset.annotated_cases

    def measured(case: Case) -> tuple[CaseMeasurement | None, list[Finding]]:
        return _measured(dataset, case, workspace)

    try:
        for done, outcome in enumerate(executor.run(measured, cases), start=1):
            logger.event("progress", stage="check and measure", done=done, total=len(cases), detail=outcome.item.id)
            if outcome.result is None:
                told = reported(outcome.error)
                logger.event("case_failed", stage="check and measure", case=outcome.item.id, **told)
                findings.append(Finding(severity="error", what=told["error"], case=outcome.item.id))
                continue
            measurement, seen = outcome.result
            findings.extend(seen)
            if measurement is not None:
                measurements.append(measurement)
    finally:
        workspace.contents.save()
    findings.sort(key=lambda finding: (finding.severity, finding.case or "", finding.what))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        others = f", {len(findings) - len(errors)} other findings" if len(findings) > len(errors) else ""
        raise FindingsError(f"{dataset.name} cannot be used as it is: {len(errors)} errors{others}", findings)
    if not measurements:
        raise FindingsError(
            f"{dataset.name} has no annotated case; expected images and labels that end in {dataset.file_ending}",
            findings,
        )
    findings.extend(_unused_labels(dataset, measurements))
    return pool_fingerprint(dataset, measurements), findings


def _measured(dataset: Dataset, case: Case, workspace: Workspace) -> tuple[CaseMeasurement | None, list[Finding]]:
    files = [Path(dataset.root, name) for name in (*case.images, *filter(None, [case.label]))]
    if not all(file.exists() for file in files):
        return measure_case(dataset, case)  # which says what is missing
    content = [workspace.contents.sha256(part) for file in files for part in parts_of(file)]
    stated = [str(FORMAT_VERSION), encode(dataset.labels).decode(), *dataset.channels, *content]
    key = hashlib.sha256("\n".join(stated).encode()).hexdigest()
    path = workspace.case_fingerprint_path(case.id)
    known = _load_measurement(path, key)
    if known is not None:
        return known
    measurement, findings = measure_case(dataset, case)
    if measurement is not None:
        arrays = {"moments": measurement.moments, "quantiles": measurement.quantiles}
        kept = _Kept(key=key, case=measurement.case, findings=tuple(findings))
        write_atomically(path, to_bytes(arrays, {"measurement": encode(kept).decode()}))
    return measurement, findings


def _load_measurement(path: Path, key: str) -> tuple[CaseMeasurement, list[Finding]] | None:
    """A kept measurement, or None if there is none for this content."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            kept = decode(_Kept, (file.metadata() or {})["measurement"], source=path)
            if kept.key != key:
                return None
            measurement = CaseMeasurement(
                case=kept.case,
                moments=file.get_tensor("moments"),
                quantiles=file.get_tensor("quantiles"),
            )
            return measurement, list(kept.findings)
    except (OSError, SafetensorError, KeyError, DocumentError):  # a damaged cache is as good as none
        return None


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
    values = image.array[(slice(None), *box)][:, foreground].astype(np.float64)
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
    )
    if values.shape[1] == 0:
        return CaseMeasurement(case=case, moments=np.empty((0, 4)), quantiles=np.empty((0, QUANTILES), np.float32))
    values.sort(axis=1)
    count = values.shape[1]
    ranks = ((np.arange(QUANTILES) + 0.5) / QUANTILES * count).astype(int)
    moments = np.stack([values.mean(1), values.var(1), values[:, 0], values[:, -1]], axis=1)
    return CaseMeasurement(case=case, moments=moments, quantiles=np.ascontiguousarray(values[:, ranks], np.float32))


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


def _unused_labels(dataset: Dataset, measurements: Sequence[CaseMeasurement]) -> list[Finding]:
    """A warning for every declared label that no case holds.

    Raises:
        InputError: no case holds any.
    """
    seen = {int(value) for each in measurements for value, count in each.case.label_counts.items() if count}
    unused = [label.name for label in dataset.labels.foreground if not seen.intersection(label.values)]
    if len(unused) == len(dataset.labels.foreground):
        raise InputError(
            "no case has any foreground: there is nothing to learn",
            file=dataset.root,
            found="background only",
            expected=", ".join(unused),
            remedy="Check that the label files are the right ones.",
        )
    return [
        Finding(severity="warning", what=f"the label {name!r} is declared, but no case has it: it cannot be learned")
        for name in unused
    ]


def pool_fingerprint(dataset: Dataset, measurements: Sequence[CaseMeasurement]) -> Fingerprint:
    """The fingerprint of a data set from the measurements of its annotated cases."""
    ordered = sorted(measurements, key=lambda measurement: measurement.case.id)
    return Fingerprint(
        dataset=dataset.name,
        channels=dataset.channels,
        labels=dataset.labels,
        file_ending=dataset.file_ending,
        cases=tuple(measurement.case for measurement in ordered),
        intensities=tuple(_pool_channel(ordered, channel) for channel in range(len(dataset.channels))),
    )


def _pool_channel(measurements: Sequence[CaseMeasurement], channel: int) -> IntensityProperties | None:
    present = [measurement for measurement in measurements if len(measurement.moments)]
    if not present:
        return None
    moments = np.stack([measurement.moments[channel] for measurement in present])
    quantiles = np.concatenate([measurement.quantiles[channel] for measurement in present])
    low, middle, high = (float(value) for value in np.percentile(quantiles, (0.5, 50, 99.5)))
    means, variances = moments[:, 0], moments[:, 1]
    return IntensityProperties(
        mean=float(means.mean()),
        median=middle,
        std=float(np.sqrt(variances.mean() + means.var())),
        min=float(moments[:, 2].min()),
        max=float(moments[:, 3].max()),
        percentile_00_5=low,
        percentile_99_5=high,
    )

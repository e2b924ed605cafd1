"""The fingerprint: one pass over all cases that checks them and measures sizes, spacings, intensities and labels.

Intensities are those of foreground voxels (ignore label excluded), every case with equal weight. nnU-Net draws equally
many voxels of each case at random; here each case gives its exact mean and deviation and a fixed number of its quantiles,
which is what those draws estimate, without randomness and in bounded memory.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np

from autoseg.errors import DocumentError, FindingsError
from autoseg.executors import Executor
from autoseg.integrity.across import across_findings
from autoseg.io.case_work import CaseFiles, remember, run_admitted
from autoseg.logs import Logger, reported
from autoseg.measuring import CaseMeasurement, MeasureCase, Measured, load_measurement
from autoseg.values import (
    Case,
    CheckReport,
    Dataset,
    Finding,
    Fingerprint,
    IntensityProperties,
    findings_text,
)
from autoseg.workspace import Workspace

__all__ = [
    "fingerprint_dataset",
    "measure_dataset",
    "pool_fingerprint",
    "require_usable",
]


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
    measurements, findings = measure_dataset(dataset, known, workspace, executor, logger)
    require_usable(CheckReport.of(dataset, findings))
    return pool_fingerprint(dataset, measurements), findings


def measure_dataset(
    dataset: Dataset, known: Sequence[Finding], workspace: Workspace, executor: Executor, logger: Logger
) -> tuple[list[CaseMeasurement], list[Finding]]:
    """One pass over all annotated cases: checks and measures each, then what only all of them together tell.

    The arguments are those of ``fingerprint_dataset``.

    Returns:
        A measurement of every case without errors, and all findings, the worst first.
    """
    findings, measurements = list(known), []
    cases = dataset.annotated_cases

    task = MeasureCase.of(dataset, workspace)
    try:
        with closing(_measurements(task, cases, workspace, executor)) as outcomes:
            for done, (case, measured, error) in enumerate(outcomes, start=1):
                logger.event("progress", stage=task.stage, done=done, total=len(cases), detail=case.id)
                if isinstance(error, OSError):
                    raise error  # the measurement cannot be written: that is not this case's fault
                if measured is None:
                    findings.append(_failed(case, error, task.stage, logger))
                    continue
                measurement, seen = measured
                findings.extend(seen)
                if measurement is not None:
                    measurements.append(measurement)
        measurements.sort(key=lambda measurement: measurement.case.id)
        seen_cases = [measurement.case for measurement in measurements]
        findings.extend(across_findings(dataset, seen_cases, workspace.contents.sha256))
    finally:
        workspace.contents.save()
    if all(finding.severity != "error" for finding in findings):
        findings.extend(_about_labels(dataset, measurements))
    return measurements, sorted(findings, key=lambda finding: finding.order)


def require_usable(report: CheckReport) -> None:
    """Raises ``FindingsError``, which lists all findings, if any of them is an error."""
    if report.count("error"):
        text = f"{findings_text(report.findings)}\n{report.summary}"
        raise FindingsError(f"{report.dataset} cannot be used as it is", report.findings, text=text)


def _failed(case: Case, error: Exception | None, stage: str, logger: Logger) -> Finding:
    told = reported(error)
    logger.event("case_failed", stage=stage, case=case.id, **told)
    return Finding(
        severity="error",
        what=told["error"].removeprefix(f"case {case.id}: "),
        case=case.id,
        remedy="Repeat the command; if that does not help, remove the case.",
    )


def _measurements(
    task: MeasureCase, cases: Sequence[Case], workspace: Workspace, executor: Executor
) -> Generator[tuple[Case, Measured | None, Exception | None]]:
    """Every case with its measurement and findings, or an error: first what is kept, then what has to be done."""
    items = []
    for item in (CaseFiles.of(case, task.dataset.root, workspace.contents) for case in cases):
        kept = load_measurement(task.path(item), task.key(item.case, item.hashes)) if item.hashes else None
        if kept is None:
            items.append(item)
        else:
            yield item.case, kept, None
    if not items:
        return
    for outcome in run_admitted(executor, task, items, task.bytes):
        case, done = outcome.item.case, outcome.result
        if done is None:
            yield case, None, outcome.error
            continue
        remember(workspace.contents, done.read)
        kept = load_measurement(task.path(outcome.item), done.key) if done.key else None
        if done.key and kept is None:
            yield (
                case,
                None,
                DocumentError("the measurement was damaged just after it was made", file=task.path(outcome.item)),
            )
        else:
            yield case, kept or (None, list(done.findings)), None


def _about_labels(dataset: Dataset, measurements: Sequence[CaseMeasurement]) -> list[Finding]:
    """An error if there is nothing to learn, and a warning for every declared label that no case holds."""
    if not measurements:
        nothing = Finding(
            severity="error",
            what="the data set has no annotated case",
            expected=f"images and labels that end in {dataset.file_ending}",
            remedy="Add label files, or correct file_ending in dataset.json.",
        )
        return [nothing]
    seen = {int(value) for each in measurements for value, count in each.case.label_counts.items() if count}
    unused = [label.name for label in dataset.labels.foreground if not seen.intersection(label.values)]
    if len(unused) == len(dataset.labels.foreground):
        background = Finding(
            severity="error",
            what="no case has any foreground: there is nothing to learn",
            found="background only",
            expected=", ".join(unused),
            remedy="Check that the label files are the right ones.",
        )
        return [background]
    return [
        Finding(
            severity="warning",
            what=f"the label {name!r} is declared, but no case has it: it cannot be learned",
            remedy="Remove it from the declared labels, or add cases that show it.",
        )
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

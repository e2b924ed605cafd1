"""The check of a data set: every case and all of them together, with the safe fixes that the user agrees to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.executors import Executor, ThreadExecutor
from autoseg.logs import Logger, SilentLogger
from autoseg.values import CheckReport, Dataset, Finding, Fingerprint
from autoseg.workspace import Workspace

if TYPE_CHECKING:
    from autoseg.measuring import CaseMeasurement

__all__ = ["Checked", "check_cases", "check_dataset"]

SILENT = SilentLogger()


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check gives: the data set, with fixed files where there are any, the measurements, and all findings."""

    dataset: Dataset
    measurements: Sequence[CaseMeasurement]
    findings: tuple[Finding, ...]

    @property
    def report(self) -> CheckReport:
        """The findings as a document."""
        return CheckReport.of(self.dataset, self.findings)

    def fingerprint(self) -> Fingerprint:
        """What a planner may know of the data set.

        Raises:
            FindingsError: a finding is an error.
        """
        from autoseg.fingerprinting import pool_fingerprint, require_usable

        require_usable(self.report)
        return pool_fingerprint(self.dataset, self.measurements)


def check_dataset(
    folder: Path,
    workspace: Workspace,
    *,
    fix: bool | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Checked:
    """Reads all annotated cases of a folder and finds everything that is wrong, in one pass.

    Args:
        folder: of the data set; never written to.
        workspace: keeps the measurements, so that planning need not repeat them, and fixed files.
        fix: True does the safe fixes, into the workspace; False forgets those of before; None keeps them.
        executor: runs the cases.
        logger: for events.

    Raises:
        InputError: the folder cannot be understood at all, or the workspace is another data set's.
    """
    from autoseg.io.layouts import read_dataset

    dataset, known = read_dataset(folder, workspace=workspace, executor=executor)
    return check_cases(dataset, known, workspace, fix=fix, executor=executor, logger=logger)


def check_cases(
    dataset: Dataset,
    known: Sequence[Finding],
    workspace: Workspace,
    *,
    fix: bool | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Checked:
    """The check of a data set that has been understood; ``known`` are findings about its folders."""
    from autoseg.fingerprinting import measure_dataset
    from autoseg.integrity.fixes import agree_to_fixes, forget_fixes, with_fixes

    if fix is False:
        forget_fixes(workspace)
    executor = executor or ThreadExecutor()
    while True:
        current, notes = with_fixes(workspace, dataset)
        measurements, findings = measure_dataset(current, [*known, *notes], workspace, executor, logger)
        # what is behind a fixed defect may be another: as long as there is something new to agree to
        if not (fix and any(each.fix for each in findings) and agree_to_fixes(workspace, dataset, findings)):
            return Checked(dataset=current, measurements=measurements, findings=tuple(findings))

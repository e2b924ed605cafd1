"""Safe fixes: a case's label file as it should be, written into the workspace; the user's folder is never touched.

A fix is agreed to (``--fix``) for the content that was looked at. It is then remembered: planning again uses the same
fixed file, and says so. If the user's file changes, the agreement ends, and the file is checked as it is now. If the
fixed file changes, it is damaged, and made anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from autoseg.errors import InputError
from autoseg.files import read_document, write_document
from autoseg.integrity.nearest import resample_nearest
from autoseg.io.checks import MASK_VALUE
from autoseg.io.colours import as_labels, on_grid_of
from autoseg.io.dtypes import smallest_integers
from autoseg.io.formats import format_of, label_ending, parts_of, split_ending
from autoseg.io.grids import reordering
from autoseg.values import Case, Dataset, Finding, Geometry, Labels, Volume, digest
from autoseg.values.finding import FIXES
from autoseg.values.json_form import Value, require
from autoseg.volume.axes import reorder_volume
from autoseg.workspace import Workspace

__all__ = ["CaseFix", "Fixes", "agree_to_fixes", "forget_fixes", "remove_unused", "require_current_fixes", "with_fixes"]

#: Raise this when fixed files change for equal sources: they are then made anew.
FORMAT_VERSION = 1


class CaseFix(Value, frozen=True, kw_only=True):
    """The fixes of one case, agreed to for certain content.

    Attributes:
        fixes: their names, in order.
        files: absolute paths of the user's image and label files.
        sources: SHA-256 of each as it was.
        labels: digest of the labels that were declared.
        made: SHA-256 of the fixed file; empty before one is made, or if it is not known.
    """

    fixes: tuple[str, ...]
    files: tuple[str, ...]
    sources: tuple[str, ...]
    labels: str
    made: str = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.fixes) - FIXES.keys())
        require(not unknown, f"there is no fix {', '.join(unknown)}", field="fixes", expected=", ".join(FIXES))

    @property
    def key(self) -> str:
        """Names the folder of what is made: equal for equal content and fixes."""
        return digest([str(FORMAT_VERSION), self.labels, *self.fixes, *self.sources])[:16]


class Fixes(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.fixes/1"):
    """The fixes that were agreed to, by case."""

    cases: dict[str, CaseFix] = {}


def agree_to_fixes(workspace: Workspace, dataset: Dataset, findings: Sequence[Finding]) -> bool:
    """Remembers that what the findings offer is to be done, to the cases as the user has them now.

    Args:
        workspace: to remember it in.
        dataset: as the user has it.
        findings: of which some have a fix; together with what was agreed to before for the same content.

    Returns:
        Whether anything new was agreed to.
    """
    cases, before = {case.id: case for case in dataset.cases}, _fixes(workspace).cases
    agreed = dict(before)
    for case_id in sorted({finding.case for finding in findings if finding.fix and finding.case in cases}):
        fix = _fix_of(workspace, dataset, cases[case_id], ())
        names = {finding.fix for finding in findings if finding.case == case_id}
        if case_id in before and before[case_id].sources == fix.sources:
            names |= set(before[case_id].fixes)
        agreed[case_id] = msgspec.structs.replace(fix, fixes=tuple(name for name in FIXES if name in names))
    write_document(workspace.fixes_path, Fixes(cases=dict(sorted(agreed.items()))))
    return agreed != before


def with_fixes(workspace: Workspace, dataset: Dataset) -> tuple[Dataset, list[Finding]]:
    """The data set with the fixes that were agreed to, made if need be, and a note about each.

    A case whose files have changed since is taken as it is now, and a note says so.
    """
    cases = {case.id: case for case in dataset.cases}
    agreed, notes = dict(_fixes(workspace).cases), []
    for case_id, fix in agreed.items():
        case = cases.get(case_id)
        if case is None or case.label is None:
            continue
        now = _fix_of(workspace, dataset, case, fix.fixes)
        if now.key != fix.key:
            notes.append(
                Finding(
                    severity="note",
                    what="the case was fixed before, but its files or labels have changed: it is taken as it is now",
                    case=case_id,
                    file=case.label,
                    remedy="If the check finds the same again: --fix.",
                )
            )
            continue
        # its files may lie elsewhere now
        agreed[case_id] = msgspec.structs.replace(now, made=fix.made)
        try:
            cases[case_id], made = _fixed(workspace, dataset, case, fix)
            agreed[case_id] = msgspec.structs.replace(now, made=made)
            notes.append(_note(case, cases[case_id], fix))
        except InputError as error:
            what = f"the fix failed: {error.what}"
            notes.append(Finding(severity="error", what=what, case=case_id, file=case.label, remedy=error.remedy))
    if agreed:
        write_document(workspace.fixes_path, Fixes(cases=agreed))
    return msgspec.structs.replace(dataset, cases=tuple(cases[case.id] for case in dataset.cases)), notes


def require_current_fixes(workspace: Workspace, dataset: Dataset, *, again: bool = False) -> None:
    """Raises ``InputError`` if a fixed file is outdated, as the user's has changed since, or is not as it was written.

    Args:
        workspace: that remembers the fixes.
        dataset: as planned for, with fixed files.
        again: read the fixed files even if their size and time are those of before.
    """
    fixes = _fixes(workspace).cases
    outdated, damaged = [], []
    for case in dataset.annotated_cases:
        fix, label = fixes.get(case.id), Path(case.label or "")
        if fix is not None and label.parent.name == _place(case.id, fix):
            pairs = [(Path(file), known) for file, known in zip(fix.files, fix.sources, strict=True)]
            if any(file.exists() and workspace.contents.sha256(file) != known for file, known in pairs):
                outdated.append(case.id)
            elif fix.made and label.exists() and workspace.contents.sha256(label, again=again) != fix.made:
                damaged.append(case.id)
    if outdated:
        raise InputError(
            "files have changed since they were fixed in the workspace",
            case=_some(outdated),
            file=fixes[outdated[0]].files[-1],
            remedy="Check and plan anew: autoseg plan DATASET, with --fix if the check finds the same again.",
        )
    if damaged:
        workspace.contents.save()  # so that planning, which goes by size and time, knows of it too
        raise InputError(
            "fixed label files in the workspace are damaged: they are not as they were written",
            case=_some(damaged),
            file=workspace.fixed_path / _place(damaged[0], fixes[damaged[0]]),
            remedy="Make them anew, from your own files: autoseg plan DATASET",
        )


def _some(cases: Sequence[str]) -> str:
    return ", ".join(cases[:5]) + (" …" if len(cases) > 5 else "")


def forget_fixes(workspace: Workspace) -> None:
    """From now on the user's files count as they are."""
    workspace.fixes_path.unlink(missing_ok=True)


def remove_unused(workspace: Workspace) -> None:
    """Removes fixed files that no case stands for any more; to be called when the data set has been saved."""
    used = {_place(case, fix) for case, fix in _fixes(workspace).cases.items()}
    folders = workspace.fixed_path.iterdir() if workspace.fixed_path.is_dir() else ()
    for folder in list(folders):
        if folder.name not in used:
            shutil.rmtree(folder, ignore_errors=True)


def _fixes(workspace: Workspace) -> Fixes:
    return read_document(Fixes, workspace.fixes_path) if workspace.fixes_path.is_file() else Fixes()


def _fix_of(workspace: Workspace, dataset: Dataset, case: Case, fixes: tuple[str, ...]) -> CaseFix:
    """The fixes for a case with its content as it is now; a file that is not there has no content."""
    named = [Path(dataset.root, name) for name in (*case.images, case.label or "")]
    files = [part for file in named for part in parts_of(file)]
    return CaseFix(
        fixes=fixes,
        files=tuple(map(str, files)),
        sources=tuple(workspace.contents.sha256(file) if file.exists() else "" for file in files),
        labels=digest(dataset.labels),
    )


def _place(case: str, fix: CaseFix) -> str:
    """The folder of a fixed case within ``fixed``."""
    return f"{case}-{fix.key}"


def _note(before: Case, after: Case, fix: CaseFix) -> Finding:
    return Finding(
        severity="note",
        what=f"fixed: {'; '.join(FIXES[name] for name in fix.fixes)}",
        case=before.id,
        file=after.label,
        remedy="Look at it. Your own files are unchanged; --no-fix goes back to them.",
    )


def _fixed(workspace: Workspace, dataset: Dataset, case: Case, fix: CaseFix) -> tuple[Case, str]:
    """The case with its fixed label file, and that file's hash; it is written unless it is there as it was written."""
    assert case.label is not None
    label = case.label
    if "swap" in fix.fixes:
        label = case.images[0]
        case = msgspec.structs.replace(case, images=(case.label,), label=label)
    if set(fix.fixes) == {"swap"}:
        return case, ""  # nothing is to be written
    source = Path(dataset.root, label)
    target = (workspace.fixed_path / _place(case.id, fix) / _name(source)).absolute()
    made = not target.is_file() or workspace.contents.sha256(target) != fix.made
    if made:
        image = format_of(Path(case.images[0])).read(Path(dataset.root, case.images[0])).geometry
        labels = format_of(source).read(source)
        format_of(target).write(target, _mended(labels, image, dataset.labels, fix))
    return msgspec.structs.replace(case, label=target.as_posix()), workspace.contents.sha256(target, again=made)


def _name(source: Path) -> str:
    """Of the file to write: the user's, but with an ending that label maps can be written with."""
    stem, ending = split_ending(source.name)
    return f"{stem}{label_ending(ending)}"


def _mended(labels: Volume, image: Geometry, declared: Labels, fix: CaseFix) -> Volume:
    """The label map ``(1, *spatial)`` after all fixes, with the geometry of the image."""
    labels = on_grid_of(as_labels(labels), image)
    array = np.rint(labels.array).astype(np.int32)
    if "relabel" in fix.fixes:
        array = np.where(array == MASK_VALUE, declared.integers[-1], array)
    volume = Volume(array=array, geometry=labels.geometry)
    axes = reordering(image, volume.geometry)
    if "reorder" in fix.fixes and axes is not None:
        volume = reorder_volume(volume, axes)
    elif "resample" in fix.fixes:
        volume = resample_nearest(volume, image)
    if volume.geometry.shape == image.shape:
        volume = Volume(array=volume.array, geometry=image)
    if volume.array.min() < 0:
        raise InputError("the label map holds negative values", remedy="Correct the label file by hand.")
    palette = () if "relabel" in fix.fixes else labels.palette
    return Volume(
        array=smallest_integers(np.ascontiguousarray(volume.array)), geometry=volume.geometry, palette=palette
    )

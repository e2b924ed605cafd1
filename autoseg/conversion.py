"""From any layout to nnU-Net's: one file per channel, consecutive labels, ``dataset.json``; each file whole or absent.

What was converted before from the same files is left alone, so an interrupted conversion goes on. ``conversion.json`` says
where everything came from and which integer became which.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from autoseg.errors import CasesFailedError, FindingsError, InputError
from autoseg.executors import Executor, ThreadExecutor
from autoseg.files import content_hash, read_document, replacing, sweep, write_atomically, write_document
from autoseg.io.cases import grid_conflict, read_labels, undeclared_values
from autoseg.io.colours import as_image, on_grid_of
from autoseg.io.dtypes import smallest_integers
from autoseg.io.formats import format_of, parts_of, read_header, split_ending
from autoseg.io.layouts import read_dataset
from autoseg.io.outputs import check_no_links_out
from autoseg.logs import Logger, SilentLogger, reported
from autoseg.values import Case, Dataset, Finding, Geometry, Labels, Volume, digest
from autoseg.values.json_form import Value, same_file_name
from autoseg.workspace import folders_of

__all__ = ["Conversion", "Converted", "convert_dataset"]

#: Endings that nnU-Net reads by itself; other files are written anew.
_KEPT_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_RECORD = "conversion.json"
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs")
#: Seconds between two savings of the record: a killed conversion repeats no more than that.
_SAVE_EVERY = 2.0
#: Raise this when equal files are converted otherwise than before.
_VERSION = "1"


class Conversion(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.conversion/1"):
    """What a converted data set was made from; its presence says that the folder is ours.

    Attributes:
        source: absolute path of what was converted.
        layout: as it was understood.
        integers: of label files: before -> after, as text.
        cases: folder and id, such as ``imagesTr/CASE``, to a digest of the files and of how they are written.
    """

    source: str
    layout: str
    integers: dict[str, int]
    cases: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What ``convert_dataset`` made.

    Attributes:
        path: of the folder.
        dataset: that was converted.
        training: cases with label maps.
        test: images in ``imagesTs``: for tests, or without label map.
        integers: of label files: before -> after.
        made: cases that were written now; the others were there.
        findings: from understanding the source.
    """

    path: Path
    dataset: Dataset
    training: int
    test: int
    integers: dict[int, int]
    made: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One case and where it goes."""

    case: Case
    images: Path
    labels: Path | None

    @property
    def name(self) -> str:
        """``imagesTr/CASE``."""
        return f"{self.images.name}/{self.case.id}"


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How cases are written."""

    dataset: Dataset
    ending: str
    integers: Mapping[int, int]

    def key(self, case: Case) -> str:
        """Digest of the case's files and of how they are written."""
        files = [Path(self.dataset.root, name) for name in (*case.images, *filter(None, [case.label]))]
        content = [content_hash(part) for file in files for part in parts_of(file)]
        stated = sorted(f"{before} {after}" for before, after in self.integers.items())
        return digest([_VERSION, self.ending, str(len(self.dataset.channels)), *stated, *content])


def convert_dataset(
    source: Path,
    target: Path,
    *,
    channel_names: Sequence[str] = (),
    understood: Callable[[Dataset, Sequence[Finding]], None] | None = None,
    executor: Executor | None = None,
    logger: Logger | None = None,
) -> Converted:
    """Writes a data set of any layout in nnU-Net's.

    Args:
        source: folder or table; never written to.
        target: folder, empty or of an earlier conversion of the same source.
        channel_names: that overrule those stated or found.
        understood: sees what was understood before anything is written, and may raise to stop.
        executor: runs the cases.
        logger: for progress.

    Raises:
        InputError: the source cannot be understood, or the target holds something else.
        CasesFailedError: some cases failed; the others are written.
    """
    dataset, findings = read_dataset(source, channel_names=channel_names)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise FindingsError(f"{dataset.name} cannot be converted as it is: {len(errors)} errors", findings)
    if understood is not None:
        understood(dataset, findings)
    before = _checked_target(target, dataset, source)
    form = _Form(dataset=dataset, ending=_ending(dataset), integers=_consecutive(dataset.labels))
    jobs = _jobs(dataset, target)
    gone = sorted(set(before.cases if before else ()) - {job.name for job in jobs})
    if gone:
        raise InputError(
            "the target holds cases of an earlier conversion that the source does not have any more",
            file=target,
            found=", ".join(gone[:5]) + (" …" if len(gone) > 5 else ""),
            remedy="Name an empty folder.",
        )
    made = _write_cases(jobs, form, target, source, before, executor or ThreadExecutor(), logger or SilentLogger())
    _write_description(target, form)
    training = sum(job.labels is not None for job in jobs)
    return Converted(
        path=target,
        dataset=dataset,
        training=training,
        test=len(jobs) - training,
        integers=dict(form.integers),
        made=made,
        findings=tuple(findings),
    )


def _checked_target(target: Path, dataset: Dataset, source: Path) -> Conversion | None:
    """The record of an earlier conversion of the same source, None for a new or empty folder."""
    here = target.resolve()
    if any(here.is_relative_to(folder) or folder.is_relative_to(here) for folder in folders_of(dataset)):
        raise InputError(
            "the target lies inside the data set, or around it, and the data set is never written to",
            file=target,
            remedy="Name another folder.",
        )
    for existing in (here, *here.parents):
        if existing.is_file():
            raise InputError("the target is a file, or lies in one", file=existing, remedy="Name a folder.")
    check_no_links_out(target)
    for name in _FOLDERS:
        check_no_links_out(target / name)
    record = target / _RECORD
    if record.is_file():
        before = read_document(Conversion, record)
        if before.source == str(source.resolve()):
            return before
        raise InputError(
            "the target holds the conversion of another data set",
            file=target,
            found=before.source,
            expected=str(source.resolve()),
            remedy="Name an empty folder.",
        )
    if target.is_dir() and any(target.iterdir()):
        raise InputError(
            "the target is not empty, and autoseg did not make it", file=target, remedy="Name an empty folder."
        )
    return None


def _ending(dataset: Dataset) -> str:
    """One ending for all files: theirs if they share one that nnU-Net reads, else .png for pictures, .nii.gz for volumes."""
    names = [name for case in dataset.annotated_cases for name in (*case.images, case.label or "")]
    endings = {split_ending(name)[1].casefold() for name in names}
    if len(endings) == 1 and endings <= set(_KEPT_ENDINGS):
        return endings.pop()
    if endings <= set(_PICTURES):
        header = read_header(Path(dataset.root, dataset.annotated_cases[0].images[0]))
        if header.geometry.planar and np.issubdtype(np.dtype(header.dtype), np.unsignedinteger):
            return ".png"
    return ".nii.gz"


def _consecutive(labels: Labels) -> dict[int, int]:
    """Every integer and the one that it becomes: 0, 1, 2, … in their order, the ignore label last."""
    integers = {value: position for position, value in enumerate(labels.integers)}
    if labels.ignore is not None:
        integers[labels.ignore] = len(integers)
    return integers


def _jobs(dataset: Dataset, target: Path) -> list[_Job]:
    training = [
        _Job(case=case, images=target / "imagesTr", labels=target / "labelsTr") for case in dataset.annotated_cases
    ]
    others = [*dataset.test, *(case for case in dataset.cases if case.label is None)]
    names: dict[str, str] = {}
    for case in others:
        if names.setdefault(same_file_name(case.id), case.images[0]) != case.images[0]:
            raise InputError(
                "a test image and an image without label map have the same name",
                case=case.id,
                found=f"{names[same_file_name(case.id)]} and {case.images[0]}",
                remedy="Rename one of them.",
            )
    return [*training, *(_Job(case=case, images=target / "imagesTs", labels=None) for case in others)]


def _write_cases(
    jobs: Sequence[_Job],
    form: _Form,
    target: Path,
    source: Path,
    before: Conversion | None,
    executor: Executor,
    logger: Logger,
) -> int:
    """Writes what is not there yet; returns the number of cases that were written."""
    done = dict(before.cases) if before else {}
    record = Conversion(
        source=str(source.resolve()),
        layout=form.dataset.layout,
        integers={str(old): new for old, new in form.integers.items()},
        cases=done,
    )
    target.mkdir(parents=True, exist_ok=True)
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(exist_ok=True)
        sweep(target / name, older_than_seconds=0)
    write_document(target / _RECORD, record)  # from now on the folder is known as ours
    failures: dict[str, BaseException] = {}
    made, saved = 0, time.monotonic()

    def work(job: _Job) -> str:
        return _convert(job, form, done.get(job.name))

    try:
        for count, outcome in enumerate(executor.run(work, jobs), start=1):
            name = outcome.item.name
            if outcome.result is None:
                failures[name] = outcome.error or InputError("unknown failure")
                logger.event("case_failed", stage="convert", case=name, **reported(failures[name]))
                done.pop(name, None)
            else:
                made += done.get(name) != outcome.result
                done[name] = outcome.result
            logger.event("progress", stage="convert", done=count, total=len(jobs), detail=outcome.item.case.id)
            if time.monotonic() - saved > _SAVE_EVERY:
                write_document(target / _RECORD, msgspec.structs.replace(record, cases=dict(sorted(done.items()))))
                saved = time.monotonic()
    finally:
        write_document(target / _RECORD, msgspec.structs.replace(record, cases=dict(sorted(done.items()))))
    if failures:
        raise CasesFailedError("convert", failures, len(jobs) - len(failures))
    return made


def _convert(job: _Job, form: _Form, known: str | None) -> str:
    """Writes the files of a case, unless they were made before from the same; returns the case's key."""
    case, root = job.case, Path(form.dataset.root)
    images = [job.images / f"{case.id}_{index:04d}{form.ending}" for index in range(len(form.dataset.channels))]
    label = job.labels / f"{case.id}{form.ending}" if job.labels and case.label else None
    key = form.key(case)
    if key == known and all(file.is_file() for file in (*images, *filter(None, [label]))):
        return key
    job.images.mkdir(exist_ok=True)
    geometry = _write_images(case, root, images, form)
    if label is not None:
        _write_label(case, root, label, geometry, form)
    return key


def _write_images(case: Case, root: Path, targets: Sequence[Path], form: _Form) -> Geometry:
    """One file per channel: copied where the source is such a file, else written; returns the grid."""
    channels: list[tuple[Volume, Path | None]] = []
    for name in case.images:
        path = root / name
        volume = as_image(format_of(path).read(path))
        plain = len(volume.array) == 1 and not path.is_dir() and name.casefold().endswith(form.ending)
        as_stored = plain and parts_of(path) == (path,) and not read_header(path).palette
        channels += [(_one_channel(volume, index), path if as_stored else None) for index in range(len(volume.array))]
    if len(channels) != len(targets):
        raise InputError(
            "wrong number of channels",
            case=case.id,
            found=f"{len(channels)} in {', '.join(case.images)}",
            expected=f"{len(targets)} ({', '.join(form.dataset.channels)})",
        )
    first = channels[0][0].geometry
    for (volume, copied), target in zip(channels, targets, strict=True):
        placed = on_grid_of(volume, first)
        if problem := grid_conflict(first, placed.geometry):
            raise InputError(f"the channels lie on different grids: {problem}", case=case.id, file=copied or target)
        if copied is not None:
            _copy(copied, target)
        else:
            format_of(target).write(target, placed)
    return first


def _one_channel(volume: Volume, index: int) -> Volume:
    return Volume(array=volume.array[index : index + 1], geometry=volume.geometry)


def _write_label(case: Case, root: Path, target: Path, geometry: Geometry, form: _Form) -> None:
    """The label map with consecutive integers, copied where they are so already."""
    source = root / str(case.label)
    volume = on_grid_of(read_labels(source, case.id), geometry)
    surplus = undeclared_values(volume.array, form.dataset.labels)
    if surplus:
        raise InputError(
            "the label file holds values that are not declared",
            case=case.id,
            file=source,
            found=", ".join(map(str, surplus[:10])),
            expected=", ".join(map(str, form.dataset.labels.allowed_integers)),
        )
    if problem := grid_conflict(geometry, volume.geometry):
        raise InputError(f"image and label file lie on different grids: {problem}", case=case.id, file=source)
    same = all(before == after for before, after in form.integers.items())
    if same and source.name.casefold().endswith(form.ending) and parts_of(source) == (source,) and not volume.palette:
        return _copy(source, target)
    table = np.zeros(max(form.integers) + 1, np.uint16)
    table[list(form.integers)] = list(form.integers.values())
    array = smallest_integers(table[volume.array])
    format_of(target).write(target, Volume(array=array, geometry=volume.geometry))


def _copy(source: Path, target: Path) -> None:
    """Byte by byte, atomically; the content of a link, not the link."""
    with replacing(target) as beside:
        shutil.copyfile(source, beside)


def _write_description(target: Path, form: _Form) -> None:
    """``dataset.json`` as nnU-Net wants it, and what autoseg alone reads: patients and annotated lists; folds, if any."""
    dataset, integers = form.dataset, form.integers
    labels: dict[str, Any] = {"background": 0}
    for label in dataset.labels.foreground:
        values = [integers[value] for value in label.values]
        labels[label.name] = values if len(values) > 1 else values[0]
    if dataset.labels.ignore is not None:
        labels["ignore"] = integers[dataset.labels.ignore]
    stated: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": labels,
        "numTraining": len(dataset.annotated_cases),
        "file_ending": form.ending,
    }
    if dataset.labels.has_regions:
        stated["regions_class_order"] = [integers.get(value, value) for value in dataset.labels.region_values]
    told = dataset.annotated_cases
    if patients := {case.id: case.patient for case in told if case.patient}:
        stated["patients"] = patients
    if annotated := {case.id: case.annotated for case in told if case.annotated is not None}:
        stated["annotated"] = annotated
    write_atomically(target / "dataset.json", msgspec.json.format(msgspec.json.encode(stated), indent=1) + b"\n")
    folds = Path(dataset.root) / "splits_final.json"
    if folds.is_file():
        with contextlib.suppress(shutil.SameFileError):
            _copy(folds, target / "splits_final.json")

"""What is seen only across cases: equal images, equal label maps, spacings unlike the others', stray files, odd paths."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from autoseg.io.layouts.items import SYSTEM_FILES
from autoseg.values import Case, CaseFingerprint, Dataset, Finding

__all__ = ["across_findings", "equal_images"]

#: Spacings this many times smaller or larger than those of the other cases are hardly in the same unit.
OTHER_UNIT = 20
#: Spacings of exactly 1 that are this many times off the others' were hardly measured.
UNKNOWN = 2
#: Fewer cases than that have no usual spacing.
FEWEST_CASES = 4
#: That many integers are shown of a list.
MOST_INTEGERS = 12


def across_findings(dataset: Dataset, cases: Sequence[CaseFingerprint], sha256: Callable[[Path], str]) -> list[Finding]:
    """All findings that need more than one case, or none.

    Args:
        dataset: as understood.
        cases: what was measured of those that could be.
        sha256: of a file's content; asked only about files that may be copies of one that could not be measured.
    """
    return [
        *_equal_cases(dataset, cases),
        *_copied_files(dataset, {case.id for case in cases}, sha256),
        *_unlike_spacings(cases),
        *_unlooked_for(dataset, cases),
        *_gaps(dataset),
        *_unusual_paths(dataset),
        *_system_files(dataset),
    ]


def equal_images(cases: Iterable[CaseFingerprint]) -> list[tuple[str, ...]]:
    """Groups of cases whose images have equal voxels; they must not stand on both sides of a fold."""
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        groups[case.image_digest].append(case.id)
    return [tuple(ids) for digest, ids in groups.items() if digest and len(ids) > 1]


def _equal_cases(dataset: Dataset, cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    images: dict[str, CaseFingerprint] = {}
    labels: dict[str, CaseFingerprint] = {}
    files = {case.id: case for case in dataset.cases}
    for case in cases:
        same_image = images.setdefault(case.image_digest, case) if case.image_digest else case
        if same_image is not case:
            same_labels = same_image.label_digest == case.label_digest
            yield _duplicate(
                files[case.id], same_image.id, "the same label map" if same_labels else "another label map"
            )
        if not case.label_digest or len(case.label_counts) < 2:
            continue  # an empty map, or a full one, is no evidence
        same_label = labels.setdefault(case.label_digest, case)
        if same_label is not case and same_label.image_digest != case.image_digest:
            yield Finding(
                severity="warning",
                what="the label map equals that of another case, whose image differs",
                case=case.id,
                file=files[case.id].label,
                found=f"the voxels of {files[same_label.id].label}, of case {same_label.id}",
                remedy="Look at both: one of the cases probably has the other's label file.",
            )


def _duplicate(case: Case, other: str, labels: str) -> Finding:
    return Finding(
        severity="warning",
        what="the image is that of another case, too",
        case=case.id,
        file=case.images[0],
        found=f"the voxels of case {other}, with {labels}",
        remedy="Remove one of them, unless it was annotated twice on purpose; they are kept on one side of every fold.",
    )


def _copied_files(dataset: Dataset, measured: set[str], sha256: Callable[[Path], str]) -> Iterator[Finding]:
    """Cases of which one cannot be measured, so that only their files can be compared; and label files named twice."""
    by_size: dict[int, list[Case]] = defaultdict(list)
    for case in dataset.annotated_cases:
        file = Path(dataset.root, case.images[0])
        if file.is_file():
            by_size[file.stat().st_size].append(case)
    for group in by_size.values():
        if len(group) < 2 or all(case.id in measured for case in group):
            continue
        first: dict[str, Case] = {}
        for case in group:
            other = first.setdefault(sha256(Path(dataset.root, case.images[0])), case)
            if other is not case and not {case.id, other.id} <= measured and case.images != other.images:
                same = (
                    case.label is not None and other.label is not None and _equal_labels(dataset, case, other, sha256)
                )
                yield _duplicate(case, other.id, "the same label map" if same else "another label map")
    named: dict[str, str] = {}
    for case in dataset.annotated_cases:
        other_id = named.setdefault(case.label or "", case.id)
        if other_id != case.id and not {case.id, other_id} <= measured:
            yield Finding(
                severity="warning",
                what="the label file is named for another case, too",
                case=case.id,
                file=case.label,
                found=f"the label file of case {other_id}",
                remedy="Name each case's own label file.",
            )


def _equal_labels(dataset: Dataset, one: Case, other: Case, sha256: Callable[[Path], str]) -> bool:
    files = [Path(dataset.root, case.label or "") for case in (one, other)]
    return all(file.is_file() for file in files) and sha256(files[0]) == sha256(files[1])


def _unlike_spacings(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    spacings = {case.id: case.to_canonical.reorder(case.spacing) for case in cases if not case.planar}
    if len(spacings) < FEWEST_CASES:
        return
    usual = tuple(statistics.median(spacing[axis] for spacing in spacings.values()) for axis in range(3))
    for case, spacing in spacings.items():
        factors = [own / other for own, other in zip(spacing, usual, strict=True)]
        furthest = max(max(factor, 1 / factor) for factor in factors)
        everywhere = min(factors) >= OTHER_UNIT or max(factors) <= 1 / OTHER_UNIT
        if furthest >= OTHER_UNIT:
            yield Finding(
                severity="error" if everywhere else "warning",  # it would be resampled to thousands of times its size
                what="the spacing is far from that of the other cases" + (": another unit?" if everywhere else ""),
                case=case,
                found=_millimetres(spacing),
                expected=f"about {_millimetres(usual)}",
                remedy="Correct the spacing in the headers of image and label file.",
            )
        elif spacing == (1.0, 1.0, 1.0) and furthest >= UNKNOWN:
            yield Finding(
                severity="warning",
                what="the spacing is 1 x 1 x 1, unlike that of the other cases: programs write it if they know none",
                case=case,
                found=_millimetres(spacing),
                expected=f"about {_millimetres(usual)}",
                remedy="Look up the true spacing, and write it into the headers of image and label file.",
            )


def _millimetres(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing) + " mm (z, y, x)"


def _unlooked_for(dataset: Dataset, cases: Sequence[CaseFingerprint]) -> list[Finding]:
    """Warnings where a label file holds a label that, as the data set says, nobody looked for in that case."""
    counted = {case.id: case.label_counts for case in cases}
    findings = []
    for case in dataset.partly_annotated:
        looked_for = {
            value
            for label in dataset.labels.foreground
            if label.name in (case.annotated or ())
            for value in label.values
        }
        others = [
            label.name
            for label in dataset.labels.foreground
            if not looked_for.issuperset(label.values)
            and any(counted.get(case.id, {}).get(str(value)) for value in set(label.values) - looked_for)
        ]
        if others:
            findings.append(
                Finding(
                    severity="warning",
                    what="the label file holds labels that the case is not annotated for",
                    case=case.id,
                    file=case.label,
                    found=", ".join(others),
                    expected=", ".join(case.annotated or ()) or "background only",
                    remedy="Correct the list of labels that were looked for, or the label file.",
                )
            )
    return findings


def _gaps(dataset: Dataset) -> Iterator[Finding]:
    integers = dataset.labels.allowed_integers
    if integers != tuple(range(len(integers))):
        yield Finding(
            severity="note",
            what="the label integers have gaps, which is legal",
            found=", ".join(map(str, integers[:MOST_INTEGERS])) + (" …" if len(integers) > MOST_INTEGERS else ""),
            remedy="Nothing is to be done.",
        )


def _unusual_paths(dataset: Dataset) -> Iterator[Finding]:
    paths = [file for case in dataset.cases for file in (*case.images, *filter(None, [case.label]))]
    unusual = [path for path in paths if " " in path or not path.isascii()]
    if unusual:
        yield Finding(
            severity="note",
            what="paths hold spaces or letters beyond ASCII, which is legal",
            found=f"{len(unusual)} paths: {_first(unusual)}",
            remedy="Nothing is to be done; other programs may stumble over them.",
        )


def _system_files(dataset: Dataset) -> Iterator[Finding]:
    """What operating systems leave in folders, in those where the cases are."""
    root = Path(dataset.root)
    folders = {root, *(Path(root, file).parent for case in dataset.cases for file in case.images)}
    folders |= {Path(root, case.label).parent for case in dataset.annotated_cases if case.label}
    stray = sorted(
        file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
        for folder in folders
        if folder.is_dir()
        for file in folder.iterdir()
        if SYSTEM_FILES.match(file.name)
    )
    if stray:
        yield Finding(
            severity="note",
            what="files that operating systems leave behind are passed over",
            found=_first(stray),
            remedy="Nothing is to be done; they can be removed.",
        )


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (" …" if len(names) > count else "")

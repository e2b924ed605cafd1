"""From what a layout found to a data set: names of channels and labels, stated or found, and what must hold of all cases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from autoseg.errors import DocumentError, FindingsError, InputError
from autoseg.executors import Executor
from autoseg.io.formats import known_endings, label_ending, read_header, split_ending
from autoseg.io.layouts.description import Description, labels_of, stated_channels
from autoseg.io.layouts.integers import IntegerCache, integers_in
from autoseg.io.layouts.items import readable_name
from autoseg.values import Case, Dataset, Finding, Labels
from autoseg.values.json_form import same_file_name

__all__ = ["Understanding", "annotated_names", "complete", "default_ending"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
#: More images than that without label files are told of in one note.
MOST_NOTES = 10
#: More integers than that are not taken for labels that nobody declared.
MOST_LABELS, MOST_LOSSY_LABELS = 100, 16
#: More of them in a file that holds no background are grey values.
MOST_WITHOUT_BACKGROUND = 32
_LOSSY = (".jpg", ".jpeg")
_WITH_PALETTE = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Understanding:
    """What a layout found.

    Attributes:
        layout: in words.
        root: that paths are relative to.
        name: of the data set.
        stated: by the user, in a description.
        cases: with and without label map, in any order.
        test: images kept apart.
        channels: names that files or folders tell; empty where they tell nothing.
        label_names: integer to name that a side file tells.
        findings: so far.
        inferred: what was guessed, in words.
    """

    layout: str
    root: Path
    name: str
    stated: Description
    cases: Sequence[Case]
    test: Sequence[Case] = ()
    channels: Sequence[str] = ()
    label_names: dict[int, str] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    inferred: Sequence[str] = ()


def complete(
    understood: Understanding,
    *,
    channel_names: Sequence[str] = (),
    known: IntegerCache | None = None,
    executor: Executor | None = None,
) -> tuple[Dataset, list[Finding]]:
    """The data set, and all findings.

    Args:
        understood: by a layout.
        channel_names: that the user asks for; overrule what is stated and found.
        known: integers of label files, from an earlier pass.
        executor: looks into label files.

    Raises:
        InputError: there is nothing to learn from, or the number of channels is not clear.
    """
    findings, inferred = list(understood.findings), list(understood.inferred)
    cases, more = _usable(understood)
    findings += more
    if not any(case.label for case in cases):
        what = f"{understood.name} has no annotated case, understood as {understood.layout}"
        if findings:
            raise FindingsError(f"{what}:", findings)
        raise InputError(
            what,
            file=understood.root,
            found=f"{len(cases)} images without label map",
            expected="label maps beside the images, in one of the layouts of docs/how-to/bring-your-data.md",
        )
    channels, guess = _channels(understood, cases, channel_names)
    inferred += guess
    labels, guess, more = _labels(understood, cases, known, executor)
    labels = _with_palette(labels, understood.root, cases)
    inferred += guess
    findings += more
    told, more = _told(understood, cases, labels)
    findings += more
    findings += _unlabelled(told)
    dataset = Dataset(
        name=understood.name,
        root=str(understood.root),
        channels=channels,
        labels=labels,
        file_ending=understood.stated.file_ending or default_ending(cases),
        cases=tuple(sorted(told, key=lambda case: case.id)),
        test=tuple(sorted(understood.test, key=lambda case: case.id)),
        layout=understood.layout,
        inferred=tuple(inferred),
    )
    findings += _partly(dataset)
    return dataset, findings


def _usable(understood: Understanding) -> tuple[list[Case], list[Finding]]:
    """The cases whose ids and paths can be used on every system, each id once; findings about the others."""
    findings, groups = [], defaultdict(list)
    for case in understood.cases:
        if not all(map(readable_name, (*case.images, case.label or ""))):
            findings.append(
                Finding(severity="error", what="a path is not UTF-8 text", case=case.id, remedy="Rename the file.")
            )
        else:
            groups[same_file_name(case.id)].append(case)
    for group in groups.values():
        if len(group) > 1:
            findings.append(
                Finding(
                    severity="error",
                    what="several cases have the same name"
                    if len({case.id for case in group}) == 1
                    else "several cases would have the same name on some systems",
                    case=group[0].id,
                    found=", ".join(case.images[0] for case in group[:5]),
                    remedy="Rename all but one, or name the cases in a table (CSV).",
                )
            )
    return [group[0] for group in groups.values() if len(group) == 1], findings


def _channels(
    understood: Understanding, cases: Sequence[Case], asked: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Names of the channels, and what was guessed about them."""
    stated = tuple(asked) or stated_channels(understood.stated)
    files = Counter(len(case.images) for case in cases).most_common(1)[0][0]
    if stated:
        if files not in (1, len(stated)):
            raise InputError(
                f"{len(stated)} channels are named, and the cases have {files} files each",
                file=understood.stated.source or understood.root,
                found=", ".join(cases[0].images),
                expected=f"one file for each of {', '.join(stated)}, or one that holds all",
                remedy="Correct channel_names, or name them with --channel-names.",
            )
        return stated, []
    if understood.channels:
        return tuple(understood.channels), [f"the channels, from the names of files: {', '.join(understood.channels)}"]
    if files > 1:
        names = tuple(f"channel_{index}" for index in range(files))
    else:
        names = _names_by_count(_channels_in(understood.root, cases), split_ending(cases[0].images[0])[1].casefold())
    return names, [f"the names of the channels: {', '.join(names)} (--channel-names tells; CT has a meaning)"]


def _names_by_count(count: int, ending: str) -> tuple[str, ...]:
    if count == 1:
        return ("image",)
    return ("R", "G", "B") if count == 3 and ending in PICTURES else tuple(f"channel_{index}" for index in range(count))


def _channels_in(root: Path, cases: Sequence[Case]) -> int:
    """Channels of the first image that can be read; one if none can, which reading the cases will tell."""
    for case in cases[:5]:
        path = root / case.images[0]
        try:
            header = read_header(path)
            return (1 if _is_grey(header.palette) else 3) if header.palette else header.channels
        except InputError:
            continue
    return 1


def _is_grey(palette: Sequence[tuple[int, int, int]]) -> bool:
    return all(red == green == blue for red, green, blue in palette)


def _with_palette(labels: Labels, root: Path, cases: Sequence[Case]) -> Labels:
    """The labels with the colours of the first label file, if it is a picture with a palette."""
    file = next((root / case.label for case in cases if case.label), None)
    if file is None or file.suffix.casefold() not in _WITH_PALETTE:
        return labels
    try:
        return msgspec.structs.replace(labels, palette=read_header(file).palette)
    except InputError:  # reading the case tells
        return labels


def _labels(
    understood: Understanding, cases: Sequence[Case], known: IntegerCache | None, executor: Executor | None
) -> tuple[Labels, list[str], list[Finding]]:
    stated = understood.stated
    if stated.labels:
        labels, findings = labels_of(stated)
        return labels, [], findings
    names, inferred = dict(understood.label_names), []
    if not names:
        files = [understood.root / case.label for case in cases if case.label]
        found = integers_in(files, known, executor)
        integers = sorted({value for values in found for value in values if 0 < value < 2**15})
        if not integers:
            _check_there(files, understood.root)
            raise InputError(
                "the label files hold background only, or cannot be read: there is nothing to learn",
                file=understood.root,
                found=f"{len(files)} label files, {files[0].name} for example",
                expected="integers above 0, up to 32767",
                remedy="Check that these are the label files.",
            )
        _check_few(found, integers, files)
        names = {value: f"label_{value}" for value in integers}
        inferred = [f"the labels, from the integers in the label files: {', '.join(map(str, integers))}"]
    labels, findings = labels_of(stated, names)
    return labels, inferred, findings


def _check_few(found: Sequence[Sequence[int]], integers: Sequence[int], files: Sequence[Path]) -> None:
    """Refuses to take images for label maps, or the noise of lossy files for labels.

    Args:
        found: the integers of each file.
        integers: those of all files that would be labels.
        files: of label maps, as they are called.

    Raises:
        InputError: they look like something else.
    """
    shown = ", ".join(map(str, integers[:8])) + (f" … {integers[-1]}" if len(integers) > 8 else "")
    if files[0].suffix.casefold() in _LOSSY and len(integers) > MOST_LOSSY_LABELS:
        raise InputError(
            f"the label files hold {len(integers)} different integers: JPEG has changed the labels at their borders",
            file=files[0],
            found=shown,
            expected="one integer for each label",
            remedy="Save them again as PNG, from before they were JPEG.",
        )
    if len(integers) > MOST_LABELS or sum(map(_fills_a_grey_range, found)) * 2 > len(found):
        raise InputError(
            f"the label files hold {len(integers)} different integers, as grey pictures do: are they label maps, or are "
            "images and label maps exchanged?",
            file=files[0],
            found=shown,
            expected=f"one integer for each label, at most {MOST_LABELS} where none is declared, and 0 for background",
            remedy="Exchange them if so. If these are label maps, declare their labels in autoseg.json.",
        )


def _fills_a_grey_range(integers: Sequence[int]) -> bool:
    """Whether a file holds many integers and no background: 0 is missing, or not the least."""
    return len(integers) > MOST_WITHOUT_BACKGROUND and min(integers) != 0


def _check_there(files: Sequence[Path], root: Path) -> None:
    missing = [file for file in files if not file.exists()]
    if len(missing) == len(files):
        raise InputError(
            "none of the label files that are named is there",
            file=root,
            found=f"{len(files)} names, {missing[0]} for example",
            remedy="Paths in a table are relative to the table's folder.",
        )


def _told(understood: Understanding, cases: Sequence[Case], labels: Labels) -> tuple[list[Case], list[Finding]]:
    """The cases with what a description says of each: patient, and the labels that were looked for."""
    stated, findings, told = understood.stated, [], []
    names = [label.name for label in labels.foreground]
    for case in cases:
        annotated = annotated_names(stated.annotated.get(case.id, case.annotated), labels)
        unknown = sorted(set(annotated or ()) - set(names))
        if unknown:
            findings.append(
                Finding(
                    severity="error",
                    what="annotated names labels that are not declared",
                    case=case.id,
                    found=", ".join(unknown),
                    expected=f"some of {', '.join(names)}",
                    remedy="Declare them, or correct what the case is annotated for.",
                )
            )
            annotated = None
        kept = None if annotated is None else tuple(dict.fromkeys(annotated))
        patient = stated.patients.get(case.id, case.patient)
        told.append(msgspec.structs.replace(case, annotated=kept, patient=patient or None))
    known = {case.id for case in cases}
    for what, named in (("annotated", stated.annotated), ("patients", stated.patients)):
        if strangers := sorted(set(named) - known):
            findings.append(
                Finding(
                    severity="warning",
                    what=f"{what} names cases that are not here",
                    file=stated.source,
                    found=", ".join(strangers[:5]) + (" …" if len(strangers) > 5 else ""),
                    remedy="Correct the names, unless the cases were removed on purpose.",
                )
            )
    return told, findings


def annotated_names(annotated: Sequence[str | int] | None, labels: Labels) -> list[str] | None:
    """Names of the labels that were looked for, where some are given by their integers; a region by all of its own."""
    if annotated is None:
        return None
    names = {label.name for label in labels.foreground}
    integers = {int(each) for each in annotated if each not in names and str(each).isdecimal()}
    by_integers = [label for label in labels.foreground if integers.issuperset(label.values)]
    strange = integers.difference(*(label.values for label in by_integers))
    named = [str(each) for each in annotated if each in names or not str(each).isdecimal()]
    return [*named, *(label.name for label in by_integers), *map(str, sorted(strange))]


def _unlabelled(cases: Sequence[Case]) -> list[Finding]:
    alone = [case.id for case in cases if case.label is None]
    remedy = "Nothing is to be done, unless there are label files for them."
    if len(alone) > MOST_NOTES:
        what = f"{len(alone)} images without label files: they are not trained on"
        return [Finding(severity="note", what=what, found=", ".join(alone[:MOST_NOTES]) + " …", remedy=remedy)]
    what = "an image without a label file: it is not trained on"
    return [Finding(severity="note", what=what, case=case, remedy=remedy) for case in alone]


def _partly(dataset: Dataset) -> list[Finding]:
    partly = dataset.partly_annotated
    if not partly:
        return []
    return [
        Finding(
            severity="note",
            what=f"{len(partly)} cases are annotated for some labels only",
            case=partly[0].id,
            found=f"annotated for {', '.join(partly[0].annotated or ()) or 'nothing'}",
            remedy="Nothing is to be done: of these cases, only what is known is learned and scored.",
        )
    ]


def default_ending(cases: Sequence[Case]) -> str:
    """The ending for label maps: that of most label files, if label maps can be written so."""
    endings = Counter(split_ending(case.label)[1] for case in cases if case.label)
    return label_ending(endings.most_common(1)[0][0] if endings else "")


def check_ending(stated: Description) -> None:
    """Sees to it that a stated ending is one that can be read.

    Raises:
        DocumentError: it is not.
    """
    if stated.file_ending is not None and stated.file_ending.lower() not in known_endings():
        raise DocumentError(
            "unknown file_ending",
            file=stated.source,
            found=stated.file_ending or "nothing",
            expected=f"one of {', '.join(sorted(known_endings()))}",
        )

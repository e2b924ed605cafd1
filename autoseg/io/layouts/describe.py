"""What was understood of a data set, for people: so that they can say no before anything is computed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from autoseg.errors import counted
from autoseg.io.layouts.regions import ONLY_PARTS
from autoseg.values import Case, Dataset, Finding

__all__ = ["describe_dataset"]

_WIDTH = 110


def describe_dataset(dataset: Dataset, findings: Sequence[Finding] = ()) -> str:
    """Layout, cases, channels, labels, and what was guessed, in a few lines.

    Args:
        dataset: as understood.
        findings: of reading its folders; files that were left out are counted.
    """
    annotated = dataset.annotated_cases
    rows = [
        ("layout", dataset.layout or "told by a program"),
        ("cases", _counts(dataset)),
        *((("example", _example(annotated[0])),) if annotated else ()),
        ("channels", ", ".join(dataset.channels)),
        ("labels", _labels(dataset)),
    ]
    rows += [("", f"{each.found} only as parts of regions") for each in findings if each.what == ONLY_PARTS]
    if patients := {case.patient for case in annotated if case.patient}:
        rows.append(("patients", f"{len(patients)}, told by the data set"))
    if partly := dataset.partly_annotated:
        rows.append(("annotated", f"{len(partly)} cases for some labels only"))
    omitted = [finding for finding in findings if finding.file and "left out" in finding.what]
    if omitted:
        rows.append(
            (
                "left out",
                _listed(
                    [finding.file or "" for finding in omitted],
                    "1 file: " if len(omitted) == 1 else f"{len(omitted)} files: ",
                ),
            )
        )
    rows += [("guessed" if place == 0 else "", guess) for place, guess in enumerate(dataset.inferred)]
    indent = " " * 13
    lines = [
        textwrap.fill(
            text,
            _WIDTH,
            initial_indent=f"  {name:<9}  ",
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for name, text in rows
    ]
    return "\n".join([f"Understood of {dataset.name}", *lines])


def _counts(dataset: Dataset) -> str:
    annotated = len(dataset.annotated_cases)
    parts = [f"{annotated} with image and label"]
    if unlabelled := len(dataset.cases) - annotated:
        parts.append(f"{unlabelled} without label, not trained on")
    if dataset.test:
        parts.append(f"{counted(len(dataset.test), 'test image')}, left alone")
    return ", ".join(parts)


def _example(case: Case) -> str:
    return f"{case.id}: {', '.join(case.images)} with {case.label}"


def _labels(dataset: Dataset) -> str:
    labels = dataset.labels
    shown = [
        f"{label.name} {'+'.join(map(str, label.values))}"
        + (f" (written {written})" if len(label.values) > 1 or written != label.values[0] else "")
        for label, written in zip(labels.foreground, labels.written_values, strict=True)
    ]
    if labels.ignore is not None:
        shown.append(f"ignore {labels.ignore}")
    return _listed(shown, "", 30)


def _listed(names: Sequence[str], before: str, count: int = 3) -> str:
    return before + ", ".join(names[:count]) + (" …" if len(names) > count else "")

"""Finding: one thing seen in the user's data, with its severity, its case and a remedy; and what a check comes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from autoseg.errors import describe
from autoseg.values.dataset import Dataset
from autoseg.values.json_form import Value, require

__all__ = ["FIXES", "CheckReport", "Finding", "Severity", "findings_text"]

Severity = Literal["error", "warning", "note"]

#: What ``--fix`` can do safely, in the order in which it is done, and what it then has done.
FIXES = {
    "swap": "image and label file have changed places",
    "round": "the label map's values were rounded to the integers that they nearly are",
    "relabel": "the mask's only value was replaced by the only label that is declared",
    "reorder": "the label map's axes were reordered to those of the image, which moves no voxel",
    "resample": "the label map was resampled onto the image's grid (nearest neighbour)",
}
#: Of equal findings about more cases than that, the others are listed by their cases alone.
SHOWN = 5


class Finding(Value, frozen=True, kw_only=True):
    """One thing seen in the data: an error stops, a warning may matter, a note is for the record.

    Attributes:
        severity: error, warning or note.
        what: one sentence; equal for equal findings, so that they can be counted.
        case: the case id, where one is concerned.
        file: relative to the data set, where one is concerned.
        found: what was found.
        expected: what was expected instead.
        remedy: what to do.
        fix: the safe fix that ``--fix`` applies, a key of ``FIXES``; None if there is none.
    """

    severity: Severity
    what: str
    case: str | None = None
    file: str | None = None
    found: str | None = None
    expected: str | None = None
    remedy: str | None = None
    fix: str | None = None

    def __post_init__(self) -> None:
        require(self.fix is None or self.fix in FIXES, f"there is no fix {self.fix!r}", field="fix")

    def __str__(self) -> str:
        return f"{self.severity}: {self._described(self.remedy)}"

    def _described(self, remedy: str | None) -> str:
        return describe(
            self.what, case=self.case, file=self.file, found=self.found, expected=self.expected, remedy=remedy
        )

    @property
    def order(self) -> tuple[int, str, str, str]:
        """By which findings are sorted: the worst first, then by case."""
        severities: tuple[Severity, ...] = ("error", "warning", "note")
        return severities.index(self.severity), self.case or "", self.what, self.file or ""

    def lines(self) -> Iterator[str]:
        """The finding for people: what is wrong in one line, what to do in the next."""
        yield f"  - {self._described(None)}"
        remedy = " ".join(filter(None, [self.remedy, "--fix does it." if self.fix else None]))
        if remedy:
            yield f"      {remedy}"


class CheckReport(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.check/1"):
    """What a check of a data set found.

    Attributes:
        dataset: its name.
        cases: ids of all of its cases.
        annotated: how many of them have a label file.
        findings: all of them, sorted.
    """

    dataset: str
    cases: tuple[str, ...]
    annotated: int
    findings: tuple[Finding, ...]

    @staticmethod
    def of(dataset: Dataset, findings: Iterable[Finding]) -> CheckReport:
        """The report about a data set."""
        return CheckReport(
            dataset=dataset.name,
            cases=tuple(case.id for case in dataset.cases),
            annotated=len(dataset.annotated_cases),
            findings=tuple(findings),
        )

    def count(self, severity: Severity) -> int:
        """How many findings are of that severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def summary(self) -> str:
        """One line: how many findings of which severity."""
        fixable = len({finding.case for finding in self.findings if finding.fix})
        counted = ", ".join(_counted(self.count(each), each) for each in ("error", "warning", "note"))
        cases = f"{_counted(len(self.cases), 'case')}, {self.annotated} with labels"
        safely = f"; {_counted(fixable, 'case')} can be fixed safely: --fix" if fixable else ""
        return f"{self.dataset}: {cases}: {counted}{safely}"


def findings_text(findings: Iterable[Finding]) -> str:
    """All findings for people, grouped by severity; empty if there are none.

    Of many equal findings the first are shown whole, and of the others the cases.
    """
    lines = []
    groups: dict[Severity, dict[tuple[str, str | None], list[Finding]]] = {"error": {}, "warning": {}, "note": {}}
    for finding in sorted(findings, key=lambda each: each.order):
        groups[finding.severity].setdefault((finding.what, finding.remedy), []).append(finding)
    for severity, kinds in groups.items():
        if kinds:
            lines.append(_counted(sum(map(len, kinds.values())), severity) + ":")
        for equal in kinds.values():
            lines.extend(line for finding in _shown(equal) for line in finding.lines())
            others = [finding.case or finding.file or "" for finding in equal[len(_shown(equal)) :]]
            if others:
                lines.append(f"      The same of {len(others)} more: {', '.join(others)}")
    return "\n".join(lines)


def _shown(equal: Sequence[Finding]) -> Sequence[Finding]:
    return equal if len(equal) <= SHOWN + 1 else equal[:SHOWN]


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"

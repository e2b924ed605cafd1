"""Which cases show the same patient, and how that is known: they must never be trained on and held out at once."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from autoseg.values.json_form import Value, require
from autoseg.values.training import Split

__all__ = ["Patients"]


class Patients(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.patients/1"):
    """The patient of every annotated case.

    Attributes:
        source: the names of the cases alone, or what the user said: a pattern for them, a table, or the data set itself.
        rule: the pattern, the absolute path of the table, or the data set's layout; empty for names.
        patient_of: case id to patient; a case that shares its patient with no other has one of its own.
        joined: some cases have equal images, and so one patient, whatever the source says.
    """

    source: Literal["names", "pattern", "table", "dataset"]
    rule: str = ""
    patient_of: dict[str, str]
    joined: bool = False

    def __post_init__(self) -> None:
        require((self.source == "names") == (not self.rule), "what the user said, and nothing else, has a rule")
        nameless = sorted(case for case, patient in self.patient_of.items() if not patient)
        require(not nameless, f"cases without a patient: {', '.join(nameless[:5])}")

    @property
    def stated(self) -> bool:
        """True if the user said so; False if it is only what the names suggest."""
        return self.source != "names"

    @property
    def several(self) -> dict[str, tuple[str, ...]]:
        """The patients with more than one case, and these cases, sorted."""
        members: dict[str, list[str]] = defaultdict(list)
        for case, patient in sorted(self.patient_of.items()):
            members[patient].append(case)
        return {patient: tuple(cases) for patient, cases in sorted(members.items()) if len(cases) > 1}

    def divided_by(self, split: Split) -> dict[str, tuple[str, ...]]:
        """The patients, with all their cases, who stand on both sides of some fold."""
        both: set[str] = set()
        for fold in split:
            train, val = ({self.patient_of[case] for case in side} for side in (fold.train, fold.val))
            both |= train & val
        return {patient: cases for patient, cases in self.several.items() if patient in both}

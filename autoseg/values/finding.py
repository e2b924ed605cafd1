"""Finding: one thing seen in the user's data, with its severity, its case and a remedy."""

from __future__ import annotations

from typing import Literal

from autoseg.errors import describe
from autoseg.values.json_form import Value

__all__ = ["Finding", "Severity"]

Severity = Literal["error", "warning", "note"]


class Finding(Value, frozen=True, kw_only=True):
    """One thing seen in the data: an error stops, a warning may matter, a note is for the record."""

    severity: Severity
    what: str
    case: str | None = None
    file: str | None = None
    found: str | None = None
    expected: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        text = describe(
            self.what, case=self.case, file=self.file, found=self.found, expected=self.expected, remedy=self.remedy
        )
        return f"{self.severity}: {text}"

"""A model that leaves the house: Exported, the list of its files, and Metrics, how good it is, without anybody's name."""

from __future__ import annotations

import re

from autoseg.values.json_form import Value, require
from autoseg.values.scores import MeanScore
from autoseg.values.statistics import Interval

__all__ = ["Exported", "ExportedFile", "Metrics"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ExportedFile(Value, frozen=True, kw_only=True):
    """What a file has to be: its size in bytes and the SHA-256 of its content."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        require(self.bytes >= 0, "out of range", field="bytes", found=self.bytes, expected="0 or more")
        known = _SHA256.fullmatch(self.sha256) is not None
        require(known, "is no SHA-256", field="sha256", found=self.sha256[:80], expected="64 hexadecimal digits")


class Exported(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.export/1"):
    """The files of an exported model, and what of it predicts.

    Attributes:
        plan: its id.
        members: configuration to the folds that are averaged; of several configurations the probabilities are.
        selected: whether ``autoseg select`` chose them.
        versions: of the programs that exported it.
        files: path within the export, with ``/``, to size and content; all but this list itself.
    """

    plan: str
    members: dict[str, tuple[str, ...]]
    selected: bool
    versions: dict[str, str]
    files: dict[str, ExportedFile]

    def __post_init__(self) -> None:
        require(len(self.members) > 0, "nothing predicts", field="members")
        require(all(self.members.values()), "a member has no fold", field="members")


class Metrics(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.metrics/1"):
    """How good a model is on cases that were held out, pooled over its folds; Dice from 0 to 1, before postprocessing.

    Attributes:
        model: name of the candidate: a configuration, or several joined by ``+``.
        cases: held-out cases.
        patients: of these cases.
        dice: label to the mean over the cases in which it is defined, with its interval by patients.
        mean: of the labels, with its interval.
        members: configuration to label to the means of everything that was measured of it alone.
        validation: configuration to the mean of its folds' Dice.
    """

    model: str
    cases: int
    patients: int
    dice: dict[str, Interval]
    mean: Interval
    members: dict[str, dict[str, MeanScore]] = {}
    validation: dict[str, float | None] = {}

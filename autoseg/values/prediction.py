"""PredictionRecord and CasePrediction: what made the label maps of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from autoseg.values.confidence import Confidence
from autoseg.values.dataset import Labels
from autoseg.values.json_form import Value, require
from autoseg.values.postprocessing import ComponentStep

__all__ = [
    "DISAGREEMENT",
    "PREDICTION_RECORD",
    "PROBABILITIES",
    "CasePrediction",
    "CaseRun",
    "Part",
    "PredictionRecord",
    "PredictionRun",
    "prediction_records",
]

#: File name of the record, beside the label maps.
PREDICTION_RECORD = "autoseg-prediction.json"
#: Folder of the maps of disagreement, beside the label maps; apart from them, as programs take all images there for labels.
DISAGREEMENT = "disagreement"
#: Folder of the probabilities, beside the label maps.
PROBABILITIES = "probabilities"


class Part(Value, frozen=True, kw_only=True):
    """One of several parts of a folder's cases, each predicted by a process of its own, on any machine.

    Attributes:
        number: from 0.
        of: how many there are.
    """

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        require(self.of >= 1, f"there is at least one part, not {self.of}", field="of")
        require(
            0 <= self.number < self.of, f"parts are counted from 0 to {self.of - 1}, not {self.number}", field="number"
        )

    def file_name(self, stem: str) -> str:
        """Of a JSON file of its own, so that no two processes write the same one."""
        return f"{stem}.json" if self.of == 1 else f"{stem}.part-{self.number}-of-{self.of}.json"


def prediction_records(folder: Path) -> list[Path]:
    """The records in a folder of label maps: one, or where it was predicted in parts, one of each."""
    stem = PREDICTION_RECORD.removesuffix(".json")
    return [
        path for path in (folder / PREDICTION_RECORD, *sorted(folder.glob(f"{stem}.part-*.json"))) if path.is_file()
    ]


class CasePrediction(Value, frozen=True, kw_only=True):
    """What made one label map.

    Attributes:
        autoseg_version: that predicted.
        plan: its id.
        model: configurations whose probabilities were averaged, and digest of the weights of their folds.
        mirroring: whether flips were averaged.
        ways: in which it was not predicted as held-out cases are: ``fast``, ``roi``.
        key: digest of the image files and of everything above.
        content: SHA-256 of the label file as written; empty until it is written.
        warnings: what about this image is unlike the training images, and that the label map is likely to be poor.
        postprocessing: what was done to the label map.
        file: name of the label file, beside the record; empty where an earlier version wrote it.
        confidence: how far it can be trusted, before postprocessing; None in records from before that was told.
        disagreement_map: SHA-256 of the file of the map of disagreement; empty if there is none.
        probabilities: whether they were kept, too.
    """

    autoseg_version: str
    plan: str
    model: str
    mirroring: bool
    ways: tuple[str, ...] = ()
    key: str
    content: str = ""
    warnings: tuple[str, ...] = ()
    postprocessing: tuple[ComponentStep, ...] = ()
    file: str = ""
    confidence: Confidence | None = None
    disagreement_map: str = ""
    probabilities: bool = False


class PredictionRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.prediction/1"):
    """What made the label maps of a folder, so that they can be trusted, repeated and scored.

    Attributes:
        labels: what the integers mean, in all of them.
        cases: case id to what made its label map.
    """

    labels: Labels
    cases: dict[str, CasePrediction]


class CaseRun(Value, frozen=True, kw_only=True):
    """What became of one case of a run.

    Attributes:
        outcome: ``predicted``, ``failed``, or ``there already``, made by an earlier run of which no times are known.
        ended: when, in UTC; empty where it was there already.
        seconds: that its steps took: ``read`` (and bring to the network's grid), ``networks``, ``write`` (decide, judge
            and write). Steps of different cases overlap.
        warnings: as in the record.
        error: why it failed.
    """

    outcome: Literal["predicted", "failed", "there already"]
    ended: str = ""
    seconds: dict[str, float] = {}
    warnings: tuple[str, ...] = ()
    error: str = ""


class PredictionRun(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.prediction_run/1"):
    """How a folder of images was predicted: ``run.json`` beside the label maps.

    Attributes:
        versions: of autoseg, Python and the libraries that compute.
        plan: its id.
        plan_name: its name.
        models: the configurations with their folds.
        weights: digest of all weights.
        device: that computed.
        execution: how each configuration ran there.
        mirroring: whether flips were averaged.
        ways: as in the record.
        part: of the cases.
        began: when, in UTC.
        seconds: that the run took; None while it runs, or where it was killed.
        cases: case id to what became of it; those of earlier runs that are still right stand as they were told then.
    """

    versions: dict[str, str]
    plan: str
    plan_name: str
    models: tuple[str, ...]
    weights: str
    device: str
    execution: tuple[str, ...]
    mirroring: bool
    ways: tuple[str, ...] = ()
    part: Part = Part()
    began: str
    seconds: float | None = None
    cases: dict[str, CaseRun] = {}

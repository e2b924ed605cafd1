"""PredictionRecord: what made a folder of label maps."""

from __future__ import annotations

from autoseg.values.dataset import Labels
from autoseg.values.json_form import Value

__all__ = ["PREDICTION_RECORD", "PredictionRecord"]

#: File name of the record, beside the label maps.
PREDICTION_RECORD = "autoseg-prediction.json"


class PredictionRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.prediction/1"):
    """What made the label maps of a folder, so that they can be trusted, repeated and scored.

    Attributes:
        autoseg_version: that predicted.
        plan: content hash.
        model: configuration and folds.
        labels: what the integers mean.
        mirroring: whether flips were averaged.
        cases: case id to digest of its inputs and of everything above.
    """

    autoseg_version: str
    plan: str
    model: str
    labels: Labels
    mirroring: bool
    cases: dict[str, str]

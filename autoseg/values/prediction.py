"""PredictionRecord and CasePrediction: what made the label maps of a folder."""

from __future__ import annotations

from autoseg.values.confidence import Confidence
from autoseg.values.dataset import Labels
from autoseg.values.json_form import Value
from autoseg.values.postprocessing import ComponentStep

__all__ = ["DISAGREEMENT", "PREDICTION_RECORD", "CasePrediction", "PredictionRecord"]

#: File name of the record, beside the label maps.
PREDICTION_RECORD = "autoseg-prediction.json"
#: Folder of the maps of disagreement, beside the label maps; apart from them, as programs take all images there for labels.
DISAGREEMENT = "disagreement"


class CasePrediction(Value, frozen=True, kw_only=True):
    """What made one label map.

    Attributes:
        autoseg_version: that predicted.
        plan: its id.
        model: configurations whose probabilities were averaged, and digest of the weights of their folds.
        mirroring: whether flips were averaged.
        key: digest of the image files and of everything above.
        content: SHA-256 of the label file as written; empty until it is written.
        warnings: what about this image is unlike the training images, and that the label map is likely to be poor.
        postprocessing: what was done to the label map.
        file: name of the label file, beside the record; empty where an earlier version wrote it.
        confidence: how far it can be trusted, before postprocessing; None in records from before that was told.
        disagreement_map: SHA-256 of the file of the map of disagreement; empty if there is none.
    """

    autoseg_version: str
    plan: str
    model: str
    mirroring: bool
    key: str
    content: str = ""
    warnings: tuple[str, ...] = ()
    postprocessing: tuple[ComponentStep, ...] = ()
    file: str = ""
    confidence: Confidence | None = None
    disagreement_map: str = ""


class PredictionRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.prediction/1"):
    """What made the label maps of a folder, so that they can be trusted, repeated and scored.

    Attributes:
        labels: what the integers mean, in all of them.
        cases: case id to what made its label map.
    """

    labels: Labels
    cases: dict[str, CasePrediction]

"""The record of predictions: its form on disk, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from autoseg.errors import DocumentError
from autoseg.io.formats import split_ending
from autoseg.values import PREDICTION_RECORD, CasePrediction, Label, Labels, PredictionRecord, decode, encode

MADE = CasePrediction(
    autoseg_version="0.1.0",
    plan="abc",
    model="2d, weights 012",
    mirroring=True,
    key="f" * 64,
    content="cd",
    warnings=("odd",),
)
RECORD = PredictionRecord(labels=Labels(foreground=(Label(name="organ", values=(4,)),)), cases={"a": MADE})
FORM = {
    "schema": "autoseg.prediction/1",
    "labels": {"foreground": [{"name": "organ", "values": [4]}], "ignore": None, "region_values": [], "palette": []},
    "cases": {
        "a": {
            "autoseg_version": "0.1.0",
            "plan": "abc",
            "model": "2d, weights 012",
            "mirroring": True,
            "key": "f" * 64,
            "content": "cd",
            "warnings": ["odd"],
            "postprocessing": [],
            "confidence": None,
            "disagreement_map": "",
            "file": "",
            "probabilities": False,
            "ways": [],
        }
    },
}


def test_the_form_on_disk_is_known() -> None:
    assert json.loads(encode(RECORD)) == FORM
    assert decode(PredictionRecord, json.dumps(FORM)) == RECORD


def test_the_record_cannot_be_taken_for_a_label_map() -> None:
    assert split_ending(PREDICTION_RECORD) == (PREDICTION_RECORD, "")


@pytest.mark.parametrize(
    ("place", "value", "path"),
    [
        (("surprise",), 1, "surprise"),
        (("cases", "a", "surprise"), 1, "$.cases[...]"),
        (("cases", "a", "mirroring"), "yes", "$.cases[...].mirroring"),
        (("cases", "a", "plan"), None, "$.cases[...].plan"),
        (("cases", "a"), [], "$.cases[...]"),
        (("cases",), [MADE.key], "$.cases"),
        (("labels", "surprise"), 1, "$.labels"),
        (("labels", "foreground"), [], "$.labels"),
    ],
)
def test_what_does_not_belong_there_is_refused_with_its_path(place: tuple[str, ...], value: Any, path: str) -> None:
    damaged = json.loads(json.dumps(FORM))
    inner = damaged
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(DocumentError) as caught:
        decode(PredictionRecord, json.dumps(damaged), source=PREDICTION_RECORD)
    assert path in str(caught.value)
    assert PREDICTION_RECORD in str(caught.value)

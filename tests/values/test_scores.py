"""Scores are written in the words of nnU-Net's summary.json."""

from __future__ import annotations

import json

from autoseg.values import LabelScore, MeanScore, decode, encode


def test_label_scores_have_nnunets_names_and_null_for_undefined() -> None:
    score = LabelScore(dice=None, iou=None, tp=0, fp=0, fn=0, tn=9, n_pred=0, n_ref=0)
    assert json.loads(encode(score)) == {
        "Dice": None,
        "IoU": None,
        "TP": 0,
        "FP": 0,
        "FN": 0,
        "TN": 9,
        "n_pred": 0,
        "n_ref": 0,
    }
    assert decode(LabelScore, encode(score)) == score


def test_means_say_how_many_cases_are_behind_them() -> None:
    mean = MeanScore(dice=0.5, iou=0.25, tp=1.5, fp=0.0, fn=2.0, tn=9.5, n_pred=1.5, n_ref=3.5, cases=4)
    written = json.loads(encode(mean))
    assert written["Dice"] == 0.5
    assert written["cases"] == 4

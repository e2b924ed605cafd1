"""Means over cases and labels: of the values that are defined, with their number."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from autoseg.evaluation.summarize import summarize
from autoseg.values import CaseScore, Label, Labels, LabelScore, Summary, decode, encode

LABELS = Labels(foreground=(Label(name="liver", values=(1,)), Label(name="tumour", values=(2,))))
NNUNETS_KEYS = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}


def label_score(dice: float | None, tp: int = 5) -> LabelScore:
    iou = None if dice is None else dice / (2 - dice)
    return LabelScore(dice=dice, iou=iou, tp=tp, fp=1, fn=2, tn=100, n_pred=tp + 1, n_ref=tp + 2)


def case(name: str, dice: Mapping[str, float | None], tp: int = 5) -> CaseScore:
    metrics = {key: label_score(value, tp) for key, value in dice.items()}
    return CaseScore(metrics=metrics, prediction_file=f"{name}.nii.gz", reference_file=f"ref/{name}.nii.gz")


def test_means_are_over_cases_and_then_over_labels() -> None:
    summary = summarize([case("a", {"1": 0.8, "2": 0.2}), case("b", {"1": 1.0, "2": 0.6})], LABELS)
    assert summary.mean["1"].dice == pytest.approx(0.9)
    assert summary.mean["2"].dice == pytest.approx(0.4)
    assert summary.foreground_mean.dice == pytest.approx(0.65)
    assert summary.mean["1"].cases == summary.mean["2"].cases == 2
    assert summary.label_names == {"1": "liver", "2": "tumour"}
    assert summary.absent_labels == ()


def test_a_case_without_the_label_does_not_spoil_its_mean() -> None:
    summary = summarize([case("a", {"1": 0.8, "2": None}), case("b", {"1": 1.0, "2": 0.6})], LABELS)
    assert summary.mean["2"].dice == 0.6
    assert summary.mean["2"].cases == 1
    assert summary.foreground_mean.dice == pytest.approx((0.9 + 0.6) / 2)


def test_a_label_that_never_occurs_is_named_and_does_not_spoil_the_foreground_mean() -> None:
    summary = summarize([case("a", {"1": 0.8, "2": None}), case("b", {"1": 1.0, "2": None})], LABELS)
    assert summary.mean["2"].dice is None
    assert summary.mean["2"].cases == 0
    assert summary.foreground_mean.dice == pytest.approx(0.9)
    assert summary.foreground_mean.iou == pytest.approx((0.8 / 1.2 + 1) / 2)
    assert summary.absent_labels == ("tumour",)


def test_when_nothing_is_defined_there_is_no_mean() -> None:
    summary = summarize([case("a", {"1": None, "2": None})], LABELS)
    assert summary.foreground_mean.dice is None
    assert summary.absent_labels == ("liver", "tumour")


def test_counts_are_means_too() -> None:
    summary = summarize([case("a", {"1": 0.5, "2": 0.5}, tp=4), case("b", {"1": 0.5, "2": 0.5}, tp=8)], LABELS)
    assert summary.mean["1"].tp == summary.foreground_mean.tp == 6
    assert summary.mean["1"].tn == 100


def test_cases_are_sorted_and_their_order_does_not_matter() -> None:
    cases = [case(name, {"1": 0.1 * index, "2": 0.5}) for index, name in enumerate("cab")]
    summary = summarize(cases, LABELS)
    assert [score.prediction_file[0] for score in summary.metric_per_case] == ["a", "b", "c"]
    assert summarize(cases[::-1], LABELS) == summary


def test_the_document_has_nnunets_keys_and_null_for_what_is_undefined() -> None:
    summary = summarize([case("a", {"1": 0.8, "2": None}), case("b", {"1": None, "2": None})], LABELS)
    text = encode(summary).decode()
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"the document holds {name}"))
    assert {"foreground_mean", "mean", "metric_per_case"} <= document.keys()
    assert document["foreground_mean"].keys() >= NNUNETS_KEYS
    assert set(document["mean"]) == {"1", "2"}
    assert all(means.keys() >= NNUNETS_KEYS for means in document["mean"].values())
    first = document["metric_per_case"][0]
    assert set(first) == {"metrics", "prediction_file", "reference_file"}
    assert set(first["metrics"]["1"]) == NNUNETS_KEYS
    assert first["metrics"]["2"]["Dice"] is None
    assert document["mean"]["2"]["Dice"] is None
    assert decode(Summary, text) == summary


def test_keys_of_regions_are_their_printed_tuples() -> None:
    regions = Labels(
        foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2)
    )
    summary = summarize([case("a", {"(1, 2)": 0.8, "2": 0.6})], regions)
    assert summary.label_names == {"(1, 2)": "whole", "2": "core"}
    assert set(json.loads(encode(summary))["mean"]) == {"(1, 2)", "2"}


def test_counts_are_means_over_the_cases_of_which_anything_is_known() -> None:
    unknown = LabelScore(dice=None, iou=None, tp=0, fp=0, fn=0, tn=0, n_pred=0, n_ref=0)
    told, partly = case("a", {"1": 0.8, "2": 0.4}), case("b", {"1": 0.8, "2": 0.4})
    partly.metrics["2"] = unknown
    summary = summarize([told, partly], LABELS)
    assert (summary.mean["1"].cases, summary.mean["2"].cases) == (2, 1)
    assert summary.mean["1"].tn == summary.mean["2"].tn == 100
    assert summary.mean["2"].dice == 0.4
    assert json.loads(encode(summary))["metric_per_case"][1]["metrics"]["2"]["Dice"] is None

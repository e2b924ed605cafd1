"""The scores of all cases as a table for spreadsheets: one line per case and label."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from msgspec import UNSET

from autoseg.files import write_atomically
from autoseg.values import LabelScore, Summary
from autoseg.values.scores import MEASURES

__all__ = ["SCORE_TABLE", "score_table", "write_score_table"]

#: Its file, beside the predictions.
SCORE_TABLE = "scores.csv"
OVERLAP = {"dice": "Dice", "iou": "IoU"}
COUNTS = {"tp": "TP", "fp": "FP", "fn": "FN", "tn": "TN", "n_pred": "n_pred", "n_ref": "n_ref"}


def score_table(summary: Summary) -> str:
    """As CSV, under the names of ``summary.json``. What is not defined is empty; what nobody measured has no column."""
    scores = [score for case in summary.metric_per_case for score in case.metrics.values()]
    measured = {name: written for name, written in MEASURES.items() if any(_asked(score, name) for score in scores)}
    own = sorted({name for score in scores for name in score.own or {}})
    columns = OVERLAP | measured | COUNTS
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "label", "name", *columns.values(), *own])
    for case in summary.metric_per_case:
        for key, score in case.metrics.items():
            values = [getattr(score, name) if _asked(score, name) else None for name in columns]
            more = [(score.own or {}).get(name) for name in own]
            name = Path(case.prediction_file).name
            table.writerow([name, key, summary.label_names[key], *map(_cell, [*values, *more])])
    return text.getvalue()


def write_score_table(file: Path, summary: Summary) -> None:
    """Writes the table, atomically; an equal file is left alone."""
    data = score_table(summary).encode()
    if not (file.is_file() and file.read_bytes() == data):
        write_atomically(file, data)


def _asked(score: LabelScore, name: str) -> bool:
    return getattr(score, name) is not UNSET


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)

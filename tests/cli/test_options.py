"""Durations for people, the line that tells what to type next, and JSON as an answer."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from autoseg.cli.options import DEFAULT_WORKSPACE, next_command, print_json, seconds
from autoseg.values import AxisMap, decode


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (89.4, "89 s"),
        (95, "2 min"),
        (720, "12 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (12600, "3.5 h"),
        (47 * 3600, "47.0 h"),
        (100 * 3600, "4.2 days"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_people_would_use(duration, text):
    assert seconds(duration) == text


def test_what_to_type_next_names_the_workspace_only_where_it_is_not_the_usual_one():
    assert next_command("train 2d 0", Path(DEFAULT_WORKSPACE)) == "Next: autoseg train 2d 0"
    assert next_command("train 2d 0", Path("data/w")) == "Next: autoseg train 2d 0 -w data/w"


@pytest.mark.parametrize("path", ["my data/w", "it's", "a;b", "$HOME"])
def test_what_to_type_next_can_be_typed_whatever_the_workspace_is_called(path):
    assert shlex.split(next_command("train 2d 0", Path(path)))[-2:] == ["-w", path]


def test_an_answer_in_json_can_be_read_back(capsys):
    print_json(AxisMap(order=(2, 0, 1)))
    text = capsys.readouterr().out
    assert decode(AxisMap, text) == AxisMap(order=(2, 0, 1))
    assert text.endswith("}\n")

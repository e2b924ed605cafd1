"""Fields of descriptions that are misspelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import InputError
from autoseg.io.layouts import read_dataset
from tests.io.layouts.trees import write_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tree(tmp_path, ["images/a.nii.gz"], ["labels/a.nii.gz"])


@pytest.mark.parametrize(
    ("stated", "path", "near"),
    [
        ({"patient": {"a": "Ada"}}, "patient", "patients, perhaps"),
        ({"channel_name": {"0": "CT"}}, "channel_name", "channel_names, perhaps"),
        ({"training": [{"image": "a", "lable": "b"}]}, r"training\[0\].lable", "label, perhaps"),
        ({"dataset": {"a": {"images": ["a"], "mask": "b"}}}, "dataset.a.mask", "one of images, label"),
        ({"source": "x"}, "source", "the fields are|one of"),
    ],
)
def test_our_own_description_has_known_fields_only(stated: dict[str, Any], path: str, near: str, folder: Path) -> None:
    (folder / "autoseg.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=f"unknown field `{path}`.*({near})"):
        read_dataset(folder)


def test_a_near_miss_in_somebody_elses_is_a_warning(folder: Path) -> None:
    stated = {"name": "x", "licence": "y", "numTest": 3, "tensorImageSize": "4D", "release": "1", "patient": {}}
    (folder / "dataset.json").write_text(json.dumps(stated))
    (finding,) = [each for each in read_dataset(folder)[1] if each.severity == "warning"]
    assert (finding.found, finding.expected, finding.file) == ("patient", "patients", "dataset.json")

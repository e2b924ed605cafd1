"""autoseg: plans, trains, compares and predicts medical image segmentations from a folder of images and labels.

Importing this package is light; the names below are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "check_dataset": "autoseg.pipeline",
    "plan_dataset": "autoseg.pipeline",
    "preprocess": "autoseg.pipeline",
    "train": "autoseg.pipeline",
    "select_best": "autoseg.pipeline",
    "compare": "autoseg.compare_stage",
    "predict": "autoseg.pipeline",
    "export_model": "autoseg.pipeline",
    "evaluate": "autoseg.pipeline",
    "load_model": "autoseg.model",
    "open_probabilities": "autoseg.inference.probabilities",
    "convert_dataset": "autoseg.conversion",
    "Workspace": "autoseg.workspace",
    "Plan": "autoseg.values",
    "Dataset": "autoseg.values",
    "Geometry": "autoseg.values",
}

__all__ = [
    "Dataset",
    "Geometry",
    "Plan",
    "Workspace",
    "check_dataset",
    "compare",
    "convert_dataset",
    "evaluate",
    "export_model",
    "load_model",
    "open_probabilities",
    "plan_dataset",
    "predict",
    "preprocess",
    "select_best",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

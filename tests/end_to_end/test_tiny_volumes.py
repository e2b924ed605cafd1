"""Volumes of a few voxels an axis go the whole way: planned, trained with finite numbers, scored, predicted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from autoseg.networks.weights import load_tensors
from autoseg.phantom import write_phantom_dataset
from tests.end_to_end.test_whole_way import run


@pytest.mark.parametrize(
    ("preset", "shape"), [("default", (9, 10, 6)), pytest.param("residual", (5, 4, 3), marks=pytest.mark.slow)]
)
def test_training_on_tiny_volumes_stays_finite(preset: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    data = write_phantom_dataset(tmp_path / "Dataset001_Tiny", 5, shape=shape, spacing=(6.0, 6.0, 8.0))
    run("plan", data, "-w", tmp_path / "w", "--preset", preset, "--name", "tiny")
    plan = json.loads((tmp_path / "w" / "models" / "tiny" / "plan.json").read_text())
    for configuration in plan["configurations"]:
        assert max(configuration["patch_size"]) <= 16
        run("train", configuration["name"], "0", "-w", tmp_path / "w", "--iterations", "3", "--device", "cpu")
        fold = tmp_path / "w" / "models" / "tiny" / configuration["name"] / "fold_0"
        files = list(fold.glob("*.safetensors"))
        assert files
        for file in files:
            tensors, _ = load_tensors(file)
            assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
        summary = json.loads((fold / "validation" / "summary.json").read_text())
        assert len(summary["metric_per_case"]) == 1

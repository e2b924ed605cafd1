"""Colour pictures without channel numbers in their names: planned, trained on and predicted under their own names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from autoseg import pipeline
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET


def write_pictures(folder: Path, count: int) -> Path:
    """Bright squares on tissue, as ``imN.png`` and ``imN_mask.png``."""
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        mask = np.zeros((48, 56), np.uint8)
        y, x = random.integers(0, 24, 2)
        mask[y : y + 20, x : x + 20] = 1
        colours = random.normal(90, 10, (48, 56, 3)) + 80 * mask[..., None]
        Image.fromarray(colours.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"im{index}.png")
        Image.fromarray(mask).save(folder / "masks" / f"im{index}_mask.png")
    return folder


def test_colour_pictures_go_the_whole_way_under_any_name(tmp_path: Path) -> None:
    data, workspace = write_pictures(tmp_path / "D", 5), Workspace(tmp_path / "W")
    planned = pipeline.plan_dataset(data, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    assert len(planned.plan.channels) == 3
    pipeline.train(workspace, "2d", "0", iterations=1, device="cpu")
    options = {"workspace": workspace, "device": "cpu", "mirroring": False}
    predicted = pipeline.predict(data / "images", tmp_path / "out", **options)
    assert {case: file.name for case, file in predicted.files.items()} == {f"im{n}": f"im{n}.png" for n in range(5)}
    alone = pipeline.predict(data / "images" / "im3.png", tmp_path / "alone", **options)
    assert alone.files["im3"].read_bytes() == predicted.files["im3"].read_bytes()

"""Colour pictures of 3600 x 3600 with a few annotated spots: planned, preprocessed, trained and scored in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.io import imsave

from tests.conftest import TINY_PRESET

EDGE, SPOTS, SPOT, CELL, IGNORE = 3600, 12, 150, 1, 2

STAGE = """
import sys
from pathlib import Path
from autoseg import pipeline
from autoseg.workspace import Workspace
folder, stage, preset = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
workspace = Workspace(folder / "W")
if stage == "plan":
    pipeline.plan_dataset(folder / "D", workspace, preset=preset, name="tiny", device="cpu", memory_gib=8)
elif stage == "preprocess":
    pipeline.preprocess(workspace, ["2d"])
else:
    pipeline.train(workspace, "2d", "0", iterations=2, device="cpu")
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def write_pictures(folder: Path, count: int = 4) -> None:
    """Cells on tissue; most of every label map is the ignore label."""
    random = np.random.default_rng(0)
    for index in range(count):
        cells = ndimage.zoom(random.standard_normal((EDGE // 40, EDGE // 40)), 40, order=1) > 0.8
        noise = random.normal(0, 12, (EDGE, EDGE, 3)).astype(np.float32)
        colours = 120 + 60 * cells[..., None] * np.array([0.3, 0.6, 1.0], np.float32) + noise
        labels = np.full((EDGE, EDGE), IGNORE, np.uint8)
        for y, x in random.integers(0, EDGE - SPOT, (SPOTS, 2)):
            labels[y : y + SPOT, x : x + SPOT] = CELL * cells[y : y + SPOT, x : x + SPOT]
        for kind, name, array in (
            ("imagesTr", f"p{index}_0000", colours.clip(0, 255)),
            ("labelsTr", f"p{index}", labels),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            imsave(folder / kind / f"{name}.png", array.astype(np.uint8), check_contrast=False)
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "cell": CELL, "ignore": IGNORE},
        "numTraining": count,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_large_sparsely_annotated_pictures_are_trained_on_in_little_memory(tmp_path: Path) -> None:
    """GiB of every stage; the network is a small one, so that what remains is the handling of the pictures."""
    write_pictures(tmp_path / "D")
    most = {"plan": 3.0, "preprocess": 3.0, "train": 6.0}
    for stage, limit in most.items():
        done = subprocess.run(
            [sys.executable, "-c", STAGE, str(tmp_path), stage, TINY_PRESET],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peak = int(done.stdout.split()[-1]) / 2**20
        print(f"{stage}: {peak:.2f} GiB")
        assert peak < limit, f"{stage} took {peak:.2f} GiB"
    summary = json.loads(next((tmp_path / "W").rglob("summary.json")).read_text())
    assert len(summary["metric_per_case"]) == 1

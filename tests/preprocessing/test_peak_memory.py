"""The memory that a case takes is what it was said to take: measured by the system, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.preprocessing.forward import peak_bytes

PROGRAM = """
import json, os, re, sys
os.sched_setaffinity(0, range(os.cpu_count()))  # tests side by side have one processor each; this takes two threads
from pathlib import Path
import numpy as np
from autoseg.preprocessing.forward import peak_bytes, preprocess_case
from autoseg.values import Geometry, Label, Labels, NormalizationSpec, Volume
from autoseg.volume.resample import separate_axis
from tests.preprocessing.conftest import plan_of
from tests.small_plans import small_configuration
import scipy.ndimage

def resident(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

given = json.loads(sys.argv[1])
shape, channels, count = tuple(given["shape"]), given["channels"], given["labels"]
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
raw = np.full((channels, *shape), 7, given["dtype"])
raw[:, ::2] += 1
if given["zeros"]:
    raw[:, :, : shape[1] // 4, 1:-1] = 0
    raw[:, :, 0] = 1
image = Volume(array=raw.astype(np.float32), geometry=Geometry(shape=shape, spacing=tuple(given["own"])))
del raw
labels = np.zeros((1, *shape), np.int32)
for value in range(1, count):
    labels[:, :, value % shape[1], :3] = value
if given["organ"]:
    labels[:, 1:-1, 8:-8, 8:-8] = 1
labels = Volume(array=labels, geometry=image.geometry)
declared = Labels(foreground=tuple(Label(name=str(value), values=(value,)) for value in range(1, count)))
plan = plan_of(labels=declared, channels=("a",) * channels, spacing=tuple(given["spacing"]),
               normalization=(NormalizationSpec(scheme="zscore", use_mask=given["mask"]),) * channels)
made = preprocess_case(image, labels, plan, plan.configurations[0], case_id="a", key="k")
measured = resident("VmHWM") - before
apart = separate_axis(made.record.spacing, made.record.target_spacing)
print(measured, peak_bytes(shape, channels, given["dtype"], made.record.shape, count, apart=apart))
"""
CASES = {
    "a large CT, not resampled": {"shape": (96, 256, 256), "dtype": "int16"},
    "a CT onto a finer grid": {"shape": (110, 220, 220), "dtype": "int16", "spacing": (0.8, 0.8, 0.8)},
    "a CT onto a coarser grid": {"shape": (140, 256, 256), "dtype": "int16", "spacing": (1.5, 1.6, 1.6)},
    "a picture in colours": {"shape": (1, 2400, 2400), "channels": 3, "dtype": "uint8", "labels": 2},
    "a picture onto a finer grid": {
        "shape": (1, 2200, 2200),
        "channels": 3,
        "dtype": "uint8",
        "spacing": (None, 0.8, 0.8),
    },
    "four channels of MRI with a mask": {"shape": (100, 160, 160), "channels": 4, "dtype": "float32", "mask": True},
    "many labels": {"shape": (80, 200, 200), "dtype": "int16", "labels": 180, "spacing": (0.8, 0.8, 0.8)},
    "float64": {"shape": (90, 200, 200), "dtype": "float64"},
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
@pytest.mark.parametrize("name", CASES)
def test_what_is_held_is_at_most_what_was_said_and_not_far_below(name: str) -> None:
    measured, told = _measured(CASES[name])
    assert measured <= told <= 1.25 * measured, f"measured {measured / 2**20:.0f} MiB, told {told / 2**20:.0f} MiB"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
@pytest.mark.parametrize(
    ("shape", "own", "spacing"),
    [
        ((40, 256, 256), (5.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ((30, 300, 300), (5.0, 1.0, 1.0), (5.0, 0.6, 0.6)),
        ((120, 160, 160), (4.0, 1.0, 1.0), (9.0, 0.7, 0.7)),
    ],
)
def test_thick_slices_take_what_was_said_or_less(
    shape: tuple[int, ...], own: tuple[float, ...], spacing: tuple[float, ...]
) -> None:
    """How much depends on the shape of the labels: one that fills almost everything is the worst."""
    measured, told = _measured(
        {"shape": shape, "own": own, "spacing": spacing, "organ": True, "labels": 3, "dtype": "int16"}
    )
    assert measured <= told <= 1.8 * measured, f"measured {measured / 2**20:.0f} MiB, told {told / 2**20:.0f} MiB"


def _measured(case: dict[str, object]) -> tuple[int, int]:
    usual = {"channels": 1, "labels": 12, "spacing": (None, None, None), "zeros": True, "mask": False}
    given = usual | {"own": (1.0, 1.0, 1.0), "organ": False} | case
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(given)],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured, told = (int(each) for each in done.stdout.split())
    return measured, told


def test_more_of_anything_never_takes_less() -> None:
    least = peak_bytes((20, 30, 40), 1, "uint8", (20, 30, 40), 3)
    assert least <= peak_bytes((20, 30, 40), 1, "float64", (20, 30, 40), 3)
    assert least < peak_bytes((20, 30, 40), 2, "uint8", (20, 30, 40), 3)
    assert least < peak_bytes((20, 30, 41), 1, "uint8", (20, 30, 41), 3)
    assert least < peak_bytes((20, 30, 40), 1, "uint8", (40, 60, 80), 3)
    assert least < peak_bytes((20, 30, 40), 1, "uint8", (20, 30, 40), 300)


def test_large_cases_in_figures() -> None:
    """A CT of 512 x 512 x 600 onto its own grid, and a picture of 3600 x 3600 in colours."""
    assert peak_bytes((600, 512, 512), 1, "int16", (600, 512, 512), 20) < 14.3 * np.prod((600, 512, 512))
    assert peak_bytes((1, 3600, 3600), 3, "uint8", (1, 3600, 3600), 2) < 0.5 * 2**30

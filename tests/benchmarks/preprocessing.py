"""Preprocessing beside nnU-Net's, in turn, each in fresh processes: seconds and memory.

python -m tests.benchmarks.preprocessing --peer PYTHON            resampling one volume, images and label maps
python -m tests.benchmarks.preprocessing --peer PYTHON DATASET    fingerprint, plan and preprocess of 2d and 3d_fullres

PYTHON is the interpreter of an environment with nnunetv2 2.8.1; DATASET a folder DatasetXXX_Name in nnU-Net's layout.
``--runs`` says how often (3), ``--only`` which rows (a part of their name).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.conftest import PROJECT

AUTOSEG = [sys.executable, "-c", "from autoseg.cli import main; main()"]
CONFIGURATIONS = ("2d", "3d_fullres")
#: What both resample, made alike in both processes; then the time, and the peak of memory beyond what was there before.
PROGRAM = """
import json, re, sys, time
from pathlib import Path
import numpy as np

def resident(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def organs(shape, count, random):
    array = np.zeros(shape, np.int8)
    places = [np.arange(size).reshape([-1 if axis == other else 1 for other in range(3)]) for axis, size in enumerate(shape)]
    for label in range(1, count + 1):
        centre, radius = random.random(3) * shape, random.uniform(0.04, 0.12) * shape[1]
        begin = [max(0, int(each - radius - 1)) for each in centre]
        box = tuple(slice(low, int(each + radius + 2)) for low, each in zip(begin, centre))
        apart = sum((place[tuple(b if n == axis else slice(None) for n, b in enumerate(box))] - middle) ** 2
                    for axis, (place, middle) in enumerate(zip(places, centre)))
        array[box][apart < radius**2] = label
    return array

who, old, new, count, result = json.loads(sys.argv[1])
old, new, random = tuple(old), tuple(new), np.random.default_rng(0)
if count:
    source = organs(old, count, random)
else:
    source = random.random(old, np.float32)
    for axis in range(3):  # neighbours resemble each other
        source += np.roll(source, 1, axis)
ones = (1.0, 1.0, 1.0)
if who == "nnunet":
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    def work():
        return resample_data_or_seg_to_shape(source[None], new, ones, ones, is_seg=bool(count), order=1 if count else 3,
                                             order_z=0, force_separate_z=None)[0]
else:
    from autoseg.values import ResamplingSpec
    from autoseg.volume.resample import SeparableResampler
    resampler = SeparableResampler(ResamplingSpec())
    def work():
        return resampler.labels(source, new, ones, ones) if count else resampler.image(source[None], new, ones, ones)[0]
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
begin = time.perf_counter()
made = work()
print(json.dumps([time.perf_counter() - begin, resident("VmHWM") - before]))
if result:
    np.save(result, made)
"""
VOLUMES = {
    "image 200 x 256 x 256 to 300 x 320 x 320": ((200, 256, 256), (300, 320, 320), 0),
    "image 300 x 320 x 320 to 200 x 256 x 256": ((300, 320, 320), (200, 256, 256), 0),
    "image 400 x 400 x 400 to 600 x 512 x 512": ((400, 400, 400), (600, 512, 512), 0),
    "10 labels 200 x 256 x 256 to 300 x 320 x 320": ((200, 256, 256), (300, 320, 320), 10),
    "100 labels 100 x 128 x 128 to 150 x 160 x 160": ((100, 128, 128), (150, 160, 160), 100),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run took; ``processor`` is the time of all processes on all cores, ``bytes`` the peak of memory."""

    seconds: float
    bytes: float
    processor: float = float("nan")


def table_row(what: str, first: Sequence[Cost], second: Sequence[Cost]) -> str:
    """Medians of both, and the median of the ratios run by run with their least and most."""

    def cells(name: str, unit: float, suffix: str) -> str:
        one, two = ([getattr(each, name) / unit for each in costs] for costs in (first, second))
        ratios = [a / b for a, b in zip(one, two, strict=True)]
        spread = f" ({min(ratios):.1f} to {max(ratios):.1f})" if len(ratios) > 1 else ""
        return (
            f"{statistics.median(one):.3g} {suffix} | {statistics.median(two):.3g} {suffix} | "
            f"{statistics.median(ratios):.1f}{spread}"
        )

    return f"| {what} | {cells('seconds', 1, 's')} | {cells('bytes', 2**20, 'MiB')} |"


def resample_volumes(peer: str, runs: int, only: str) -> None:
    """Prints the table of resampling, with the largest difference between both results."""
    print("| resampling | nnU-Net | autoseg | ratio | nnU-Net, extra memory | autoseg | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, volume in VOLUMES.items():
        if only not in name:
            continue
        costs: dict[str, list[Cost]] = {"nnunet": [], "autoseg": []}
        with tempfile.TemporaryDirectory() as folder:
            for run in range(runs):
                for who, python in (("nnunet", peer), ("autoseg", sys.executable)):
                    costs[who].append(_resample(python, who, volume, f"{folder}/{who}.npy" if run == 0 else ""))
            found, expected = (np.load(f"{folder}/{who}.npy", mmap_mode="r") for who in ("autoseg", "nnunet"))
            print(table_row(f"{name}{_difference(found, expected)}", costs["nnunet"], costs["autoseg"]), flush=True)


def _resample(python: str, who: str, volume: tuple, result: str) -> Cost:
    command = [python, "-c", PROGRAM, json.dumps([who, *volume, result])]
    environment = os.environ | {"PYTHONPATH": str(PROJECT) if who == "autoseg" else ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, extra = json.loads(done.stdout.splitlines()[-1])
    return Cost(seconds=seconds, bytes=extra)


def _difference(found: np.ndarray, expected: np.ndarray) -> str:
    if np.issubdtype(found.dtype, np.integer):
        return f", {np.mean([(a != b).mean() for a, b in zip(found, expected, strict=True)]):.1g} of all voxels differ"
    apart = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    return f", largest difference {apart / (float(expected.max()) - float(expected.min())):.1g} of the range"


def preprocess_dataset(peer: str, dataset: Path, runs: int) -> None:
    """Prints the table of the whole way from a folder to preprocessed cases."""
    costs: dict[str, list[Cost]] = {"nnunet": [], "autoseg": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            costs["nnunet"].append(_nnunet(peer, dataset, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            workspace = ["-w", f"{folder}/workspace"]
            environment = os.environ | {"PYTHONPATH": str(PROJECT)}
            planned = _run([*AUTOSEG, "plan", str(dataset), *workspace], environment)
            made = _run([*AUTOSEG, "preprocess", *CONFIGURATIONS, *workspace], environment)
            costs["autoseg"].append(
                Cost(
                    seconds=planned.seconds + made.seconds,
                    bytes=max(planned.bytes, made.bytes),
                    processor=planned.processor + made.processor,
                )
            )
    print(f"| {dataset.name} | nnU-Net | autoseg | ratio | nnU-Net, memory of all processes | autoseg | ratio |")
    print("|---|---|---|---|---|---|---|")
    print(table_row("fingerprint, plan, preprocess", costs["nnunet"], costs["autoseg"]))
    first, second = (statistics.median(each.processor for each in costs[who]) for who in ("nnunet", "autoseg"))
    print(f"\nprocessor time, medians: nnU-Net {first:.1f} s, autoseg {second:.1f} s, ratio {first / second:.1f}")


def _nnunet(peer: str, dataset: Path, folder: Path) -> Cost:
    names = ("raw", "preprocessed", "results")
    for name in names:
        (folder / name).mkdir()
    (folder / "raw" / dataset.name).symlink_to(dataset.resolve())
    environment = os.environ | {f"nnUNet_{name}": str(folder / name) for name in names} | {"PYTHONPATH": ""}
    number = str(int(dataset.name.removeprefix("Dataset").split("_")[0]))
    command = [
        str(Path(peer).parent / "nnUNetv2_plan_and_preprocess"),
        "-d",
        number,
        "-c",
        *CONFIGURATIONS,
        "-np",
        "2",
        "2",
    ]
    return _run([*command, "--verify_dataset_integrity"], environment)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Runs a command; memory is that of all its processes together, looked at twenty times a second."""
    begin, peak = time.perf_counter(), 0
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, **streams)
    said: list[bytes] = []
    listener = threading.Thread(target=lambda: said.append(process.stderr.read()))
    listener.start()
    before = os.times()
    while process.poll() is None:
        peak = max(peak, _tree_bytes(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - begin
    after = os.times()
    listener.join()
    assert process.returncode == 0, b"".join(said).decode()[-2000:]
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(seconds=seconds, bytes=peak, processor=used)


def _tree_bytes(root: int) -> int:
    """Memory of a process and its descendants: of all their own, and the mapped files of the one with most."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    family, own, files = {root}, 0, [0]
    for process in sorted(parents):
        if parents[process] in family:
            family.add(process)
    for process in family:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        held = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Rss")}
        own += held.get("RssAnon", 0) + held.get("RssShmem", 0)
        files.append(held.get("RssFile", 0))
    return own + max(files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--peer", required=True, help="Python with nnU-Net")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, load before {os.getloadavg()[0]:.1f}\n", flush=True)
    if chosen.dataset:
        preprocess_dataset(chosen.peer, chosen.dataset, chosen.runs)
    else:
        resample_volumes(chosen.peer, chosen.runs, chosen.only)
    print(f"\nload after {os.getloadavg()[0]:.1f}")

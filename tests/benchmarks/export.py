"""From logits to a label map on the image's own grid: memory beyond the logits, and time.

python -m tests.benchmarks.export FOLDER [--peer PYTHON] [--whole]

FOLDER gets the logits, several GiB, and is emptied. Each measurement is a process of its own, in which the logits are a
mapped file; what counts is its largest anonymous memory (RssAnon) beyond that before the work. PYTHON is one of an
environment with nnunetv2, whose own resampling and decision get the same logits where the arrays that they make fit into
--room.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autoseg.values import Labels, PreprocessRecord

#: Shape and spacing of the image, and spacing of the network's grid.
IMAGES = {
    "small (35x50x35)": ((35, 50, 35), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "CT (200x512x512)": ((200, 512, 512), (2.5, 0.8, 0.8), (2.0, 2.0, 2.0)),
    "very large (800x512x512)": ((800, 512, 512), (1.0, 0.8, 0.8), (2.0, 2.0, 2.0)),
}
CLASSES = (2, 25, 118)
PEER = """
import json, sys
import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample
import torch
torch.set_num_threads(1)
logits = np.load(sys.argv[1], mmap_mode="r")
shape, spacing, target = json.loads(sys.argv[2])
sys.path.insert(0, sys.argv[3])
from tests.benchmarks.export import measured
def work():
    resampled = resample(logits, shape, target, spacing, is_seg=False, order=1, order_z=0)
    return torch.from_numpy(np.asarray(resampled)).argmax(0).numpy().astype(np.uint8)
print(json.dumps(measured(work)))
"""


def anonymous_bytes() -> int:
    """Memory of this process that no file lies behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds and the most memory of a piece of work."""
    before, most, ended = anonymous_bytes(), 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not ended.wait(0.01):
            most = max(most, anonymous_bytes())

    watching = threading.Thread(target=look)
    watching.start()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    most = max(most, anonymous_bytes())
    ended.set()
    watching.join()
    return {"seconds": seconds, "bytes": most - before}


def grid_of(image: str) -> tuple[int, ...]:
    """Shape of the logits."""
    shape, spacing, target = IMAGES[image]
    return tuple(round(size * old / new) for size, old, new in zip(shape, spacing, target, strict=True))


def write_logits(file: Path, classes: int, image: str) -> None:
    """Smooth noise, of another place for each class."""
    random, grid = np.random.default_rng(0), grid_of(image)
    base = random.standard_normal(grid, np.float32)
    array = np.lib.format.open_memmap(file, "w+", np.float32, (classes, *grid))
    for number, output in enumerate(array):
        output[:] = np.roll(base, (7 * number, 13 * number, 29 * number), (0, 1, 2))
    array.flush()


def labels_and_record(image: str, classes: int) -> tuple[Labels, PreprocessRecord]:
    """What an export has to know."""
    from autoseg.values import AxisMap, Geometry, Label, Labels, PreprocessRecord

    shape, spacing, target = IMAGES[image]
    labels = Labels(foreground=tuple(Label(name=str(value), values=(value,)) for value in range(1, classes)))
    record = PreprocessRecord(
        case_id="case",
        key="",
        source=Geometry(shape=shape, spacing=spacing),
        axes=AxisMap(),
        crop_start=(0, 0, 0),
        crop_shape=shape,
        spacing=spacing,
        shape=grid_of(image),
        target_spacing=target,
    )
    return labels, record


def own(file: Path, image: str) -> dict[str, float]:
    """The label map by autoseg."""
    from autoseg.inference.export import label_map
    from tests.small_plans import small_configuration

    logits = np.load(file, mmap_mode="r")
    labels, record = labels_and_record(image, len(logits))
    configuration = small_configuration(outputs=len(logits))
    return measured(lambda: label_map(logits, record, configuration, labels))


def whole(folder: Path) -> dict[str, float]:
    """The very large image by a small network of 118 classes, from its array to the label map; sums in a file."""
    import torch

    from autoseg.inference.export import label_map
    from autoseg.inference.predict import Predictor
    from autoseg.networks.build import build_network
    from autoseg.values import ExecutionPath
    from tests.small_plans import small_configuration

    image = "very large (800x512x512)"
    grid = grid_of(image)
    configuration = small_configuration(patch=(96, 96, 96), outputs=118, mirror_axes=())
    network = build_network(configuration.network, seed=0)
    predictor = Predictor([network], configuration, ExecutionPath(device="cpu", channels_last=True, threads=1))
    predictor.room_for_sums = 2**30
    array = np.lib.format.open_memmap(folder / "image.npy", "w+", np.float32, (1, *grid))
    array[0] = np.random.default_rng(0).standard_normal(grid, np.float32)
    labels, record = labels_and_record(image, 118)
    torch.set_num_threads(1)

    def work() -> None:
        label_map(predictor.logits(array, scratch=folder), record, configuration, labels)

    return measured(work)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--room", type=float, default=14, help="GiB that the other's arrays may take")
    parser.add_argument(
        "--whole", action="store_true", help="a whole prediction of 118 classes instead, with its sums in a file"
    )
    parser.add_argument("--one", nargs=2, metavar=("FILE", "IMAGE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(own(Path(arguments.one[0]), arguments.one[1])))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.whole:
        result = whole(arguments.folder)
        print(f"118 classes, 800x512x512, whole: {gibibytes(result['bytes'])}, {result['seconds']:.0f} s")
        return
    print("| image | classes | logits | autoseg: memory beyond them | seconds | nnU-Net: memory | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for image, (shape, spacing, target) in IMAGES.items():
        for classes in CLASSES:
            file = arguments.folder / "logits.npy"
            write_logits(file, classes, image)
            here = str(Path(__file__).parents[2])
            module = [sys.executable, "-m", "tests.benchmarks.export"]
            commands = {"own": [*module, str(arguments.folder), "--one", str(file), image]}
            # the resampled array in the type of the result, and its float64 and float32 copies of one channel
            fits = 4 * classes * math.prod(shape) + 24 * math.prod(shape) < arguments.room * 2**30
            if arguments.peer and fits:
                grids = json.dumps([list(shape), list(spacing), list(target)])
                commands["peer"] = [arguments.peer, "-c", PEER, str(file), grids, here]
            found = {}
            for name, command in commands.items():
                done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
                found[name] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
                if done.returncode:
                    print(done.stderr[-500:], file=sys.stderr)
            size = file.stat().st_size
            file.unlink()
            cells = [image, str(classes), gibibytes(size)]
            for name in ("own", "peer"):
                result = found.get(name)
                told = "does not fit" if name == "peer" and not fits else "–"
                cells += [told, "–"] if result is None else [gibibytes(result["bytes"]), f"{result['seconds']:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


def gibibytes(size: float) -> str:
    """For people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.0f} MiB"


if __name__ == "__main__":
    main()

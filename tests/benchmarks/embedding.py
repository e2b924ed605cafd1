"""What a program pays beside the networks when it predicts an image in memory: in the first call, and in those after it.

python -m tests.benchmarks.embedding MODEL IMAGE [--calls 10]

The overhead of the first call is that of a new process: imports, loading the model, and the call less the time within the
networks. That of later calls is the median. Several processes, one after another, give the median of the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def overheads(model: str, image: str, calls: int) -> list[float]:
    """Seconds beside the networks, of loading with the first call, and of each later call."""
    began = time.perf_counter()
    import autoseg
    from autoseg.inference.predict import Predictor

    within = [0.0]
    predict = Predictor._predict

    def timed(*arguments: object, **options: object) -> object:
        begin = time.perf_counter()
        try:
            return predict(*arguments, **options)
        finally:
            within[0] += time.perf_counter() - begin

    Predictor._predict = timed
    loaded = autoseg.load_model(model, device="cpu")
    found = []
    for _ in range(calls):
        loaded.predict(image)
        found.append(time.perf_counter() - began - within[0])
        began, within[0] = time.perf_counter(), 0.0
    return found


def main() -> None:
    """Prints a line of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(overheads(arguments.model, arguments.image, arguments.calls)))
        return
    command = [sys.executable, "-m", "tests.benchmarks.embedding", arguments.model, arguments.image, "--one"]
    runs = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    first, later = (
        statistics.median(run[0] for run in runs),
        statistics.median(call for run in runs for call in run[1:]),
    )
    print(f"beside the networks: first call {first:.2f} s, later ones {later:.4f} s, ratio {first / later:.0f}")


if __name__ == "__main__":
    main()

"""Making batches: the transforms of a recipe on a whole batch against one sample after the other, and loading threads.

The cases are the volumes of ``cache.py`` in the sizes of Dataset004: patches of 40 x 56 x 40, and slices of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from autoseg.augmentation.recipe import default_recipe
from autoseg.io.case_store import CaseStore
from autoseg.training.batches import PatchLoader
from autoseg.training.crew import prefetched
from autoseg.values import AugmentationSpec
from autoseg.volume.normalize import zscore
from tests.benchmarks.cache import hounsfield_units, save
from tests.benchmarks.pairs import Pair, measure

#: Dimensions to patch, batch and what the plan says of augmentation.
PLANS = {
    3: ((40, 56, 40), 7, AugmentationSpec(rotation_degrees=(30.0, 30.0, 30.0), mirror_axes=(0, 1, 2))),
    2: ((56, 40), 281, AugmentationSpec(rotation_degrees=(180.0,), mirror_axes=(0, 1))),
}
BATCHES = 8


def loader(folder: Path, patch: Sequence[int], batch: int, spec: AugmentationSpec) -> PatchLoader:
    """Batches of one case of the size of Dataset004's."""
    units, labels = hounsfield_units(shape=(40, 52, 38))
    store = CaseStore(folder, patch_size=patch)
    key = save(store, zscore(units.astype(np.float32), None, None)[None], labels)
    return PatchLoader(
        store, {"case": key}, patch, batch, foreground_share=0.33, recipe=default_recipe(spec), seed=0, purpose=0
    )


def run() -> Iterator[Pair]:
    """3D and 2D: transforms in one thread; then several loading threads, beside torch's own."""
    for dimensions, (patch, batch, spec) in PLANS.items():
        with tempfile.TemporaryDirectory() as folder:
            name = f"{dimensions}D, {BATCHES} batches of {batch} patches of {' x '.join(map(str, patch))}"
            yield from pairs(name, loader(Path(folder), patch, batch, spec))


def pairs(name: str, made: PatchLoader) -> Iterator[Pair]:
    """What is compared with one loader."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield measure(
        f"{name}, transforms",
        ("sample by sample", lambda: one_by_one(made)),
        ("together", lambda: [made.batch(iteration) for iteration in range(BATCHES)]),
    )
    torch.set_num_threads(threads)
    yield measure(f"{name}, loading threads", ("1", lambda: drained(made, 1)), ("2", lambda: drained(made, 2)))


def one_by_one(made: PatchLoader) -> None:
    """Every sample as a batch of its own, put together in the end."""
    for iteration in range(BATCHES):
        record = made.draw(iteration)
        parts = [made.make(msgspec.structs.replace(record, samples=(sample,))) for sample in record.samples]
        np.concatenate([part["data"] for part in parts])
        np.concatenate([part["seg"] for part in parts])


def drained(made: PatchLoader, workers: int) -> None:
    """The same batches through loading threads."""
    for _ in prefetched(made.batch, 0, BATCHES, ahead=2 * workers, workers=workers):
        pass


if __name__ == "__main__":
    for pair in run():
        print(pair, flush=True)

"""Batches of patches: which case, where in it, and how it is changed, each from the sample's own random stream.

The loader is batchgenerators' ``SlimDataLoaderBase``; its batches are dictionaries with ``data`` ``(batch, channels,
*spatial)`` float32 and ``seg`` ``(batch, 1, *spatial)`` integers, so that any batchgenerators transform plugs in.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import sys
import threading
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.spatial import reach, sample_affine
from autoseg.augmentation.streams import stream
from autoseg.errors import AutosegError, DamagedCaseError
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.io.chunks import Readable

__all__ = ["PatchLoader", "crop_padded", "forced_samples", "prefetched"]

OUTSIDE = -1


def forced_samples(batch_size: int, foreground_share: float) -> int:
    """How many samples of a batch must hold foreground; the last ones do."""
    return batch_size - round(batch_size * (1 - foreground_share))


def most_open_cases() -> int:
    """How many cases a loader keeps open.

    A case has three memory maps, and there are two loaders (training, and the estimate on held-out cases): together they use
    at most three quarters of the files that a process may have open.
    """
    if sys.platform == "win32":
        return 256
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(4096, max(4, limit // 8)) if limit != resource.RLIM_INFINITY else 4096


def crop_padded(array: Readable, start: Sequence[int], shape: Sequence[int], fill: float) -> np.ndarray:
    """A copy of a box of the last axes of ``array``; where the box lies outside, it holds ``fill``."""
    leading = array.ndim - len(shape)
    result = np.full((*array.shape[:leading], *shape), fill, array.dtype)
    source, target = [slice(None)] * leading, [slice(None)] * leading
    for begin, size, limit in zip(start, shape, array.shape[leading:], strict=True):
        low, high = max(0, begin), min(limit, begin + size)
        if low >= high:
            return result
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    result[tuple(target)] = array[tuple(source)]
    return result


class PatchLoader(SlimDataLoaderBase):
    """Makes the batch of any iteration, always the same one.

    A sample draws from one stream, in this order: case, corner, rotation and scaling, then each transform. The order is part
    of what makes a training reproducible. Batches are told apart by their iteration alone: one loader serves one training;
    batchgenerators' ``thread_id`` is not used.

    Args:
        store: of preprocessed cases.
        keys: case id to content key, of the cases to draw from.
        patch_size: of the network; two entries take slices of axis 0.
        batch_size: patches.
        foreground_share: share of each batch that is forced to hold foreground.
        recipe: augmentation.
        seed: of the plan.
        purpose: first part of every stream's key.
        masked_channels: channels that are 0 outside the non-zero region and stay so.
    """

    def __init__(
        self,
        store: CaseStore,
        keys: dict[str, str],
        patch_size: Sequence[int],
        batch_size: int,
        *,
        foreground_share: float,
        recipe: Recipe,
        seed: int,
        purpose: int,
        masked_channels: Sequence[int] = (),
    ) -> None:
        super().__init__(keys, batch_size)
        self.patch_size = tuple(patch_size)
        self._store, self._keys, self._cases = store, keys, sorted(keys)
        self._forced = forced_samples(batch_size, foreground_share)
        self._recipe, self._steps = recipe, recipe.steps()
        self._seed, self._purpose = seed, purpose
        self._masked_channels = list(masked_channels)
        self._opened = functools.lru_cache(most_open_cases())(lambda case: store.open(case, keys[case]))
        self.iteration = 0

    def generate_train_batch(self) -> dict[str, Any]:
        """The batch of the current iteration; moves on to the next."""
        batch = self.batch(self.iteration)
        self.iteration += 1
        return batch

    def batch(self, iteration: int) -> dict[str, Any]:
        """The batch of an iteration: ``data``, ``seg`` and ``keys`` (the case ids)."""
        samples = [self._sample(iteration, position) for position in range(self.batch_size)]
        images, segmentations, cases = zip(*samples, strict=True)
        return {"data": np.stack(images), "seg": np.stack(segmentations)[:, None], "keys": list(cases)}

    def _sample(self, iteration: int, position: int) -> tuple[np.ndarray, np.ndarray, str]:
        """A sample; if its case turns out damaged, the case is made anew and the sample with it, from the same stream."""
        try:
            return self._drawn(iteration, position)
        except DamagedCaseError as damage:
            self._store.mend(damage, self._keys[str(damage.case)])
            self._opened.cache_clear()
            return self._drawn(iteration, position)

    def _drawn(self, iteration: int, position: int) -> tuple[np.ndarray, np.ndarray, str]:
        random = stream(self._seed, self._purpose, iteration, position)
        case_id = self._cases[int(random.integers(len(self._cases)))]
        case = self._opened(case_id)
        forced = position >= self.batch_size - self._forced
        image, segmentation = self._patch(case, random, forced)
        for step in self._steps:
            parameters = step.draw(random, image.shape)
            if parameters is not None:
                image, segmentation = step.apply(image, segmentation, parameters)
        image = np.ascontiguousarray(image, np.float32)
        if self._masked_channels:
            image[self._masked_channels] *= segmentation >= 0
        return image, np.maximum(segmentation, 0), case_id

    def _patch(self, case: StoredCase, random: np.random.Generator, forced: bool) -> tuple[np.ndarray, np.ndarray]:
        full = (1,) * (3 - len(self.patch_size)) + self.patch_size
        corner = _corner(case, full, random, forced)
        matrix = self._recipe.spatial.draw(random, self.patch_size) if self._recipe.spatial else None
        if matrix is None:
            return self._crops(case, corner, full)
        first = 3 - len(self.patch_size)  # in 2D axis 0 is that of the slices
        centre = np.array(corner[first:]) + (np.array(self.patch_size) - 1) / 2
        far = reach(matrix, self.patch_size)
        start = np.floor(centre - far).astype(int) - 1
        shape = np.ceil(centre + far).astype(int) + 2 - start
        image, segmentation = self._crops(
            case, (*corner[:first], *start.tolist()), (1,) * first + tuple(shape.tolist())
        )
        return sample_affine(image, segmentation, matrix, centre - start, self.patch_size)

    def _crops(self, case: StoredCase, start: Sequence[int], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """A box of three axes of image and segmentation; in 2D a slice, without the axis of the slices."""
        image, segmentation = (
            crop_padded(case.image, start, shape, 0),
            crop_padded(case.segmentation, start, shape, OUTSIDE),
        )
        return (image[:, 0], segmentation[0]) if len(self.patch_size) == 2 else (image, segmentation)


def _corner(case: StoredCase, patch: Sequence[int], random: np.random.Generator, forced: bool) -> tuple[int, ...]:
    """First voxel of a patch: within the image where it fits, centred where the image is smaller."""
    shape = case.segmentation.shape
    lowest = [-((edge - size) // 2) if edge > size else 0 for edge, size in zip(patch, shape, strict=True)]
    highest = [max(low, size - edge) for low, size, edge in zip(lowest, shape, patch, strict=True)]
    corner = [int(random.integers(low, high + 1)) for low, high in zip(lowest, highest, strict=True)]
    foreground = sorted(label for label in case.locations if label > 0)
    wanted = None
    if forced and foreground:
        wanted = foreground[int(random.integers(len(foreground)))]
    elif 0 in case.locations:  # with an ignore label: somewhere where there is an annotation
        wanted = 0
    if wanted is not None:
        voxel = case.draw_location(wanted, random)
        corner = [int(at) - edge // 2 for at, edge in zip(voxel, patch, strict=True)]
        corner = [min(max(at, low), high) for at, low, high in zip(corner, lowest, highest, strict=True)]
    return tuple(corner)


def prefetched(loader: PatchLoader, first: int, last: int, *, ahead: int = 3) -> Generator[dict[str, Any]]:
    """The batches of iterations ``first`` to ``last - 1``, made in a thread up to ``ahead`` before they are wanted."""
    ready: queue.Queue[dict[str, Any] | Exception] = queue.Queue(ahead)
    ended = threading.Event()

    def put(item: dict[str, Any] | Exception) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.2)
                break

    def work() -> None:
        try:
            for iteration in range(first, last):
                if ended.is_set():
                    break
                put(loader.batch(iteration))
        except Exception as error:  # raised where the batch is wanted
            put(error)

    thread = threading.Thread(target=work, name="autoseg-batches", daemon=True)
    thread.start()
    try:
        for _ in range(first, last):
            batch = ready.get()
            if isinstance(batch, AutosegError):
                raise batch
            if isinstance(batch, Exception):
                raise RuntimeError("making a training batch failed") from batch
            yield batch
    finally:
        ended.set()
        thread.join()

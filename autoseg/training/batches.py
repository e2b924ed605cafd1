"""Batches of patches: which case, where in it, and how it is changed, each from the sample's own random stream.

First all is drawn (``BatchRecord``), then the voxels are read (``Sources``), then they are sampled and changed, on the CPU
or on the device that trains. The loader is batchgenerators' ``SlimDataLoaderBase``; its batches are dictionaries with
``data`` ``(batch, channels, *spatial)`` float32 and ``seg`` ``(batch, 1, *spatial)`` integers, so that any batchgenerators
transform plugs in.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.spatial import OUTSIDE, Mask
from autoseg.augmentation.streams import stream
from autoseg.errors import CasesFailedError, DamagedCaseError, InputError, TooLargeError, WorkerLostError
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger, SilentLogger
from autoseg.networks.memory import BOX
from autoseg.training.looked_for import LookedFor
from autoseg.training.places import box_of, draw_corner, forced_samples
from autoseg.training.records import BatchRecord, SampleRecord
from autoseg.training.sources import Crop, Sources, crop_padded, gathered

__all__ = ["PatchLoader"]

T = TypeVar("T")
B = TypeVar("B", bound=Sources | dict[str, Any])
#: A training goes on without cases that cannot be read as long as they are at most one in so many.
ONE_IN = 5


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


class PatchLoader(SlimDataLoaderBase):
    """Makes the batch of any iteration, always the same one.

    A sample draws from one stream, in this order: case, rotation and scaling, corner, then each transform. The order is part
    of what makes a training reproducible. Batches are told apart by their iteration alone: one loader serves one training;
    batchgenerators' ``thread_id`` is not used. All methods may be called from several threads.

    A case that turns out damaged is made anew. If that fails, another is drawn in its place from the same stream, and the
    logger is told; more of these than a fifth of all are an error. From the next iteration on it is not drawn any more, even
    where it could be read: so a batch follows from its iteration and from what was left out before it, and not from what
    threads that are ahead have found (``settled``), nor from when the training was interrupted (``skipped``).

    Args:
        store: of preprocessed cases.
        keys: case id to content key, of the cases to draw from.
        patch_size: of the network; two entries take slices of axis 0.
        batch_size: patches.
        foreground_share: share of each batch that is forced to hold foreground.
        foreground_place: where the voxel lies that is forced: anywhere in the patch, or in its centre.
        recipe: augmentation.
        seed: of the plan.
        purpose: first part of every stream's key.
        masked_channels: channels that are 0 outside the non-zero region and stay so.
        looked_for: which of the foreground labels were looked for, where these are not all in some case.
        skipped: case id to the iteration in which it could not be read, as an earlier loader of the training found.
        positions: of the samples of a batch that are made, where other processes make the others; all of them if None. What
            is drawn for a sample does not depend on it.
        logger: for events.
    """

    def __init__(
        self,
        store: CaseStore,
        keys: dict[str, str],
        patch_size: Sequence[int],
        batch_size: int,
        *,
        foreground_share: float,
        foreground_place: str = "anywhere",
        recipe: Recipe,
        seed: int,
        purpose: int,
        masked_channels: Sequence[int] = (),
        looked_for: LookedFor | None = None,
        skipped: Mapping[str, int] | None = None,
        positions: Sequence[int] | None = None,
        logger: Logger | None = None,
    ) -> None:
        super().__init__(keys, batch_size)
        self.patch_size = tuple(patch_size)
        self._store, self._keys, self._cases = store, keys, sorted(keys)
        self._forced, self._anywhere = forced_samples(batch_size, foreground_share), foreground_place == "anywhere"
        self._positions = range(batch_size) if positions is None else positions
        self._spatial, self._label_channels = recipe.spatial, recipe.label_channels
        self._steps = (*recipe.steps(), *([Mask(masked_channels)] if masked_channels else []))
        self._seed, self._purpose = seed, purpose
        self._looked_for = looked_for if looked_for and looked_for.concerns(keys) else None
        self._opened = functools.lru_cache(most_open_cases())(lambda case: store.open(case, keys[case]))
        self._logger = logger or SilentLogger()
        self._lock = threading.Lock()
        self._skipped: dict[str, int] = dict(skipped or {})
        self._reasons: dict[str, str] = {}
        self._too_many: InputError | None = None
        self._mended: dict[str, int] = {}
        self._lost: dict[str, DamagedCaseError] = {}
        self.iteration = 0

    @property
    def step_names(self) -> tuple[str, ...]:
        """What the parameters of a sample's record are for, in their order."""
        return tuple(type(getattr(step, "transform", step)).__name__ for step in self._steps)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The cases that could not be read, and are not drawn any more."""
        return tuple(sorted(self._skipped))

    def skipped_before(self, iteration: int) -> dict[str, int]:
        """The cases that are not drawn in an iteration any more, with the earlier one in which they could not be read."""
        with self._lock:
            return {case: found for case, found in self._skipped.items() if found < iteration}

    def reports(self) -> dict[str, tuple[int, str]]:
        """The cases that could not be read, with the iteration in which that was found, and why if it was by this loader."""
        with self._lock:
            return {case: (found, self._reasons.get(case, "")) for case, found in self._skipped.items()}

    def settled(self, made: Generator[B], make: Callable[[int], B]) -> Generator[B]:
        """The same batches, or their voxels, in order; made again where another thread was ahead of what was found since.

        Args:
            made: by threads that work on several at once.
            make: that gave them for their iterations.
        """
        with contextlib.closing(made):
            for each in made:
                record: BatchRecord = each.record if isinstance(each, Sources) else each["record"]
                skipped = self.skipped_before(record.iteration)
                outdated = any(sample.case in skipped for sample in record.samples)
                yield make(record.iteration) if outdated else each

    def generate_train_batch(self) -> dict[str, Any]:
        """The batch of the current iteration; moves on to the next."""
        batch = self.batch(self.iteration)
        self.iteration += 1
        return batch

    def batch(self, iteration: int) -> dict[str, Any]:
        """The batch of an iteration: ``data``, ``seg``, ``keys`` (the case ids) and its ``record``; arrays are NumPy's.

        Of the samples at ``positions``, if not of all. If any case of the loader is partly annotated, also ``looked_for``
        ``(batch, foreground labels)``, bool: of the samples as they are now, in which mirroring may have exchanged labels.
        """
        return _as_arrays(self.finish(self.prepare(iteration)))

    def draw(self, iteration: int) -> BatchRecord:
        """All that chance decides about the batch of an iteration; no voxels are read."""
        samples = self._healthy(iteration, self._draw_sample, range(self.batch_size))
        return BatchRecord(iteration=iteration, patch_size=self.patch_size, samples=tuple(samples))

    def make(self, record: BatchRecord, device: str | torch.device = "cpu") -> dict[str, Any]:
        """The batch of a record, as ``batch`` gives it, or as ``finish`` does on another device.

        Raises:
            InputError: the record goes with other cases or another recipe.
        """
        if torch.device(device).type == "cpu":
            return _as_arrays(self.finish(self.sources(record)))
        return self.finish(self.sources(record, BOX[len(self.patch_size)]), device)

    def prepare(self, iteration: int, largest_box: float = math.inf) -> Sources:
        """The voxels of the batch of an iteration; where a case cannot be read, those of another.

        Args:
            iteration: counted from 0.
            largest_box: in patches: what has to be sampled from more of a case is sampled here, on the CPU.
        """
        # each sample at once as a whole: there may be more cases in a batch than can be open
        taken = self._healthy(iteration, self._take, self._positions)
        record = BatchRecord(
            iteration=iteration, patch_size=self.patch_size, samples=tuple(sample for sample, _ in taken)
        )
        return gathered(record, [crop for _, crop in taken], largest_box, self._label_channels)

    def sources(self, record: BatchRecord, largest_box: float = math.inf) -> Sources:
        """The voxels that a record names: of turned patches as far as they reach; ``largest_box`` as in ``prepare``.

        Raises:
            DamagedCaseError: a case cannot be read, nor be made anew.
            InputError: the record goes with other cases or another recipe.
        """
        self._require_fitting(record)
        crops = [self._mending(functools.partial(self._crop, sample, record.patch_size)) for sample in record.samples]
        return gathered(record, crops, largest_box, self._label_channels)

    @torch.no_grad()
    def finish(self, sources: Sources, device: str | torch.device = "cpu") -> dict[str, Any]:
        """Samples and transforms on a device: ``data`` and ``seg`` as tensors there, ``keys`` and ``record``."""
        record = sources.record
        images, labels = sources.sampled(device, self._label_channels)
        for index, step in enumerate(self._steps):
            parameters = [sample.parameters[index] for sample in record.samples]
            if any(drawn is not None for drawn in parameters):
                before = labels
                images, labels = step.apply(images, labels, parameters)
                if self._looked_for:
                    self._looked_for.require_told(record.samples, step, before, labels)
        keys = [sample.case for sample in record.samples]
        batch = {"data": images, "seg": labels.clamp_min(0)[:, None], "keys": keys, "record": record}
        if self._looked_for:
            batch["looked_for"] = self._looked_for.rows(record.samples, self._steps)
        return batch

    def _healthy(
        self, iteration: int, work: Callable[[int, int, Collection[str]], T], positions: Sequence[int]
    ) -> list[T]:
        """What the work gives for iteration and place of these samples, without cases that cannot be read."""
        without = set(self.skipped_before(iteration))
        return [
            self._replacing(iteration, without, functools.partial(work, iteration, position, without))
            for position in positions
        ]

    def _take(self, iteration: int, position: int, without: Collection[str]) -> tuple[SampleRecord, Crop]:
        sample = self._draw_sample(iteration, position, without)
        return sample, self._crop(sample, self.patch_size)

    def _draw_sample(self, iteration: int, position: int, without: Collection[str]) -> SampleRecord:
        random = stream(self._seed, self._purpose, iteration, position)
        case_id = self._cases[int(random.integers(len(self._cases)))]
        while case_id in without and self._too_many is None:  # of which another thread may know
            case_id = self._cases[int(random.integers(len(self._cases)))]
        case = self._opened(case_id)
        matrix = self._spatial.draw(random, self.patch_size) if self._spatial else None
        full = (1,) * (3 - len(self.patch_size)) + self.patch_size
        forced = position >= self.batch_size - self._forced
        corner = draw_corner(case, full, matrix, random, forced=forced, anywhere=self._anywhere)
        shape = (case.image.shape[0], *self.patch_size)
        parameters = tuple(step.draw(random, shape) for step in self._steps)
        return SampleRecord(
            case=case_id,
            key=self._keys[case_id],
            corner=corner,
            matrix=None if matrix is None else tuple(tuple(row) for row in matrix.tolist()),
            parameters=tuple(None if drawn is None else dict(drawn) for drawn in parameters),
        )

    def _require_fitting(self, record: BatchRecord) -> None:
        for sample in record.samples:
            if self._keys.get(sample.case) != sample.key:
                raise InputError(
                    "the record of a batch goes with another content of its case",
                    case=sample.case,
                    found=sample.key,
                    expected=self._keys.get(sample.case, "a case of this training"),
                    remedy="Replay it with the plan and the preprocessed cases that it was drawn from.",
                )
            if len(sample.parameters) != len(self._steps):
                raise InputError(
                    "the record of a batch goes with another recipe",
                    found=f"{len(sample.parameters)} steps",
                    expected=f"{len(self._steps)} steps",
                    remedy="Replay it with the plan that it was drawn from.",
                )

    def _crop(self, sample: SampleRecord, patch_size: tuple[int, ...]) -> Crop:
        case = self._opened(sample.case)
        start: Sequence[int] = sample.corner
        shape, centre = (1,) * (3 - len(patch_size)) + patch_size, None
        if sample.matrix is not None:
            start, shape, centre = box_of(sample.corner, patch_size, np.array(sample.matrix))
        image = crop_padded(case.image, start, shape, 0)
        labels = crop_padded(case.segmentation, start, shape, OUTSIDE)
        if len(patch_size) == 2:
            image, labels = image[:, 0], labels[0]
        return Crop(image, labels, centre)

    def _mending(self, work: Callable[[], T]) -> T:
        """What the work gives; a case that turns out damaged is made anew, and the work repeated once."""
        before = dict(self._mended)
        try:
            return work()
        except DamagedCaseError as damage:
            self._mend(damage, before.get(str(damage.case), 0))
            return work()

    def _mend(self, damage: DamagedCaseError, times: int) -> None:
        """Makes a case anew, unless another thread has done that since it had been made ``times`` times."""
        case = str(damage.case)
        with self._lock:
            if case in self._lost:
                raise self._lost[case]
            if self._mended.get(case, 0) == times:
                try:
                    self._store.mend(damage, self._keys[case])
                except DamagedCaseError as lost:
                    self._lost[case] = lost
                    raise
                except (InputError, TooLargeError, WorkerLostError, CasesFailedError) as reason:
                    told = reason.failures.get(case, reason) if isinstance(reason, CasesFailedError) else reason
                    what = f"{damage.what}; and it could not be made anew: {told}"
                    self._lost[case] = DamagedCaseError(case, what, file=Path(str(damage.file)))
                    raise self._lost[case] from reason
                self._mended[case] = times + 1
                self._opened.cache_clear()

    def _replacing(self, iteration: int, without: set[str], work: Callable[[], T]) -> T:
        """What the work gives; it is repeated without cases that cannot be read, which are added to ``without``."""
        while self._too_many is None:
            try:
                return self._mending(work)
            except DamagedCaseError as damage:
                without.add(str(damage.case))
                self.leave_out(str(damage.case), iteration, str(damage), damage)
        raise self._too_many

    def leave_out(self, case: str, iteration: int, reason: str, damage: InputError | None = None) -> None:
        """Goes on without a case, and says so once, unless there are too many of them.

        Args:
            case: its id.
            iteration: in which it could not be read.
            reason: why, here or in another process.
            damage: what this one found.
        """
        with self._lock:
            known = case in self._skipped
            self._skipped[case] = min(iteration, self._skipped.get(case, iteration))
            self._reasons.setdefault(case, reason)
            bad, cases = len(self._skipped), len(self._cases)
            if bad * ONE_IN > cases and self._too_many is None:
                self._too_many = damage if damage is not None and bad == 1 else self._told_too_many()
        if not known and self._too_many is None:
            text = f"warning: case {case} is left out of the training, others are drawn in its place: {reason}"
            self._logger.event("case_skipped", case=case, error=reason)
            self._logger.event("message", text=text, case=case)

    def _told_too_many(self) -> InputError:
        return InputError(
            "too many of the preprocessed cases cannot be read",
            found=f"{len(self._skipped)} of {len(self._cases)}: {', '.join(self.skipped)}",
            expected=f"at most one in {ONE_IN}",
            remedy="Repeat the command: train and preprocess make them anew from their files.",
        )


def _as_arrays(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

"""Patch and batch that fit a budget: by predicted bytes (the default), or by nnU-Net's count of feature-map elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from autoseg.errors import InputError
from autoseg.planning import GIBIBYTE
from autoseg.values.json_form import Value
from planners.architecture import blocks_per_stage, features_per_stage
from planners.patch import covers, grow, largest_patch, nearest_legal, shrink
from planners.presets import Architecture, CountRule
from planners.topology import Topology

__all__ = [
    "MARGIN",
    "Cost",
    "FittedPatch",
    "Room",
    "TooLittleMemoryError",
    "feature_elements",
    "fit_batch",
    "fit_count",
    "fit_memory",
]

#: Predicted bytes of a topology with a batch.
Cost = Callable[[Topology, int], int]
#: A prediction may be this much too low, so plans stay that much below their budget.
MARGIN = 1.03
SMALLEST_BATCH = 2
#: Bytes per voxel never differ by such a factor between one patch and the next.
FAR_BEYOND = 2.0
#: nnU-Net's count is stated for these batches, by dimension.
REFERENCE_BATCH = {2: 12, 3: 2}


class FittedPatch(Value, frozen=True, kw_only=True):
    """A patch and batch within the budget.

    Attributes:
        topology: of the network, with the patch.
        batch_size: patches per iteration.
        patch_reason: why this patch.
        batch_reason: why this batch.
    """

    topology: Topology
    batch_size: int
    patch_reason: str
    batch_reason: str


class Room(Value, frozen=True, kw_only=True):
    """What a patch has to fit into.

    Attributes:
        spacing: millimetres per axis of the patch.
        shape: median image size in voxels.
        dataset_voxels: of all training cases together.
        largest_share: of these that one batch may see.
        largest_batch: that the device computes without losing time, or None.
        memory_bytes: of the device.
        patch_size: wanted by the user, or empty.
        batch_size: wanted by the user, or None.
    """

    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    dataset_voxels: float
    largest_share: float = 0.05
    largest_batch: int | None = None
    memory_bytes: int
    patch_size: tuple[int, ...] = ()
    batch_size: int | None = None

    def batch_by_dataset(self, topology: Topology) -> int:
        """The largest batch that does not see too much of the data set at once."""
        return max(SMALLEST_BATCH, round(self.dataset_voxels * self.largest_share / math.prod(topology.patch_size)))


class TooLittleMemoryError(InputError):
    """The budget is too small for any network, or for what the user wants.

    Args:
        room: with the budget.
        topology: that does not fit.
        batch_size: of patches that do not fit.
        needed: bytes to plan for instead.

    Attributes:
        enough: GiB to plan for instead, as the text names them: rounded up to a tenth.
    """

    def __init__(self, room: Room, topology: Topology, batch_size: int, needed: int) -> None:
        self.room, self.topology, self.batch_size, self.needed = room, topology, batch_size, needed
        self.enough = math.ceil(needed / GIBIBYTE * 10) / 10
        patch, there = " x ".join(map(str, topology.patch_size)), f"{room.memory_bytes / GIBIBYTE:.3g} GiB"
        if room.patch_size or room.batch_size:
            super().__init__(
                f"a patch of {patch} with a batch of {batch_size} does not fit the memory",
                found=f"{self.enough:.1f} GiB needed, {there} to plan for",
                remedy=f"Ask for a smaller patch or batch, or plan for more with --gpu-memory {self.enough:.1f}.",
            )
        else:
            super().__init__(
                "the memory to plan for is too small for any network",
                found=there,
                expected=f"at least {self.enough:.1f} GiB, for a patch of {patch} and a batch of {batch_size}",
                remedy=f"Plan for more with --gpu-memory {self.enough:.1f}.",
            )

    def in_plan(self, memory_bytes: int, needed: int) -> TooLittleMemoryError:
        """The same of a whole plan for ``memory_bytes`` that needs more, or was looked at with another budget."""
        room = msgspec.structs.replace(self.room, memory_bytes=memory_bytes)
        return TooLittleMemoryError(room, self.topology, self.batch_size, needed)


def fit_memory(room: Room, cost: Cost) -> FittedPatch:
    """The largest patch with the image's proportions whose predicted memory fits, and the batch that fills the rest.

    Args:
        room: image, budget and wishes.
        cost: predicted bytes.

    Raises:
        TooLittleMemoryError: the budget is too small for any network, or for what the user wants; names what it takes.
    """
    if room.patch_size:
        return fit_batch(room, nearest_legal(room.spacing, room.patch_size), cost)
    topology, least = _fitting_patch(room, cost, int(room.memory_bytes / MARGIN))
    return fit_batch(room, topology, cost, least)


def fit_batch(room: Room, topology: Topology, cost: Cost, least: int = 1) -> FittedPatch:
    """The batch of a patch that is settled.

    Args:
        room: image, budget and wishes.
        topology: with the patch.
        cost: predicted bytes.
        least: the smallest batch, if none is wished for.

    Raises:
        TooLittleMemoryError: not even that fits; names what it takes.
    """
    usable, least = int(room.memory_bytes / MARGIN), room.batch_size or least
    if cost(topology, least) > usable:
        raise TooLittleMemoryError(room, topology, least, math.ceil(cost(topology, least) * MARGIN))
    return _fitted(room, topology, room.batch_size or _largest_batch(topology, cost, usable, least, room))


def _fitting_patch(room: Room, cost: Cost, usable: int) -> tuple[Topology, int]:
    """The largest patch of which a batch of usual size fits, or at least the smallest batch; and that batch.

    In 3D the smallest batch is the usual one: patches first. In 2D a patch of which a dozen fit is better than a larger one.
    """
    largest = largest_patch(room.spacing, room.shape)
    usual = min(REFERENCE_BATCH[len(room.spacing)], room.batch_by_dataset(largest))
    topology, batch = largest, usual
    for batch in [room.batch_size] if room.batch_size else sorted({usual, SMALLEST_BATCH}, reverse=True):
        too_large = _TooLarge(cost, usable, batch)
        topology = shrink(largest, room.spacing, room.shape, too_large)
        if not too_large(topology):
            return grow(topology, room.spacing, room.shape, too_large), batch
    return topology, batch


class _TooLarge:
    """Whether a batch of a patch exceeds the memory; far beyond it, proportion to the last one decides, which saves time."""

    def __init__(self, cost: Cost, usable: int, batch_size: int) -> None:
        self._cost, self._usable, self._batch_size = cost, usable, batch_size
        self._bytes_per_voxel = 0.0

    def __call__(self, topology: Topology) -> bool:
        voxels = math.prod(topology.patch_size)
        if self._bytes_per_voxel * voxels > FAR_BEYOND * self._usable:
            return True
        predicted = self._cost(topology, self._batch_size)
        self._bytes_per_voxel = predicted / voxels
        return predicted > self._usable


def _largest_batch(topology: Topology, cost: Cost, usable: int, least: int, room: Room) -> int:
    """The largest batch that fits, found by halving; no more than twice what the data set allows is looked at."""
    enough = 2 * room.batch_by_dataset(topology)
    low, high = least, max(least, min(enough, room.largest_batch or enough)) + 1
    if cost(topology, high) <= usable:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(topology, middle) <= usable else (low, middle)
    return low


def fit_count(room: Room, rule: CountRule, architecture: Architecture, label_count: int) -> FittedPatch:
    """nnU-Net's patch and batch: feature-map elements stand for memory.

    Args:
        room: image, budget and wishes.
        rule: how many elements go with how much memory.
        architecture: of the network.
        label_count: declared labels with background and ignore.
    """
    dimensions = len(room.spacing)
    elements = {2: rule.elements_2d, 3: rule.elements_3d}[dimensions]
    reference = elements * room.memory_bytes / rule.memory_bytes
    batch = REFERENCE_BATCH[dimensions]
    factor = SMALLEST_BATCH / batch if rule.patch_before_batch else 1.0

    def count(topology: Topology) -> int:
        return feature_elements(topology, topology.patch_size, label_count, architecture)

    largest = largest_patch(room.spacing, room.shape)
    if room.patch_size:
        topology = nearest_legal(room.spacing, room.patch_size)
    else:
        topology = shrink(largest, room.spacing, room.shape, lambda each: count(each) * factor > reference)
    by_memory = max(SMALLEST_BATCH, round(reference / count(topology) * batch))
    return _fitted(room, topology, by_memory, " by nnU-Net's count")


def feature_elements(
    topology: Topology, patch_size: Sequence[int], label_count: int, architecture: Architecture = "plain_unet"
) -> int:
    """Elements of the feature maps of one sample as nnU-Net counts them: convolutions, shortcuts and the head.

    Args:
        topology: strides per stage.
        patch_size: voxels per axis.
        label_count: declared labels with background and ignore.
        architecture: plain or residual encoder.
    """
    stages = len(topology.strides)
    features = features_per_stage(stages, len(patch_size))
    encoder_blocks, decoder_blocks = blocks_per_stage(architecture, stages)
    size, maps = list(patch_size), []
    for stride, channels in zip(topology.strides, features, strict=True):
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        maps.append(channels * math.prod(size))
    total = label_count * maps[0] // features[0]
    if architecture == "residual_encoder_unet":
        changed = (False, *(True for _ in range(stages - 1)))  # every stage but the first is strided
        total += maps[0] + sum(
            (2 * blocks + shortcut) * each for blocks, shortcut, each in zip(encoder_blocks, changed, maps, strict=True)
        )
    else:
        total += sum(blocks * each for blocks, each in zip(encoder_blocks, maps, strict=True))
    return total + sum((blocks + 1) * each for blocks, each in zip(decoder_blocks, maps[:-1], strict=True))


def _fitted(room: Room, topology: Topology, by_memory: int, counted: str = "") -> FittedPatch:
    """A patch with its batch: as wished, or as many as memory (``counted`` tells how) and data set allow."""
    by_dataset = room.batch_by_dataset(topology)
    batch_size, batch_reason = _batch(room, by_memory, by_dataset, counted)
    return FittedPatch(
        topology=topology,
        batch_size=batch_size,
        patch_reason=_patch_reason(room, topology),
        batch_reason=batch_reason,
    )


def _patch_reason(room: Room, topology: Topology) -> str:
    if room.patch_size:
        wanted, legal = (" x ".join(map(str, size)) for size in (room.patch_size, topology.patch_size))
        return (
            "as asked for"
            if wanted == legal
            else f"asked for {wanted}; the nearest that the poolings divide is {legal}"
        )
    if covers(topology, room.shape):
        return "covers the median image, padded to the network's poolings"
    return "the largest with the median image's proportions that fits the memory"


def _batch(room: Room, by_memory: int, by_dataset: int, counted: str) -> tuple[int, str]:
    """The batch and the reason for it."""
    if room.batch_size:
        return room.batch_size, "as asked for"
    allowed = min(by_memory, by_dataset)
    if room.largest_batch is not None and allowed > room.largest_batch:
        return room.largest_batch, "on a CPU, more iterations of a small batch learn faster (--batch-size changes it)"
    if allowed == SMALLEST_BATCH:
        return allowed, f"at least {SMALLEST_BATCH}"
    if by_memory <= by_dataset:
        return allowed, f"as many as fit the memory{counted} ({by_memory})"
    looked_at = min(2 * by_dataset, room.largest_batch or 2 * by_dataset)
    more = "more" if by_memory > looked_at else str(by_memory)
    share = f"{room.largest_share:.0%} of the data set's voxels"
    return allowed, f"one batch sees at most {share} (memory{counted} would allow {more})"

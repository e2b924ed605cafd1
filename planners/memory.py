"""Patch and batch that fit a budget, by nnU-Net's count of feature-map elements.

The count is a proxy: 560 million elements of one 3D sample pair go with 8 GB. The true memory in bytes is predicted by
the cost function that the planner is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from autoseg.planning import GIBIBYTE
from autoseg.values.json_form import Value
from planners.topology import Topology, network_topology

__all__ = ["CONVOLUTIONS", "FittedPatch", "feature_elements", "features_per_stage", "fit_patch"]

#: Convolutions in each stage of a plain U-Net, encoder and decoder.
CONVOLUTIONS = 2
FIRST_FEATURES, MOST_FEATURES = 32, {2: 512, 3: 320}
#: Feature-map elements that go with 8 GB, and the batch they are stated for, by dimension.
REFERENCE_ELEMENTS, REFERENCE_BATCH = {2: 85e6, 3: 560e6}, {2: 12, 3: 2}
REFERENCE_BYTES = 8 * GIBIBYTE
#: Voxels of the first patch, before it is shrunk to the budget.
FIRST_PATCH = {2: 2048**2, 3: 256**3}
SMALLEST_BATCH = 2


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


def features_per_stage(stages: int, dimensions: int) -> tuple[int, ...]:
    """Feature maps double with every stage, up to a cap."""
    return tuple(min(MOST_FEATURES[dimensions], FIRST_FEATURES * 2**stage) for stage in range(stages))


def feature_elements(topology: Topology, patch_size: Sequence[int], label_count: int) -> int:
    """Elements of all feature maps of one sample in a plain U-Net: convolutions, transposed convolutions and the head.

    Args:
        topology: strides per stage.
        patch_size: voxels per axis.
        label_count: declared labels with background and ignore.
    """
    features = features_per_stage(len(topology.strides), len(patch_size))
    size, voxels = list(patch_size), []
    for stride in topology.strides:
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        voxels.append(math.prod(size))
    encoder = sum(CONVOLUTIONS * maps * count for maps, count in zip(features, voxels, strict=True))
    decoder = sum((CONVOLUTIONS + 1) * maps * count for maps, count in zip(features[:-1], voxels[:-1], strict=True))
    return encoder + decoder + label_count * voxels[0]


def fit_patch(
    spacing: Sequence[float],
    shape: Sequence[float],
    *,
    dataset_voxels: float,
    label_count: int,
    memory_bytes: int,
    cap: float = 0.05,
    scale_2d_elements: bool = False,
    cost: Callable[[Topology, int], int] | None = None,
) -> FittedPatch:
    """The largest patch with the image's proportions that fits the budget, and the batch that fills it.

    Args:
        spacing: millimetres per axis of the patch.
        shape: median image size in voxels.
        dataset_voxels: of all training cases together; a batch sees at most the share ``cap`` of them.
        label_count: declared labels with background and ignore.
        memory_bytes: of the device.
        cap: see ``dataset_voxels``.
        scale_2d_elements: nnU-Net's rule for the plain network: the patch may grow until only a batch of two fits, where
            the batch is otherwise kept at its reference (12 in 2D).
        cost: predicted bytes of a topology and batch; the plan keeps within the budget by it, too. None: by the count only.
    """
    dimensions = len(spacing)
    reference = REFERENCE_ELEMENTS[dimensions] * memory_bytes / REFERENCE_BYTES
    batch = REFERENCE_BATCH[dimensions]
    factor = 2 / batch if scale_2d_elements else 1.0

    def over_budget(topology: Topology, batch_size: int) -> bool:
        return cost is not None and cost(topology, batch_size) > memory_bytes

    def too_large(topology: Topology) -> bool:
        elements = feature_elements(topology, topology.patch_size, label_count)
        return elements * factor > reference or over_budget(topology, SMALLEST_BATCH)

    largest = network_topology(spacing, _first_patch(spacing, shape))
    topology = _shrink(largest, spacing, shape, too_large)
    elements = feature_elements(topology, topology.patch_size, label_count)
    by_memory = max(SMALLEST_BATCH, round(reference / elements * batch))
    while by_memory > SMALLEST_BATCH and over_budget(topology, by_memory):
        by_memory -= 1
    by_dataset = round(dataset_voxels * cap / math.prod(topology.patch_size))
    batch_size = max(SMALLEST_BATCH, min(by_memory, by_dataset))
    return FittedPatch(
        topology=topology,
        batch_size=batch_size,
        patch_reason=(
            "covers the median image, padded to the network's poolings"
            if topology == largest and all(edge >= size for edge, size in zip(largest.patch_size, shape, strict=True))
            else "the largest with the median image's proportions that fits the memory"
        ),
        batch_reason=(
            f"at least {SMALLEST_BATCH}"
            if batch_size == SMALLEST_BATCH and min(by_memory, by_dataset) <= SMALLEST_BATCH
            else f"as many as fit the memory ({by_memory})"
            if by_memory <= by_dataset
            else f"one batch sees at most {cap:.0%} of the data set's voxels (memory would allow {by_memory})"
        ),
    )


def _first_patch(spacing: Sequence[float], shape: Sequence[float]) -> list[float]:
    """A cube in millimetres with a fixed number of voxels, no larger than the median image."""
    dimensions = len(spacing)
    proportions = [1 / step for step in spacing]
    scale = (FIRST_PATCH[dimensions] / math.prod(proportions)) ** (1 / dimensions)
    return [min(float(round(part * scale)), size) for part, size in zip(proportions, shape, strict=True)]


def _shrink(
    topology: Topology, spacing: Sequence[float], shape: Sequence[float], too_large: Callable[[Topology], bool]
) -> Topology:
    """Takes one pooling step off the axis that covers most of the image, until the patch fits."""
    while too_large(topology) and any(
        edge > step for edge, step in zip(topology.patch_size, topology.divisor, strict=True)
    ):
        patch = list(topology.patch_size)
        # of equal shares the highest axis shrinks first
        axes = sorted(range(len(patch)), key=lambda axis: (patch[axis] / shape[axis], axis), reverse=True)
        smaller = (_shrunk(topology, spacing, axis) for axis in axes if patch[axis] > topology.divisor[axis])
        usable = next((each for each in smaller if len(each.strides) > 1), None)
        if usable is None:
            break
        topology = usable
    return topology


def _shrunk(topology: Topology, spacing: Sequence[float], axis: int) -> Topology:
    patch, trial = list(topology.patch_size), list(topology.patch_size)
    trial[axis] -= topology.divisor[axis]
    patch[axis] -= network_topology(spacing, trial).divisor[axis]
    return network_topology(spacing, patch)

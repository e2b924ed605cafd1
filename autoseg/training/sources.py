"""The voxels of a batch: what is read of each case, and the patches that are sampled from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from autoseg.augmentation.spatial import OUTSIDE, sample_affine
from autoseg.io.chunks import Readable
from autoseg.training.records import BatchRecord, SampleRecord

__all__ = ["Crop", "Sources", "crop_padded", "gathered"]


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


@dataclass(frozen=True)
class Crop:
    """What is read for a sample: the patch itself or, if it is turned, the box that it is sampled from.

    Attributes:
        image: float32 ``(channels, *box)``.
        labels: integers ``(*box)``.
        centre: of a turned patch, in the box.
    """

    image: np.ndarray
    labels: np.ndarray
    centre: np.ndarray | None


@dataclass(frozen=True)
class Box:
    """What a turned patch is sampled from: image ``(channels, *box)``, labels ``(*box)`` with those present, the centre."""

    image: torch.Tensor
    labels: torch.Tensor
    present: list[int]
    centre: np.ndarray

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Box:
        """The same elsewhere."""
        return replace(self, image=move(self.image), labels=move(self.labels))


@dataclass(frozen=True)
class Sources:
    """The voxels of a batch as they are stored.

    Attributes:
        record: of the batch.
        images: of the plain crops, in order: float32 ``(crops, channels, *patch)``.
        labels: of the plain crops: integers ``(crops, *patch)``.
        boxes: sample to its box, for patches that are turned.
    """

    record: BatchRecord
    images: torch.Tensor
    labels: torch.Tensor
    boxes: Mapping[int, Box]

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Sources:
        """The same elsewhere: ``moved(torch.Tensor.pin_memory)`` in memory from which a GPU copies by itself."""
        boxes = {sample: box.moved(move) for sample, box in self.boxes.items()}
        return replace(self, images=move(self.images), labels=move(self.labels), boxes=boxes)

    def sampled(self, device: str | torch.device = "cpu", label_channels: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``(batch, channels, *patch)`` and labels ``(batch, *patch)`` on a device.

        Boxes, which are much larger than patches, go there one after the other.

        Args:
            device: to sample on.
            label_channels: how many channels at the end are those of labels, from label 1 on.
        """

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        if not self.boxes:
            return move(self.images), move(self.labels)
        samples, size = self.record.samples, self.record.patch_size
        plain = [index for index in range(len(samples)) if index not in self.boxes]
        images = self.images.new_empty((len(samples), *self.images.shape[1:]), device=device)
        labels = self.labels.new_empty((len(samples), *size), device=device)
        for place, index in enumerate(plain):
            images[index].copy_(self.images[place], non_blocking=True)
            labels[index].copy_(self.labels[place], non_blocking=True)
        for index, box in self.boxes.items():
            image, its_labels, matrix = move(box.image), move(box.labels), np.array(samples[index].matrix)
            images[index], labels[index] = sample_affine(
                *(image, its_labels, matrix, box.centre, size), present=box.present, label_channels=label_channels
            )
            del image, its_labels  # before the next box comes
        return images, labels


def gathered(
    record: BatchRecord, crops: Sequence[Crop], largest_box: float = math.inf, label_channels: int = 0
) -> Sources:
    """The sources of a batch from those of its samples.

    Args:
        record: of the batch.
        crops: of its samples.
        largest_box: in patches; from larger ones, the patch is sampled here.
        label_channels: see ``Sources.sampled``.
    """
    most = largest_box * math.prod(record.patch_size)
    pairs = zip(crops, record.samples, strict=True)
    crops = [
        _sampled(crop, sample, record.patch_size, label_channels) if crop.labels.size > most else crop
        for crop, sample in pairs
    ]
    dtype = np.result_type(*(crop.labels.dtype for crop in crops))
    channels, size = crops[0].image.shape[0], record.patch_size
    plain = [crop for crop in crops if crop.centre is None]
    images, labels = np.empty((len(plain), channels, *size), np.float32), np.empty((len(plain), *size), dtype)
    for index, crop in enumerate(plain):
        images[index], labels[index] = crop.image, crop.labels
    boxes = {}
    for index, crop in enumerate(crops):
        if crop.centre is not None:
            box = torch.from_numpy(crop.image), torch.from_numpy(crop.labels.astype(dtype, copy=False))
            boxes[index] = Box(*box, _present(crop.labels), crop.centre)
    return Sources(record, torch.from_numpy(images), torch.from_numpy(labels), boxes)


def _sampled(crop: Crop, sample: SampleRecord, size: tuple[int, ...], label_channels: int) -> Crop:
    """The patch that is sampled from a box; another crop as it is."""
    if crop.centre is None:
        return crop
    box = torch.from_numpy(crop.image), torch.from_numpy(crop.labels)
    matrix, present = np.array(sample.matrix), _present(crop.labels)
    image, labels = sample_affine(*box, matrix, crop.centre, size, present=present, label_channels=label_channels)
    return Crop(image.numpy(), labels.numpy(), None)


def _present(labels: np.ndarray) -> list[int]:
    """The labels that occur."""
    return (np.flatnonzero(np.bincount(labels.ravel().astype(np.intp) - OUTSIDE)) + OUTSIDE).tolist()

"""Work on single channels of a batch, all that need it together, so that none depends on what else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from autoseg.augmentation.transfer import on_device

__all__ = ["change_channels", "deviation", "mean", "per_channel", "power"]

#: Voxels that are raised to a power at once on a CPU. Too few for torch to share them among threads: the last voxels of
#: every share are computed by other instructions, and the result would depend on the number of threads.
PIECE = 2**14


def change_channels(
    images: torch.Tensor,
    parameters: Sequence[Mapping[str, Any] | None],
    key: str,
    change: Callable[[torch.Tensor, Sequence[Any]], torch.Tensor],
) -> torch.Tensor:
    """New images in which each channel with a drawn value is changed; all others are as they were.

    Args:
        images: ``(batch, channels, *spatial)``.
        parameters: of each sample; under ``key`` a value for each channel, None for those that stay.
        key: in the parameters.
        change: from channels ``(chosen, *spatial)`` and the value of each to new ones.
    """
    rows = [
        (sample, channel, value)
        for sample, drawn in enumerate(parameters)
        if drawn is not None
        for channel, value in enumerate(drawn[key])
        if value is not None
    ]
    if not rows:
        return images
    samples, channels, values = zip(*rows, strict=True)
    chosen = on_device(samples, images.device), on_device(channels, images.device)
    changed = change(images[chosen].contiguous(), values)  # first, so that the copy is not there meanwhile
    result = images.clone(memory_format=torch.contiguous_format)
    result[chosen] = changed
    return result


def per_channel(values: Sequence[float], channels: torch.Tensor) -> torch.Tensor:
    """One number for each of the channels, to compute with them: ``(chosen, 1, ...)``."""
    return on_device(values, channels.device, channels.dtype).view(-1, *(1,) * (channels.ndim - 1))


def mean(channels: torch.Tensor) -> torch.Tensor:
    """Mean of each of the channels ``(chosen, *spatial)``, as ``(chosen, 1, ...)``.

    Summed axis by axis: in one go, the order of the sum and with it the last bit would depend on the number of channels and
    of threads.
    """
    total = channels
    for axis in range(channels.ndim - 1, 0, -1):
        total = total.sum(axis, keepdim=True)
    return total / channels[0].numel()


def deviation(channels: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each of the channels ``(chosen, *spatial)``, as ``(chosen, 1, ...)``."""
    return mean((channels - mean(channels)).square()).sqrt()


def power(channels: torch.Tensor, exponents: Sequence[float]) -> torch.Tensor:
    """Each of the channels ``(chosen, *spatial)`` raised to its exponent."""
    if channels.device.type != "cpu":
        return channels.pow(per_channel(exponents, channels))
    result = torch.empty_like(channels)
    for source, target, exponent in zip(channels.flatten(1), result.flatten(1), exponents, strict=True):
        for before, after in zip(source.split(PIECE), target.split(PIECE), strict=True):
            torch.pow(before, exponent, out=after)
    return result

"""Numbers that were drawn, on the device where they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["on_device"]


def on_device(
    values: Sequence[float] | Sequence[int] | Sequence[bool] | np.ndarray,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Numbers of the host as a tensor on a device.

    A GPU copies them from pinned memory in its own time: without that, every few numbers would wait for all its work so far.

    Args:
        values: few numbers.
        device: that needs them.
        dtype: of the tensor; torch's for these numbers by default.
    """
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

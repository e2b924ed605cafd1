"""One patch through a transform, as NumPy arrays: what most tests of transforms need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from autoseg.augmentation.contract import Transform


def apply(
    transform: Transform, image: np.ndarray, labels: np.ndarray, parameters: Mapping[str, Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of one: image ``(channels, *spatial)``, labels ``(*spatial)``."""
    images, maps = torch.from_numpy(image.copy())[None], torch.from_numpy(labels.copy())[None]
    images, maps = transform.apply(images, maps, [parameters])
    return images[0].numpy(), maps[0].numpy()

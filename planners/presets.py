"""The presets: what makes one planner differ from another, as values."""

from __future__ import annotations

from typing import Literal

from autoseg.planning import GIBIBYTE
from autoseg.values import Orientation
from autoseg.values.json_form import Value

__all__ = [
    "DEFAULT",
    "NNUNET",
    "NNUNET_RESENC_L",
    "NNUNET_RESENC_M",
    "NNUNET_RESENC_XL",
    "RESIDUAL",
    "CountRule",
    "Preset",
]

Architecture = Literal["plain_unet", "residual_encoder_unet"]


class CountRule(Value, frozen=True, kw_only=True):
    """nnU-Net's stand-in for memory: how many feature-map elements of a reference batch go with a size of memory.

    Attributes:
        elements_2d: of one 2D sample, where the batch is to be 12.
        elements_3d: of one 3D sample, where the batch is to be 2.
        memory_bytes: that they go with.
        patch_before_batch: the patch may grow until only a batch of two fits (the plain network); else it is kept so that
            the reference batch fits.
    """

    elements_2d: float
    elements_3d: float
    memory_bytes: int
    patch_before_batch: bool


class Preset(Value, frozen=True, kw_only=True):
    """What makes one planner differ from another.

    Attributes:
        name: of the planner plug.
        architecture: of the network.
        count_rule: patch and batch by nnU-Net's count; None: by predicted bytes, never over the budget.
        largest_share: of the data set's voxels that one batch may see.
        as_nnunet: nnU-Net's handling of orientation, sides and thick slices, and its training, quirks included.
    """

    name: str
    architecture: Architecture
    count_rule: CountRule | None = None
    largest_share: float = 0.05
    as_nnunet: bool = False

    @property
    def orientation(self) -> Orientation:
        """Of the arrays."""
        return "as_stored" if self.as_nnunet else "canonical"


DEFAULT = Preset(name="default", architecture="plain_unet")
RESIDUAL = Preset(name="residual", architecture="residual_encoder_unet")
NNUNET = Preset(
    name="nnunet",
    architecture="plain_unet",
    count_rule=CountRule(elements_2d=85e6, elements_3d=560e6, memory_bytes=8 * GIBIBYTE, patch_before_batch=True),
    as_nnunet=True,
)


def _residual(name: str, elements_2d: float, elements_3d: float, gibibytes: int) -> Preset:
    return Preset(
        name=name,
        architecture="residual_encoder_unet",
        count_rule=CountRule(
            elements_2d=elements_2d,
            elements_3d=elements_3d,
            memory_bytes=gibibytes * GIBIBYTE,
            patch_before_batch=False,
        ),
        largest_share=1.0,
        as_nnunet=True,
    )


NNUNET_RESENC_M = _residual("nnunet_resenc_m", 135e6, 680e6, 8)
NNUNET_RESENC_L = _residual("nnunet_resenc_l", 380e6, 2.1e9, 24)
NNUNET_RESENC_XL = _residual("nnunet_resenc_xl", 560e6, 3.6e9, 40)

"""A loss of your own, in a few lines: cross-entropy that looks most at what the network is least sure of.

Put this file beside your data and train with it:

    autoseg train 2d 0 --loss own_loss:Focal

A loss is made from the labels. It maps logits (batch, outputs, *spatial) and label indices (batch, *spatial) to one number;
it is called for every resolution of the decoder. Voxels of the index ``labels.ignore_index`` were annotated by nobody.
"""

import torch
import torch.nn.functional as F

from autoseg.values import Labels


class Focal:
    """Focal loss (Lin et al., ICCV 2017), for labels without regions."""

    def __init__(self, labels: Labels, *, batch_dice: bool) -> None:
        self.ignore = -100 if labels.ignore_index is None else labels.ignore_index

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean over known voxels of cross-entropy, times the square of what was not believed."""
        entropy = F.cross_entropy(logits.float(), target, ignore_index=self.ignore, reduction="none")
        return ((1 - (-entropy).exp()) ** 2 * entropy).sum() / (target != self.ignore).sum().clamp_min(1)

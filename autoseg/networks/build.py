"""From a NetworkSpec to a network, with weights that depend on the seed alone."""

from __future__ import annotations

import torch
from torch import nn

from autoseg import plugins
from autoseg.values import NetworkSpec

__all__ = ["build_network"]


def build_network(spec: NetworkSpec, *, seed: int) -> nn.Module:
    """A network with fresh weights; torch's global random state is left as it was.

    The network maps ``(batch, channels, *spatial)`` to a list of logits, highest resolution first, and has an attribute
    ``deep_supervision``.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        network: nn.Module = plugins.load("network", spec.architecture)(spec)
    return network

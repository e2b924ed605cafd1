"""Networks from a spec and a seed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from autoseg.errors import UnknownNameError
from autoseg.networks.build import build_network
from autoseg.networks.unet import PlainUNet
from autoseg.values import NetworkSpec


def tiny_spec(architecture: str = "plain_unet") -> NetworkSpec:
    return NetworkSpec(
        architecture=architecture,
        input_channels=1,
        output_channels=2,
        features=(4, 8),
        kernel_sizes=((3, 3), (3, 3)),
        strides=((1, 1), (2, 2)),
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )


def weights(seed: int) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in build_network(tiny_spec(), seed=seed).state_dict().values()])


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = weights(3)
    torch.rand(10)
    assert torch.equal(first, weights(3))


def test_another_seed_gives_other_weights() -> None:
    assert not torch.equal(weights(3), weights(4))


def test_global_random_states_are_left_as_they_were() -> None:
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    build_network(tiny_spec(), seed=0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_the_architecture_is_looked_up_by_its_name_or_place() -> None:
    assert isinstance(build_network(tiny_spec(), seed=0), PlainUNet)
    assert isinstance(build_network(tiny_spec("autoseg.networks.unet:PlainUNet"), seed=0), PlainUNet)


def test_an_unknown_architecture_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"no network 'mystery'.*plain_unet"):
        build_network(tiny_spec("mystery"), seed=0)

"""Weight gradients by slices: those of torch's own convolution."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from autoseg.networks import slicewise
from autoseg.networks.slicewise import SlicewiseConv3d, use_slicewise_gradients


@pytest.fixture(autouse=True)
def _small_slices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicewise, "LEAST_SLICE", 1)


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every gradient that is taken slice by slice."""
    calls, own = [], slicewise._weight_gradient
    monkeypatch.setattr(slicewise, "_weight_gradient", lambda *given: calls.append(1) or own(*given))
    return calls


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "shape"),
    [
        ((3, 3, 3), (1, 1, 1), (4, 5, 6)),
        ((3, 3, 3), (2, 2, 2), (4, 6, 8)),
        ((3, 3, 3), (1, 2, 2), (3, 6, 4)),
        ((5, 3, 3), (1, 1, 1), (2, 5, 4)),
        ((3, 1, 3), (3, 1, 1), (6, 5, 4)),
        ((3, 3, 3), (1, 1, 1), (1, 5, 6)),
    ],
)
def test_gradients_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch,
    kernel: Sequence[int],
    stride: Sequence[int],
    shape: Sequence[int],
    channels_last: bool,
) -> None:
    torch.manual_seed(0)
    padding = [(edge - 1) // 2 for edge in kernel]
    ours = SlicewiseConv3d(3, 4, tuple(kernel), tuple(stride), padding=padding).double().float()
    theirs = nn.Conv3d(3, 4, tuple(kernel), tuple(stride), padding=padding)
    theirs.load_state_dict(ours.state_dict())
    use_slicewise_gradients(nn.Sequential(ours), True)
    calls, results = calls_of(monkeypatch), []
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    x = torch.randn(3, 3, *shape).contiguous(memory_format=layout)
    for module in (ours, theirs):
        module.to(memory_format=layout)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = module(leaf)
        slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        kept = slope.clone()
        y.backward(slope)
        assert torch.equal(slope, kept)
        results.append((y, leaf.grad, module.weight.grad, module.bias.grad))
    assert calls == [1]
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_what_does_not_suit_goes_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of(monkeypatch)
    three, flat, image = (
        SlicewiseConv3d(2, 2, 3, padding=1),
        SlicewiseConv3d(2, 2, (1, 3, 3), padding=(0, 1, 1)),
        SlicewiseConv3d(1, 2, 3, padding=1),
    )
    odd = SlicewiseConv3d(2, 2, 3, 2, padding=1)
    use_slicewise_gradients(nn.ModuleList([three, flat, image, odd]), True)
    flat(torch.randn(1, 2, 4, 4, 4)).sum().backward()
    image(torch.randn(1, 1, 4, 4, 4)).sum().backward()
    odd(torch.randn(1, 2, 5, 4, 4)).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        three(torch.randn(1, 2, 4, 4, 4)).sum().backward()
    use_slicewise_gradients(three, False)
    three(torch.randn(1, 2, 4, 4, 4)).sum().backward()
    assert not calls


def test_it_is_a_convolution_with_the_same_names_and_the_same_output() -> None:
    ours = SlicewiseConv3d(2, 3, 3, padding=1)
    usual = copy.deepcopy(ours)
    use_slicewise_gradients(ours, True)
    x = torch.randn(2, 2, 4, 4, 4)
    assert torch.equal(ours(x), usual(x))
    assert list(ours.state_dict()) == ["weight", "bias"]
    with torch.inference_mode():
        assert torch.equal(ours(x), usual(x))

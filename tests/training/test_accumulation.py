"""A batch in parts gives the loss, the gradients and the weights of the batch as a whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from autoseg.networks.build import build_network
from autoseg.training.accumulation import backward_in_parts, fewest_parts, parts_of
from autoseg.training.losses import DiceCrossEntropy, Loss
from autoseg.values import Label, Labels
from tests.small_plans import small_network

FOREGROUND = (Label(name="a", values=(1,)), Label(name="b", values=(2,)))
OVERLAPPING = (Label(name="whole", values=(1, 2)), Label(name="core", values=(2,)))
KINDS = {
    "labels": Labels(foreground=FOREGROUND),
    "labels, ignore": Labels(foreground=FOREGROUND, ignore=3),
    "regions": Labels(foreground=OVERLAPPING, region_values=(1, 2)),
    "regions, ignore": Labels(foreground=OVERLAPPING, region_values=(1, 2), ignore=3),
}
kinds = pytest.mark.parametrize("labels", KINDS.values(), ids=KINDS)


class Batch:
    """A random batch, whose samples differ in their classes and, with an ignore label, in their known voxels."""

    def __init__(self, labels: Labels, samples: int, dimensions: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (samples, *(16,) * dimensions)
        self.image = torch.randn(samples, 1, *shape[1:], generator=generator)
        self.target = torch.randint(0, 3, shape, generator=generator)
        self.target[0][self.target[0] == 2] = 0
        if labels.ignore is not None:
            self.target[0, 4:] = 3
            self.target[-1] = 3

    def backward(self, network: nn.Module, loss: Loss, parts: int) -> tuple[float, list[int]]:
        """Loss, and the sizes of the parts that went through the network."""
        sizes = []

        def forward(part: slice) -> tuple[list[torch.Tensor], torch.Tensor]:
            sizes.append(len(self.image[part]))
            return network(self.image[part]), self.target[part]

        return backward_in_parts(forward, loss, len(self.image), parts), sizes


def network_for(labels: Labels, dimensions: int) -> nn.Module:
    return build_network(small_network(dimensions, outputs=labels.output_count, features=(4, 4, 8, 8)), seed=0)


@pytest.mark.parametrize("samples", [1, 2, 5, 12])
@pytest.mark.parametrize("parts", [1, 2, 3, 5, 12, 40])
def test_parts_cover_a_batch_in_order_and_differ_by_one_at_most(samples: int, parts: int) -> None:
    slices = parts_of(samples, parts)
    assert [index for part in slices for index in range(part.start, part.stop)] == list(range(samples))
    sizes = [part.stop - part.start for part in slices]
    assert len(sizes) == min(parts, samples)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(
    ("samples", "parts", "dimensions"), [(4, 2, 2), (5, 2, 3), (3, 3, 3)], ids=["even", "uneven", "single"]
)
def test_gradients_and_weights_of_several_steps_are_those_of_whole_batches(
    labels: Labels, batch_dice: bool, samples: int, parts: int, dimensions: int
) -> None:
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    whole = network_for(labels, dimensions)
    split = copy.deepcopy(whole)
    optimizers = [torch.optim.SGD(each.parameters(), 0.05, momentum=0.9, nesterov=True) for each in (whole, split)]
    for step in range(4):
        batch = Batch(labels, samples, dimensions, seed=step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        expected, _ = batch.backward(whole, loss, 1)
        value, _ = batch.backward(split, loss, parts)
        assert value == pytest.approx(expected, abs=1e-5)
        largest = max(float(weight.grad.abs().max()) for weight in whole.parameters() if weight.grad is not None)
        for one, other in zip(split.parameters(), whole.parameters(), strict=True):
            if other.grad is not None:  # the deepest head is not supervised
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5 * largest)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
def test_only_a_loss_that_couples_samples_needs_a_pass_of_its_own_for_the_sums(
    labels: Labels, batch_dice: bool
) -> None:
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    network = network_for(labels, 2)
    _, sizes = Batch(labels, 5, 2, seed=0).backward(network, loss, 2)
    assert sizes == ([3, 2, 3, 2] if loss.couples_samples else [3, 2])


def test_what_the_simple_way_would_get_wrong_with_batch_dice_is_more_than_rounding() -> None:
    """So that the equality above says something."""
    labels = KINDS["labels, ignore"]
    loss, network = DiceCrossEntropy(labels, batch_dice=True), network_for(labels, 2)
    batch = Batch(labels, 5, 2, seed=0)
    right, _ = batch.backward(network, loss, 2)
    wrong, _ = batch.backward(network, lambda logits, target: loss(logits, target), 2)
    assert wrong != pytest.approx(right, abs=1e-3)


def test_a_loss_without_sums_is_taken_for_the_mean_over_samples() -> None:
    def squares(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (logits - target[:, None]).square().mean()

    batch = Batch(KINDS["labels"], 5, 2, seed=0)
    networks = [network_for(KINDS["labels"], 2) for _ in range(2)]
    values = [batch.backward(network, squares, parts)[0] for network, parts in zip(networks, (1, 2), strict=True)]
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    for one, other in zip(networks[1].parameters(), networks[0].parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("room", [1, 2, 3, 4, 6, 11, 12, 100])
def test_the_fewest_parts_that_fit_are_found(room: int) -> None:
    """The shortage is injected: it stands for a GPU on which no more than so many samples fit."""
    network, batch = network_for(KINDS["labels"], 2), Batch(KINDS["labels"], 12, 2, seed=0)
    loss, recoveries, tried = DiceCrossEntropy(KINDS["labels"], batch_dice=True), [], []

    def refuse(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > room:
            raise torch.OutOfMemoryError

    def step(parts: int) -> None:
        tried.append(parts)
        batch.backward(network, loss, parts)

    network.register_forward_pre_hook(refuse)
    found = fewest_parts(step, 12, recover=lambda: recoveries.append(tried[-1]))
    assert found == next(parts for parts in range(1, 13) if -(-12 // parts) <= room)
    assert tried == [*recoveries, found]
    sizes = [-(-12 // parts) for parts in tried]
    assert sizes == sorted(set(sizes), reverse=True)  # none is tried twice in vain


def test_no_number_of_parts_is_enough_where_a_single_sample_does_not_fit() -> None:
    def step(parts: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fewest_parts(step, 5, recover=lambda: None)


def test_other_errors_pass() -> None:
    def step(parts: int) -> None:
        raise RuntimeError("not about memory")

    with pytest.raises(RuntimeError, match="not about memory"):
        fewest_parts(step, 5, recover=lambda: None)

"""Learning from samples in which some labels were not looked for: what is known is used, and nothing else."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoseg.training.accumulation import backward_in_parts
from autoseg.training.estimate import voxel_counts
from autoseg.training.losses import DiceCrossEntropy, takes_looked_for
from autoseg.values import (
    Label,
    Labels,
)
from tests.allocator import peak_of
from tests.training.plain_loss import PlainDiceCrossEntropy
from tests.training.test_accumulation import Batch, network_for

#: Not declared in the order of their integers: ``looked_for`` has the order of declaration, outputs that of the integers.
FOREGROUND = (Label(name="b", values=(2,)), Label(name="c", values=(3,)), Label(name="a", values=(1,)))
OVERLAPPING = (
    Label(name="whole", values=(1, 2, 3)),
    Label(name="core", values=(2, 3)),
    Label(name="heart", values=(3,)),
)
KINDS = {
    "labels": Labels(foreground=FOREGROUND),
    "labels, ignore": Labels(foreground=FOREGROUND, ignore=4),
    "regions": Labels(foreground=OVERLAPPING, region_values=(1, 2, 3)),
    "regions, ignore": Labels(foreground=OVERLAPPING, region_values=(1, 2, 3), ignore=4),
}
kinds = pytest.mark.parametrize("labels", KINDS.values(), ids=KINDS)
batch_or_sample = pytest.mark.parametrize("batch_dice", [False, True], ids=["per sample", "over the batch"])
#: Labels looked for per sample: all, some, another, none.
LOOKED_FOR = torch.tensor([[True, True, True], [True, False, False], [False, True, True], [False, False, False]])


def example(labels: Labels, shape: tuple[int, ...] = (4, 6, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(shape[0], labels.output_count, *shape[1:], generator=generator)
    return logits, torch.randint(0, 4 + (labels.ignore is not None), shape, generator=generator)


def value_and_gradient(loss, logits: torch.Tensor, *known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, *known)
    value.backward()
    return value.detach(), leaf.grad


@kinds
@batch_or_sample
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 1], [2, 3], [3, 0]], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_value_and_gradient_are_those_of_the_plain_loss(
    labels: Labels, batch_dice: bool, rows: list[int], last: bool
) -> None:
    logits, target = example(labels, (len(rows), 6, 5, 4))
    if last:
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    looked_for = LOOKED_FOR[rows]
    loss, plain = (kind(labels, batch_dice=batch_dice) for kind in (DiceCrossEntropy, PlainDiceCrossEntropy))
    value, gradient = value_and_gradient(loss, logits, target, looked_for)
    expected, expected_gradient = value_and_gradient(plain, logits.double(), target, looked_for)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-8)
    assert gradient.stride() == logits.stride()


@kinds
@batch_or_sample
def test_the_gradient_is_that_of_finite_differences(labels: Labels, batch_dice: bool) -> None:
    logits, target = example(labels, (4, 3, 2))
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: loss(logits, target, LOOKED_FOR), logits)


@kinds
@batch_or_sample
def test_where_nothing_is_known_there_is_exactly_no_gradient_and_no_say(labels: Labels, batch_dice: bool) -> None:
    logits, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    value, gradient = value_and_gradient(loss, logits, target, LOOKED_FOR)
    unknown = torch.zeros_like(logits, dtype=torch.bool)
    unknown[3] = True
    if labels.has_regions:
        unknown |= ~LOOKED_FOR[:, :, None, None]
    if labels.ignore is not None:
        unknown |= (target == labels.ignore_index)[:, None]
    assert not gradient[unknown].any()
    assert gradient[~unknown].all()
    other = torch.where(unknown, 100 * torch.randn_like(logits), logits)
    assert float(loss(other, target, LOOKED_FOR)) == pytest.approx(float(value), abs=1e-6)


@kinds
@batch_or_sample
def test_a_batch_of_which_nothing_is_known_gives_a_finite_loss_and_no_gradient(
    labels: Labels, batch_dice: bool
) -> None:
    logits, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    value, gradient = value_and_gradient(loss, logits, target, torch.zeros_like(LOOKED_FOR))
    assert torch.isfinite(value)
    assert not gradient.any()


@batch_or_sample
def test_what_a_voxel_may_be_is_not_divided_among_its_possible_labels(batch_dice: bool) -> None:
    """A background voxel of a sample that was searched for ``b`` alone may as well be ``a`` or ``c``."""
    labels = KINDS["labels"]
    loss, target, looked_for = (
        DiceCrossEntropy(labels, batch_dice=batch_dice),
        torch.zeros(1, 2, 2, dtype=torch.long),
        LOOKED_FOR[1:2],
    )
    values = []
    for output in (0, 1, 3):
        logits = torch.full((1, 4, 2, 2), -30.0)
        logits[:, output] = 30
        values.append(float(loss(logits, target, looked_for)))
    assert values == pytest.approx([-1.0] * 3, abs=1e-4)  # as good as can be, whichever of them it is
    logits[:, 2] = 60
    assert float(loss(logits, target, looked_for)) > 5


def test_cross_entropy_is_that_of_nnunet_over_the_labels_taken_as_one() -> None:
    """Against torch's own, of probabilities that are summed by hand; the class has no volume, and Dice is 1 but for it."""
    labels = KINDS["labels"]
    logits, target = example(labels, (1, 9, 9))
    target[target != 2] = 0
    summed = torch.stack([logits.softmax(1)[:, [0, 1, 3]].sum(1), logits.softmax(1)[:, 2]], 1)
    entropy = F.nll_loss(summed.log(), (target == 2).long())
    overlap, total = summed[:, 1][target == 2].sum(), summed[:, 1].sum() + (target == 2).sum()
    value = DiceCrossEntropy(labels, batch_dice=False)(logits, target, LOOKED_FOR[1:2])
    assert float(value) == pytest.approx(float(entropy - 2 * overlap / total), abs=1e-5)


@kinds
@batch_or_sample
def test_labels_that_were_not_looked_for_may_as_well_be_left_out_of_the_label_map(
    labels: Labels, batch_dice: bool
) -> None:
    """What is drawn of them all the same changes nothing: nobody knows whether it is all."""
    logits, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    erased = target.clone()
    if labels.has_regions:  # the heart is looked for in no sample but the first
        looked_for = torch.tensor([[True, True, False]] * 4)
        erased[target == 3] = 2
    else:  # ``a`` is not looked for
        looked_for = torch.tensor([[True, True, False]] * 4)
        erased[target == 1] = 0
    assert not torch.equal(erased, target)
    for one, other in zip(
        value_and_gradient(loss, logits, target, looked_for),
        value_and_gradient(loss, logits, erased, looked_for),
        strict=True,
    ):
        assert torch.equal(one, other)


@kinds
@batch_or_sample
def test_when_all_labels_were_looked_for_nothing_differs_by_a_bit(labels: Labels, batch_dice: bool) -> None:
    logits, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    every = torch.ones_like(LOOKED_FOR)
    told, untold = value_and_gradient(loss, logits, target, every), value_and_gradient(loss, logits, target)
    assert torch.equal(told[0], untold[0])
    assert torch.equal(told[1], untold[1])


@kinds
@batch_or_sample
@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (1, 1, 1, 1)], ids=str)
def test_sums_of_parts_add_up_to_those_of_the_batch(labels: Labels, batch_dice: bool, sizes: tuple[int, ...]) -> None:
    logits, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    parts = zip(logits.split(sizes), target.split(sizes), LOOKED_FOR.split(sizes), strict=True)
    sums = sum(loss.sums(*part) for part in parts)
    torch.testing.assert_close(sums, loss.sums(logits, target, LOOKED_FOR))
    assert float(loss.value(sums)) == pytest.approx(float(loss(logits, target, LOOKED_FOR)), abs=1e-6)


@kinds
@batch_or_sample
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole_at_every_resolution(
    labels: Labels, batch_dice: bool, parts: int
) -> None:
    loss, batch = DiceCrossEntropy(labels, batch_dice=batch_dice), Batch(labels, 4, 2, seed=0)
    if labels.ignore is not None:
        batch.target[batch.target == 3] = 4
    networks = [network_for(labels, 2) for _ in range(2)]

    def backward(network: nn.Module, parts: int) -> float:
        return backward_in_parts(
            lambda part: (network(batch.image[part]), batch.target[part]), loss, 4, parts, LOOKED_FOR
        )

    assert backward(networks[1], parts) == pytest.approx(backward(networks[0], 1), abs=1e-5)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_a_loss_of_two_arguments_is_called_with_two_where_all_is_known() -> None:
    def squares(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (logits - target[:, None]).square().mean()

    network, batch = network_for(KINDS["labels"], 2), Batch(KINDS["labels"], 2, 2, seed=0)

    def forward(part: slice) -> tuple[list[torch.Tensor], torch.Tensor]:
        return network(batch.image[part]), batch.target[part]

    assert backward_in_parts(forward, squares, 2, 2, torch.ones(2, 3, dtype=torch.bool)) > 0
    assert not takes_looked_for(squares)


def test_a_loss_takes_part_knowledge_if_it_or_its_forward_names_the_argument() -> None:
    class Module(nn.Module):
        def forward(self, logits, target, looked_for=None):
            return logits.mean()

    class Simple(nn.Module):
        def forward(self, logits, target):
            return logits.mean()

    assert takes_looked_for(DiceCrossEntropy(KINDS["labels"], batch_dice=True))
    assert takes_looked_for(Module())
    assert not takes_looked_for(Simple())


@kinds
def test_memory_grows_with_one_sample_and_only_logits_and_target_are_kept(labels: Labels) -> None:
    shape, outputs, kept = (16, 16, 16), labels.output_count, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    def step(loss: nn.Module, *batch: torch.Tensor) -> None:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(*batch)
        value.backward()

    for batch in (1, 8):
        kept.clear()
        logits, target = example(labels, (batch, *shape))
        logits.requires_grad_()
        looked_for = LOOKED_FOR[2:3].expand(batch, -1)
        loss = DiceCrossEntropy(labels, batch_dice=True)
        most = peak_of(functools.partial(step, loss, logits, target, looked_for))
        assert sum(kept.values()) == pytest.approx(logits.nbytes + target.nbytes, abs=2000)
        at_work = (most - logits.nbytes) / 16**3
        arrays = 4.5 if labels.has_regions else 3
        assert 0 < at_work < (arrays * outputs * 4 + 24) * 1.05, at_work


@kinds
def test_the_patch_estimate_counts_labels_only_where_they_were_looked_for(labels: Labels) -> None:
    logits, target = example(labels)
    counts = voxel_counts(logits, target, labels, LOOKED_FOR)
    for position, column in enumerate(LOOKED_FOR.unbind(1)):
        known = voxel_counts(logits[column], target[column], labels)
        assert torch.equal(counts[:, position], known[:, position])
    assert torch.equal(voxel_counts(logits, target, labels), voxel_counts(logits, target, labels, LOOKED_FOR | True))

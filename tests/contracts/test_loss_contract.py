"""What every installed loss plug must do, for labels and regions, with and without an ignore label."""

from __future__ import annotations

import itertools
from typing import cast

import pytest
import torch

from autoseg import plugins
from autoseg.training.losses import AdditiveLoss, Loss, PartialLoss, takes_looked_for
from autoseg.values import Label, Labels

FOREGROUND = (Label(name="a", values=(1,)), Label(name="b", values=(2,)))
OVERLAPPING = (Label(name="whole", values=(1, 2)), Label(name="core", values=(2,)))
IGNORED = 3
KINDS = {
    "labels": Labels(foreground=FOREGROUND),
    "labels, ignore": Labels(foreground=FOREGROUND, ignore=IGNORED),
    "regions": Labels(foreground=OVERLAPPING, region_values=(1, 2)),
    "regions, ignore": Labels(foreground=OVERLAPPING, region_values=(1, 2), ignore=IGNORED),
}
ignoring = pytest.mark.parametrize(
    "labels", [KINDS["labels, ignore"], KINDS["regions, ignore"]], ids=["labels", "regions"], indirect=True
)


@pytest.fixture(params=plugins.available("loss"))
def name(request: pytest.FixtureRequest) -> str:
    """Of a loss plug."""
    return request.param


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def labels(request: pytest.FixtureRequest) -> Labels:
    """What the outputs mean."""
    return request.param


@pytest.fixture(params=[False, True], ids=["per sample", "over the batch"])
def loss(request: pytest.FixtureRequest, name: str, labels: Labels) -> Loss:
    """A loss of that name."""
    return plugins.load("loss", name)(labels, batch_dice=request.param)


def example(labels: Labels, shape: tuple[int, ...] = (2, 6, 5, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], labels.output_count, *shape[1:], generator=generator)
    return logits, torch.randint(0, 3 + (labels.ignore is not None), shape, generator=generator)


def truth(target: torch.Tensor, labels: Labels, strength: float = 10.0) -> torch.Tensor:
    """Logits of a network that is right."""
    sets = labels.region_indices if labels.has_regions else [(value,) for value in range(labels.output_count)]
    wanted = torch.stack([torch.isin(target, torch.tensor(values)) for values in sets], dim=1)
    return (2 * wanted.float() - 1) * strength


def test_there_is_a_loss() -> None:
    assert "dice_cross_entropy" in plugins.available("loss")


@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 4, 4, 4), (3, 8, 6)], ids=str)
def test_it_is_a_finite_number_with_finite_gradients(loss: Loss, labels: Labels, shape: tuple[int, ...]) -> None:
    logits, target = example(labels, shape)
    logits.requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.shape == ()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()


def test_nearer_to_the_truth_is_lower(loss: Loss, labels: Labels) -> None:
    logits, target = example(labels)
    right = truth(target, labels)
    values = [float(loss(torch.lerp(-right, right, step), target)) for step in (0.0, 0.3, 0.5, 0.7, 1.0)]
    assert all(before > after for before, after in itertools.pairwise(values))
    assert float(loss(right, target)) < float(loss(logits, target))


def test_following_the_gradient_lowers_it(loss: Loss, labels: Labels) -> None:
    logits, target = example(labels)
    logits.requires_grad_()
    value = loss(logits, target)
    value.backward()
    better = logits.detach() - 0.1 * logits.grad / logits.grad.abs().max()
    assert float(loss(better, target)) < float(value.detach())


@ignoring
def test_ignored_voxels_have_exactly_no_gradient(loss: Loss, labels: Labels) -> None:
    logits, target = example(labels)
    logits.requires_grad_()
    loss(logits, target).backward()
    ignored = (target == IGNORED)[:, None].expand_as(logits)
    assert ignored.any()
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].any()


@ignoring
def test_a_patch_without_any_annotation_is_harmless(loss: Loss, labels: Labels) -> None:
    logits, target = example(labels)
    logits.requires_grad_()
    value = loss(logits, torch.full_like(target, IGNORED))
    value.backward()
    assert torch.isfinite(value)
    assert not logits.grad.any()


def test_if_told_what_was_looked_for_it_learns_nothing_of_a_sample_in_which_nothing_was(
    loss: Loss, labels: Labels
) -> None:
    if not takes_looked_for(loss):
        pytest.skip("this loss cannot be told")
    logits, target = example(labels)
    logits.requires_grad_()
    value = cast(PartialLoss, loss)(logits, target, torch.tensor([[True, False], [False, False]]))
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad[0].any()
    assert not logits.grad[1].any()


def test_a_patch_of_background_alone_is_harmless(loss: Loss, labels: Labels) -> None:
    logits, target = example(labels)
    empty = torch.zeros_like(target)
    assert torch.isfinite(loss(logits, empty))
    assert float(loss(truth(empty, labels), empty)) < float(loss(logits, empty))


def test_inputs_are_not_changed_and_the_value_is_repeatable(loss: Loss, labels: Labels) -> None:
    logits, target = example(labels)
    first = float(loss(logits, target))
    assert float(loss(logits, target)) == first
    assert torch.equal(logits, example(labels)[0])
    assert torch.equal(target, example(labels)[1])


def test_16_bit_logits_are_taken(loss: Loss, labels: Labels) -> None:
    logits, target = example(labels)
    assert float(loss(logits.bfloat16(), target)) == pytest.approx(float(loss(logits, target)), abs=0.02)


def test_a_loss_made_of_sums_is_that_of_the_sum_of_its_parts(loss: Loss, labels: Labels) -> None:
    if not isinstance(loss, AdditiveLoss):
        pytest.skip("this loss is not made of sums")
    logits, target = example(labels, (5, 6, 5, 4))
    parts = [loss.sums(logits[part], target[part]) for part in (slice(0, 3), slice(3, 5))]
    assert float(loss.value(parts[0] + parts[1])) == pytest.approx(float(loss(logits, target)), abs=1e-5)
    if not loss.couples_samples:
        mean = (3 * loss.value(parts[0]) + 2 * loss.value(parts[1])) / 5
        assert float(mean) == pytest.approx(float(loss(logits, target)), abs=1e-5)

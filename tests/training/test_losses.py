"""The loss, against its formula in float64 and by its laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from autoseg.networks.build import build_network
from autoseg.training.losses import (
    AdditiveLoss,
    DiceCrossEntropy,
    at_resolution,
    deeply_supervised,
    supervision_weights,
)
from autoseg.values import Label, Labels
from tests.small_plans import small_network
from tests.training.plain_loss import PlainDiceCrossEntropy

PLAIN = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))
IGNORING = Labels(foreground=PLAIN.foreground, ignore=3)
REGIONS = Labels(foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2))
IGNORING_REGIONS = Labels(foreground=REGIONS.foreground, region_values=(1, 2), ignore=3)
KINDS = {"labels": PLAIN, "labels, ignore": IGNORING, "regions": REGIONS, "regions, ignore": IGNORING_REGIONS}
kinds = pytest.mark.parametrize("labels", KINDS.values(), ids=KINDS)
IGNORED = 3


def example(labels: Labels, shape: tuple[int, ...] = (2, 6, 5, 4), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], labels.output_count, *shape[1:], generator=generator)
    target = torch.randint(0, 3 + (labels.ignore is not None), shape, generator=generator)
    return logits, target


def one_hot(target: np.ndarray, labels: Labels) -> np.ndarray:
    """Wanted outputs ``(batch, outputs, *spatial)``."""
    sets = labels.region_indices if labels.has_regions else [(value,) for value in range(labels.output_count)]
    return np.stack([np.isin(target, values) for values in sets], axis=1).astype(np.float64)


def reference(logits: torch.Tensor, target: torch.Tensor, labels: Labels, *, batch_dice: bool) -> float:
    """Section 15 of the specification, literally, in float64."""
    x, g = logits.double().numpy(), one_hot(target.numpy(), labels)
    known = (target.numpy() != IGNORED)[:, None] if labels.ignore is not None else np.ones_like(g[:, :1], bool)
    if labels.has_regions:
        p, first = 1 / (1 + np.exp(-x)), 0
        entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean(1, keepdims=True)
    else:
        e = np.exp(x - x.max(1, keepdims=True))
        p, first = e / e.sum(1, keepdims=True), 1  # background has no Dice
        entropy = -(g * np.log(p)).sum(1, keepdims=True)
    entropy = (entropy * known).sum() / max(known.sum(), 1)
    axes = (0, *range(2, g.ndim)) if batch_dice else tuple(range(2, g.ndim))
    both, total = ((p * g * known).sum(axes), ((p + g) * known).sum(axes))
    dice = (2 * both + 1e-5) / np.maximum(total + 1e-5, 1e-8)
    return float(entropy - dice[..., first:].mean())


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (3, 7, 8), (1, 1, 1)], ids=["3d", "2d", "one voxel"])
def test_the_value_is_that_of_the_formula(labels: Labels, batch_dice: bool, shape: tuple[int, ...]) -> None:
    logits, target = example(labels, shape)
    value = DiceCrossEntropy(labels, batch_dice=batch_dice)(logits, target)
    assert value.shape == ()
    assert float(value) == pytest.approx(reference(logits, target, labels, batch_dice=batch_dice), abs=1e-5)


def test_cross_entropy_is_torchs_where_dice_is_taken_away() -> None:
    logits, target = example(IGNORING)
    loss = DiceCrossEntropy(IGNORING, batch_dice=True)
    entropy = F.cross_entropy(logits, target, ignore_index=IGNORED)
    probabilities, known = logits.softmax(1), target != IGNORED
    dice = [
        2
        * (probabilities[:, label] * (target == label)).sum()
        / ((probabilities[:, label] * known).sum() + (target == label).sum())
        for label in (1, 2)
    ]
    assert float(loss(logits, target)) == pytest.approx(float(entropy - sum(dice) / 2), abs=1e-5)


def sure(target: torch.Tensor, labels: Labels, strength: float = 20.0) -> torch.Tensor:
    """Logits of a network that is sure and right."""
    return torch.from_numpy(one_hot(target.numpy(), labels) * 2 - 1).float() * strength


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
def test_perfect_is_minus_one_and_wrong_is_far_above(labels: Labels, batch_dice: bool) -> None:
    _, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    perfect = sure(target, labels)
    assert float(loss(perfect, target)) == pytest.approx(-1, abs=1e-4)
    assert float(loss(-perfect, target)) > 5


@kinds
def test_going_towards_the_truth_lowers_the_loss(labels: Labels) -> None:
    logits, target = example(labels)
    loss, truth = DiceCrossEntropy(labels, batch_dice=False), sure(target, labels, 5.0)
    values = [float(loss(torch.lerp(logits, truth, step), target)) for step in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(before > after for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("labels", [IGNORING, IGNORING_REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_ignored_voxels_have_exactly_no_gradient_and_no_say(labels: Labels, batch_dice: bool) -> None:
    logits, target = example(labels)
    loss, ignored = DiceCrossEntropy(labels, batch_dice=batch_dice), (target == IGNORED)[:, None]
    logits.requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert not logits.grad[ignored.expand_as(logits)].any()
    assert logits.grad[~ignored.expand_as(logits)].all()
    other = torch.where(ignored, 100 * torch.randn_like(logits), logits.detach())
    assert float(loss(other, target)) == pytest.approx(float(value.detach()), abs=1e-6)


@pytest.mark.parametrize("labels", [IGNORING, IGNORING_REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_patch_that_is_ignored_altogether_gives_a_finite_loss_and_no_gradient(
    labels: Labels, batch_dice: bool
) -> None:
    logits, target = example(labels)
    logits.requires_grad_()
    value = DiceCrossEntropy(labels, batch_dice=batch_dice)(logits, torch.full_like(target, IGNORED))
    value.backward()
    assert torch.isfinite(value)
    assert not logits.grad.any()


@kinds
def test_one_ignored_sample_leaves_the_others_their_gradient(labels: Labels) -> None:
    if labels.ignore is None:
        labels = Labels(foreground=labels.foreground, region_values=labels.region_values, ignore=IGNORED)
    logits, target = example(labels)
    target[0] = IGNORED
    logits.requires_grad_()
    DiceCrossEntropy(labels, batch_dice=False)(logits, target).backward()
    assert not logits.grad[0].any()
    assert torch.isfinite(logits.grad[1]).all()
    assert logits.grad[1].any()


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
def test_an_absent_class_counts_as_right_when_nothing_is_predicted(labels: Labels, batch_dice: bool) -> None:
    _, target = example(labels)
    target = torch.zeros_like(target)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    assert float(loss(sure(target, labels, 40.0), target)) == pytest.approx(-1, abs=1e-4)
    some = sure(target, labels, 40.0)
    some[:, -1, 0, 0, 0] = 45  # one voxel of the last class is predicted
    assert float(loss(some, target)) > -0.6


@kinds
def test_gradients_are_finite_for_extreme_logits(labels: Labels) -> None:
    logits, target = example(labels)
    logits = (1e4 * logits).requires_grad_()
    DiceCrossEntropy(labels, batch_dice=True)(logits, target).backward()
    assert torch.isfinite(logits.grad).all()


@kinds
def test_batch_dice_is_sample_dice_for_a_batch_of_one_and_differs_for_two(labels: Labels) -> None:
    logits, target = example(labels, (2, 6, 6))
    target[1] = 0
    over_batch, over_sample = (DiceCrossEntropy(labels, batch_dice=switch) for switch in (True, False))
    assert float(over_batch(logits[:1], target[:1])) == pytest.approx(float(over_sample(logits[:1], target[:1])))
    assert float(over_batch(logits, target)) != pytest.approx(float(over_sample(logits, target)), abs=1e-3)


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
def test_order_of_samples_and_direction_of_axes_do_not_matter(labels: Labels, batch_dice: bool) -> None:
    logits, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    value = float(loss(logits, target))
    assert float(loss(logits.flip(0), target.flip(0))) == pytest.approx(value, abs=1e-6)
    assert float(loss(logits.flip(2, 4), target.flip(1, 3))) == pytest.approx(value, abs=1e-6)


def test_the_weight_of_cross_entropy_does_not_grow_with_the_number_of_regions() -> None:
    """nnU-Net's loss with an ignore label does; see the specification's quirk 8."""
    many = Labels(
        foreground=tuple(Label(name=f"r{index}", values=(1, 2)) for index in range(4)),
        region_values=(1, 1, 1, 1),
        ignore=3,
    )
    one = Labels(foreground=many.foreground[:1], region_values=(1,), ignore=3)
    logits, target = example(one)
    value = float(DiceCrossEntropy(one, batch_dice=False)(logits, target))
    assert float(DiceCrossEntropy(many, batch_dice=False)(logits.repeat(1, 4, 1, 1, 1), target)) == pytest.approx(
        value, abs=1e-6
    )


@kinds
def test_16_bit_logits_are_summed_in_float32(labels: Labels) -> None:
    logits, target = example(labels, (2, 64, 64))
    loss = DiceCrossEntropy(labels, batch_dice=True)
    value = loss(logits.bfloat16(), target)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(loss(logits.bfloat16().float(), target)), abs=1e-7)


def test_gaps_between_integers_do_not_matter_to_regions() -> None:
    gapped = Labels(
        foreground=(Label(name="whole", values=(10, 200)), Label(name="core", values=(200,))), region_values=(1, 2)
    )
    logits, target = example(REGIONS)
    assert float(DiceCrossEntropy(gapped, batch_dice=False)(logits, target)) == float(
        DiceCrossEntropy(REGIONS, batch_dice=False)(logits, target)
    )


def value_and_gradient(loss, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    return value.detach(), leaf.grad


def demanding(labels: Labels, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """An example with a class that is absent from one sample, and, with an ignore label, a sample without annotation."""
    logits, target = example(labels, shape)
    target[0][target[0] == 2] = 0
    if labels.ignore is not None:
        target[-1] = IGNORED
    return logits, target


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shape", [(3, 6, 5, 4), (4, 7, 8)], ids=["3d", "2d"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_value_and_gradient_are_those_of_the_plain_loss(
    labels: Labels, batch_dice: bool, shape: tuple[int, ...], last: bool
) -> None:
    logits, target = demanding(labels, shape)
    if last:
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    value, gradient = value_and_gradient(DiceCrossEntropy(labels, batch_dice=batch_dice), logits, target)
    plain = PlainDiceCrossEntropy(labels, batch_dice=batch_dice)
    expected, expected_gradient = value_and_gradient(plain, logits.double(), target)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-8)
    assert gradient.stride() == logits.stride()


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_gradient_is_that_of_finite_differences(labels: Labels, batch_dice: bool) -> None:
    logits, target = demanding(labels, (3, 3, 2, 2))
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, target), logits.double().requires_grad_())


@kinds
def test_the_gradient_of_16_bit_logits_is_that_of_float32_rounded(labels: Labels) -> None:
    logits, target = example(labels, (2, 16, 16))
    loss, logits = DiceCrossEntropy(labels, batch_dice=True), logits.bfloat16()
    _, gradient = value_and_gradient(loss, logits, target)
    _, exact = value_and_gradient(loss, logits.float(), target)
    assert torch.equal(gradient, exact.bfloat16())


@kinds
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_the_target_may_have_any_integer_type(labels: Labels, dtype: torch.dtype) -> None:
    logits, target = example(labels)
    loss = DiceCrossEntropy(labels, batch_dice=True)
    assert torch.equal(loss(logits, target.to(dtype)), loss(logits, target))


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("sizes", [(1, 4), (2, 3), (3, 2), (1, 1, 1, 1, 1)], ids=str)
def test_sums_of_parts_add_up_to_those_of_the_batch(labels: Labels, batch_dice: bool, sizes: tuple[int, ...]) -> None:
    logits, target = demanding(labels, (5, 6, 5, 4))
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    parts = [loss.sums(*part) for part in zip(logits.split(sizes), target.split(sizes), strict=True)]
    torch.testing.assert_close(sum(parts), loss.sums(logits, target))
    assert float(loss.value(sum(parts))) == pytest.approx(float(loss(logits, target)), abs=1e-6)


@kinds
@pytest.mark.parametrize("batch_dice", [False, True])
def test_samples_are_coupled_unless_the_loss_is_the_mean_over_them(labels: Labels, batch_dice: bool) -> None:
    logits, target = demanding(labels, (2, 6, 5, 4))
    loss = DiceCrossEntropy(labels, batch_dice=batch_dice)
    assert isinstance(loss, AdditiveLoss)
    mean = (float(loss(logits[:1], target[:1])) + float(loss(logits[1:], target[1:]))) / 2
    assert loss.couples_samples == (float(loss(logits, target)) != pytest.approx(mean, abs=1e-5))


@kinds
def test_only_logits_and_target_are_kept_for_the_backward_pass(labels: Labels) -> None:
    logits, target = example(labels, (4, 16, 16, 16))
    logits, kept = logits.bfloat16().requires_grad_(), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        DiceCrossEntropy(labels, batch_dice=True)(logits, target)
    assert sum(kept.values()) == pytest.approx(logits.nbytes + target.nbytes, abs=1000)


@kinds
def test_memory_while_it_works_grows_with_one_sample_not_with_the_batch(labels: Labels) -> None:
    """The bound is that of the docstring; kernels of the CPU also copy bool operands, and keep a buffer of logsigmoid."""
    shape, outputs = (16, 16, 16), labels.output_count
    for batch in (1, 8):
        logits, target = example(labels, (batch, *shape))
        logits.requires_grad_()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            DiceCrossEntropy(labels, batch_dice=True)(logits, target).backward()
        events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        at_work = max(itertools.accumulate(changes)) - logits.nbytes  # the gradient
        arrays = 4.5 if labels.has_regions else 2
        assert 0 < at_work < (arrays * outputs * 4 + 24) * 16**3 * 1.05, at_work / 16**3


def test_supervision_weights_halve_with_every_step_down() -> None:
    assert supervision_weights(4) == pytest.approx([0.533, 0.267, 0.133, 0.067], abs=5e-4)
    assert supervision_weights(1) == [1.0]
    for outputs in range(1, 8):
        weights = supervision_weights(outputs)
        assert sum(weights) == pytest.approx(1)
        assert all(first == 2 * second for first, second in itertools.pairwise(weights))


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((8, 8), (4, 4)),
        ((12, 8, 6), (12, 4, 3)),
        ((7, 9), (3, 5)),
        ((20, 20), (6, 13)),
        ((5, 4), (5, 4)),
        ((3, 3), (1, 1)),
    ],
)
def test_coarser_targets_are_those_of_torchs_nearest_exact(shape: tuple[int, ...], small: tuple[int, ...]) -> None:
    target = torch.randint(0, 100, (2, *shape), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(target[:, None].double(), size=small, mode="nearest-exact")[:, 0].long()
    assert torch.equal(at_resolution(target, small), expected)


def test_deep_supervision_is_the_weighted_sum_over_resolutions() -> None:
    loss = DiceCrossEntropy(PLAIN, batch_dice=False)
    _, target = example(PLAIN, (2, 8, 8))
    generator = torch.Generator().manual_seed(1)
    outputs = [torch.randn(2, 3, size, size, generator=generator) for size in (8, 4, 2)]
    single = [float(loss(logits, at_resolution(target, logits.shape[2:]))) for logits in outputs]
    expected = (4 * single[0] + 2 * single[1] + single[2]) / 7
    assert float(deeply_supervised(loss, outputs, target)) == pytest.approx(expected, abs=1e-6)
    assert float(deeply_supervised(loss, outputs[:1], target)) == pytest.approx(single[0])


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_every_number_of_stages_gives_a_finite_loss_and_the_lowest_head_is_not_computed(stages: int) -> None:
    """nnU-Net's weight of the only output of two stages is 0 / 0, and it computes the lowest head for a weight of 0;
    see the specification's quirks 2 and 16."""
    network = build_network(small_network(2, outputs=3, features=(4,) * stages), seed=0)
    _, target = example(PLAIN, (2, 16, 16))
    outputs = network(torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert [logits.shape[2] for logits in outputs] == [16 // 2**step for step in range(max(1, stages - 2))]
    value = deeply_supervised(DiceCrossEntropy(PLAIN, batch_dice=False), outputs, target)
    value.backward()
    assert torch.isfinite(value)
    unused = {name for name, weight in network.named_parameters() if weight.grad is None}
    assert unused == ({"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"} if stages > 2 else set())

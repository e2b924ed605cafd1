"""fp16: gradients are scaled, too large ones cost one update and no more, and the weights move as without a scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoseg.files import write_document
from autoseg.training.losses import DiceCrossEntropy, deeply_supervised
from autoseg.training.scaling import amplified
from autoseg.training.step import TrainingStep
from autoseg.values import ExecutionPath
from autoseg.workspace import FoldFolder
from tests.training.test_loop import NNUNET, PLAIN, Listening, make_job, make_plan


@pytest.mark.parametrize("additive", [True, False])
def test_values_stay_and_gradients_are_multiplied(additive: bool) -> None:
    loss = DiceCrossEntropy(PLAIN, batch_dice=True)
    given = loss if additive else lambda logits, target: loss(logits, target)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    logits = torch.randn(2, PLAIN.output_count, 4, 4, 4, requires_grad=True)
    target = torch.randint(0, PLAIN.output_count, (2, 4, 4, 4))
    plain = deeply_supervised(loss, [logits], target)
    (expected,) = torch.autograd.grad(plain, logits)
    scaled = deeply_supervised(amplified(given, scaler), [logits], target)
    (gradient,) = torch.autograd.grad(scaled, logits)
    assert scaled.item() == plain.item()
    torch.testing.assert_close(gradient, 1024 * expected)


def fp16_step(parent: Path) -> TrainingStep:
    """A step as on a GPU before Ampere, on the CPU, with the arithmetic of fp32: only the scaling is at work."""
    plan = make_plan(training=NNUNET)
    folder = FoldFolder(parent)
    folder.path.mkdir()
    write_document(folder.execution, ExecutionPath(device="cpu"))
    step = TrainingStep(make_job(plan), plan, folder, Listening(), "cpu")
    step.scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    return step


def batch_for(step: TrainingStep) -> dict[str, object]:
    configuration = step.configuration
    shape = (configuration.batch_size, configuration.network.input_channels, *configuration.patch_size)
    random = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (shape[0], 1, *shape[2:]), generator=random)
    return {"data": torch.randn(shape, generator=random).numpy(), "seg": target.numpy()}


def test_a_scaled_update_is_that_without_a_scale(tmp_path: Path) -> None:
    scaled, plain = fp16_step(tmp_path / "scaled"), fp16_step(tmp_path / "plain")
    plain.scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert plain.state_dict() == {}
    losses = []
    for step in (scaled, plain):
        losses.append(step.gradients(batch_for(step)))
        step.update(0.1)
    assert losses[0] == losses[1]
    for mine, theirs in zip(scaled.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_too_large_gradients_cost_one_update_and_halve_the_scale_which_is_kept(tmp_path: Path) -> None:
    step = fp16_step(tmp_path / "step")
    step.gradients(batch_for(step))
    next(step.network.parameters()).grad.fill_(float("inf"))
    before = [weight.clone() for weight in step.network.parameters()]
    step.update(0.1)
    assert all(torch.equal(weight, old) for weight, old in zip(step.network.parameters(), before, strict=True))
    assert step.state_dict()["scale"] == 2048
    other = fp16_step(tmp_path / "other")
    other.load_state_dict(step.state_dict())
    assert other.scaler.state_dict() == step.scaler.state_dict()
    step.gradients(batch_for(step))
    step.update(0.1)
    assert not torch.equal(next(step.network.parameters()), before[0])

"""What every installed optimizer plug must do: training, memory prediction and checkpoints rely on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoseg import plugins
from autoseg.networks.optimizers import make_optimizer, state_copies
from autoseg.values import TrainingSpec


@pytest.fixture(params=plugins.available("optimizer"))
def spec(request: pytest.FixtureRequest) -> TrainingSpec:
    """A training with an optimizer plug."""
    return TrainingSpec(
        epochs=1,
        validation_iterations=0,
        optimizer=request.param,
        learning_rate=1e-2,
        weight_decay=1e-3,
        momentum=0.9,
        schedule="none",
    )


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, count: int) -> list[float]:
    """Squared distances to a target, before each step."""
    target, distances = torch.linspace(-1, 1, 12).reshape(3, 4), []
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        distance = (weight - target).square().sum()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    return distances


def test_there_are_optimizers() -> None:
    assert {"adamw", "sgd"} <= set(plugins.available("optimizer"))


def test_following_it_leads_down(spec: TrainingSpec) -> None:
    weight = nn.Parameter(torch.zeros(3, 4))
    distances = steps(make_optimizer(spec, [weight]), weight, 200)
    assert distances[-1] < 0.1 * distances[0]


def test_it_begins_with_the_learning_rate_of_the_plan(spec: TrainingSpec) -> None:
    groups = make_optimizer(spec, nn.Linear(3, 4).parameters()).param_groups
    assert all(group["lr"] == spec.learning_rate for group in groups)


def test_it_keeps_as_many_numbers_per_weight_as_it_says(spec: TrainingSpec) -> None:
    weight = nn.Parameter(torch.zeros(20, 20))
    optimizer = make_optimizer(spec, [weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor))
    assert kept == pytest.approx(state_copies(spec) * weight.numel(), abs=8)  # and a counter


def test_its_state_is_tensors_and_numbers_and_going_on_from_it_is_exact(spec: TrainingSpec) -> None:
    weight = nn.Parameter(torch.zeros(3, 4))
    optimizer = make_optimizer(spec, [weight])
    steps(optimizer, weight, 5)
    copy = nn.Parameter(weight.detach().clone())
    other = make_optimizer(spec, [copy])
    state = {
        index: {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in kept.items()}
        for index, kept in optimizer.state_dict()["state"].items()
    }
    values = [value for kept in state.values() for value in kept.values()]
    assert all(value is None or isinstance(value, torch.Tensor | float | int) for value in values)
    other.load_state_dict({"state": state, "param_groups": other.state_dict()["param_groups"]})
    assert steps(optimizer, weight, 5) == steps(other, copy, 5)
    assert torch.equal(weight, copy)

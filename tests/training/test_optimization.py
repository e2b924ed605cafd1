"""Learning rates as functions of the iteration, optimizers by their update rules, and the average of weights."""

from __future__ import annotations

import itertools

import msgspec
import pytest
import torch
from torch import nn

from autoseg.networks.optimizers import make_optimizer, state_copies
from autoseg.training.optimization import WeightAverage, polynomial_per_epoch, warmup_polynomial
from autoseg.values import TrainingSpec

SPEC = TrainingSpec(
    epochs=4,
    validation_iterations=0,
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=0.01,
    schedule="warmup_polynomial",
    warmup_iterations=50,
)
SGD = TrainingSpec(
    epochs=1000,
    validation_iterations=0,
    optimizer="sgd",
    learning_rate=0.01,
    weight_decay=3e-5,
    momentum=0.99,
    schedule="polynomial_per_epoch",
)


def test_warm_up_is_linear_and_ends_at_the_learning_rate() -> None:
    rates = [warmup_polynomial(SPEC, iteration, 1000) for iteration in range(51)]
    assert rates[:50] == pytest.approx([2e-3 * (iteration + 1) / 50 for iteration in range(50)])
    assert rates[50] == 2e-3 == max(rates)


@pytest.mark.parametrize("iterations", [1, 5, 60, 1000])
def test_after_the_warm_up_the_rate_falls_to_almost_nothing(iterations: int) -> None:
    warmup = min(50, iterations // 10)
    rates = [warmup_polynomial(SPEC, iteration, iterations) for iteration in range(iterations)]
    assert all(0 < rate <= 2e-3 for rate in rates)
    assert all(before > after for before, after in itertools.pairwise(rates[warmup:]))
    assert all(before < after for before, after in itertools.pairwise(rates[:warmup]))
    assert max(rates) == pytest.approx(2e-3)
    left = 1 / (iterations - warmup)
    assert rates[-1] == pytest.approx(2e-3 * left**0.9)


def test_the_warm_up_takes_at_most_a_tenth() -> None:
    rates = [warmup_polynomial(SPEC, iteration, 100) for iteration in range(100)]
    assert rates.index(max(rates)) in (9, 10)


def test_nnunets_schedule_per_epoch() -> None:
    for epoch in (0, 1, 499, 998, 999):
        expected = 0.01 * (1 - epoch / 1000) ** 0.9
        for iteration in (0, 1, 249):
            assert polynomial_per_epoch(SGD, 250 * epoch + iteration, 250_000) == pytest.approx(expected)


def test_nnunets_schedule_of_a_length_that_is_no_multiple_of_epochs_stays_positive() -> None:
    for iterations in (1, 249, 251, 700):
        rates = [polynomial_per_epoch(SGD, iteration, iterations) for iteration in range(iterations)]
        assert rates[0] == 0.01
        assert min(rates) > 0
        assert all(before >= after for before, after in itertools.pairwise(rates))


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))


GRADIENTS = [torch.tensor([0.5, -1.0, 2.0]), torch.tensor([-0.3, 0.0, 1.0]), torch.tensor([0.1, 0.1, 0.1])]


def test_sgd_is_nesterov_with_weight_decay() -> None:
    spec = msgspec.structs.replace(SGD, weight_decay=0.1)
    weight, expected, velocity = parameter(), parameter().detach(), 0.0
    optimizer = make_optimizer(spec, [weight])
    for gradient in GRADIENTS:
        weight.grad = gradient.double()
        optimizer.step()
        decayed = gradient + 0.1 * expected
        velocity = 0.99 * velocity + decayed
        expected = expected - 0.01 * (decayed + 0.99 * velocity)
        torch.testing.assert_close(weight.detach(), expected)


def test_sgd_without_momentum_is_plain_descent() -> None:
    spec = msgspec.structs.replace(SGD, momentum=0.0, weight_decay=0.0)
    weight = parameter()
    optimizer = make_optimizer(spec, [weight])
    weight.grad = GRADIENTS[0].double()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), parameter().detach() - 0.01 * GRADIENTS[0])


def test_adamw_follows_loshchilov_and_hutter() -> None:
    weight, expected = parameter(), parameter().detach()
    optimizer = make_optimizer(SPEC, [weight])
    first = second = torch.zeros(3, dtype=torch.float64)
    for step, gradient in enumerate(GRADIENTS, start=1):
        weight.grad = gradient.double()
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        direction = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = expected * (1 - 2e-3 * 0.01) - 2e-3 * direction
        torch.testing.assert_close(weight.detach(), expected)


def test_the_average_of_constant_weights_is_constant() -> None:
    weights = {"a": torch.tensor([1.5, -2.0])}
    average = WeightAverage(weights, 0.999)
    for iteration in range(20):
        average.update(weights, iteration)
    assert torch.equal(average.weights["a"], weights["a"])


def test_the_average_is_short_at_first_and_then_has_its_decay() -> None:
    average, expected = WeightAverage({"a": torch.zeros(1, dtype=torch.float64)}, 0.6), 0.0
    for iteration in range(30):
        value = float(iteration % 7)
        average.update({"a": torch.tensor([value], dtype=torch.float64)}, iteration)
        decay = min(0.6, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * value
        assert float(average.weights["a"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("spec", [SPEC, SGD, msgspec.structs.replace(SGD, momentum=0.0)], ids=["adamw", "sgd", "plain"])
def test_an_optimizer_keeps_as_many_numbers_per_weight_as_it_is_said_to(spec: TrainingSpec) -> None:
    network = nn.Linear(50, 40)
    optimizer = make_optimizer(spec, network.parameters())
    network(torch.ones(50)).sum().backward()
    optimizer.step()
    states = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    assert sum(state.numel() for state in states if state.numel() > 1) == state_copies(spec) * (50 * 40 + 40)


def test_early_weights_are_soon_forgotten() -> None:
    average = WeightAverage({"a": torch.full((1,), 1e6)}, 0.9999)
    for iteration in range(200):
        average.update({"a": torch.zeros(1)}, iteration)
    assert abs(float(average.weights["a"])) < 1e-3


def test_the_average_shares_no_memory_with_the_network() -> None:
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    average = WeightAverage(network.state_dict(), 0.5)
    average.update({name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}, 100)
    assert torch.equal(network.weight, before)
    with torch.no_grad():
        network.weight.zero_()
    assert average.weights["weight"].all()
    assert not average.weights["weight"].requires_grad

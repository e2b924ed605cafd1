"""Checkpoints: after a round trip, training goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from autoseg.errors import InputError
from autoseg.networks.optimizers import make_optimizer
from autoseg.networks.weights import load_tensors, save_tensors
from autoseg.training.optimization import WeightAverage
from autoseg.training.state import TrainState
from autoseg.values import Fold, TrainingSpec, TrainJob

JOB = TrainJob(
    plan_id="0123456789abcdef",
    configuration="3d_fullres",
    fold="0",
    iterations=10,
    seed=1,
    cases=Fold(train=("a",), val=("b",)),
    case_keys={"a": "1", "b": "2"},
)
ADAMW = TrainingSpec(
    epochs=1,
    validation_iterations=0,
    optimizer="adamw",
    learning_rate=0.01,
    weight_decay=0.1,
    schedule="warmup_polynomial",
)
NESTEROV = msgspec.structs.replace(ADAMW, optimizer="sgd", momentum=0.99)
PLAIN_SGD = msgspec.structs.replace(ADAMW, optimizer="sgd", momentum=0.0)
optimizers = pytest.mark.parametrize(
    "spec", [ADAMW, NESTEROV, PLAIN_SGD], ids=["adamw", "nesterov", "sgd without momentum"]
)


def make_state(
    spec: TrainingSpec = ADAMW,
    *,
    averaged: bool = True,
    seed: int = 0,
    channels_last: bool = False,
    job: TrainJob = JOB,
) -> TrainState:
    torch.manual_seed(seed)
    network: nn.Module = nn.Sequential(nn.Conv2d(3, 7, 3), nn.GroupNorm(7, 7), nn.ReLU(), nn.Conv2d(7, 2, 1))
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    average = WeightAverage(network.state_dict(), 0.9) if averaged else None
    return TrainState(job, network, make_optimizer(spec, network.parameters()), average)


def train(state: TrainState, steps: int) -> None:
    """Steps on batches that depend on the iteration alone, as in the loop."""
    for _ in range(steps):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(state.iteration))
        state.optimizer.zero_grad()
        state.network(x).square().mean().backward()
        state.optimizer.step()
        if state.average is not None:
            state.average.update(state.network.state_dict(), state.iteration)
        state.iteration += 1


def assert_equal_states(one: TrainState, other: TrainState) -> None:
    assert one.iteration == other.iteration
    weights = other.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in one.network.state_dict().items())
    if one.average is not None:
        assert all(torch.equal(tensor, other.average.weights[name]) for name, tensor in one.average.weights.items())
    mine, theirs = one.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    for index, values in mine.items():
        assert values.keys() == theirs[index].keys()
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[index][name]))
            for name, value in values.items()
            if value is not None
        )


@optimizers
@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_training_goes_on_bit_for_bit(tmp_path: Path, spec: TrainingSpec, averaged: bool, channels_last: bool) -> None:
    whole = make_state(spec, averaged=averaged, channels_last=channels_last)
    train(whole, 3)
    whole.save(tmp_path / "checkpoint.safetensors")
    resumed = make_state(spec, averaged=averaged, seed=9, channels_last=channels_last)
    train(resumed, 1)  # whatever was there before is forgotten
    resumed.load(tmp_path / "checkpoint.safetensors")
    assert_equal_states(whole, resumed)
    train(whole, 4)
    train(resumed, 4)
    assert_equal_states(whole, resumed)


@optimizers
def test_a_state_that_has_not_begun_can_be_saved_too(tmp_path: Path, spec: TrainingSpec) -> None:
    fresh, other = make_state(spec), make_state(spec, seed=1)
    fresh.save(tmp_path / "c.safetensors")
    other.load(tmp_path / "c.safetensors")
    assert_equal_states(fresh, other)
    train(fresh, 2)
    train(other, 2)
    assert_equal_states(fresh, other)


def test_learning_rate_and_decay_come_from_the_plan_and_not_from_the_file(tmp_path: Path) -> None:
    state = make_state()
    train(state, 1)
    state.save(tmp_path / "c.safetensors")
    other = make_state(msgspec.structs.replace(ADAMW, learning_rate=0.5))
    other.load(tmp_path / "c.safetensors")
    assert other.optimizer.param_groups[0]["lr"] == 0.5


def test_the_model_is_the_average_if_there_is_one() -> None:
    averaged, plain = make_state(), make_state(averaged=False)
    for state in (averaged, plain):
        train(state, 3)
    assert torch.equal(plain.model_weights()["0.weight"], plain.network[0].weight)
    assert torch.equal(averaged.model_weights()["0.weight"], averaged.average.weights["0.weight"])
    assert not torch.equal(averaged.model_weights()["0.weight"], averaged.network[0].weight)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"iterations": 11},
        {"fold": "1"},
        {"case_keys": {"a": "other", "b": "2"}},
        {"plan_id": "fedcba9876543210"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_checkpoint_of_another_job_is_refused_and_changes_nothing(tmp_path: Path, change: dict) -> None:
    state = make_state()
    train(state, 2)
    state.save(tmp_path / "c.safetensors")
    other = make_state(job=msgspec.structs.replace(JOB, **change), seed=1)
    before = other.network[0].weight.detach().clone()
    with pytest.raises(InputError, match=r"belongs to another training.*c\.safetensors"):
        other.load(tmp_path / "c.safetensors")
    assert torch.equal(other.network[0].weight, before)
    assert other.iteration == 0


def test_a_cut_off_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    make_state().save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"c\.safetensors"):
        make_state().load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"iteration": 3},
        {"iteration": None, "job": "", "optimizer_numbers": {}},
        {"iteration": "three", "job": "", "optimizer_numbers": {}},
        {"iteration": 3, "job": "", "optimizer_numbers": 5},
    ],
    ids=["nothing", "iteration only", "no number", "a word", "no table"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, metadata: dict) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(path, make_state().network.state_dict(), metadata)
    with pytest.raises(InputError, match="not a checkpoint of a training"):
        make_state().load(path)


def test_a_checkpoint_holds_all_under_telling_names_and_no_pickle(tmp_path: Path) -> None:
    state = make_state()
    train(state, 2)
    state.save(tmp_path / "c.safetensors")
    tensors, metadata = load_tensors(tmp_path / "c.safetensors")
    assert metadata["iteration"] == 2
    assert {name.split("/")[0] for name in tensors} == {"network", "average", "optimizer"}
    assert "optimizer/0/exp_avg" in tensors
    assert "network/0.weight" in tensors


def test_equal_states_are_saved_as_equal_bytes(tmp_path: Path) -> None:
    made = set()
    for _ in range(4):
        state = make_state()
        train(state, 2)
        state.save(tmp_path / "c.safetensors")
        made.add((tmp_path / "c.safetensors").read_bytes())
    assert len(made) == 1

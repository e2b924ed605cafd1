"""Training where memory is short: in more parts, with equal results, nothing lost.

The shortages are injected into real trainings: the network refuses more than so many samples at once, with the error of
a full GPU. Real ones are in ``tests/gpu``.
"""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from autoseg.errors import AutosegError
from autoseg.files import read_document, write_document
from autoseg.networks.weights import load_tensors
from autoseg.training import estimate, step
from autoseg.training.loop import FoldTrainer, train_fold
from autoseg.values import ExecutionPath, Plan, TrainingSpec
from tests.training.test_loop import (
    IGNORING,
    NNUNET,
    PLAIN,
    REGIONS,
    TRAINING,
    Listening,
    fold_folder,
    make_job,
    make_plan,
    make_store,
    train,
)

BATCH = 4
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB\nand much more text"


def plan_of(labels=PLAIN, *, batch_dice: bool = True, base: TrainingSpec = NNUNET) -> Plan:
    plan = make_plan(labels=labels, training=msgspec.structs.replace(base, batch_dice=batch_dice))
    (configuration,) = plan.configurations
    return msgspec.structs.replace(plan, configurations=(msgspec.structs.replace(configuration, batch_size=BATCH),))


def short_of_memory(monkeypatch: pytest.MonkeyPatch, room: int, *, after: int = 0) -> None:
    """After so many calls, every network that is built refuses more than ``room`` samples."""
    calls, build = [0], step.build_network

    def refuse(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        calls[0] += 1
        if calls[0] > after and len(inputs[0]) > room:
            raise torch.OutOfMemoryError(FULL)

    def build_short(*arguments, **options) -> nn.Module:
        network = build(*arguments, **options)
        network.register_forward_pre_hook(refuse)
        return network

    for module in (estimate, step):
        monkeypatch.setattr(module, "build_network", build_short)


def assert_close_weights(one: Path, other: Path) -> None:
    mine, theirs = load_tensors(one)[0], load_tensors(other)[0]
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture(autouse=True)
def _threads_as_before():
    """Trainings set torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("labels", [PLAIN, IGNORING, REGIONS], ids=["labels", "ignore", "regions"])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("room", [1, 2])
def test_a_training_that_runs_out_of_memory_goes_on_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels, batch_dice: bool, room: int
) -> None:
    plan, store, logger = plan_of(labels, batch_dice=batch_dice), make_store(tmp_path, labels), Listening()
    whole = train(plan, store, fold_folder(tmp_path, "whole"))
    short_of_memory(monkeypatch, room, after=3)
    folder = fold_folder(tmp_path, "short")
    model = train_fold(make_job(plan), plan, store, folder, logger, device="cpu")
    assert_close_weights(model, whole)
    assert read_document(ExecutionPath, folder.execution).parts == BATCH // room
    texts = [entry["text"] for entry in logger.all("message") if "shorter" in str(entry["text"])]
    assert texts == [
        f"memory is shorter than planned: a batch is now computed in {parts} parts, with equal results"
        for parts in ([2, 4] if room == 1 else [2])
    ]


def test_estimates_in_parts_are_those_of_whole_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = plan_of(base=msgspec.structs.replace(NNUNET, iterations_per_epoch=10)), make_store(tmp_path)
    estimates = []
    for name, room in (("whole", BATCH), ("short", 1)):
        trainer = FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, name), Listening(), "cpu")
        short_of_memory(monkeypatch, room)  # only the estimate's own network, which is built now, is short of memory
        trainer.estimate()
        estimates.append(trainer.logger.all("estimate"))
        monkeypatch.undo()
    assert trainer.step.execution.parts == BATCH
    assert estimates[0] == estimates[1]


def test_where_not_even_one_patch_fits_the_error_says_what_to_do_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = plan_of(base=msgspec.structs.replace(NNUNET, iterations_per_epoch=100)), make_store(tmp_path)
    folder = fold_folder(tmp_path, "fold")
    whole = train(plan, store, fold_folder(tmp_path, "whole"))
    short_of_memory(monkeypatch, 0, after=2)
    with pytest.raises(AutosegError, match=r"even one patch of 8 x 8 x 8 .*2\.00 GiB\)\. .*goes on .*--gpu-memory"):
        train(plan, store, folder)
    assert folder.checkpoint.is_file()
    monkeypatch.undo()
    logger = Listening()
    model = train_fold(make_job(plan), plan, store, folder, logger, device="cpu")
    assert [entry["iteration"] for entry in logger.all("resumed")] == [2]
    assert_close_weights(model, whole)


def test_other_errors_of_a_step_pass(tmp_path: Path) -> None:
    plan, store = plan_of(), make_store(tmp_path)
    trainer = FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, "fold"), Listening(), "cpu")

    def broken(image: torch.Tensor) -> list[torch.Tensor]:
        raise RuntimeError("something else")

    trainer.step.forward = broken
    with pytest.raises(RuntimeError, match="something else"):
        trainer.train_step(trainer.loader(train=True).batch(0))
    assert trainer.step.execution.parts == 1


def test_nothing_of_a_failed_attempt_is_held_when_it_is_repeated(tmp_path: Path) -> None:
    """Neither its tensors nor its gradients: on a GPU, they are what memory is short of."""
    plan, store = plan_of(), make_store(tmp_path)
    trainer = FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, "fold"), Listening(), "cpu")
    forward, held, alive = trainer.step.forward, [], []
    gc.disable()  # what reference counting leaves behind counts as held

    def short(image: torch.Tensor) -> list[torch.Tensor]:
        alive.append(sum(reference() is not None for reference in held))
        outputs = forward(image)
        if len(image) == BATCH:
            held.extend(weakref.ref(tensor) for tensor in (image, *outputs))
            raise torch.OutOfMemoryError(FULL)
        return outputs

    trainer.step.forward = short
    try:
        trainer.train_step(trainer.loader(train=True).batch(0))
    finally:
        gc.enable()
    assert len(held) == 2
    assert alive == [0] * 5  # the whole batch, then twice two parts


def test_gradients_of_parts_before_the_shortage_are_dropped(tmp_path: Path) -> None:
    plan, store = plan_of(batch_dice=False), make_store(tmp_path)
    trainers = [
        FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, name), Listening(), "cpu")
        for name in ("whole", "short")
    ]
    forward, sizes = trainers[1].step.forward, []

    def short(image: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(image))
        if len(sizes) == 2:
            raise torch.OutOfMemoryError(FULL)
        return forward(image)

    trainers[1].step.forward = short
    trainers[1].step._use_parts(2)
    losses = [trainer.train_step(trainer.loader(train=True).batch(0)) for trainer in trainers]
    assert sizes == [2, 2, 1, 1, 1, 1]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    for one, other in zip(trainers[1].step.network.parameters(), trainers[0].step.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("room", "parts"), [(4, 1), (3, 2), (2, 2), (1, 4)])
@pytest.mark.parametrize("base", [NNUNET, TRAINING], ids=["SGD", "AdamW"])
def test_probing_chooses_and_keeps_the_parts_and_changes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, parts: int, base: TrainingSpec
) -> None:
    short_of_memory(monkeypatch, room)
    plan, store, folder, logger = plan_of(base=base), make_store(tmp_path), fold_folder(tmp_path, "fold"), Listening()
    trainer = FoldTrainer(make_job(plan), plan, store, folder, logger, "cpu")
    weights, random = copy.deepcopy(trainer.step.network.state_dict()), torch.get_rng_state()
    trainer.step.probe_memory()
    assert trainer.step.execution.parts == read_document(ExecutionPath, folder.execution).parts == parts
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.step.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(weight.grad is None for weight in trainer.step.network.parameters())
    assert not trainer.state.optimizer.state_dict()["state"]
    assert trainer.state.iteration == 0
    assert len([entry for entry in logger.all("message") if entry.get("parts") == parts]) == (parts > 1)


def test_probing_says_when_nothing_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 0)
    plan, store, folder = plan_of(), make_store(tmp_path), fold_folder(tmp_path, "fold")
    trainer = FoldTrainer(make_job(plan), plan, store, folder, Listening(), "cpu")
    with pytest.raises(AutosegError, match="even one patch"):
        trainer.step.probe_memory()
    assert not folder.checkpoint.exists()
    assert read_document(ExecutionPath, folder.execution).parts == 1


def test_the_parts_of_the_first_start_are_used_on_resuming(tmp_path: Path) -> None:
    plan, store, folder = plan_of(), make_store(tmp_path), fold_folder(tmp_path, "fold")
    first = FoldTrainer(make_job(plan), plan, store, folder, Listening(), "cpu")
    sizes: list[int] = []
    first.step._use_parts(2)
    step.write_document(folder.execution, first.step.execution)
    again = FoldTrainer(make_job(plan), plan, store, folder, Listening(), "cpu")
    again.step.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    assert np.isfinite(again.train_step(again.loader(train=True).batch(0)))
    assert sizes == [2, 2, 2, 2]


@pytest.mark.parametrize("kept", [1, 2])
def test_a_batch_in_parts_is_not_replayed_as_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """The gradients of a graph are its own: those of the next part cannot be added. Real graphs are in ``tests/gpu``."""
    plan, logger, forwards = plan_of(), Listening(), []

    def compiled(network: nn.Module, path: ExecutionPath) -> nn.Module:
        forwards.append(path)
        return network

    monkeypatch.setattr(step, "usable_here", lambda path: True)
    monkeypatch.setattr(step, "compiled", compiled)
    folder = fold_folder(tmp_path, "graphs")
    write_document(folder.execution, ExecutionPath(device="cpu", compiled=True, graphs=True, parts=kept))
    one = step.TrainingStep(make_job(plan), plan, folder, logger, "cpu")
    assert [path.graphs for path in forwards] == [kept == 1]
    if kept == 1:
        short_of_memory(monkeypatch, 2)
        one = step.TrainingStep(make_job(plan), plan, folder, logger, "cpu")
        one.probe_memory()
    kept_path = read_document(ExecutionPath, folder.execution)
    assert (one.execution.parts, one.execution.graphs, one.execution.compiled) == (2, False, True)
    assert not forwards[-1].graphs
    assert kept == 2 or kept_path == one.execution


def test_a_shortage_that_was_kept_is_not_forgotten_by_the_next_probe(tmp_path: Path) -> None:
    """An empty batch may fit where real ones, of partly annotated cases for example, did not."""
    folder = fold_folder(tmp_path, "kept")
    write_document(folder.execution, ExecutionPath(device="cpu", parts=2))
    one = step.TrainingStep(make_job(plan_of()), plan_of(), folder, Listening(), "cpu")
    one.probe_memory()
    assert one.execution.parts == read_document(ExecutionPath, folder.execution).parts == 2

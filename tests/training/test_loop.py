"""The training loop: learns, goes on bit for bit after any interruption, and names what went wrong."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from autoseg.errors import AutosegError, InputError, InterruptedRunError
from autoseg.files import read_document, write_document
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.logs import SilentLogger
from autoseg.networks.build import build_network
from autoseg.networks.weights import load_tensors
from autoseg.training.loop import FoldTrainer, train_fold
from autoseg.training.optimization import warmup_polynomial
from autoseg.values import (
    AugmentationSpec,
    AxisMap,
    ExecutionPath,
    Fold,
    Geometry,
    Label,
    Labels,
    NormalizationSpec,
    Plan,
    PreprocessRecord,
    TrainingSpec,
    TrainJob,
    digest,
)
from autoseg.workspace import FoldFolder
from tests.small_plans import small_configuration, small_plan

PLAIN = Labels(foreground=(Label(name="ball", values=(1,)), Label(name="core", values=(2,))))
IGNORING = Labels(foreground=PLAIN.foreground, ignore=3)
REGIONS = Labels(
    foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2), ignore=3
)
SHAPE = (12, 14, 13)
TRAINING = TrainingSpec(
    iterations_per_epoch=3,
    epochs=2,
    validation_iterations=1,
    optimizer="adamw",
    learning_rate=0.01,
    weight_decay=0.01,
    schedule="warmup_polynomial",
    warmup_iterations=2,
    ema_decay=0.9,
)
NNUNET = msgspec.structs.replace(
    TRAINING, optimizer="sgd", momentum=0.99, schedule="polynomial_per_epoch", warmup_iterations=0, ema_decay=None
)


class Listening:
    """A logger that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, object]]] = []

    def event(self, kind: str, **fields: object) -> None:
        self.heard.append((kind, fields))

    def close(self) -> None:
        pass

    def all(self, kind: str) -> list[dict[str, object]]:
        return [fields for heard, fields in self.heard if heard == kind]


def make_plan(
    *,
    patch: Sequence[int] = (8, 8, 8),
    labels: Labels = PLAIN,
    training: TrainingSpec = TRAINING,
    **augmentation: object,
) -> Plan:
    dimensions = len(patch)
    options = {"rotation_degrees": (30.0,) * (3 if dimensions == 3 else 1), "mirror_axes": tuple(range(dimensions))}
    configuration = small_configuration(
        patch=patch,
        outputs=labels.output_count,
        features=(4, 8, 8),
        median_shape=(12.0, 14.0, 13.0),
        training=training,
        augmentation=AugmentationSpec(**{**options, **augmentation}),
    )
    return small_plan(configuration, labels=labels)


def ball(case_id: str, seed: int, labels: Labels) -> StoredCase:
    """A bright ball with a brighter core in noise; with an ignore label, a corner is not annotated."""
    random = np.random.default_rng(seed)
    distance = np.linalg.norm(np.indices(SHAPE) - random.uniform(4, 8, (3, 1, 1, 1)), axis=0)
    segmentation = ((distance < 4).astype(np.int8) + (distance < 2)).astype(np.int8)
    image = segmentation * 2.0 - 1 + random.normal(0, 0.2, SHAPE)
    locations = {
        position: np.argwhere(np.isin(segmentation, indices))
        for position, indices in enumerate(labels.region_indices, start=1)
    }
    if labels.ignore_index is not None:
        segmentation[6:, 7:] = labels.ignore_index
        locations[0] = np.argwhere(segmentation != labels.ignore_index)
    record = PreprocessRecord(
        case_id=case_id,
        key=digest([case_id]),
        source=Geometry(shape=SHAPE, spacing=(1.0, 1.0, 1.0)),
        axes=AxisMap(),
        crop_start=(0, 0, 0),
        crop_shape=SHAPE,
        spacing=(1.0, 1.0, 1.0),
        shape=SHAPE,
        target_spacing=(1.0, 1.0, 1.0),
    )
    return StoredCase(
        record=record,
        image=image[None].astype(np.float32),
        segmentation=segmentation,
        locations=locations,
        reference=segmentation.astype(np.uint8),
    )


def make_store(folder: Path, labels: Labels = PLAIN, names: str = "abc") -> CaseStore:
    store = CaseStore(folder / "store")
    for seed, name in enumerate(names):
        store.save(ball(name, seed, labels))
    return store


def make_job(plan: Plan, iterations: int = 6, **changes: object) -> TrainJob:
    job = TrainJob(
        plan_id=plan.id,
        configuration="tiny",
        fold="0",
        iterations=iterations,
        seed=plan.seed,
        cases=Fold(train=("a", "b"), val=("c",)),
        case_keys={name: digest([name]) for name in "abc"},
    )
    return msgspec.structs.replace(job, **changes)


def fold_folder(parent: Path, name: str, *, channels_last: bool = False) -> FoldFolder:
    """A folder in which the way to run was chosen before, so that no measurement differs between runs."""
    folder = FoldFolder(parent / name)
    path = ExecutionPath(device="cpu", channels_last=channels_last, threads=1, reason="chosen before")
    write_document(folder.execution, path)
    return folder


def stop_at(count: int) -> Callable[[], bool]:
    """A stop that says so when it is asked for the ``count``-th time, counted from 0."""
    asked = iter(range(10**6))
    return lambda: next(asked) == count


def train(
    plan: Plan, store: CaseStore, folder: FoldFolder, stop: Callable[[], bool] = lambda: False, **job: object
) -> Path:
    return train_fold(make_job(plan, **job), plan, store, folder, SilentLogger(), device="cpu", stop=stop)


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = load_tensors(one)[0], load_tensors(other)[0]
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(autouse=True)
def _threads_as_before():
    """Trainings set torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", range(6))
def test_stopped_at_any_iteration_and_resumed_gives_the_same_model_bit_for_bit(tmp_path: Path, count: int) -> None:
    plan, store = make_plan(), make_store(tmp_path)
    whole = train(plan, store, fold_folder(tmp_path, "whole"))
    folder = fold_folder(tmp_path, "parts")
    with pytest.raises(InterruptedRunError, match=f"stopped after {count} of 6 iterations"):
        train(plan, store, folder, stop_at(count))
    assert not folder.model.exists()
    assert_same_weights(train(plan, store, folder), whole)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("training", "patch", "labels"),
    [(NNUNET, (8, 8, 8), IGNORING), (TRAINING, (8, 8), REGIONS)],
    ids=["SGD with an ignore label", "2D with regions"],
)
def test_any_kind_of_training_can_be_stopped_twice(
    tmp_path: Path, channels_last: bool, training: TrainingSpec, patch: tuple[int, ...], labels: Labels
) -> None:
    plan, store = make_plan(training=training, patch=patch, labels=labels), make_store(tmp_path, labels)
    whole = train(plan, store, fold_folder(tmp_path, "whole", channels_last=channels_last))
    folder = fold_folder(tmp_path, "parts", channels_last=channels_last)
    for count in (2, 2):
        with pytest.raises(InterruptedRunError):
            train(plan, store, folder, stop_at(count))
    assert_same_weights(train(plan, store, folder), whole)


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)], ids=["3d", "2d"])
def test_where_patches_are_augmented_is_kept_and_changes_nothing_on_the_same_device(
    tmp_path: Path, patch: tuple[int, ...]
) -> None:
    plan, store, models = make_plan(patch=patch), make_store(tmp_path), []
    for where in ("cpu", "device"):
        folder = FoldFolder(tmp_path / where)
        write_document(folder.execution, ExecutionPath(device="cpu", threads=1, augment_on=where))
        with pytest.raises(InterruptedRunError):
            train(plan, store, folder, stop_at(2))
        models.append(train(plan, store, folder))
        assert read_document(ExecutionPath, folder.execution).augment_on == where
    assert_same_weights(*models)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    plan, store = make_plan(), make_store(tmp_path)
    models = [train(plan, store, fold_folder(tmp_path, str(seed)), iterations=1, seed=seed) for seed in (1, 2)]
    one, other = (load_tensors(model)[0] for model in models)
    assert not torch.equal(one["decoder.seg_layers.1.weight"], other["decoder.seg_layers.1.weight"])


#: A training in a process of its own that the system kills: at an iteration, or within the writing of a checkpoint.
KILLED = """
import os, signal, sys
from pathlib import Path
from autoseg.io.case_store import CaseStore
from autoseg.logs import SilentLogger
from autoseg.training.loop import train_fold
from autoseg.values import Plan, TrainJob
from autoseg.files import read_document
from autoseg.workspace import FoldFolder

parent, where, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = {"iteration": 0, "checkpoint": 0}

def pass_or_die(place):
    calls[place] += 1
    if place == where and calls[place] == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

replace = os.replace

def replace_or_die(source, target):
    if Path(target).name == "checkpoint.safetensors":
        pass_or_die("checkpoint")
    replace(source, target)

os.replace = replace_or_die
plan, job = read_document(Plan, parent / "plan.json"), read_document(TrainJob, parent / "job.json")
train_fold(job, plan, CaseStore(parent / "store"), FoldFolder(parent / "killed"), SilentLogger(), device="cpu",
           stop=lambda: pass_or_die("iteration"))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.parametrize(
    ("where", "count", "saved"), [("iteration", 5, True), ("checkpoint", 1, False)], ids=["in an epoch", "while saving"]
)
def test_a_killed_training_goes_on_to_the_same_model(tmp_path: Path, where: str, count: int, saved: bool) -> None:
    plan, store = make_plan(), make_store(tmp_path)
    write_document(tmp_path / "plan.json", plan)
    write_document(tmp_path / "job.json", make_job(plan))
    folder = fold_folder(tmp_path, "killed")
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), where, str(count)], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert folder.checkpoint.is_file() == saved
    assert not folder.model.exists()
    assert_same_weights(train(plan, store, folder), train(plan, store, fold_folder(tmp_path, "whole")))


def test_the_loss_goes_down_and_the_estimate_up_on_an_easy_phantom(tmp_path: Path) -> None:
    training = msgspec.structs.replace(TRAINING, iterations_per_epoch=60, epochs=3, validation_iterations=4)
    plan, store, logger = make_plan(training=training), make_store(tmp_path), Listening()
    folder = fold_folder(tmp_path, "fold")
    train_fold(make_job(plan, 180), plan, store, folder, logger, device="cpu")
    losses = [entry["loss"] for entry in logger.all("iterations")]
    assert len(losses) >= 3
    assert losses[-1] < losses[0] - 0.5
    dice = [entry["patch_dice"] for entry in logger.all("estimate")]
    assert len(dice) == 3
    assert min(dice[-1]) > 0.8
    assert all(after > before for before, after in zip(dice[0], dice[-1], strict=True))
    assert [entry["iteration"] for entry in logger.all("estimate")] == [60, 120, 180]


def test_the_estimate_equals_dice_over_the_validation_patches(tmp_path: Path) -> None:
    training = msgspec.structs.replace(TRAINING, iterations_per_epoch=60, validation_iterations=3)
    plan, store, logger = make_plan(training=training, labels=IGNORING), make_store(tmp_path, IGNORING), Listening()
    trainer = FoldTrainer(make_job(plan, 60), plan, store, fold_folder(tmp_path, "fold"), logger, "cpu")
    trainer.run(lambda: False)
    network = build_network(plan.configuration("tiny").network, seed=0)
    network.load_state_dict(trainer.state.model_weights())
    batches = [trainer.loader(train=False).batch(index) for index in range(3)]
    with torch.no_grad():
        guesses = [network.eval()(torch.from_numpy(batch["data"]))[0].argmax(1).numpy() for batch in batches]
    guess, truth = np.concatenate(guesses), np.concatenate([batch["seg"][:, 0] for batch in batches])
    assert ((guess == 1) & (truth == 3)).sum() > 10  # so that it matters that ignored voxels do not count
    expected = []
    for label in (1, 2):
        one, other = ((array == label) & (truth != 3) for array in (guess, truth))
        expected.append(2 * (one & other).sum() / (one.sum() + other.sum()))
    assert expected[0] > 0.1
    assert logger.all("estimate")[0]["patch_dice"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("labels", [PLAIN, IGNORING, REGIONS], ids=["labels", "ignore", "regions"])
@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)], ids=["3d", "2d"])
def test_every_kind_of_labels_trains_in_every_dimension(tmp_path: Path, labels: Labels, patch: tuple[int, ...]) -> None:
    plan, store, logger = make_plan(patch=patch, labels=labels), make_store(tmp_path, labels), Listening()
    train_fold(make_job(plan, 3), plan, store, fold_folder(tmp_path, "fold"), logger, device="cpu")
    (entry,) = logger.all("iterations")
    assert np.isfinite(entry["loss"])
    (estimate,) = logger.all("estimate")
    assert len(estimate["patch_dice"]) == 2
    assert all(0 <= dice <= 1 for dice in estimate["patch_dice"])


def test_flat_patches_can_be_turned_in_plane(tmp_path: Path) -> None:
    plan = make_plan(patch=(4, 8, 8), rotation_degrees=(180.0,), in_plane=True)
    model = train(plan, make_store(tmp_path), fold_folder(tmp_path, "fold"), iterations=3)
    assert all(torch.isfinite(tensor).all() for tensor in load_tensors(model)[0].values())


def test_a_fold_without_held_out_cases_trains_without_estimates(tmp_path: Path) -> None:
    plan, store, logger = make_plan(), make_store(tmp_path), Listening()
    job = make_job(plan, fold="full", cases=Fold(train=("a", "b", "c"), val=()))
    model = train_fold(job, plan, store, fold_folder(tmp_path, "full"), logger, device="cpu")
    assert logger.all("estimate") == []
    assert load_tensors(model)[1] == {"plan": plan.id, "fold": "full"}


def test_the_model_is_the_moving_average_under_the_names_of_the_network(tmp_path: Path) -> None:
    plan, store, folder = make_plan(), make_store(tmp_path), fold_folder(tmp_path, "fold")
    trainer = FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu")
    trainer.run(lambda: False)
    tensors, texts = load_tensors(trainer.save_model())
    assert texts == {"plan": plan.id, "fold": "0"}
    assert tensors.keys() == build_network(plan.configuration("tiny").network, seed=0).state_dict().keys()
    own = trainer.step.network.state_dict()
    assert all(torch.equal(tensor, trainer.state.average.weights[name]) for name, tensor in tensors.items())
    assert any(not torch.equal(tensor, own[name]) for name, tensor in tensors.items())


def test_a_case_with_nan_is_named_and_the_last_healthy_checkpoint_stays(tmp_path: Path) -> None:
    plan = make_plan(training=msgspec.structs.replace(TRAINING, iterations_per_epoch=1))
    store, folder = make_store(tmp_path), fold_folder(tmp_path, "fold")
    job = make_job(plan, 50)

    def trainer() -> FoldTrainer:
        return FoldTrainer(job, plan, store, folder, SilentLogger(), "cpu")

    drawn = [trainer().loader(train=True).batch(index)["keys"] for index in range(20)]
    begins = {name: next(index for index, names in enumerate(drawn) if name in names) for name in "ab"}
    sick, first = max(begins.items(), key=lambda item: item[1])
    assert first > 0
    store.discard(sick, digest([sick]))
    store.save(dataclasses.replace(ball(sick, 0, PLAIN), image=np.full((1, *SHAPE), np.nan, np.float32)))
    expected = (
        rf"not a number at iteration {first}; the batch held {', '.join(sorted(set(drawn[first])))}\. .*checkpoint"
    )
    with pytest.raises(AutosegError, match=expected):
        trainer().run(lambda: False)
    healthy = trainer()
    healthy.resume()
    assert healthy.state.iteration == first
    assert all(torch.isfinite(tensor).all() for tensor in healthy.step.network.state_dict().values())


def test_what_was_chosen_at_the_first_start_is_used_again(tmp_path: Path) -> None:
    plan, store, folder = make_plan(), make_store(tmp_path), FoldFolder(tmp_path / "fold")
    first = FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu").step.execution
    assert read_document(ExecutionPath, folder.execution) == first
    other = msgspec.structs.replace(first, channels_last=not first.channels_last, reason="chosen before")
    write_document(folder.execution, other)
    assert FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu").step.execution == other


def test_a_choice_for_another_device_is_made_anew(tmp_path: Path) -> None:
    plan, store, folder = make_plan(), make_store(tmp_path), FoldFolder(tmp_path / "fold")
    write_document(folder.execution, ExecutionPath(device="cuda", precision="bf16"))
    assert FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu").step.execution.device == "cpu"


def test_every_step_has_the_learning_rate_of_its_iteration(tmp_path: Path) -> None:
    plan, store = make_plan(), make_store(tmp_path)
    trainer = FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, "fold"), SilentLogger(), "cpu")
    loader = trainer.loader(train=True)
    for iteration in range(6):
        trainer.train_step(loader.batch(iteration))
        expected = warmup_polynomial(plan.configuration("tiny").training, iteration, 6)
        assert [group["lr"] for group in trainer.state.optimizer.param_groups] == [expected]
        assert trainer.state.iteration == iteration + 1


def test_a_group_of_parameters_keeps_its_share_of_the_learning_rate_also_on_resuming(tmp_path: Path) -> None:
    training = msgspec.structs.replace(TRAINING, optimizer="tests.training.misfits:optimizer_with_scales")
    plan, store, folder = make_plan(training=training), make_store(tmp_path), fold_folder(tmp_path, "fold")
    for iteration in range(3):
        trainer = FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu")
        trainer.resume()
        trainer.train_step(trainer.loader(train=True).batch(iteration))
        trainer.save()
        rate = warmup_polynomial(training, iteration, 6)
        assert [group["lr"] for group in trainer.state.optimizer.param_groups] == [rate, rate * 0.1]


@pytest.mark.parametrize("limit", [1e-3, 1e-2])
def test_a_step_is_no_longer_than_the_clipped_gradient_allows(tmp_path: Path, limit: float) -> None:
    training = msgspec.structs.replace(NNUNET, momentum=0.0, weight_decay=0.0, gradient_clip_norm=limit)
    plan, store = make_plan(training=training), make_store(tmp_path)
    trainer = FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, "fold"), SilentLogger(), "cpu")
    before = [parameter.detach().clone() for parameter in trainer.step.network.parameters()]
    trainer.train_step(trainer.loader(train=True).batch(0))
    changes = [new.detach() - old for new, old in zip(trainer.step.network.parameters(), before, strict=True)]
    length = float(torch.cat([change.flatten() for change in changes]).double().norm())
    assert length == pytest.approx(0.01 * limit, rel=0.05)


@pytest.mark.parametrize("use_mask", [True, False])
def test_channels_normalized_within_a_mask_are_masked_in_training(tmp_path: Path, use_mask: bool) -> None:
    plan = msgspec.structs.replace(make_plan(), normalization=(NormalizationSpec(scheme="zscore", use_mask=use_mask),))
    store = make_store(tmp_path)
    for name in "ab":
        case = ball(name, 0, PLAIN)
        case.segmentation[case.segmentation == 0] = -1
        shutil.rmtree(store.folder / f"{name}-{case.record.key[:16]}")
        store.save(case)
    trainer = FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, "fold"), SilentLogger(), "cpu")
    batches = [trainer.loader(train=True).batch(index) for index in range(6)]
    outside = np.concatenate([batch["data"][batch["seg"] == 0] for batch in batches])
    assert outside.size > 1000
    assert bool((outside == 0).all()) == use_mask


def test_an_unfinished_training_gives_no_model(tmp_path: Path) -> None:
    plan, store, folder = make_plan(), make_store(tmp_path), fold_folder(tmp_path, "fold")
    trainer = FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu")
    with pytest.raises(InputError, match="has not ended"):
        trainer.save_model()


def test_a_finished_training_is_not_trained_further(tmp_path: Path) -> None:
    plan, store, folder = make_plan(), make_store(tmp_path), fold_folder(tmp_path, "fold")
    first = train(plan, store, folder).rename(tmp_path / "first.safetensors")
    assert_same_weights(train(plan, store, folder, stop_at(0)), first)


def test_the_checkpoint_of_another_job_is_not_gone_on_with(tmp_path: Path) -> None:
    plan, store, folder = make_plan(), make_store(tmp_path), fold_folder(tmp_path, "fold")
    train(plan, store, folder)
    with pytest.raises(InputError, match="belongs to another training"):
        train(plan, store, folder, iterations=9)


def test_validation_patches_are_not_augmented_and_training_patches_are(tmp_path: Path) -> None:
    plan, store = make_plan(), make_store(tmp_path)
    trainer = FoldTrainer(make_job(plan), plan, store, fold_folder(tmp_path, "fold"), SilentLogger(), "cpu")
    image = store.open("c", digest(["c"])).image[0]
    for patch in trainer.loader(train=False).batch(0)["data"][:, 0]:
        windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 8))
        assert (np.abs(windows - patch).max(axis=(3, 4, 5)) == 0).any()
    originals = [store.open(name, digest([name])).image[0] for name in "ab"]
    patches = [patch for index in range(4) for patch in trainer.loader(train=True).batch(index)["data"][:, 0]]
    untouched = sum(
        any(
            (np.lib.stride_tricks.sliding_window_view(own, (8, 8, 8)) == patch).all((3, 4, 5)).any()
            for own in originals
        )
        for patch in patches
    )
    assert untouched < len(patches)

"""Trainings that end early, late, by the clock or badly: the model is the same however often they were killed on the way."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from autoseg.augmentation.intensity import Brightness
from autoseg.errors import AutosegError, DamagedCaseError, DiskFullError, InterruptedRunError
from autoseg.files import read_document, write_document
from autoseg.io.case_store import CaseStore
from autoseg.logs import SilentLogger
from autoseg.networks.weights import load_metadata, load_tensors
from autoseg.training.batches import PatchLoader
from autoseg.training.determinism import deterministic_algorithms, seed_iteration
from autoseg.training.job import has_ended
from autoseg.training.length import extended, fixed_length
from autoseg.training.loop import FoldTrainer, train_fold
from autoseg.training.optimization import warmup_polynomial
from autoseg.training.records import BatchRecord, SampleRecord
from autoseg.training.sources import Crop
from autoseg.values import ExecutionPath, Fold, Length, Plan, digest
from autoseg.workspace import FoldFolder
from tests.training.test_loop import (
    TRAINING,
    Listening,
    assert_same_weights,
    fold_folder,
    make_job,
    make_plan,
    make_store,
    stop_at,
    train,
)

#: Epochs of three iterations, so that a checkpoint is never far; no estimates, which take time.
PLAN = make_plan(patch=(8, 8), training=msgspec.structs.replace(TRAINING, validation_iterations=0))


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    return make_store(tmp_path)


class Killed(BaseException):
    """Ends a training like a kill: nothing is saved."""


def killed_at(counts: set[int]) -> Callable[[], bool]:
    """A stop that kills when it is asked for such a time, counted from 0 over all trainings."""
    asked = iter(range(10**6))

    def stop() -> bool:
        if next(asked) in counts:
            raise Killed
        return False

    return stop


def train_through_kills(plan: Plan, store: CaseStore, folder: FoldFolder, counts: set[int], iterations: int) -> Path:
    stop = killed_at(counts)
    while True:
        try:
            return train(plan, store, folder, stop, iterations=iterations)
        except Killed:
            continue


def when(iteration: int, action: Callable[[], object]) -> Callable[[], bool]:
    """A stop that does something when it is asked before that iteration, and never stops."""
    asked = iter(range(10**6))

    def stop() -> bool:
        if next(asked) == iteration:
            action()
        return False

    return stop


def test_a_stop_file_leads_through_a_cooldown_to_a_model(tmp_path: Path, store: CaseStore) -> None:
    folder, logger = fold_folder(tmp_path, "fold"), Listening()
    stop = when(4, folder.stop_file.touch)
    model = train_fold(make_job(PLAN, 200), PLAN, store, folder, logger, device="cpu", stop=stop)
    length = read_document(Length, folder.length)
    assert (length.cooldown_from, length.end, length.trained) == (5, 30, 30)
    assert has_ended(folder, length)
    assert load_tensors(folder.kept_checkpoint)[1]["iteration"] == 5  # from which it can be extended
    assert not folder.stop_file.exists()
    rates = {entry["iteration"] - 1: entry["learning_rate"] for entry in logger.all("iterations")}
    assert rates[2] == warmup_polynomial(TRAINING, 2, 200)
    assert rates[29] < 0.03 * warmup_polynomial(TRAINING, 5, 200)
    assert any(
        "somebody asked for it; the training ends after 30" in str(each["text"]) for each in logger.all("message")
    )
    assert all(torch.isfinite(tensor).all() for tensor in load_tensors(model)[0].values())


def test_kills_before_and_after_the_cooldown_was_decided_change_nothing(tmp_path: Path, store: CaseStore) -> None:
    """The decision is in the folder before it takes effect, so it is not made again later."""
    calm = fold_folder(tmp_path, "calm")
    length = msgspec.structs.replace(fixed_length(200), cooldown_from=5, end=30, decided=True)
    write_document(calm.length, length)
    expected = train(PLAN, store, calm, iterations=200)
    folder = fold_folder(tmp_path, "killed")
    asked, kill = when(4, folder.stop_file.touch), killed_at({5})
    with pytest.raises(Killed):  # decided before iteration 5, killed in it: the last checkpoint is that of iteration 3
        train(PLAN, store, folder, lambda: asked() or kill(), iterations=200)
    assert read_document(Length, folder.length) == msgspec.structs.replace(length, reason="somebody asked for it")
    again = train_through_kills(PLAN, store, folder, {1, 5, 6, 7, 20}, 200)
    assert_same_weights(again, expected)


def test_a_training_is_extended_from_before_its_end_and_kills_change_nothing(tmp_path: Path, store: CaseStore) -> None:
    calm, folder = fold_folder(tmp_path, "calm"), fold_folder(tmp_path, "killed")
    models = []
    for each, kills in ((calm, set()), (folder, {3, 9, 10, 21})):
        train(PLAN, store, each, iterations=20)
        first = each.model.read_bytes()
        length = extended(read_document(Length, each.length), 10)
        write_document(each.length, length)
        assert not has_ended(each, length)
        with pytest.raises(Killed):
            train(PLAN, store, each, killed_at({5}), iterations=20)
        assert each.model.read_bytes() == first  # it stays until the longer one is complete
        models.append(train_through_kills(PLAN, store, each, kills, 20))
        assert each.model.read_bytes() != first
        assert has_ended(each, read_document(Length, each.length))
    assert_same_weights(*models)


def test_an_extension_has_no_jump_of_the_learning_rate(tmp_path: Path, store: CaseStore) -> None:
    folder, logger = fold_folder(tmp_path, "fold"), Listening()
    train(PLAN, store, folder, iterations=20)
    write_document(folder.length, extended(read_document(Length, folder.length), 30))
    train_fold(make_job(PLAN, 20), PLAN, store, folder, logger, device="cpu")
    assert [entry["iteration"] for entry in logger.all("resumed")] == [16]
    rates = {entry["iteration"] - 1: entry["learning_rate"] for entry in logger.all("iterations")}
    kept = warmup_polynomial(TRAINING, 16, 20)
    assert {rates[at] for at in (17, 20, 23)} == {kept}
    assert kept < warmup_polynomial(TRAINING, 15, 20)
    assert rates[49] < 0.1 * kept


def test_scores_of_the_model_before_an_extension_do_not_outlive_it(tmp_path: Path, store: CaseStore) -> None:
    folder = fold_folder(tmp_path, "fold")
    train(PLAN, store, folder, iterations=5)
    write_document(folder.summary, {"of": "the first model"})
    write_document(folder.length, extended(read_document(Length, folder.length), 3))
    with pytest.raises(Killed):
        train(PLAN, store, folder, killed_at({2}), iterations=5)
    assert folder.summary.is_file()
    train(PLAN, store, folder, iterations=5)
    assert not folder.validation.exists()


@pytest.mark.parametrize(("hours", "begun", "late"), [(0.05, 60, False), (0.01, 10, True)], ids=["enough", "too few"])
def test_hours_end_a_training_in_time(tmp_path: Path, store: CaseStore, hours: float, begun: int, late: bool) -> None:
    """Two seconds an iteration, and 10 batches to score at half of that each: 2 (n + 25) + 10 = 180, so n = 60.

    Of fewer hours it is told that they do not suffice: the pace is known after 10 iterations, and 2 x 35 + 10 s are 0.022 h.
    """
    folder, logger = fold_folder(tmp_path, "fold"), Listening()
    write_document(folder.length, Length(hours=hours))
    done = [0]
    trainer = FoldTrainer(
        *(make_job(PLAN), PLAN, store, folder, logger, "cpu"),
        scoring_batches=10,
        clock=lambda: 2.0 * done[0],
    )

    def stop() -> bool:
        done[0] = trainer.state.iteration + 1
        return False

    trainer.run(stop)
    reason = f"{hours:g} h run out, cooldown and scoring included"
    assert read_document(Length, folder.length) == Length(
        hours=hours, cooldown_from=begun, end=begun + 25, decided=True, reason=reason
    )
    (told,) = [each["text"] for each in logger.all("message") if "cooldown" in each["text"]]
    assert ("with the scoring, about 0.022 h in all" in told) == late


def test_a_plateau_ends_a_training_and_is_found_again_after_a_kill(tmp_path: Path, store: CaseStore) -> None:
    """With a learning rate so small that nothing is gained."""
    training = msgspec.structs.replace(TRAINING, learning_rate=1e-12, iterations_per_epoch=1)
    plan, models = make_plan(patch=(8, 8), training=training), []
    for name, kills in (("calm", set()), ("killed", {4, 7, 11, 12})):
        folder = fold_folder(tmp_path, name)
        write_document(folder.length, Length(until_plateau=True))
        models.append(train_through_kills(plan, store, folder, kills, 6))
        assert read_document(Length, folder.length).cooldown_from == 9
    assert_same_weights(*models)


class Blind(FoldTrainer):
    """One that sees the same Dice on held-out cases ever again."""

    seen: tuple[float | None, ...]

    def estimate(self) -> list[float | None]:
        return list(self.seen)


@pytest.mark.parametrize(("seen", "told"), [((0.0, None), 1), ((None, None), 0)], ids=["zero", "undefined"])
def test_a_training_that_has_learned_nothing_is_no_plateau_but_ends_after_the_planned_length(
    tmp_path: Path, store: CaseStore, seen: tuple[float | None, ...], told: int
) -> None:
    training = msgspec.structs.replace(TRAINING, iterations_per_epoch=1)
    plan, folder, logger = make_plan(patch=(8, 8), training=training), fold_folder(tmp_path, "fold"), Listening()
    write_document(folder.length, Length(until_plateau=True))
    trainer = Blind(make_job(plan, 14), plan, store, folder, logger, "cpu")
    trainer.seen = seen
    trainer.run(lambda: False)
    length = read_document(Length, folder.length)
    assert (length.cooldown_from, length.end) == (14, 39)
    assert length.reason == "nothing was learned in the planned 14 iterations"
    texts = [str(each["text"]) for each in logger.all("message")]
    assert sum("nothing was learned yet" in text and "planned 14 iterations" in text for text in texts) == told
    assert len(trainer.state.curve) == (39 if told else 0)


def test_time_is_counted_over_all_starts(tmp_path: Path, store: CaseStore) -> None:
    folder, seconds = fold_folder(tmp_path, "fold"), iter(range(0, 10**8, 100))

    def trainer() -> FoldTrainer:
        return FoldTrainer(
            *(make_job(PLAN, 9), PLAN, store, folder, SilentLogger(), "cpu"), clock=lambda: next(seconds)
        )

    first = trainer()
    with pytest.raises(InterruptedRunError):
        first.run(lambda: first.state.iteration == 4)
    second = trainer()
    second.resume()
    assert second.state.seconds == first.state.seconds > 0
    second.run(lambda: False)
    assert second.state.seconds > first.state.seconds


@pytest.mark.parametrize("count", [5, 9])
def test_a_case_that_could_be_read_in_part_makes_no_difference_to_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """One slice of it cannot be read: it is left out from there on, after a stop, too, and not before."""
    crop = PatchLoader._crop

    def broken(loader: PatchLoader, sample: SampleRecord, patch_size: tuple[int, ...]) -> Crop:
        if sample.case == "b" and sample.corner[0] == 5:
            raise DamagedCaseError("b", "a chunk is not as it was written", file=tmp_path)
        return crop(loader, sample, patch_size)

    monkeypatch.setattr(PatchLoader, "_crop", broken)
    names = "abcdefgh"
    store, keys = make_store(tmp_path, names=names), {name: digest([name]) for name in names}
    job = make_job(PLAN, 14, cases=Fold(train=tuple("abcdef"), val=("h",)), case_keys=keys)
    whole, parts, logger = fold_folder(tmp_path, "whole"), fold_folder(tmp_path, "parts"), Listening()
    train_fold(job, PLAN, store, whole, logger, device="cpu")
    for stop in (stop_at(count), lambda: False):
        with contextlib.suppress(InterruptedRunError):
            train_fold(job, PLAN, store, parts, logger, device="cpu", stop=stop)
    assert_same_weights(parts.model, whole.model)
    assert [each["skipped"] for each in logger.all("trained")] == [["b"], ["b"]]
    assert load_metadata(parts.model)["skipped"] == ["b"]
    assert load_tensors(parts.checkpoint)[1]["skipped"] == {"b": 7}


def test_cases_that_could_not_be_read_are_counted_at_the_end_over_all_starts(tmp_path: Path) -> None:
    """One is found damaged before a stop, and whole again after it; another after that; held-out ones are told once."""
    names = "abcdefghijklmnop"
    store, keys = make_store(tmp_path, names=names), {name: digest([name]) for name in names}
    training = msgspec.structs.replace(TRAINING, iterations_per_epoch=6, validation_iterations=3)
    plan = make_plan(patch=(8, 8), training=training)
    cases = Fold(train=tuple("abcdefghij"), val=tuple("klmnop"))
    job, folder, logger = make_job(plan, 24, cases=cases, case_keys=keys), fold_folder(tmp_path, "fold"), Listening()

    def damaged(name: str) -> tuple[Path, bytes]:
        (file,) = store.folder.glob(f"{name}-*/image.*")
        whole = file.read_bytes()
        file.write_bytes(b"damaged")
        return file, whole

    damaged("k")
    file, whole = damaged("b")
    with pytest.raises(InterruptedRunError):
        train_fold(job, plan, store, folder, logger, device="cpu", stop=stop_at(12))
    file.write_bytes(whole)
    damaged("d")
    train_fold(job, plan, store, folder, logger, device="cpu")
    (end,) = logger.all("trained")
    assert end["skipped"] == ["b", "d"]
    texts = [str(entry["text"]) for entry in logger.all("message")]
    assert any("2 of 10 training cases could not be read" in text and text.endswith(": b, d") for text in texts)
    assert [entry["case"] for entry in logger.all("case_skipped")].count("k") == 2  # once in each start


def test_a_held_out_case_that_cannot_be_read_costs_estimates_and_not_the_training(tmp_path: Path) -> None:
    """Of so few, one is too many for the estimate. Where the end hangs on estimates, there is none without them."""
    store, keys = make_store(tmp_path, names="abcdef"), {name: digest([name]) for name in "abcdef"}
    training = msgspec.structs.replace(TRAINING, iterations_per_epoch=6, validation_iterations=3)
    plan, logger = make_plan(patch=(8, 8), training=training), Listening()
    job = make_job(plan, 12, cases=Fold(train=("a", "b", "c"), val=("d", "e", "f")), case_keys=keys)
    (file,) = store.folder.glob("e-*/image.*")
    file.write_bytes(b"damaged")
    folder = fold_folder(tmp_path, "fold")
    train_fold(job, plan, store, folder, logger, device="cpu")
    assert folder.model.is_file()
    texts = [str(entry["text"]) for entry in logger.all("message")]
    assert any("no estimate on held-out cases after 6 iterations: case e: " in text for text in texts)
    other = fold_folder(tmp_path, "until a plateau")
    write_document(other.length, Length(until_plateau=True))
    with pytest.raises(DamagedCaseError, match="case e: "):
        train_fold(job, plan, store, other, logger, device="cpu")


def test_a_bad_batch_is_written_down_and_can_be_made_again(tmp_path: Path, store: CaseStore) -> None:
    folder, plan = fold_folder(tmp_path, "fold"), make_plan(patch=(8, 8), training=PLAN.configurations[0].training)
    trainer = FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu")
    trainer.state.iteration = 3
    batch = trainer.loader(train=True).batch(3)
    with pytest.raises(
        AutosegError, match=r"not a number at iteration 3.*No checkpoint was saved before.*bad_batch\.json"
    ):
        trainer.train_step({**batch, "data": batch["data"] * np.nan})
    again = FoldTrainer(make_job(plan), plan, store, folder, SilentLogger(), "cpu").loader(train=True)
    made = again.make(read_document(BatchRecord, folder.bad_batch))
    assert made["keys"] == batch["keys"]
    np.testing.assert_array_equal(made["data"], batch["data"])
    np.testing.assert_array_equal(made["seg"], batch["seg"])


def test_a_full_disk_does_not_hide_which_batch_was_bad(
    tmp_path: Path, store: CaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FoldTrainer(make_job(PLAN), PLAN, store, fold_folder(tmp_path, "fold"), SilentLogger(), "cpu")
    batch = trainer.loader(train=True).batch(0)
    monkeypatch.setattr(os, "replace", full_for("bad_batch.json"))
    cases = ", ".join(sorted(set(batch["keys"])))
    expected = rf"not a number at iteration 0; the batch held {cases}\..*bad_batch\.json could not be written: No space"
    with pytest.raises(AutosegError, match=expected):
        trainer.train_step({**batch, "data": batch["data"] * np.nan})


def full_for(*names: str) -> Callable[[Path, Path], None]:
    """What stands for ``os.replace`` where the disk is full for files of these names."""
    replace = os.replace

    def replace_if_there_is_room(source: Path, target: Path) -> None:
        if Path(target).name in names:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    return replace_if_there_is_room


@pytest.mark.parametrize(
    ("room_until", "again"), [(0, "the same command begins anew"), (4, "the same command goes on from iteration 3$")]
)
def test_stopped_with_a_full_disk_it_says_where_the_same_command_goes_on(
    tmp_path: Path, store: CaseStore, monkeypatch: pytest.MonkeyPatch, room_until: int, again: str
) -> None:
    folder = fold_folder(tmp_path, "fold")
    fill = when(room_until, lambda: monkeypatch.setattr(os, "replace", full_for("checkpoint.safetensors")))
    stop = stop_at(5)
    with pytest.raises(InterruptedRunError, match=f"stopped after 5 of 50 iterations, and this state.*{again}"):
        train(PLAN, store, folder, lambda: fill() or stop(), iterations=50)
    trainer = FoldTrainer(make_job(PLAN, 50), PLAN, store, folder, SilentLogger(), "cpu")
    trainer.resume()
    assert trainer.state.iteration == (3 if room_until else 0)


def test_the_scores_of_the_old_model_stay_if_the_new_one_cannot_be_written(
    tmp_path: Path, store: CaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fold_folder(tmp_path, "fold")
    train(PLAN, store, folder, iterations=5)
    old = folder.model.read_bytes()
    write_document(folder.summary, {"of": "the first model"})
    write_document(folder.length, extended(read_document(Length, folder.length), 3))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(DiskFullError):
            train(PLAN, store, folder, iterations=5)
    assert folder.model.read_bytes() == old
    assert folder.summary.is_file()
    train(PLAN, store, folder, iterations=5)
    assert not folder.validation.exists()


def full_disk(handle: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_weights_that_are_no_numbers_are_not_kept_to_be_extended(tmp_path: Path, store: CaseStore) -> None:
    """The state at iteration 16 of 20 is; the weights go bad in the step before, and none is saved there otherwise."""
    folder = fold_folder(tmp_path, "fold")
    trainer = FoldTrainer(make_job(PLAN, 20), PLAN, store, folder, SilentLogger(), "cpu")
    update = trainer.step.update

    def spoiling(rate: float) -> None:
        update(rate)
        if trainer.state.iteration == 15:
            with torch.no_grad():
                next(trainer.step.network.parameters()).fill_(torch.nan)

    trainer.step.update = spoiling  # type: ignore[method-assign]
    with pytest.raises(AutosegError, match=r"weights are no longer numbers.*at iteration 15"):
        trainer.run(lambda: False)
    assert not folder.kept_checkpoint.exists()


def test_what_a_step_keeps_beside_the_optimizer_is_handed_back(tmp_path: Path, store: CaseStore) -> None:
    """The scale of gradients, as on a GPU with fp16."""
    folder = fold_folder(tmp_path, "fold")

    def trainer(scale: float) -> FoldTrainer:
        made = FoldTrainer(make_job(PLAN, 50), PLAN, store, folder, SilentLogger(), "cpu")
        made.step.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return made

    first = trainer(256.0)
    with pytest.raises(InterruptedRunError):
        first.run(lambda: first.state.iteration == 2)
    second = trainer(4096.0)
    second.resume()
    assert second.step.scaler.get_scale() == 256.0


def test_a_network_with_dropout_goes_on_bit_for_bit(tmp_path: Path, store: CaseStore) -> None:
    (tiny,) = PLAN.configurations
    network = msgspec.structs.replace(tiny.network, architecture="tests.training.dropping:Dropping")
    plan = msgspec.structs.replace(PLAN, configurations=(msgspec.structs.replace(tiny, network=network),))
    whole = train(plan, store, fold_folder(tmp_path, "whole"), iterations=9)
    folder = fold_folder(tmp_path, "parts")
    with pytest.raises(InterruptedRunError):
        train(plan, store, folder, stop_at(4), iterations=9)
    assert_same_weights(train(plan, store, folder, iterations=9), whole)


def test_the_cases_of_a_bad_batch_are_named_even_if_it_cannot_be_written_down(
    tmp_path: Path, store: CaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transform of somebody's own may draw a number that is not JSON's when nobody tries it."""
    monkeypatch.setattr(Brightness, "draw", lambda self, random, shape: {"factors": [np.float32(1)] * shape[0]})
    folder = fold_folder(tmp_path, "fold")
    trainer = FoldTrainer(make_job(PLAN), PLAN, store, folder, SilentLogger(), "cpu")
    batch = trainer.loader(train=True).batch(0)
    cases = ", ".join(sorted(set(batch["keys"])))
    said = rf"at iteration 0; the batch held {cases}\..*could not be written \(TypeError.*numpy\.float32"
    with pytest.raises(AutosegError, match=said):
        trainer.train_step({**batch, "data": batch["data"] * np.nan})
    assert not folder.bad_batch.exists()


def test_a_gradient_that_is_no_number_is_found_before_anything_is_saved_and_its_own_batch_is_named(
    tmp_path: Path, store: CaseStore
) -> None:
    folder = fold_folder(tmp_path, "fold")
    trainer = FoldTrainer(make_job(PLAN, 50), PLAN, store, folder, SilentLogger(), "cpu")

    def stop() -> bool:
        if trainer.state.iteration == 6:
            with torch.no_grad():  # as if the gradient of iteration 5 had been infinite
                next(trainer.step.network.parameters()).fill_(torch.nan)
        return False

    cases = ", ".join(sorted(set(trainer.loader(train=True).batch(5)["keys"])))
    with pytest.raises(AutosegError, match=rf"weights are no longer numbers.*at iteration 5; the batch held {cases}"):
        trainer.run(stop)
    with pytest.raises(AutosegError, match="no longer numbers"):
        trainer.save()
    healthy = FoldTrainer(make_job(PLAN, 50), PLAN, store, folder, SilentLogger(), "cpu")
    healthy.resume()
    assert healthy.state.iteration == 6
    assert healthy.state.is_healthy()


@pytest.mark.parametrize("length", [fixed_length(50), Length(until_plateau=True)], ids=["fixed", "until plateau"])
def test_a_gradient_that_is_no_number_at_the_end_of_an_epoch_is_named_before_anything_is_estimated(
    tmp_path: Path, store: CaseStore, length: Length
) -> None:
    plan = make_plan(patch=(8, 8), training=TRAINING)
    folder, logger = fold_folder(tmp_path, "fold"), Listening()
    write_document(folder.length, length)
    trainer = FoldTrainer(make_job(plan, 50), plan, store, folder, logger, "cpu")
    update, last = trainer.step.update, trainer.spec.iterations_per_epoch - 1

    def spoiling(rate: float) -> None:
        update(rate)
        if trainer.state.iteration == last:
            with torch.no_grad():
                next(trainer.step.network.parameters()).fill_(torch.nan)

    trainer.step.update = spoiling  # type: ignore[method-assign]
    cases = ", ".join(sorted(set(trainer.loader(train=True).batch(last)["keys"])))
    said = rf"weights are no longer numbers.*at iteration {last}; the batch held {cases}"
    with pytest.raises(AutosegError, match=said):
        trainer.run(lambda: False)
    assert folder.bad_batch.exists()
    assert not [line for line in logger.all("message") if "no estimate" in str(line)]


def test_a_full_disk_does_not_end_a_training(tmp_path: Path, store: CaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is told that the disk is full, all through the training, but for the model at its end."""
    whole = train(PLAN, store, fold_folder(tmp_path, "whole"), iterations=9)
    folder, logger, replace = fold_folder(tmp_path, "full"), Listening(), os.replace

    def full(source: Path, target: Path) -> None:
        if "model" not in Path(target).name or not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    for room in (False, True):
        if room:
            monkeypatch.setattr(os, "replace", replace)
            assert train(PLAN, store, folder, iterations=9) == folder.model
        else:
            with pytest.raises(DiskFullError, match=r"model\.safetensors could not be written: No space.*GiB are free"):
                train_fold(make_job(PLAN, 9), PLAN, store, folder, logger, device="cpu")
            assert sum("tries again later" in str(each["text"]) for each in logger.all("message")) == 3
    assert_same_weights(folder.model, whole)


def test_an_end_that_cannot_be_written_down_does_not_take_effect(
    tmp_path: Path, store: CaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, logger, replace = fold_folder(tmp_path, "fold"), Listening(), os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "length.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    asked = when(2, folder.stop_file.touch)
    stop = when(8, lambda: monkeypatch.setattr(os, "replace", replace))
    train_fold(*(make_job(PLAN, 100), PLAN, store, folder, logger), device="cpu", stop=lambda: asked() or stop())
    assert read_document(Length, folder.length).cooldown_from == 9
    assert sum("has to wait" in str(each["text"]) for each in logger.all("message")) == 1


def test_dropout_is_a_function_of_seed_and_iteration() -> None:
    drop, ones = nn.Dropout(0.5), torch.ones(1000)

    def drawn(seed: int, iteration: int) -> torch.Tensor:
        seed_iteration(seed, iteration)
        return drop(ones)

    assert torch.equal(drawn(1, 5), drawn(1, 5))
    assert not torch.equal(drawn(1, 5), drawn(1, 6))
    assert not torch.equal(drawn(1, 5), drawn(2, 5))


def test_training_leaves_the_users_random_state_as_it_was(tmp_path: Path, store: CaseStore) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(PLAN, store, fold_folder(tmp_path, "fold"), iterations=1)
    assert torch.equal(torch.rand(3), expected)


def test_deterministic_is_kept_for_resuming_and_changes_nothing_on_a_cpu(tmp_path: Path, store: CaseStore) -> None:
    plain, folder = fold_folder(tmp_path, "plain"), fold_folder(tmp_path, "fold")
    seen = []
    stop = when(1, note := lambda: seen.append(torch.are_deterministic_algorithms_enabled()))
    for deterministic in (True, False):
        with pytest.raises(InterruptedRunError) if deterministic else deterministic_algorithms(False):
            train_fold(
                *(make_job(PLAN), PLAN, store, folder, SilentLogger()),
                device="cpu",
                stop=(lambda: stop() or len(seen) > 0) if deterministic else note,
                deterministic=deterministic,
            )
    assert read_document(ExecutionPath, folder.execution).deterministic
    assert len(seen) > 2
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()
    assert_same_weights(folder.model, train(PLAN, store, plain))

"""Two generations of checkpoints: damage costs the iterations since the one before, a full disk nothing."""

from __future__ import annotations

import os
import random
import resource
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from autoseg.errors import InputError, UnreadableFileError
from autoseg.networks.weights import load_tensors, save_tensors
from autoseg.training.checkpoints import Checkpoints
from autoseg.training.length import extended, fixed_length
from autoseg.values import Length
from autoseg.workspace import FoldFolder
from tests.training.test_loop import Listening
from tests.training.test_state import assert_equal_states, make_state, train


@pytest.fixture
def folder(tmp_path: Path) -> FoldFolder:
    return FoldFolder(tmp_path / "fold_0")


def saved_twice(folder: FoldFolder) -> Checkpoints:
    """Checkpoints after one and after three steps."""
    checkpoints, state = Checkpoints(folder, Listening()), make_state()
    for steps in (1, 2):
        train(state, steps)
        assert checkpoints.save(state)
    return checkpoints


def after(steps: int):
    state = make_state()
    train(state, steps)
    return state


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << (position % 8)
    path.write_bytes(data)


def test_without_a_checkpoint_there_is_nothing_to_resume(folder: FoldFolder) -> None:
    assert not Checkpoints(folder, Listening()).resume(make_state())


def test_the_newest_of_two_generations_is_gone_on_with(folder: FoldFolder) -> None:
    saved_twice(folder)
    assert folder.previous_checkpoint.is_file()
    state = make_state(seed=5)
    assert Checkpoints(folder, Listening()).resume(state)
    assert_equal_states(state, after(3))


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_anywhere_in_the_newest_costs_the_iterations_since_the_one_before(
    folder: FoldFolder, seed: int
) -> None:
    saved_twice(folder)
    size = folder.checkpoint.stat().st_size
    position = random.Random(seed).choice([0, 9, 40, 200, size // 2, size - 1, *range(0, size, 997)])
    flip(folder.checkpoint, position)
    logger, state = Listening(), make_state(seed=5)
    Checkpoints(folder, logger).resume(state)
    if state.iteration == 3:  # a flip that changes nothing: the name of a value that is not needed
        assert_equal_states(state, after(3))
        return
    assert_equal_states(state, after(1))
    (told,) = logger.all("message")
    assert "checkpoint.safetensors" in told["text"]
    assert "checkpoint_before.safetensors is whole and used instead" in told["text"]


def test_a_damaged_newest_never_takes_the_place_of_the_whole_one_before(folder: FoldFolder) -> None:
    saved_twice(folder)
    flip(folder.checkpoint, folder.checkpoint.stat().st_size - 5)
    whole, state = folder.previous_checkpoint.read_bytes(), make_state(seed=5)
    checkpoints = Checkpoints(folder, Listening())
    checkpoints.resume(state)
    train(state, 1)
    checkpoints.save(state)
    assert folder.previous_checkpoint.read_bytes() == whole
    train(state, 1)
    checkpoints.save(state)
    assert folder.previous_checkpoint.read_bytes() != whole
    assert_equal_states(state, after(3))


def test_a_kill_between_the_generations_leaves_the_one_before(folder: FoldFolder) -> None:
    saved_twice(folder)
    folder.checkpoint.unlink()
    state = make_state(seed=5)
    assert Checkpoints(folder, Listening()).resume(state)
    assert_equal_states(state, after(1))


def test_two_damaged_generations_are_one_error_that_names_both(folder: FoldFolder) -> None:
    saved_twice(folder)
    folder.checkpoint.write_bytes(b"nothing")
    flip(folder.previous_checkpoint, 5000)
    with pytest.raises(
        UnreadableFileError, match=r"no checkpoint.*whole.*checkpoint\.saf.*checkpoint_before\.saf.*anew"
    ):
        Checkpoints(folder, Listening()).resume(make_state())


def test_after_an_extension_the_state_before_the_cooldown_is_gone_on_with(folder: FoldFolder) -> None:
    state, checkpoints = make_state(), Checkpoints(folder, Listening())
    train(state, 8)
    checkpoints.keep(state)
    for _ in range(2):
        train(state, 1)
        checkpoints.save(state)
    state = make_state(seed=5)
    state.length = extended(fixed_length(10), 10)
    checkpoints.resume(state)
    assert_equal_states(state, after(8))


def test_a_cooldown_decided_since_the_checkpoint_changes_nothing_about_it(folder: FoldFolder) -> None:
    saved_twice(folder)
    state = make_state(seed=5)
    state.length = msgspec.structs.replace(fixed_length(10), cooldown_from=3, end=8)
    Checkpoints(folder, Listening()).resume(state)
    assert state.iteration == 3


def test_checkpoints_of_other_learning_rates_are_refused_and_not_begun_anew(folder: FoldFolder) -> None:
    saved_twice(folder)
    folder.previous_checkpoint.unlink()
    state = make_state(seed=5)
    state.length = Length(until_plateau=True)
    with pytest.raises(InputError, match=r"learning rates of this training; found checkpoint\.safetensors"):
        Checkpoints(folder, Listening()).resume(state)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_save_that_finds_no_room_loses_nothing_and_says_where_and_how_much(folder: FoldFolder) -> None:
    """The system itself refuses: files may not become larger than half a checkpoint."""
    checkpoints = saved_twice(folder)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["checkpoint.safetensors"]) // 2, limits[1]))
    try:
        assert not checkpoints.save(after(4))
        checkpoints.keep(after(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    texts = [str(entry["text"]) for entry in checkpoints.logger.all("message")]
    assert str(folder.checkpoint) in texts[0]
    assert "GiB are free there" in texts[0]
    assert "checkpoint.safetensors stays as it was" in texts[0]
    assert "--extend is not possible" in texts[1]
    assert checkpoints.save(after(4))


def test_a_disk_that_fails_when_all_is_written_costs_no_generation(
    folder: FoldFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = saved_twice(folder)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}

    def failing(handle: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        assert not checkpoints.save(after(4))
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_by_its_name(folder: FoldFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes go to a device that the system says is full."""
    checkpoints = saved_twice(folder)
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: _to_full_device(data))
    assert not checkpoints.save(after(4))
    assert "No space left on device" in str(checkpoints.logger.all("message")[0]["text"])


def _to_full_device(data: bytes) -> int:
    handle = os.open("/dev/full", os.O_WRONLY)
    try:
        return os.write(handle, data)
    finally:
        os.close(handle)


@pytest.mark.parametrize("position", [*range(0, 400, 23), -1, -500])
def test_a_flipped_bit_in_weights_is_found_or_changes_nothing(tmp_path: Path, position: int) -> None:
    path, tensors = tmp_path / "w.safetensors", {"a": torch.arange(200.0), "b": torch.ones(3, dtype=torch.int64)}
    save_tensors(path, tensors, {"plan": "p"})
    flip(path, position % path.stat().st_size)
    try:
        found, _ = load_tensors(path)
    except InputError:
        return
    assert found.keys() == tensors.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in tensors.items())


def test_the_checksum_is_no_part_of_what_is_read_back(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(0), "b": torch.tensor(2.5)}, {"plan": "p"})
    tensors, values = load_tensors(tmp_path / "w.safetensors")
    assert values == {"plan": "p"}
    assert tensors["a"].shape == (0,)
    assert float(tensors["b"]) == 2.5

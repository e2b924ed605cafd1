"""Where the sums over tiles lie: the same bits in a file as in memory, nothing left of it, a lack of room told first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import AutosegError, InputError
from autoseg.inference.predict import Predictor
from autoseg.inference.sums import empty_sums
from autoseg.inference.window import padded_tile, padding_to, tiles
from autoseg.networks.build import build_network
from autoseg.values import ExecutionPath
from tests.small_plans import small_configuration


@pytest.mark.parametrize("shape", [(19, 13, 10), (5, 20, 7), (3, 2, 1), (8, 8, 8)])
def test_tiles_are_those_of_the_padded_image(shape: tuple[int, int, int]) -> None:
    image, patch = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32), (8, 6, 4)
    padding = padding_to(shape, patch)
    padded = np.pad(image, [(0, 0), *padding])
    for first in tiles(padded.shape[1:], patch):
        box = tuple(slice(start, start + edge) for start, edge in zip(first, patch, strict=True))
        np.testing.assert_array_equal(padded_tile(image, first, patch, padding), padded[(slice(None), *box)])


def test_logits_in_a_file_are_those_in_memory_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    configuration = small_configuration(
        patch=(8, 8, 8), inputs=2, outputs=3, mirror_axes=(0,), median_shape=(10.0,) * 3
    )
    network = build_network(configuration.network, seed=0)
    image = np.random.default_rng(0).normal(size=(2, 19, 5, 10)).astype(np.float32)
    predictor = Predictor([network], configuration, ExecutionPath(device="cpu", threads=1))
    held = predictor.logits(image)
    predictor.room_for_sums = 0
    mapped = predictor.logits(image, scratch=tmp_path)
    assert isinstance(mapped, np.memmap)
    assert not isinstance(held, np.memmap)
    assert held.tobytes() == mapped.tobytes()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_an_image_that_memory_has_no_room_for_is_refused_before_the_work() -> None:
    with pytest.raises(InputError, match="take 4 MiB, and there is room for 1 MiB") as caught:
        empty_sums((2**20,), None, 2**20)
    assert "autoseg predict" in str(caught.value)


def test_a_disk_without_room_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match=r"take 65536.0 GiB, .* nor the disk"):
        empty_sums((2**44,), tmp_path, 2**20)
    assert list(tmp_path.iterdir()) == []


def test_small_sums_stay_in_memory(tmp_path: Path) -> None:
    sums = empty_sums((3, 4, 5, 6), tmp_path)
    assert not isinstance(sums, np.memmap)
    assert sums.shape == (3, 4, 5, 6)
    assert not sums.any()

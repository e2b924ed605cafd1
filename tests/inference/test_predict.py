"""Logits of whole images: equal to one big pass where they must be, averaged over flips and folds as promised."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from autoseg.errors import AutosegError
from autoseg.inference.predict import Predictor, mirrored_mean
from autoseg.inference.window import tiles
from autoseg.networks.build import build_network
from autoseg.values import (
    Configuration,
    ExecutionPath,
)
from tests.small_plans import small_configuration, small_network

PATH = ExecutionPath(device="cpu", threads=1)
PATHS = [PATH, ExecutionPath(device="cpu", threads=1, channels_last=True)]


@pytest.fixture(autouse=True)
def _threads_as_before():
    """Predictors set torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_configuration(
    patch: Sequence[int] = (8, 8, 8), mirror_axes: Sequence[int] = (), *, channels: int = 2, batch: int = 3
) -> Configuration:
    return small_configuration(
        patch=patch, inputs=channels, outputs=3, batch_size=batch, mirror_axes=mirror_axes, median_shape=(10.0,) * 3
    )


class Pointwise(nn.Module):
    """A network that looks at one voxel at a time: no norm, no neighbours."""

    def __init__(self, dimensions: int = 3, seed: int = 0) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        torch.manual_seed(seed)
        self.layers = nn.Sequential(convolution(2, 6, 1), nn.LeakyReLU(), convolution(6, 3, 1))
        self.deep_supervision = True

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        logits = self.layers(x)
        return [logits, logits[..., ::2]] if self.deep_supervision else [logits]


class Constant(nn.Module):
    """Says the same everywhere."""

    deep_supervision = True

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        values = torch.tensor([1.5, -2.25, 0.1]).reshape(1, 3, *[1] * (x.ndim - 2))
        return [values.expand(len(x), 3, *x.shape[2:])]


def image(shape: Sequence[int] = (19, 13, 10), channels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)


@pytest.mark.parametrize("path", PATHS, ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("shape", [(19, 13, 10), (8, 8, 8), (5, 20, 7), (3, 2, 1)])
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)], ids=["plain", "mirrored"])
def test_a_pointwise_network_over_the_window_equals_one_big_pass(path, shape, mirror_axes) -> None:
    network = Pointwise()
    predicted = Predictor([network], make_configuration(mirror_axes=mirror_axes), path).logits(image(shape))
    with torch.no_grad():
        expected = network.layers(torch.from_numpy(image(shape))[None])[0].numpy()
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


class Neighbours(nn.Module):
    """Three convolutions without norms: a voxel sees three voxels around it."""

    deep_supervision = True

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                *(nn.Conv3d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 6, 3, padding=1), nn.ReLU()),
                nn.Conv3d(6, 3, 3, padding=1),
            )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.layers(x)]


def test_a_norm_free_network_over_the_window_equals_one_big_pass_wherever_a_tile_sees_all_around() -> None:
    """Each tile's middle is that of the big pass; the window's weights mean over them what is equal in all."""
    network, whole = Neighbours(), image((40, 30, 26))
    with torch.no_grad():
        big = network.layers(torch.from_numpy(whole)[None])[0].numpy()
    for first in tiles((40, 30, 26), (16, 16, 16)):
        box = tuple(slice(start, start + 16) for start in first)
        middle = tuple(slice(start + 3, start + 13) for start in first)
        tile = Predictor([network], make_configuration((16, 16, 16), mirror_axes=()), PATH).logits(
            whole[(slice(None), *box)]
        )
        np.testing.assert_allclose(tile[:, 3:13, 3:13, 3:13], big[(slice(None), *middle)], atol=1e-5)
    inner = Predictor([network], make_configuration((40, 30, 26), mirror_axes=()), PATH).logits(whole)
    np.testing.assert_allclose(inner, big, atol=1e-5)


@pytest.mark.parametrize("shape", [(19, 13, 10), (40, 8, 3), (8, 8, 8)])
def test_a_constant_network_gives_constant_logits(shape: tuple[int, int, int]) -> None:
    predicted = Predictor([Constant()], make_configuration(), PATH).logits(image(shape))
    expected = np.broadcast_to(np.reshape([1.5, -2.25, 0.1], (3, 1, 1, 1)), (3, *shape))
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)


def real_network(patch: Sequence[int] = (8, 8, 8), seed: int = 0) -> nn.Module:
    return build_network(make_configuration(patch).network, seed=seed)


def whole_pass(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(np.ascontiguousarray(x))[None])[0][0].numpy()


def test_an_image_of_one_tile_is_one_pass_of_the_real_network() -> None:
    network = real_network()
    predicted = Predictor([network], make_configuration(), PATH).logits(image((8, 8, 8)))
    np.testing.assert_allclose(predicted, whole_pass(network, image((8, 8, 8))), atol=1e-5)


def test_an_image_smaller_than_the_patch_is_padded_with_zeros_around_its_centre() -> None:
    network, small = real_network(), image((5, 8, 7))
    padded = np.pad(small, [(0, 0), (1, 2), (0, 0), (0, 1)])
    expected = whole_pass(network, padded)[:, 1:6, :, :7]
    np.testing.assert_allclose(Predictor([network], make_configuration(), PATH).logits(small), expected, atol=1e-5)


def test_overlapping_tiles_are_averaged_with_their_weights() -> None:
    """Two tiles along one axis, worked out by hand with the Gaussian of the specification."""
    network, long = real_network(), image((12, 8, 8))
    line = np.exp(-(((np.arange(8) - 4) / 1.0) ** 2) / 2)
    first, second = whole_pass(network, long[:, :8]), whole_pass(network, long[:, 4:])
    near, far = line[4:, None, None], line[:4, None, None]
    expected = np.concatenate(
        [first[:, :4], (near * first[:, 4:] + far * second[:, :4]) / (near + far), second[:, 4:]], axis=1
    )
    np.testing.assert_allclose(Predictor([network], make_configuration(), PATH).logits(long), expected, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_how_many_tiles_are_taken_at_once_does_not_matter(batch: int) -> None:
    network = real_network()
    one, many = (
        Predictor([network], make_configuration(batch=size), PATH).logits(image((20, 12, 9))) for size in (1, batch)
    )
    np.testing.assert_allclose(many, one, atol=1e-5)


def test_a_flat_configuration_predicts_slice_by_slice() -> None:
    network = real_network((8, 8))
    predictor = Predictor([network], make_configuration((8, 8), (0, 1)), PATH)
    volume = image((5, 11, 9))
    whole = predictor.logits(volume)
    for index in range(5):
        np.testing.assert_allclose(whole[:, index], predictor.logits(volume[:, index : index + 1])[:, 0], atol=1e-5)
    alone = predictor.logits(image((1, 8, 8)))[:, 0]
    expected = mirrored_mean(network, torch.from_numpy(image((1, 8, 8))[:, 0])[None], (0, 1))[0].detach().numpy()
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_several_folds_are_averaged() -> None:
    networks = [real_network(seed=seed) for seed in range(3)]
    configuration = make_configuration(mirror_axes=(1,))
    single = [Predictor([network], configuration, PATH).logits(image()) for network in networks]
    together = Predictor(networks, configuration, PATH).logits(image())
    np.testing.assert_allclose(together, np.mean(single, axis=0), atol=1e-5)
    assert np.abs(together - single[0]).max() > 1e-2


@pytest.mark.parametrize("axes", [(), (0,), (2,), (0, 2), (0, 1, 2)])
def test_the_mirrored_mean_is_the_mean_over_all_subsets_of_axes(axes: tuple[int, ...]) -> None:
    network, x = real_network(), torch.from_numpy(image((8, 8, 8)))[None]
    explicit = []
    with torch.no_grad():
        for switches in itertools.product((False, True), repeat=len(axes)):
            flips = [axis + 2 for axis, on in zip(axes, switches, strict=True) if on]
            explicit.append(network(x.flip(flips))[0].flip(flips))
        expected = torch.stack(explicit).double().mean(0).float()
        assert len(explicit) == 2 ** len(axes)
        torch.testing.assert_close(mirrored_mean(network, x, axes), expected, atol=1e-5, rtol=1e-5)


def test_the_mirrored_mean_of_a_flipped_image_is_the_flipped_mirrored_mean() -> None:
    network, x = real_network(), torch.from_numpy(image((8, 8, 8)))[None]
    with torch.no_grad():
        for flips in ((2,), (4,), (2, 4)):
            flipped = mirrored_mean(network, x.flip(flips), (0, 2))
            torch.testing.assert_close(flipped, mirrored_mean(network, x, (0, 2)).flip(flips), atol=1e-5, rtol=1e-5)
        other = mirrored_mean(network, x.flip((3,)), (0, 2))
        assert (other - mirrored_mean(network, x, (0, 2)).flip((3,))).abs().max() > 1e-3


class Sides(nn.Module):
    """Knows left from right by place alone: output 1 grows along the last axis, output 2 falls; 0 sees the image."""

    deep_supervision = False

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        ramp = torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[2:])
        return [torch.cat([x[:, :1], ramp, -ramp], 1)]


def test_a_network_that_knows_left_from_right_is_not_confused_by_mirroring() -> None:
    """Without the exchange its knowledge averages away."""
    x = torch.from_numpy(image((8, 8, 8)))[None]
    alone = Sides()(x)[0]
    exchanged = mirrored_mean(Sides(), x, (0, 1, 2), swap_axis=2, swapped_channels=((1, 2),))
    torch.testing.assert_close(exchanged, alone, atol=1e-6, rtol=0)
    confused = mirrored_mean(Sides(), x, (0, 1, 2))
    assert confused[:, 1:].abs().max() < 1e-6


def test_the_exchange_is_made_in_flips_of_that_axis_alone() -> None:
    """Against the sum written out, with a network that treats all outputs and places differently."""
    network, x = real_network(), torch.from_numpy(image((8, 8, 8)))[None]
    explicit = []
    with torch.no_grad():
        for flips in ([], [2], [4], [2, 4]):
            logits = network(x.flip(flips))[0].flip(flips)
            explicit.append(logits[:, [2, 1, 0]] if 4 in flips else logits)
        expected = torch.stack(explicit).double().mean(0).float()
        found = mirrored_mean(network, x, (0, 2), swap_axis=2, swapped_channels=((0, 2),))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_mirrored_patient_is_predicted_as_the_mirrored_prediction() -> None:
    network, x = real_network(), torch.from_numpy(image((8, 8, 8)))[None]
    with torch.no_grad():
        one, other = (
            mirrored_mean(network, each, (0, 2), swap_axis=2, swapped_channels=((1, 2),)) for each in (x, x.flip(4))
        )
    torch.testing.assert_close(other, one.flip(4)[:, [0, 2, 1]], atol=1e-5, rtol=1e-5)


def test_the_labels_of_an_earlier_stage_are_exchanged_with_the_sides() -> None:
    """Against the sum written out; and the mirrored patient is predicted as the mirrored prediction."""
    network = build_network(small_network(3, inputs=3, outputs=3), seed=0)
    labels = np.random.default_rng(5).integers(0, 3, (8, 8, 8))
    x = torch.from_numpy(np.stack([image((8, 8, 8))[0], labels == 1, labels == 2]).astype(np.float32))[None]
    options = {"swap_axis": 2, "swapped_channels": ((1, 2),), "label_channels": 2}
    explicit = []
    with torch.no_grad():
        for flips in ([], [2], [4], [2, 4]):
            given = x[:, [0, 2, 1]] if 4 in flips else x
            logits = network(given.flip(flips))[0].flip(flips)
            explicit.append(logits[:, [0, 2, 1]] if 4 in flips else logits)
        found = mirrored_mean(network, x, (0, 2), **options)
        mirrored = mirrored_mean(network, x[:, [0, 2, 1]].flip(4), (0, 2), **options)
    torch.testing.assert_close(found, torch.stack(explicit).double().mean(0).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mirrored, found.flip(4)[:, [0, 2, 1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_predictor_exchanges_what_the_plan_says_unless_it_does_not_mirror(dimensions: int) -> None:
    """Every voxel is seen alone, so flips change nothing but the exchange: half of one output and half of the other."""
    last = dimensions - 1
    configuration = make_configuration((8,) * dimensions, (0, last))
    sides = msgspec.structs.replace(configuration.augmentation, swap_axis=last, swapped_labels=((1, 2),))
    configuration = msgspec.structs.replace(configuration, augmentation=sides)
    network = Pointwise(dimensions)
    plain, exchanged = (
        Predictor([network], configuration, PATH, mirroring=mirroring).logits(image()) for mirroring in (False, True)
    )
    np.testing.assert_allclose(exchanged[0], plain[0], atol=1e-5)
    for channel in (1, 2):
        np.testing.assert_allclose(exchanged[channel], (plain[1] + plain[2]) / 2, atol=1e-5)
    assert np.abs(plain[1] - plain[2]).max() > 1e-2


def test_mirroring_can_be_switched_off() -> None:
    network = real_network()
    with_flips, without = (
        Predictor([network], make_configuration(mirror_axes=(0, 1)), PATH, mirroring=switch) for switch in (True, False)
    )
    assert with_flips.mirror_axes == (0, 1)
    assert without.mirror_axes == ()
    x = image((8, 8, 8))
    np.testing.assert_allclose(without.logits(x), whole_pass(network, x), atol=1e-5)
    assert np.abs(with_flips.logits(x) - without.logits(x)).max() > 1e-3


def test_progress_counts_up_to_the_number_of_tiles() -> None:
    told = []
    Predictor([Pointwise()], make_configuration(batch=5), PATH).logits(
        image((20, 12, 9)), lambda done, total: told.append((done, total))
    )
    assert [total for _, total in told] == [4 * 2 * 2] * len(told)
    assert [done for done, _ in told] == [5, 10, 15, 16]


def test_predicting_changes_neither_the_image_nor_the_weights() -> None:
    network, x = real_network(), image()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = Predictor([network], make_configuration(), PATH).logits(x)
    np.testing.assert_array_equal(x, image())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    np.testing.assert_array_equal(Predictor([network], make_configuration(), PATH).logits(x), first)


def test_a_reordered_view_of_an_image_is_predicted_like_its_copy() -> None:
    view = image((9, 10, 11)).transpose(0, 3, 2, 1)[:, ::-1]
    predictor = Predictor([real_network()], make_configuration(), PATH)
    np.testing.assert_array_equal(predictor.logits(view), predictor.logits(np.ascontiguousarray(view)))


class Short(nn.Module):
    """A real network in a memory in which no more than ``room`` tiles fit, and what it was given."""

    deep_supervision = True

    def __init__(self, room: int) -> None:
        super().__init__()
        self.network, self.room, self.sizes = Pointwise(), room, []

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nand more")
        return self.network(x)[:1]


@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_where_memory_is_short_fewer_tiles_go_together_and_the_logits_are_the_same(room: int) -> None:
    """The shortage is injected; a real one is in tests/gpu."""
    short, told = Short(room), []
    predictor = Predictor([short], make_configuration(batch=5), PATH)
    predictor.at_once = 5
    logits = predictor.logits(image(), advance=lambda done, total: told.append((done, total)))
    whole = Predictor([Pointwise()], make_configuration(batch=5), PATH)
    np.testing.assert_allclose(logits, whole.logits(image()), atol=1e-6)
    assert predictor.at_once <= room
    assert sum(size > room for size in short.sizes) <= 2  # learned at the first group, then remembered
    assert told[-1][0] == told[-1][1] == 16 + 8
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_where_not_even_one_tile_fits_the_error_says_what_to_do() -> None:
    with pytest.raises(
        AutosegError, match=r"even one tile \(CUDA out of memory\. Tried to allocate 1 GiB\).*--device cpu"
    ):
        Predictor([Short(0)], make_configuration(), PATH).logits(image())


def test_a_batch_that_was_trained_in_parts_is_predicted_in_groups_of_their_size() -> None:
    for parts, at_once in ((1, 5), (2, 3), (5, 1), (9, 1)):
        path = ExecutionPath(device="mps", parts=parts)
        assert Predictor([], make_configuration(batch=5), path).at_once == at_once


def test_sums_on_the_device_are_those_in_memory() -> None:
    """On a CPU, whose memory is both."""
    found = []
    for on_device in (False, True):
        predictor = Predictor([Pointwise()], make_configuration(batch=5), PATH)
        predictor.sums_on_device = on_device
        found.append(predictor.logits(image()))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


@pytest.mark.parametrize("works", [0, 2, 5])
def test_short_of_memory_the_sums_leave_the_device_first_and_no_tile_is_computed_twice(works: int) -> None:
    class ShortOnce(Pointwise):
        """Has room until so many groups are done, and again when something was released."""

        calls, refused = 0, 0

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            if self.calls == works and not self.refused:
                self.refused = 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.calls += 1
            return super().forward(x)

    short = ShortOnce()
    predictor = Predictor([short], make_configuration(batch=3), PATH, mirroring=False)
    predictor.at_once, predictor.sums_on_device = 3, True
    told: list[tuple[int, int]] = []
    logits = predictor.logits(image(), advance=lambda done, total: told.append((done, total)))
    whole = Predictor([Pointwise()], make_configuration(batch=3), PATH, mirroring=False)
    np.testing.assert_allclose(logits, whole.logits(image()), atol=1e-5)
    assert predictor.at_once == 3, "fewer tiles are the last resort"
    assert predictor.sums_on_device is False
    assert short.calls == -(-told[-1][1] // 3)

"""Changes of intensity: what is drawn how often, and what each change keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from scipy import ndimage
from torch import from_numpy

from autoseg.augmentation.intensity import Brightness, Contrast, Gamma, GaussianBlur, GaussianNoise, LowResolution
from tests.augmentation.applying import apply

DRAWS = 4000
LABELS = np.zeros((8, 9, 10), np.int8)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def image(seed: int = 0, channels: int = 2, shape: Sequence[int] = (8, 9, 10)) -> np.ndarray:
    return (generator(seed).normal(3, 2, (channels, *shape)) ** 3 / 10).astype(np.float32)


def draws(transform: Any, shape: Sequence[int] = (2, 8, 9, 10)) -> list[Any]:
    random = generator(7)
    return [
        parameters for parameters in (transform.draw(random, shape) for _ in range(DRAWS)) if parameters is not None
    ]


def assert_frequency(count: int, probability: float, total: int = DRAWS) -> None:
    deviation = (total * probability * (1 - probability)) ** 0.5
    assert abs(count - total * probability) < 4 * deviation, (count / total, probability)


@pytest.mark.parametrize(
    ("transform", "probability"),
    [
        (GaussianNoise(), 0.1),
        (GaussianBlur(), 0.2 * (1 - 0.5**2)),  # of two channels at least one
        (Brightness(), 0.15),
        (Contrast(), 0.15),
        (LowResolution(), 0.25 * (1 - 0.5**2)),  # of two channels at least one
        (Gamma(0.1, invert=True), 0.1),
        (Gamma(0.3, invert=False), 0.3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_transform_acts_as_often_as_in_nnunet(transform: Any, probability: float) -> None:
    assert_frequency(len(draws(transform)), probability)


@pytest.mark.parametrize(
    ("transform", "key", "low", "high"),
    [
        (Brightness(1.0), "factors", 0.75, 1.25),
        (Contrast(1.0), "factors", 0.75, 1.25),
        (Gamma(1.0, invert=False), "gammas", 0.7, 1.5),
    ],
    ids=["Brightness", "Contrast", "Gamma"],
)
def test_factors_lie_below_and_above_one_equally_often_and_evenly_on_each_side(
    transform: Any, key: str, low: float, high: float
) -> None:
    drawn = np.array([parameters[key] for parameters in draws(transform)])
    assert drawn.shape == (DRAWS, 2)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.06  # channels are independent
    values = drawn.ravel()
    assert_frequency(int((values < 1).sum()), 0.5, values.size)
    for below, above, side in ((low, 1.0, values[values < 1]), (1.0, high, values[values >= 1])):
        assert below <= side.min() < below + 0.01
        assert above - 0.01 < side.max() <= above
        assert side.mean() == pytest.approx((below + above) / 2, abs=0.01)


def test_noise_has_its_deviation_and_is_independent_between_channels() -> None:
    deviations = [parameters["deviation"] for parameters in draws(GaussianNoise(1.0))]
    assert 0 <= min(deviations) < 0.001
    assert 0.099 < max(deviations) <= 0.1
    assert np.mean(deviations) == pytest.approx(0.05, abs=0.002)
    before = image(shape=(20, 20, 20))
    after, _ = apply(GaussianNoise(), before, LABELS, {"deviation": 0.08, "seed": 5})
    noise = (after - before).reshape(2, -1)
    assert noise.std(axis=1) == pytest.approx([0.08, 0.08], rel=0.03)
    assert abs(noise.mean()) < 0.003
    assert abs(np.corrcoef(noise)[0, 1]) < 0.05


def test_noise_of_other_samples_is_other_noise() -> None:
    seeds = [parameters["seed"] for parameters in draws(GaussianNoise(1.0))]
    assert len(set(seeds)) == len(seeds)


def test_brightness_multiplies_each_channel_by_its_factor() -> None:
    after, _ = apply(Brightness(), image(), LABELS, {"factors": [0.8, 1.2]})
    np.testing.assert_allclose(after[0], image()[0] * 0.8, rtol=1e-6)
    np.testing.assert_allclose(after[1], image()[1] * 1.2, rtol=1e-6)


def test_contrast_spreads_around_the_mean_and_keeps_the_range() -> None:
    before = image()
    after, _ = apply(Contrast(), before, LABELS, {"factors": [1.25, 0.75]})
    for channel, factor in enumerate((1.25, 0.75)):
        old, new = before[channel].astype(np.float64), after[channel]
        expected = np.clip((old - old.mean()) * factor + old.mean(), old.min(), old.max())
        np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-4)
        assert new.min() >= old.min()
        assert new.max() <= old.max()


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_keeps_mean_deviation_and_order(invert: bool, gamma: float) -> None:
    before = image()
    after, _ = apply(Gamma(1.0, invert=invert), before, LABELS, {"gammas": [gamma, gamma]})
    assert after.dtype == np.float32
    for old, new in zip(before, after, strict=True):
        assert new.mean() == pytest.approx(old.mean(), abs=1e-3)
        assert new.std() == pytest.approx(old.std(), rel=1e-3)
        order = np.argsort(old.ravel(), kind="stable")
        assert (np.diff(new.ravel()[order]) >= -1e-5).all()
    assert np.allclose(after, before, atol=1e-3) == (gamma == 1.0)


def test_gamma_follows_the_power_law_on_range_normalized_values() -> None:
    before = image(channels=1).astype(np.float64)
    for invert, sign in ((False, 1), (True, -1)):
        source = sign * before
        bent = ((source - source.min()) / (source.max() - source.min())) ** 1.4
        expected = sign * ((bent - bent.mean()) / bent.std() * source.std() + source.mean())
        after, _ = apply(Gamma(1.0, invert=invert), before.astype(np.float32), LABELS, {"gammas": [1.4]})
        np.testing.assert_allclose(after, expected, atol=2e-4)


def test_inverted_gamma_is_gamma_of_the_negative() -> None:
    drawn = {"gammas": [0.8, 1.3]}
    inverted, _ = apply(Gamma(1.0, invert=True), image(), LABELS, drawn)
    plain, _ = apply(Gamma(1.0, invert=False), -image(), LABELS, drawn)
    np.testing.assert_array_equal(inverted, -plain)


@pytest.mark.parametrize(
    ("transform", "parameters"),
    [
        (Gamma(1.0, invert=False), {"gammas": [0.7, 1.5]}),
        (Gamma(1.0, invert=True), {"gammas": [0.7, 1.5]}),
        (Contrast(), {"factors": [0.75, 1.25]}),
        (LowResolution(), {"zooms": [0.5, 0.6]}),
        (GaussianBlur(), {"widths": [[0.5, 0.7, 1.0], [1.0, 1.0, 1.0]]}),
    ],
    ids=["gamma", "inverted gamma", "contrast", "low resolution", "blur"],
)
@pytest.mark.parametrize("value", [0.0, -3.5, 1e6])
def test_a_constant_image_stays_as_it_is(transform: Any, parameters: dict, value: float) -> None:
    constant = np.full((2, 8, 9, 10), value, np.float32)
    after, _ = apply(transform, constant, LABELS, parameters)
    np.testing.assert_allclose(after, constant, rtol=1e-6)


def reference_low_resolution(channel: np.ndarray, small: Sequence[int]) -> np.ndarray:
    """Nearest voxels picked by index, then linear interpolation by torch on one axis after another."""
    for axis, size in enumerate(small):
        old = channel.shape[axis]
        nearest = np.floor((np.arange(size) + 0.5) * old / size).astype(int)
        coarse = np.moveaxis(np.take(channel, nearest, axis), axis, -1)
        flat = from_numpy(np.ascontiguousarray(coarse).reshape(-1, 1, size))
        fine = F.interpolate(flat, size=old, mode="linear").numpy()
        channel = np.moveaxis(fine.reshape(*coarse.shape[:-1], old), -1, axis)
    return channel


@pytest.mark.parametrize(
    ("axes", "small"), [(None, (5, 5, 6)), ((1, 2), (8, 5, 6)), ((0,), (5, 9, 10))], ids=["all", "in plane", "first"]
)
def test_low_resolution_takes_nearest_voxels_down_and_lines_up(axes: Any, small: tuple[int, ...]) -> None:
    before = image()
    after, _ = apply(LowResolution(axes=axes), before, LABELS, {"zooms": [None, 0.6]})
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1], reference_low_resolution(before[1], small), atol=1e-4)


def test_low_resolution_leaves_unlisted_axes_as_they_are() -> None:
    along_0 = np.broadcast_to(generator().normal(size=(8, 1, 1)), (8, 9, 10)).astype(np.float32)[None]
    after, _ = apply(LowResolution(axes=(1, 2)), along_0, LABELS, {"zooms": [0.5]})
    np.testing.assert_allclose(after, along_0, atol=1e-6)
    changed, _ = apply(LowResolution(axes=None), along_0, LABELS, {"zooms": [0.5]})
    assert np.abs(changed - along_0).max() > 0.1


def test_low_resolution_draws_zooms_in_their_range_for_half_of_the_channels() -> None:
    drawn = [zoom for parameters in draws(LowResolution(1.0), (4, 8, 8)) for zoom in parameters["zooms"]]
    zooms = [zoom for zoom in drawn if zoom is not None]
    assert 0.5 <= min(zooms) < 0.501
    assert 0.999 < max(zooms) <= 1.0
    assert len(zooms) / (4 * DRAWS) == pytest.approx(0.5, abs=0.02)
    acted = len(draws(LowResolution(1.0), (4, 8, 8)))
    assert_frequency(acted, 1 - 0.5**4)


@pytest.mark.parametrize("shape", [(8, 9), (1, 7, 7), (1, 1)])
def test_low_resolution_works_in_2d_and_on_single_slices(shape: tuple[int, ...]) -> None:
    before = image(channels=1, shape=shape)
    after, _ = apply(LowResolution(), before, np.zeros(shape, np.int8), {"zooms": [0.5]})
    assert after.shape == before.shape
    assert np.isfinite(after).all()
    if shape == (1, 1):
        np.testing.assert_array_equal(after, before)


def test_blur_widths_are_drawn_in_their_range_per_channel_and_axis() -> None:
    drawn = draws(GaussianBlur(1.0), (4, 8, 9, 7))
    assert_frequency(len(drawn), 1 - 0.5**4)
    rows = [widths for parameters in drawn for widths in parameters["widths"] if widths is not None]
    assert_frequency(len(rows), 0.5, 4 * DRAWS)
    widths = np.array(rows)
    assert widths.shape[1] == 3
    assert 0.5 <= widths.min() < 0.501
    assert 0.999 < widths.max() <= 1.0
    assert widths.mean(axis=0) == pytest.approx([0.75] * 3, abs=0.01)
    assert np.abs(np.corrcoef(widths.T) - np.eye(3)).max() < 0.06


@pytest.mark.parametrize("shape", [(12, 9, 11), (15, 14), (2, 9, 8), (1, 7, 7), (3, 4)], ids=str)
def test_blur_is_that_of_scipy(shape: tuple[int, ...]) -> None:
    """Kernels that end after three deviations, images mirrored at the middle of their outermost voxels."""
    before, source = image(channels=3, shape=shape), generator(3)
    widths = [source.uniform(0.5, 1.0, len(shape)).tolist(), None, source.uniform(0.5, 2.0, len(shape)).tolist()]
    after, _ = apply(GaussianBlur(), before, np.zeros(shape, np.int8), {"widths": widths})
    np.testing.assert_array_equal(after[1], before[1])
    for channel in (0, 2):
        exact = before[channel].astype(np.float64)
        expected = ndimage.gaussian_filter(exact, widths[channel], mode="mirror", truncate=3.0)
        np.testing.assert_allclose(after[channel], expected, atol=2e-5)


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "noise": lambda: GaussianNoise(1.0),
    "blur": lambda: GaussianBlur(1.0, 1.0),
    "brightness": lambda: Brightness(1.0),
    "contrast": lambda: Contrast(1.0),
    "low resolution": lambda: LowResolution(1.0, 1.0),
    "gamma": lambda: Gamma(1.0, invert=False),
}


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_intensity_leaves_the_labels_alone(make: Callable[[], Any]) -> None:
    transform, labels = make(), generator().integers(0, 3, (8, 9, 10))
    _, after = apply(transform, image(), labels, transform.draw(generator(), (2, 8, 9, 10)))
    np.testing.assert_array_equal(after, labels)


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_channels_change_independently_of_each_other(make: Callable[[], Any]) -> None:
    """A channel comes out the same whatever the other one holds."""
    transform, one, other = make(), image(0), image(0)
    other[1] = image(9)[1] * 5
    parameters = transform.draw(generator(), (2, 8, 9, 10))
    np.testing.assert_array_equal(
        apply(transform, one, LABELS, parameters)[0][0], apply(transform, other, LABELS, parameters)[0][0]
    )

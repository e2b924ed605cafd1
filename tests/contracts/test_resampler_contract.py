"""What every resampler plug promises: see ``autoseg.volume.resample.Resampler``."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg import plugins
from autoseg.values import ResamplingSpec
from autoseg.volume.resample import Resampler

ISOTROPIC, COARSE = (1.0, 1.0, 1.0), (5.0, 1.0, 1.0)
OLD = (6, 9, 8)
NEW = [(12, 9, 8), (3, 14, 5), (13, 4, 17), (6, 9, 7)]

each = pytest.mark.parametrize(
    "plug",
    [
        pytest.param(
            plugins.load("resampler", name)(ResamplingSpec(resampler=name, separate_axis_order=order)),
            id=f"{name} {order} apart",
        )
        for name in plugins.available("resampler")
        for order in (0, 1)
    ],
)
any_spacing = pytest.mark.parametrize("spacing", [ISOTROPIC, COARSE], ids=["isotropic", "coarse"])


def image(channels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, (channels, *OLD)).astype(np.float32)


def labels() -> np.ndarray:
    return np.random.default_rng(1).choice(np.array([-1, 0, 2, 7], np.int8), OLD)


@each
@any_spacing
@pytest.mark.parametrize("new", NEW)
def test_shapes_types_and_ranges(plug: Resampler, spacing: tuple, new: tuple) -> None:
    resampled = plug.image(image(), new, spacing, ISOTROPIC)
    assert (resampled.shape, resampled.dtype) == ((2, *new), np.float32)
    for channel, source in zip(resampled, image(), strict=True):
        assert channel.min() >= source.min() - 1e-3
        assert channel.max() <= source.max() + 1e-3
    found = plug.labels(labels(), new, spacing, ISOTROPIC)
    assert (found.shape, found.dtype) == (new, np.int8)
    assert set(np.unique(found)) <= set(np.unique(labels()))
    outputs = plug.logits(image(3), new, spacing, ISOTROPIC)
    assert (outputs.shape, outputs.dtype) == ((3, *new), np.float32)


@each
@any_spacing
def test_the_same_grid_changes_nothing(plug: Resampler, spacing: tuple) -> None:
    np.testing.assert_array_equal(plug.image(image(), OLD, spacing, spacing), image())
    np.testing.assert_array_equal(plug.labels(labels(), OLD, spacing, spacing), labels())
    np.testing.assert_array_equal(plug.logits(image(), OLD, spacing, spacing), image())


@each
@any_spacing
def test_constants_stay(plug: Resampler, spacing: tuple) -> None:
    for new in NEW:
        flat = np.full((1, *OLD), 7, np.float32)
        np.testing.assert_allclose(plug.image(flat, new, spacing, ISOTROPIC), 7, rtol=1e-5)
        np.testing.assert_allclose(plug.logits(flat, new, spacing, ISOTROPIC), 7, rtol=1e-5)
        assert (plug.labels(flat[0].astype(np.int8), new, spacing, ISOTROPIC) == 7).all()


@each
@any_spacing
def test_channels_know_nothing_of_each_other(plug: Resampler, spacing: tuple) -> None:
    for resample in (plug.image, plug.logits):
        together = resample(image(), NEW[2], spacing, ISOTROPIC)
        for channel in range(2):
            alone = resample(image()[channel : channel + 1], NEW[2], spacing, ISOTROPIC)
            np.testing.assert_array_equal(together[channel], alone[0])


@each
def test_the_arguments_are_not_changed_and_repetition_gives_the_same(plug: Resampler) -> None:
    given_image, given_labels = image(), labels()
    runs = [
        (
            plug.image(given_image, NEW[1], COARSE, ISOTROPIC),
            plug.labels(given_labels, NEW[1], COARSE, ISOTROPIC),
            plug.logits(given_image, NEW[1], COARSE, ISOTROPIC),
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(given_image, image())
    np.testing.assert_array_equal(given_labels, labels())
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


@each
def test_places_are_kept(plug: Resampler) -> None:
    """A half space stays a half space with its border where it was: no shift by half a voxel."""
    half = np.zeros((8, 8, 8), np.int8)
    half[:, :, 4:] = 1
    for edge in (16, 24, 12):
        found = plug.labels(half, (8, 8, edge), ISOTROPIC, (1.0, 1.0, 8 / edge))
        assert (found[:, :, : edge // 2] == 0).all()
        assert (found[:, :, edge // 2 :] == 1).all()
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 8, 8, 8))
    centre = plug.logits(ramp, (8, 8, 16), ISOTROPIC, (1.0, 1.0, 0.5))[0, 0, 0]
    np.testing.assert_allclose(centre[2:-2], np.arange(16)[2:-2] / 2 - 0.25, atol=1e-5)

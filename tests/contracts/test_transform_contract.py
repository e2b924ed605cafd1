"""What every transform must do: ours, and those of batchgenerators that plug in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from batchgenerators.transforms.color_transforms import BrightnessMultiplicativeTransform, ContrastAugmentationTransform
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform

from autoseg.augmentation.cascade import OnlyImages, RandomMorphology, RemoveComponent
from autoseg.augmentation.contract import (
    AsBatchgenerators,
    FromBatchgenerators,
    Parameters,
    Transform,
    labels_exchanged,
)
from autoseg.augmentation.intensity import Brightness, Contrast, Gamma, GaussianBlur, GaussianNoise, LowResolution
from autoseg.augmentation.spatial import Mask, Mirror, RotateAndScale, WithinPatch

#: Each acts on most of the samples, but not on all of them.
TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "noise": lambda: GaussianNoise(0.8),
    "blur": lambda: GaussianBlur(0.8),
    "brightness": lambda: Brightness(0.8),
    "contrast": lambda: Contrast(0.8),
    "low resolution": lambda: LowResolution(0.8),
    "low resolution in plane": lambda: LowResolution(0.8, axes=(1,)),
    "gamma": lambda: Gamma(0.8, invert=False),
    "inverted gamma": lambda: Gamma(0.8, invert=True),
    "mirror": lambda: Mirror((0, 1)),
    "mirror with sides": lambda: Mirror((0, 1), swap_axis=1, swapped_labels=((1, 2),), label_channels=2),
    "rotation and scaling": lambda: WithinPatch(
        RotateAndScale((30.0,), rotation_probability=0.5, scaling_probability=0.5)
    ),
    "mask": lambda: Mask([0, 1]),
    "mirror with sides, in another": lambda: OnlyImages(Mirror((0, 1), swap_axis=1, swapped_labels=((1, 2),)), 2),
    "images alone": lambda: OnlyImages(Gamma(0.8, invert=False), 2),
    "morphology": lambda: RandomMorphology((-2, -1), 0.8, radius=(1.0, 3.0)),
    "component": lambda: RemoveComponent((-2, -1), 0.9),
    "batchgenerators' noise": lambda: FromBatchgenerators(GaussianNoiseTransform()),
    "batchgenerators' blur": lambda: FromBatchgenerators(GaussianBlurTransform((0.5, 1.0))),
    "batchgenerators' brightness": lambda: FromBatchgenerators(BrightnessMultiplicativeTransform((0.7, 1.3))),
    "batchgenerators' contrast": lambda: FromBatchgenerators(ContrastAugmentationTransform()),
    "batchgenerators' low resolution": lambda: FromBatchgenerators(SimulateLowResolutionTransform()),
    "batchgenerators' mirror": lambda: FromBatchgenerators(MirrorTransform((0, 1))),
}
ALWAYS = {"mask", *(name for name in TRANSFORMS if name.startswith("batchgenerators'"))}
SHAPES = {"2d": (18, 13), "3d": (11, 13, 9), "single slice": (1, 12, 10)}
BATCH = 9
Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(params=TRANSFORMS)
def name(request: pytest.FixtureRequest) -> str:
    """Of a transform."""
    return request.param


@pytest.fixture
def transform(name: str) -> Transform:
    """The transform of that name."""
    return TRANSFORMS[name]()


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """Of a patch."""
    return request.param


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.int8) -> Batch:
    """Two channels of intensities, then one for each of the labels 1 and 2, which lie in blobs; -1 is outside."""
    source = torch.Generator().manual_seed(0)
    images = torch.randn((BATCH, 4, *shape), generator=source) * 2 + 5
    labels = torch.randint(-1, 3, (BATCH, *shape), generator=source).to(dtype)
    images[:, 2], images[:, 3] = labels == 1, labels == 2
    return images, labels


def drawn(transform: Transform, shape: tuple[int, ...]) -> list[Parameters]:
    random = np.random.default_rng(1)
    return [transform.draw(random, (4, *shape)) for _ in range(BATCH)]


def test_parameters_survive_json_and_depend_on_the_generator_alone(transform: Transform, name: str, shape) -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    parameters = drawn(transform, shape)
    assert json.loads(json.dumps(parameters)) == parameters
    assert drawn(TRANSFORMS[name](), shape) == parameters
    transform.apply(*batch(shape), parameters)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    acts = [each is not None for each in parameters]
    assert any(acts)
    assert all(acts) == (name in ALWAYS)


def test_the_same_parameters_give_the_same_batch(transform: Transform, name: str, shape) -> None:
    parameters = drawn(transform, shape)
    first = transform.apply(*batch(shape), parameters)
    again = TRANSFORMS[name]().apply(*batch(shape), json.loads(json.dumps(parameters)))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not (torch.equal(first[0], batch(shape)[0]) and torch.equal(first[1], batch(shape)[1]))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int64], ids=str)
def test_shapes_number_types_and_inputs_stay(transform: Transform, shape, dtype: torch.dtype) -> None:
    images, labels = batch(shape, dtype)
    after = transform.apply(images, labels, drawn(transform, shape))
    assert (after[0].shape, after[0].dtype) == (images.shape, torch.float32)
    assert (after[1].shape, after[1].dtype) == (labels.shape, dtype)
    assert after[0].isfinite().all()
    assert set(after[1].unique().tolist()) <= {-1, 0, 1, 2}
    assert torch.equal(images, batch(shape, dtype)[0])
    assert torch.equal(labels, batch(shape, dtype)[1])


def test_samples_for_which_nothing_was_drawn_stay_as_they_are(transform: Transform, shape) -> None:
    parameters = drawn(transform, shape)
    parameters[::2] = [None] * len(parameters[::2])
    images, labels = batch(shape)
    after = transform.apply(images, labels, parameters)
    assert torch.equal(after[0][::2], images[::2])
    assert torch.equal(after[1][::2], labels[::2])
    nothing = transform.apply(images, labels, [None] * BATCH)
    assert torch.equal(nothing[0], images)
    assert torch.equal(nothing[1], labels)


def test_a_label_that_appears_is_one_that_the_transform_says_it_exchanges(transform: Transform, shape) -> None:
    """So that of a case in which one label was looked for it is known which one that is afterwards."""
    images, labels = batch(shape)
    labels[labels == 2] = 0
    parameters = drawn(transform, shape)
    after = transform.apply(images, labels, parameters)[1]
    for sample, each in zip(after, parameters, strict=True):
        other = {one: two for pair in labels_exchanged(transform, each) for one, two in (pair, pair[::-1])}
        assert {label for label in sample.unique().tolist() if label > 0} == {other.get(1, 1)}


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_a_batch_is_its_samples_one_by_one_to_the_bit(transform: Transform, shape) -> None:
    images, labels = batch(shape)
    parameters = drawn(transform, shape)
    together = transform.apply(images, labels, parameters)
    for sample in range(BATCH):
        one = slice(sample, sample + 1)
        alone = transform.apply(images[one], labels[one], parameters[one])
        assert torch.equal(alone[0][0], together[0][sample])
        assert torch.equal(alone[1][0], together[1][sample])


def test_large_patches_do_not_depend_on_the_number_of_threads(name: str) -> None:
    """Large enough that torch would share the work of a single channel."""
    if "batchgenerators" in name or name in ("morphology", "component"):
        pytest.skip("works on one sample after the other, in one thread")
    source = torch.Generator().manual_seed(0)
    images, labels = torch.randn((1, 4, 37, 41, 43), generator=source), torch.ones((1, 37, 41, 43), dtype=torch.int8)
    transform, random, results = TRANSFORMS[name](), np.random.default_rng(3), []
    parameters = next(each for each in iter(lambda: transform.draw(random, images.shape[1:]), 0) if each is not None)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(transform.apply(images, labels, [parameters])[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("both_ways", [False, True])
def test_labels_that_are_not_quite_whole_are_rounded_in_both_directions(both_ways: bool) -> None:
    """Interpolation in 32 bits leaves 0.9999."""
    step = AsBatchgenerators(
        FromBatchgenerators(AsBatchgenerators(GaussianNoise(1.0))) if both_ways else GaussianNoise(1.0)
    )
    labels = np.array([-1, 0, 1, 2, 300], np.float32)
    nearly = (labels + np.float32([1e-4, -1e-4, -1e-4, 1e-4, -1e-3])).reshape(1, 1, 1, 5)
    found = step(data=np.zeros((1, 1, 1, 5), np.float32), seg=nearly)["seg"]
    np.testing.assert_array_equal(found.ravel(), labels)
    assert found.dtype == np.float32


def test_it_runs_as_a_transform_of_batchgenerators(transform: Transform, shape) -> None:
    images, labels = (tensor.numpy() for tensor in batch(shape))
    step, results = AsBatchgenerators(transform), []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        results.append(step(data=images, seg=labels[:, None].astype(np.float32), keys=["a"] * BATCH))
    np.testing.assert_array_equal(results[0]["data"], results[1]["data"])
    np.testing.assert_array_equal(results[0]["seg"], results[1]["seg"])
    assert results[0]["data"].shape == images.shape
    assert results[0]["seg"].shape == (BATCH, 1, *shape)
    assert results[0]["seg"].dtype == np.float32
    assert results[0]["keys"] == ["a"] * BATCH
    changed = [not np.array_equal(result["data"], images) for result in results]
    assert any(changed)
    np.testing.assert_array_equal(images, batch(shape)[0].numpy())
    np.testing.assert_array_equal(labels, batch(shape)[1].numpy())

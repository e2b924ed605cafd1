"""The bridge to batchgenerators, in both directions, with its real transforms."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform

from autoseg.augmentation.contract import AsBatchgenerators, FromBatchgenerators, Recipe
from autoseg.augmentation.intensity import Brightness, GaussianNoise
from autoseg.augmentation.spatial import Mirror
from tests.augmentation.applying import apply

SHAPE = (8, 9, 10)


def patch() -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(0)
    return source.normal(size=(2, *SHAPE)).astype(np.float32), source.integers(-1, 4, SHAPE).astype(np.int8)


def turning() -> SpatialTransform:
    return SpatialTransform(
        SHAPE,
        do_elastic_deform=False,
        angle_x=(-0.5, 0.5),
        angle_y=(-0.5, 0.5),
        angle_z=(-0.5, 0.5),
        order_data=1,
        order_seg=1,
        border_cval_seg=-1,
        random_crop=False,
    )


FOREIGN: dict[str, Callable[[], AbstractTransform]] = {
    "mirror": lambda: MirrorTransform(axes=(0, 1, 2)),
    "noise": lambda: GaussianNoiseTransform(),
    "spatial": turning,
}
foreign = pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)


@foreign
def test_the_same_parameters_give_the_same_patch_whatever_the_global_state(make: Callable) -> None:
    wrapped, (image, labels) = FromBatchgenerators(make()), patch()
    parameters = wrapped.draw(np.random.default_rng(3), image.shape)
    results = []
    for seed in (0, 1):
        np.random.seed(seed)
        random.seed(seed)
        results.append(apply(wrapped, image, labels, parameters))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@foreign
def test_other_parameters_give_other_patches(make: Callable) -> None:
    wrapped, (image, labels) = FromBatchgenerators(make()), patch()
    source = np.random.default_rng(0)
    results = {apply(wrapped, image, labels, wrapped.draw(source, image.shape))[0].tobytes() for _ in range(10)}
    assert len(results) > 3


@foreign
def test_global_states_and_inputs_are_left_as_they_were(make: Callable) -> None:
    wrapped, (image, labels) = FromBatchgenerators(make()), patch()
    np.random.seed(4)
    random.seed(4)
    before = np.random.get_state()[1].copy(), random.getstate()
    apply(wrapped, image, labels, {"seed": 17})
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(image, patch()[0])
    np.testing.assert_array_equal(labels, patch()[1])


@foreign
def test_shapes_and_number_types_stay_and_labels_are_not_invented(make: Callable) -> None:
    wrapped, (image, labels) = FromBatchgenerators(make()), patch()
    for seed in range(5):
        new_image, new_labels = apply(wrapped, image, labels, {"seed": seed})
        assert (new_image.shape, new_image.dtype) == (image.shape, np.float32)
        assert (new_labels.shape, new_labels.dtype) == (labels.shape, np.int8)
        assert set(np.unique(new_labels)) <= set(np.unique(labels))


def test_it_does_what_the_transform_does_by_itself() -> None:
    image, labels = patch()
    mirrored = FromBatchgenerators(MirrorTransform(axes=(1,)))
    results = [apply(mirrored, image, labels, {"seed": seed}) for seed in range(12)]
    kept = [np.array_equal(new, image) and np.array_equal(segmentation, labels) for new, segmentation in results]
    flipped = [
        np.array_equal(new, image[:, :, ::-1]) and np.array_equal(segmentation, labels[:, ::-1])
        for new, segmentation in results
    ]
    assert all(one != other for one, other in zip(kept, flipped, strict=True))
    assert any(kept)
    assert any(flipped)


def test_a_recipe_takes_transforms_of_both_kinds_in_order() -> None:
    recipe = Recipe(transforms=(GaussianNoise(), MirrorTransform(), Mirror((0,))))
    noise, foreign_mirror, mirror = recipe.steps()
    assert isinstance(noise, GaussianNoise)
    assert isinstance(foreign_mirror, FromBatchgenerators)
    assert isinstance(mirror, Mirror)
    assert Recipe().steps() == ()


class TwoSamples(SlimDataLoaderBase):
    """A loader as users of batchgenerators write it."""

    def generate_train_batch(self) -> dict[str, Any]:
        image, labels = patch()
        return {"data": np.stack([image, image]), "seg": np.stack([labels, labels])[:, None], "keys": ["a", "b"]}


def test_our_transforms_run_in_a_pipeline_of_batchgenerators() -> None:
    pipeline = SingleThreadedAugmenter(
        TwoSamples(None, 2),
        Compose(
            [
                AsBatchgenerators(Brightness(1.0)),
                GaussianNoiseTransform(p_per_sample=0),
                AsBatchgenerators(Mirror((0,))),
            ]
        ),
    )
    image, labels = patch()
    np.random.seed(0)
    flips = []
    for batch in (next(pipeline) for _ in range(8)):
        assert batch["keys"] == ["a", "b"]
        for new_image, new_labels in zip(batch["data"], batch["seg"], strict=True):
            flipped = np.array_equal(new_labels[0], labels[::-1])
            flips.append(flipped)
            assert flipped or np.array_equal(new_labels[0], labels)
            ratio = new_image / (image[:, ::-1] if flipped else image)
            np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1, :1], ratio.shape), rtol=1e-4)
            assert (np.abs(ratio - 1) < 0.26).all()
            assert np.abs(ratio - 1).max() > 1e-3
    assert True in flips
    assert False in flips


def test_our_transforms_draw_from_numpys_global_state_there() -> None:
    step = AsBatchgenerators(GaussianNoise(1.0), label_key="target")
    image, labels = patch()
    batch = {"data": np.stack([image, image]), "target": np.stack([labels, labels])[:, None]}
    results = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        results.append(step(**batch)["data"])
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0][0], results[0][1])
    np.testing.assert_array_equal(batch["data"][0], image)


def test_labels_of_another_form_are_refused_not_dropped() -> None:
    image, labels = patch()
    step = AsBatchgenerators(Mirror((0,)))
    with pytest.raises(ValueError, match=r"seg has the shape \(1, 2, 8, 9, 10\) instead of \(1, 1, 8, 9, 10\)"):
        step(data=image[None], seg=np.stack([labels, labels])[None])

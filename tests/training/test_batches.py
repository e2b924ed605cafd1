"""Batches: the same for an iteration whenever it is made, with patches where they belong."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch._dynamo
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.transforms.abstract_transforms import Compose
from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform
from scipy import ndimage

from autoseg.augmentation import spatial
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.intensity import Brightness, GaussianNoise
from autoseg.augmentation.recipe import default_recipe
from autoseg.augmentation.spatial import RotateAndScale
from autoseg.augmentation.streams import TRAINING, VALIDATION
from autoseg.errors import DamagedCaseError, DocumentError, InputError, UnreadableFileError
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.logs import SilentLogger
from autoseg.networks.memory import BOX, making_bytes
from autoseg.training.batches import PatchLoader
from autoseg.training.crew import prefetched
from autoseg.training.places import forced_samples
from autoseg.training.records import BatchRecord, SampleRecord
from autoseg.training.sources import crop_padded
from autoseg.values import AugmentationSpec, AxisMap, Geometry, PreprocessRecord, decode, digest, encode
from tests.allocator import peak_of
from tests.small_plans import small_network

Shape = tuple[int, int, int]
SHAPE: Shape = (10, 14, 12)
AUGMENTED = default_recipe(AugmentationSpec(rotation_degrees=(30.0, 30.0, 30.0), mirror_axes=(0, 1, 2)))


def add_case(
    store: CaseStore,
    case_id: str,
    segmentation: np.ndarray,
    *,
    image: np.ndarray | None = None,
    locations: Mapping[int, np.ndarray] | None = None,
) -> str:
    """Stores a case; without an image, the channels hold the coordinates of the voxels, counted from 1."""
    shape, key = segmentation.shape, digest([case_id])
    record = PreprocessRecord(
        case_id=case_id,
        key=key,
        source=Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)),
        axes=AxisMap(),
        crop_start=(0, 0, 0),
        crop_shape=shape,
        spacing=(1.0, 1.0, 1.0),
        shape=shape,
        target_spacing=(1.0, 1.0, 1.0),
    )
    if locations is None:
        locations = {label: np.argwhere(segmentation == label) for label in (1, 2) if (segmentation == label).any()}
    store.save(
        StoredCase(
            record=record,
            image=np.indices(shape).astype(np.float32) + 1 if image is None else image.astype(np.float32),
            segmentation=segmentation.astype(np.int8),
            locations=locations,
            reference=np.maximum(segmentation, 0).astype(np.uint8),
        )
    )
    return key


def blocks(shape: Shape = SHAPE) -> np.ndarray:
    """Label 1 in a block, label 2 in one voxel."""
    labels = np.zeros(shape, np.int8)
    labels[: shape[0] // 2, : shape[1] // 2, : shape[2] // 2] = 1
    labels[-1, -1, -1] = 2
    return labels


def make_loader(
    folder: Path,
    cases: Mapping[str, np.ndarray] | None = None,
    *,
    patch: Sequence[int] = (8, 8, 8),
    batch: int = 3,
    recipe: Recipe | None = None,
    seed: int = 0,
    purpose: int = TRAINING,
    share: float = 0.33,
    **options: Any,
) -> PatchLoader:
    store = CaseStore(folder)
    cases = {"one": blocks()} if cases is None else cases
    keys = {case_id: add_case(store, case_id, labels, **options.pop(case_id, {})) for case_id, labels in cases.items()}
    return PatchLoader(
        store,
        keys,
        patch,
        batch,
        foreground_share=share,
        recipe=recipe or Recipe(),
        seed=seed,
        purpose=purpose,
        **options,
    )


def assert_same_batch(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys() == {"data", "seg", "keys", "record"}
    np.testing.assert_array_equal(one["data"], other["data"])
    np.testing.assert_array_equal(one["seg"], other["seg"])
    assert one["keys"] == other["keys"]


@pytest.mark.parametrize(
    ("batch", "forced"), [(2, 1), (3, 1), (4, 1), (5, 2), (9, 3), (12, 4), (32, 11)], ids=lambda value: str(value)
)
def test_a_third_of_a_batch_is_forced_as_in_nnunet(batch: int, forced: int) -> None:
    assert forced_samples(batch, 0.33) == forced


def test_nothing_or_everything_may_be_forced() -> None:
    assert [forced_samples(batch, 0.0) for batch in (1, 2, 7)] == [0, 0, 0]
    assert [forced_samples(batch, 1.0) for batch in (1, 2, 7)] == [1, 2, 7]


@pytest.mark.parametrize("seed", range(6))
def test_a_padded_crop_is_a_slice_of_numpys_padding(seed: int) -> None:
    random = np.random.default_rng(seed)
    array, margin = random.normal(size=(2, 5, 6, 7)), 12
    padded = np.pad(array, [(0, 0), *[(margin, margin)] * 3], constant_values=-1)
    for _ in range(20):
        start, shape = random.integers(-12, 8, 3), random.integers(1, 5, 3)
        box = tuple(slice(low + margin, low + margin + size) for low, size in zip(start, shape, strict=True))
        np.testing.assert_array_equal(crop_padded(array, start, shape, -1), padded[(slice(None), *box)])
        np.testing.assert_array_equal(crop_padded(array[0], start, shape, -1), padded[(0, *box)])


def test_a_padded_crop_is_a_copy_of_the_same_number_type() -> None:
    array = np.arange(12, dtype=np.int8).reshape(3, 4)
    crop = crop_padded(array, (0, 0), (3, 4), 0)
    crop += 1
    assert array[0, 0] == 0
    assert crop.dtype == np.int8


@pytest.mark.parametrize(("patch", "batch"), [((8, 8, 8), 2), ((4, 6, 5), 1), ((8, 6), 5)])
def test_batches_have_the_stated_keys_shapes_and_number_types(tmp_path: Path, patch: tuple, batch: int) -> None:
    loader = make_loader(tmp_path, patch=patch, batch=batch)
    assert isinstance(loader, SlimDataLoaderBase)
    made = next(loader)
    assert made["data"].shape == (batch, 3, *patch)
    assert made["data"].dtype == np.float32
    assert made["seg"].shape == (batch, 1, *patch)
    assert np.issubdtype(made["seg"].dtype, np.integer)
    assert made["keys"] == ["one"] * batch


def test_iterating_goes_through_the_iterations_from_the_first(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, recipe=AUGMENTED)
    iterated = [next(loader) for _ in range(3)]
    for iteration, batch in enumerate(iterated):
        assert_same_batch(batch, loader.batch(iteration))


def test_the_batch_of_an_iteration_is_the_same_in_any_order_and_for_any_loader(tmp_path: Path) -> None:
    cases = {"b": blocks(), "a": blocks((9, 9, 9)), "c": blocks((6, 20, 8))}
    loader = make_loader(tmp_path / "one", cases, recipe=AUGMENTED)
    forward = [loader.batch(iteration) for iteration in range(4)]
    for iteration in reversed(range(4)):
        assert_same_batch(loader.batch(iteration), forward[iteration])
    renamed_order = dict(reversed(cases.items()))
    assert_same_batch(make_loader(tmp_path / "two", renamed_order, recipe=AUGMENTED).batch(2), forward[2])


def test_another_seed_or_purpose_gives_other_patches(tmp_path: Path) -> None:
    loaders = [
        make_loader(tmp_path, seed=0),
        make_loader(tmp_path, seed=1),
        make_loader(tmp_path, purpose=VALIDATION),
    ]
    corners = [tuple(map(tuple, corners_of(loader, 10).tolist())) for loader in loaders]
    assert len(set(corners)) == 3


def test_no_two_samples_of_an_epoch_share_their_chance(tmp_path: Path) -> None:
    flat = {"one": {"image": np.zeros((1, *SHAPE))}}
    loader = make_loader(tmp_path, batch=4, recipe=Recipe(transforms=(GaussianNoise(1.0),)), **flat)
    samples = [image.tobytes() for iteration in range(25) for image in loader.batch(iteration)["data"]]
    assert len(set(samples)) == 100


def test_cases_are_drawn_equally_often(tmp_path: Path) -> None:
    cases = {name: blocks((8, 8, 8)) for name in "abcd"}
    loader = make_loader(tmp_path, cases, batch=8)
    drawn = [case for iteration in range(100) for case in loader.batch(iteration)["keys"]]
    for name in cases:
        assert abs(drawn.count(name) - 200) < 4 * (800 * 0.25 * 0.75) ** 0.5


def corners_of(loader: PatchLoader, iterations: int, *, sample: int | None = None) -> np.ndarray:
    """First voxels of patches that lie within their image, read from the coordinates in the image."""
    rows = []
    for iteration in range(iterations):
        data = loader.batch(iteration)["data"]
        assert (data > 0).all(), "a patch reaches outside of the image"
        first = data[(slice(None), slice(None), *[0] * (data.ndim - 2))] - 1
        rows.extend(first if sample is None else first[sample : sample + 1])
    return np.array(rows).astype(int)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["anywhere", "forced"])
def test_patches_stay_within_an_image_that_is_large_enough(tmp_path: Path, share: float) -> None:
    corners = corners_of(make_loader(tmp_path, share=share), 60)
    assert (corners >= 0).all()
    assert (corners <= np.array(SHAPE) - 8).all()


def test_unforced_patches_lie_everywhere_equally_often(tmp_path: Path) -> None:
    corners = corners_of(make_loader(tmp_path, batch=6, share=0.0), 200)
    for axis, size in enumerate(SHAPE):
        counts = np.bincount(corners[:, axis], minlength=size - 7)
        assert len(counts) == size - 7
        expected = len(corners) / len(counts)
        assert (np.abs(counts - expected) < 4.5 * expected**0.5).all()


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7])
def test_an_image_smaller_than_the_patch_is_centred_in_it(tmp_path: Path, size: int) -> None:
    image = np.random.default_rng(0).uniform(1, 2, (1, size, 10, 8))
    loader = make_loader(tmp_path, {"small": np.ones((size, 10, 8), np.int8)}, small={"image": image})
    missing = 8 - size
    for iteration in range(5):
        batch = loader.batch(iteration)
        for data, labels in zip(batch["data"], batch["seg"], strict=True):
            inside = np.flatnonzero(data[0].any(axis=(1, 2)))
            assert (inside[0], 7 - inside[-1]) in {(missing // 2, missing - missing // 2)}
            assert (data[0][inside] > 0).all()
            assert (labels[0].any(axis=(1, 2)) == data[0].any(axis=(1, 2))).all()


def test_outside_of_the_image_there_is_zero_and_background(tmp_path: Path) -> None:
    small = {"small": np.full((4, 4, 4), 2, np.int8)}
    batch = make_loader(tmp_path, small).batch(0)
    for data, labels in zip(batch["data"], batch["seg"], strict=True):
        outside = np.ones((8, 8, 8), bool)
        outside[2:6, 2:6, 2:6] = False
        assert not data[:, outside].any()
        assert not labels[0][outside].any()
        assert (labels[0][~outside] == 2).all()


@pytest.mark.parametrize("patch", [(4, 4, 4), (3, 5, 4), (4, 6)])
def test_the_last_samples_are_forced_to_hold_foreground(tmp_path: Path, patch: tuple[int, ...]) -> None:
    labels = np.zeros((20, 20, 20), np.int8)
    labels[0, 19, 7] = 1
    loader = make_loader(tmp_path, {"sparse": labels}, patch=patch, batch=6)
    held = np.array(
        [(loader.batch(iteration)["seg"] == 1).any(axis=(1, *range(2, 2 + len(patch)))) for iteration in range(30)]
    )
    assert held[:, 4:].all()
    assert held[:, :4].mean() < 0.1


def test_forced_samples_choose_among_the_classes_not_among_the_voxels(tmp_path: Path) -> None:
    labels = np.zeros((24, 24, 24), np.int8)
    labels[:12] = 1
    labels[23, 23, 23] = 2
    loader = make_loader(tmp_path, {"uneven": labels}, patch=(4, 4, 4), batch=4, share=1.0)
    rare = [bool((sample == 2).any()) for iteration in range(50) for sample in loader.batch(iteration)["seg"]]
    assert abs(sum(rare) - 100) < 4 * 50**0.5


def test_as_nnunet_a_forced_patch_is_centred_on_its_voxel_where_the_image_allows(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.int8)
    labels[10, 9, 11] = 1
    loader = make_loader(tmp_path, {"central": labels}, patch=(5, 4, 6), share=1.0, foreground_place="centre")
    np.testing.assert_array_equal(corners_of(loader, 3), [[10 - 2, 9 - 2, 11 - 3]] * 9)


def test_a_case_without_foreground_can_be_drawn_all_the_same(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, {"empty": np.zeros(SHAPE, np.int8)}, share=1.0)
    assert len({tuple(corner) for corner in corners_of(loader, 20)}) > 10


def test_with_an_ignore_label_every_patch_holds_annotated_voxels(tmp_path: Path) -> None:
    labels = np.full((24, 24, 24), 3, np.int8)  # ignored
    labels[1, 2, 22] = 0
    labels[20, 20, 3] = 1
    annotated = np.argwhere(labels != 3)
    locations = {0: annotated, 1: np.argwhere(labels == 1)}
    loader = make_loader(tmp_path, {"scribbled": labels}, patch=(4, 4, 4), batch=4, scribbled={"locations": locations})
    found = {0: 0, 1: 0}
    for iteration in range(30):
        for position, sample in enumerate(loader.batch(iteration)["seg"]):
            assert (sample != 3).any()
            if position == 3:
                assert (sample == 1).any()
            for label in found:
                found[label] += bool((sample == label).any())
    assert min(found.values()) > 20


def test_flat_patches_are_slices_of_axis_0(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, patch=(6, 5), batch=4)
    slices = set()
    for iteration in range(40):
        batch = loader.batch(iteration)
        for data, labels in zip(batch["data"], batch["seg"], strict=True):
            (index,) = np.unique(data[0])
            slices.add(int(index) - 1)
            rows, columns = data[1].astype(int) - 1, data[2].astype(int) - 1
            np.testing.assert_array_equal(labels[0], blocks()[int(index) - 1, rows, columns])
    assert slices == set(range(SHAPE[0]))


class Fixed:
    """Samples every patch through the same matrix."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    def draw(self, random: np.random.Generator, patch_size: Sequence[int]) -> np.ndarray:
        return self.matrix


def turned(degrees: float, scale: float) -> np.ndarray:
    angle = np.radians(degrees)
    plane = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * np.eye(3)
    matrix[1:, 1:] = plane
    return matrix


@pytest.mark.parametrize(("degrees", "scale"), [(0, 0.7), (0, 1.4), (30, 1.0), (45, 1.4), (-77, 0.9), (180, 1.4)])
@pytest.mark.parametrize("patch", [(8, 8, 8), (5, 9, 6)])
def test_a_turned_patch_reads_all_that_it_covers(
    tmp_path: Path, degrees: float, scale: float, patch: tuple[int, int, int]
) -> None:
    """Sampling from the cropped box equals sampling from the whole image: nothing that is inside was left out."""
    image = np.stack([np.random.default_rng(0).normal(5, 1, SHAPE), np.ones(SHAPE)])
    own, matrix = {"one": {"image": image}}, turned(degrees, scale)
    sampled = make_loader(tmp_path / "a", patch=patch, recipe=Recipe(spatial=Fixed(matrix)), **own)
    for iteration in range(3):
        record = sampled.draw(iteration)
        corners = [np.array(sample.corner) for sample in record.samples]
        for data, corner in zip(sampled.make(record)["data"], corners, strict=True):
            half = (np.array(patch) - 1) / 2
            offset = corner + half - matrix @ half
            for channel in range(2):
                expected = ndimage.affine_transform(
                    image[channel], matrix, offset, patch, order=1, mode="grid-constant", cval=0
                )
                np.testing.assert_allclose(data[channel], expected, atol=2e-4)


def test_a_turned_slice_reads_all_that_it_covers(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(5, 1, (1, *SHAPE))
    matrix, patch = turned(40, 1.3)[1:, 1:], (7, 8)
    sampled = make_loader(
        tmp_path / "a", patch=patch, recipe=Recipe(spatial=Fixed(matrix)), **{"one": {"image": image}}
    )
    half = (np.array(patch) - 1) / 2
    record = sampled.draw(0)
    for data, sample in zip(sampled.make(record)["data"], record.samples, strict=True):
        slice_index, *corner = sample.corner
        offset = np.array(corner) + half - matrix @ half
        expected = ndimage.affine_transform(
            image[0, slice_index], matrix, offset, patch, order=1, mode="grid-constant", cval=0
        )
        np.testing.assert_allclose(data[0], expected, atol=2e-4)


def test_masked_channels_stay_zero_outside_and_others_do_not(tmp_path: Path) -> None:
    labels = np.full(SHAPE, -1, np.int8)
    labels[3:8, 4:10, 3:9] = 0
    labels[4, 5, 5] = 1
    image = np.where(labels >= 0, 5.0, 0.0)[None].repeat(2, axis=0)
    recipe = Recipe(transforms=(GaussianNoise(1.0),))
    # a third channel tells where the voxels come from
    coded = np.concatenate([image, (labels >= 0)[None] * 1e6])
    loader = make_loader(tmp_path, {"cropped": labels}, recipe=recipe, masked_channels=(1,), cropped={"image": coded})
    data = np.concatenate([loader.batch(iteration)["data"] for iteration in range(5)])
    outside = data[:, 2] < 5e5
    assert outside.any()
    assert not data[:, 1][outside].any()
    assert data[:, 1][~outside].all()
    assert data[:, 0][outside].std() > 0.01


def test_what_is_outside_of_the_nonzero_region_is_background_in_the_target(tmp_path: Path) -> None:
    labels = np.full(SHAPE, -1, np.int8)
    labels[5, 7, 6] = 1
    batch = make_loader(tmp_path, {"cropped": labels}, share=1.0).batch(0)
    assert set(np.unique(batch["seg"])) == {0, 1}


def test_transforms_of_batchgenerators_run_in_the_loader(tmp_path: Path) -> None:
    recipe = Recipe(transforms=(GaussianNoiseTransform(), MirrorTransform()))
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = make_loader(tmp_path, recipe=recipe).batch(3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(99)
    assert_same_batch(first, make_loader(tmp_path, recipe=recipe).batch(3))
    assert not np.array_equal(first["data"], make_loader(tmp_path).batch(3)["data"])


def test_the_loader_feeds_a_pipeline_of_batchgenerators(tmp_path: Path) -> None:
    pipeline = SingleThreadedAugmenter(
        make_loader(tmp_path), Compose([MirrorTransform(axes=(0,)), GaussianNoiseTransform()])
    )
    plain = make_loader(tmp_path)
    for iteration in range(3):
        batch, before = next(pipeline), plain.batch(iteration)
        for new, old in zip(batch["seg"], before["seg"], strict=True):
            assert np.array_equal(new, old) or np.array_equal(new, old[:, ::-1])
        assert batch["data"].shape == before["data"].shape


def test_prefetched_batches_are_those_of_the_loader_in_order(tmp_path: Path) -> None:
    loader = make_loader(tmp_path / "a", recipe=AUGMENTED)
    ahead = list(prefetched(make_loader(tmp_path / "b", recipe=AUGMENTED).batch, 2, 8))
    assert len(ahead) == 6
    for iteration, batch in enumerate(ahead, start=2):
        assert_same_batch(batch, loader.batch(iteration))


def test_prefetching_nothing_gives_nothing(tmp_path: Path) -> None:
    assert list(prefetched(make_loader(tmp_path).batch, 5, 5)) == []


class Counting(PatchLoader):
    """Counts the batches that it makes, and fails at one of them."""

    fails_at: int | None = None
    error: Exception = ValueError("broken augmentation")
    made = 0

    def batch(self, iteration: int) -> dict[str, Any]:
        self.made += 1
        if iteration == self.fails_at:
            raise self.error
        return super().batch(iteration)


def counting(folder: Path) -> Counting:
    store = CaseStore(folder)
    keys = {"one": add_case(store, "one", blocks())}
    return Counting(store, keys, (8, 8, 8), 1, foreground_share=0, recipe=Recipe(), seed=0, purpose=TRAINING)


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("autoseg-batches")]


def test_stopping_early_ends_the_thread_and_wastes_few_batches(tmp_path: Path) -> None:
    loader = counting(tmp_path)
    batches = prefetched(loader.batch, 0, 1000, ahead=3)
    next(batches)
    next(batches)
    batches.close()
    assert loader.made <= 2 + 3 + 1
    assert batch_threads() == []


def test_an_error_is_raised_where_its_batch_is_wanted_and_not_before(tmp_path: Path) -> None:
    loader = counting(tmp_path)
    loader.fails_at = 2
    batches = prefetched(loader.batch, 0, 9)
    assert [len(next(batches)["data"]) for _ in range(2)] == [1, 1]
    with pytest.raises(RuntimeError, match="making a training batch failed") as caught:
        next(batches)
    assert caught.value.__cause__ is loader.error
    assert batch_threads() == []


def test_an_error_for_the_user_comes_as_it_is(tmp_path: Path) -> None:
    loader = make_loader(tmp_path)
    (file,) = (tmp_path / f"one-{digest(['one'])[:16]}").glob("image.*")
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="case one: the preprocessed case is missing or damaged"):
        list(prefetched(loader.batch, 0, 3))


@pytest.mark.skipif(os.name != "posix", reason="a limit of open files is POSIX")
def test_more_cases_than_files_may_be_open_can_be_trained_on(tmp_path: Path) -> None:
    """Both loaders of a training draw from all cases; a process that may open few files goes on all the same."""
    import resource

    cases = {f"case_{index:03d}": blocks() for index in range(100)}
    gc.collect()  # what other tests left open
    opened, before = len(os.listdir("/dev/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 4 * (opened + 20)  # a quarter is left to everything else
    assert limit < 3 * 2 * len(cases), "all cases could be open"
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        loaders = [make_loader(tmp_path / name, cases, batch=50) for name in ("training", "held out")]
        seen = {case for iteration in range(10) for loader in loaders for case in loader.batch(iteration)["keys"]}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(seen) > 95


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)], ids=str)
@pytest.mark.parametrize("recipe", [Recipe(), AUGMENTED], ids=["plain", "augmented"])
def test_compressed_cases_give_the_same_batches_as_memory_maps(
    patch: tuple[int, ...], recipe: Recipe, tmp_path: Path
) -> None:
    """Equal to the bit where the image is kept exactly, else within the error that the record states."""
    if len(patch) == 2 and recipe is AUGMENTED:
        recipe = default_recipe(AugmentationSpec(rotation_degrees=(30.0,), mirror_axes=(0, 1)))
    image = np.random.default_rng(0).normal(size=(1, 40, 42, 44))
    loaders = []
    for name, compressed in (("mapped", False), ("compressed", True)):
        store = CaseStore(tmp_path / name, patch_size=patch, compressed=compressed)
        keys = {"exact": add_case(store, "exact", blocks((20, 30, 25)))}
        keys["rounded"] = add_case(store, "rounded", blocks((40, 42, 44)), image=np.repeat(image, 3, 0))
        loaders.append(
            PatchLoader(store, keys, patch, 4, foreground_share=0.33, recipe=recipe, seed=1, purpose=TRAINING)
        )
    assert len(list((tmp_path / "compressed").glob("*/image.chunks"))) == 2
    seen = set()
    for iteration in range(8):
        one, other = (loader.batch(iteration) for loader in loaders)
        np.testing.assert_array_equal(one["seg"], other["seg"])
        assert one["keys"] == other["keys"]
        seen.update(one["keys"])
        for case_id, first, second in zip(one["keys"], one["data"], other["data"], strict=True):
            if case_id == "exact":
                np.testing.assert_array_equal(first, second)
            else:
                # contrast and noise of the recipe multiply the difference by a little
                assert np.abs(first - second).max() <= 2.0**-10 * (1.02 if recipe == Recipe() else 4)
    assert seen == {"exact", "rounded"}


def test_a_case_damaged_in_the_middle_of_a_training_is_made_anew_and_the_batches_stay_the_same(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 40, 42, 44))
    writer = CaseStore(tmp_path, compressed=True)
    keys = {name: add_case(writer, name, blocks((40, 42, 44)), image=image + ord(name)) for name in "ab"}
    asked: list[str] = []

    def rebuild(case_id: str) -> None:
        asked.append(case_id)
        writer.discard(case_id, keys[case_id])
        add_case(writer, case_id, blocks((40, 42, 44)), image=image + ord(case_id))

    def loader(store: CaseStore) -> PatchLoader:
        return PatchLoader(store, keys, (8, 8, 8), 4, foreground_share=0.33, recipe=Recipe(), seed=1, purpose=TRAINING)

    expected = [loader(writer).batch(iteration) for iteration in range(6)]
    running = loader(CaseStore(tmp_path, rebuild=rebuild))
    assert_same_batch(running.batch(0), expected[0])
    (file,) = tmp_path.glob("b-*/image.chunks")
    whole = bytearray(file.read_bytes())
    whole[: 3 * len(whole) // 4] = bytes(3 * len(whole) // 4)
    with file.open("r+b") as stream:  # in place: the running training has it mapped
        stream.write(whole)
    for iteration in range(6):
        assert_same_batch(running.batch(iteration), expected[iteration])
    assert asked == ["b"]
    (file,) = tmp_path.glob("b-*/image.chunks")
    file.write_bytes(bytes(len(whole)))
    with pytest.raises(InputError, match=r"case b: the preprocessed case is missing or damaged: .*Repeat the command"):
        [loader(writer).batch(iteration) for iteration in range(6)]


def test_a_record_makes_the_same_batch_after_json(tmp_path: Path) -> None:
    cases = {"a": blocks(), "b": blocks((9, 16, 8))}
    recipe = Recipe(spatial=AUGMENTED.spatial, transforms=(*AUGMENTED.transforms, GaussianNoiseTransform()))
    loader = make_loader(tmp_path / "one", cases, batch=6, recipe=recipe, masked_channels=(1,))
    other = make_loader(tmp_path / "two", cases, batch=6, recipe=recipe, masked_channels=(1,), seed=9)
    turned = 0
    for iteration in range(6):
        record = loader.draw(iteration)
        again = decode(BatchRecord, encode(record))
        assert again == record
        assert_same_batch(other.make(again), loader.batch(iteration))
        turned += sum(sample.matrix is not None for sample in record.samples)
    assert 0 < turned < 36


def test_drawing_reads_no_voxels(tmp_path: Path) -> None:
    store = CaseStore(tmp_path, compressed=True)
    image = np.random.default_rng(0).normal(size=(1, 40, 42, 44))
    keys = {"one": add_case(store, "one", blocks((40, 42, 44)), image=image)}
    loader = PatchLoader(store, keys, (8, 8, 8), 4, foreground_share=1.0, recipe=AUGMENTED, seed=1, purpose=TRAINING)
    expected = loader.draw(0)
    for name in ("image", "segmentation"):
        (file,) = tmp_path.glob(f"*/{name}.chunks")
        whole = bytearray(file.read_bytes())
        whole[: len(whole) // 2] = bytes(len(whole) // 2)
        file.write_bytes(whole)
    assert loader.draw(0) == expected
    with pytest.raises(InputError, match="is not as it was written"):
        loader.make(expected)


def test_records_of_other_content_or_another_recipe_are_refused(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, recipe=AUGMENTED)
    record = loader.draw(0)
    strange = msgspec.structs.replace(record.samples[0], key="0" * 64)
    with pytest.raises(InputError, match="case one: the record of a batch goes with another content of its case"):
        loader.make(msgspec.structs.replace(record, samples=(strange,)))
    with pytest.raises(InputError, match="goes with another recipe; found 8 steps, expected 0 steps"):
        make_loader(tmp_path).make(record)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"patch_size": (8, 8, 8, 8)}, "a patch has two or three edges"),
        ({"patch_size": (8, 0, 8)}, "edges of a patch are over 0"),
        ({"patch_size": (8, 8)}, "a matrix has as many rows and columns"),
        ({"samples": ()}, "a batch has a sample"),
        ({"matrix": ()}, "a matrix has as many rows and columns"),
        ({"matrix": ((1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "a matrix has as many rows and columns"),
    ],
)
def test_records_that_are_none_are_refused_when_they_are_read(changes: dict[str, Any], what: str) -> None:
    whole = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    sample = {"case": "a", "key": "k", "corner": (0, 0, 0), "matrix": whole, "parameters": ()}
    document = {"schema": "autoseg.batch/1", "iteration": 0, "patch_size": (8, 8, 8), "samples": [sample]}
    assert decode(BatchRecord, msgspec.json.encode(document)).samples[0].matrix == whole
    sample.update({name: value for name, value in changes.items() if name in sample})
    document.update({name: value for name, value in changes.items() if name in document})
    with pytest.raises(DocumentError, match=what):
        decode(BatchRecord, msgspec.json.encode(document))


def test_no_two_samples_of_an_epoch_share_their_draws(tmp_path: Path) -> None:
    """Whatever iteration, place in the batch, purpose or seed: every seed of noise is another, and no draw is correlated."""
    recipe = Recipe(
        spatial=RotateAndScale((30.0, 30.0, 30.0), rotation_probability=1.0),
        transforms=(GaussianNoise(1.0), Brightness(1.0), GaussianNoise(1.0)),
    )
    cases = {name: blocks((40, 40, 40)) for name in "abc"}
    seeds, draws = [], []
    for name, seed, purpose in (("a", 0, TRAINING), ("b", 0, VALIDATION), ("c", 1, TRAINING)):
        loader = make_loader(tmp_path / name, cases, recipe=recipe, seed=seed, purpose=purpose)
        for iteration in range(250):
            for sample in loader.draw(iteration).samples:
                first, brightness, second = sample.parameters
                seeds += [first["seed"], second["seed"]]
                draws.append([first["deviation"], brightness["factors"][0], sample.matrix[0][1], *sample.corner])
    assert len(set(seeds)) == len(seeds) == 3 * 250 * 3 * 2
    values = np.array(draws)
    assert len({tuple(row) for row in values[:, :3].tolist()}) == len(values)
    for lag in (1, 2, 3, 9, 750, 1500):  # neighbours in a batch, of iterations, purposes and seeds
        for column in values.T:
            assert abs(np.corrcoef(column[:-lag], column[lag:])[0, 1]) < 4 / np.sqrt(len(column) - lag)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_threads_gives_the_same_batches_in_order(tmp_path: Path, workers: int) -> None:
    cases = {"a": blocks((20, 24, 22)), "b": blocks((9, 16, 8))}
    recipe = Recipe(spatial=AUGMENTED.spatial, transforms=(*AUGMENTED.transforms, GaussianNoiseTransform()))
    loader = make_loader(tmp_path, cases, patch=(16, 16, 16), recipe=recipe)
    before = torch.get_num_threads()
    batches = list(prefetched(loader.batch, 3, 15, workers=workers))
    assert torch.get_num_threads() == before
    assert len(batches) == 12
    for iteration, batch in enumerate(batches, start=3):
        assert_same_batch(batch, loader.batch(iteration))
    prepared = list(prefetched(loader.prepare, 3, 6, workers=workers))
    prepared += [loader.prepare(iteration, largest_box=2) for iteration in range(6, 15)]
    assert {len(source.boxes) for source in prepared} > {0, 1}
    for batch, source in zip(batches, prepared, strict=True):
        assert all(box.labels.numel() <= 2 * 16**3 for box in source.boxes.values() if source.record.iteration > 5)
        finished = loader.finish(source)
        assert_same_batch({**batch}, {**finished, "data": finished["data"].numpy(), "seg": finished["seg"].numpy()})


@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 16)], ids=str)
def test_nothing_is_read_back_while_a_batch_is_made_on_a_device(tmp_path: Path, patch: tuple[int, ...]) -> None:
    """On the device "meta" tensors have no numbers: whoever looks at one, or mixes it with the CPU's, fails."""
    degrees = (30.0,) * 3 if len(patch) == 3 else (180.0,)
    spec = AugmentationSpec(rotation_degrees=degrees, mirror_axes=(0, 1), swap_axis=1, swapped_labels=((1, 2),))
    recipe = default_recipe(spec)
    quiet = [step for step in recipe.transforms if not isinstance(step, GaussianNoise)]  # meta has no generator
    for step in (recipe.spatial, *quiet):
        for name in ("probability", "channel_probability", "scaling_probability"):
            if hasattr(step, name):
                setattr(step, name, 1.0)
    cases = {"a": blocks((20, 24, 22)), "b": blocks((9, 16, 8))}
    recipe = Recipe(spatial=recipe.spatial, transforms=quiet)
    loader = make_loader(tmp_path, cases, patch=patch, recipe=recipe, masked_channels=(1,))
    batch = loader.finish(loader.prepare(0), "meta")
    assert batch["data"].is_meta
    assert batch["seg"].is_meta
    assert batch["data"].shape == (3, 3, *patch)
    assert batch["seg"].shape == (3, 1, *patch)


@pytest.mark.parametrize(
    ("patch", "batch", "channels"),
    [((24, 24, 24), 2, 1), ((16, 20, 24), 2, 4), ((40, 40), 12, 1), ((48, 40), 1, 3)],
    ids=str,
)
@pytest.mark.parametrize("during", [lambda work: work, torch._dynamo.run], ids=["alone", "while a network compiles"])
def test_a_batch_takes_no_more_memory_on_a_gpu_than_is_planned(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patch: tuple[int, ...],
    batch: int,
    channels: int,
    during: Callable[[Callable[[], object]], Callable[[], object]],
) -> None:
    """All that can happen to it does. What torch really takes here, and the largest box, which is here already.

    While torch compiles, and ever after a failure of it, Python keeps the arguments of all calls until they return.
    """
    monkeypatch.setattr(spatial, "TOGETHER", 1)  # as on a GPU
    dimensions = len(patch)
    recipe = default_recipe(
        AugmentationSpec(rotation_degrees=(30.0,) * 3 if dimensions == 3 else (180.0,), mirror_axes=(0, 1))
    )
    for step in (recipe.spatial, *recipe.transforms):
        for name in ("probability", "channel_probability", "rotation_probability", "scaling_probability"):
            if hasattr(step, name):
                setattr(step, name, 1.0)
    image = np.random.default_rng(0).normal(size=(channels, 60, 60, 60))
    loader = make_loader(
        tmp_path, {"one": blocks((60, 60, 60))}, patch=patch, batch=batch, recipe=recipe, one={"image": image}
    )
    spec = small_network(dimensions, inputs=channels)
    planned, most = making_bytes(spec, patch, batch), 0
    for iteration in range(8):
        sources = loader.prepare(iteration, BOX[dimensions])
        boxes = [box.image.nbytes + box.labels.nbytes for box in sources.boxes.values()]
        sampling = peak_of(during(sources.sampled)) + max(boxes, default=0)
        most = max(most, sampling, peak_of(during(lambda sources=sources: loader.finish(sources))))
    assert 0.5 * planned < most < planned


class Kept(SilentLogger):
    """Remembers the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))


@pytest.mark.parametrize("when", ["before", "while it is trained on"])
def test_a_bad_case_costs_one_case(tmp_path: Path, when: str) -> None:
    """The samples of the other cases stay as they were; it is named once; a second loader comes to the same batches."""
    names = "abcdefgh"
    image = np.random.default_rng(0).normal(size=(1, 20, 22, 24))
    store = CaseStore(tmp_path, compressed=True)
    keys = {name: add_case(store, name, blocks((20, 22, 24)), image=image + ord(name)) for name in names}
    asked: list[str] = []

    def rebuild(case_id: str) -> None:
        asked.append(case_id)
        raise UnreadableFileError("the file is truncated", case=case_id)

    def loader(logger: Kept) -> PatchLoader:
        cases = CaseStore(tmp_path, rebuild=rebuild)
        options = {"foreground_share": 0.33, "recipe": AUGMENTED, "seed": 1, "purpose": TRAINING, "logger": logger}
        return PatchLoader(cases, keys, (8, 8, 8), 4, **options)

    healthy = loader(Kept())
    expected = [healthy.batch(iteration) for iteration in range(10)]
    assert healthy.skipped == ()
    logger = Kept()
    running = loader(logger)
    if when != "before":
        running._opened("d")
    (file,) = tmp_path.glob("d-*/image.chunks")
    whole = bytearray(file.read_bytes())
    with file.open("r+b") as stream:
        stream.write(bytes(len(whole) if when != "before" else 16))
    if when == "before":
        file.write_bytes(b"short")
    batches = list(prefetched(running.batch, 0, 10, workers=2))
    assert running.skipped == ("d",)
    assert asked == ["d"]
    assert [fields["case"] for kind, fields in logger.events if kind == "case_skipped"] == ["d"]
    (text,) = (fields["text"] for kind, fields in logger.events if kind == "message")
    assert text.startswith("warning: case d is left out of the training")
    assert "the file is truncated" in text
    replaced = 0
    for batch, old in zip(batches, expected, strict=True):
        for sample, case in enumerate(old["keys"]):
            assert batch["keys"][sample] != "d"
            if case == "d":
                replaced += 1
            else:
                assert batch["keys"][sample] == case
                np.testing.assert_array_equal(batch["data"][sample], old["data"][sample])
    assert replaced > 0
    for batch, again in zip(batches, map(loader(Kept()).batch, range(10)), strict=True):
        assert_same_batch(batch, again)


class PartlyDamaged(PatchLoader):
    """Of one case, what begins in its first half cannot be read; of all, some batches take long to make."""

    sick = "d"
    slow: Collection[int] = ()

    def batch(self, iteration: int) -> dict[str, Any]:
        time.sleep(0.05 if iteration in self.slow else 0)
        return super().batch(iteration)

    def _crop(self, sample: SampleRecord, patch_size: tuple[int, ...]) -> Any:
        if sample.case == self.sick and sample.corner[0] < 4:
            raise DamagedCaseError(self.sick, "its first chunk is not as it was written", file=self._store.folder)
        return super()._crop(sample, patch_size)


@pytest.mark.parametrize("begin", [0, 3, 8])
@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_left_out_follows_from_what_could_not_be_read_before_and_not_from_threads_or_stops(
    tmp_path: Path, begin: int, workers: int
) -> None:
    """A case is found damaged in part of it only; from the next batch on it is not drawn at all."""
    store = CaseStore(tmp_path)
    keys = {name: add_case(store, name, blocks((14, 14, 14))) for name in "abcdefg"}

    def loader(**options: Any) -> PartlyDamaged:
        options |= {"foreground_share": 0.33, "recipe": Recipe(), "seed": 6, "purpose": TRAINING}
        return PartlyDamaged(store, keys, (8, 8, 8), 4, **options)

    calm = loader()
    expected = [calm.batch(iteration) for iteration in range(16)]
    (found,) = calm.skipped_before(16).values()
    used = [index for index, batch in enumerate(expected) if "d" in batch["keys"]]
    assert used
    assert max(used) <= found < 14
    hasty = loader(skipped=calm.skipped_before(begin))
    hasty.slow = range(found + 1) if workers > 1 else ()
    batches = hasty.settled(prefetched(hasty.batch, begin, 16, ahead=8, workers=workers), hasty.batch)
    for iteration, batch in enumerate(batches, start=begin):
        assert_same_batch(batch, expected[iteration])
    assert hasty.skipped_before(16) == calm.skipped_before(16)
    assert hasty.skipped_before(found) == {}


def test_more_bad_cases_than_a_fifth_end_the_training(tmp_path: Path) -> None:
    store = CaseStore(tmp_path, compressed=False)
    keys = {name: add_case(store, name, blocks()) for name in "abcdefgh"}
    for name in "df":
        (file,) = tmp_path.glob(f"{name}-*/image.npy")
        file.write_bytes(b"damaged")
    loader = PatchLoader(store, keys, (8, 8, 8), 4, foreground_share=0.33, recipe=Recipe(), seed=1, purpose=TRAINING)
    with pytest.raises(InputError, match="too many of the preprocessed cases cannot be read; found 2 of 8: d, f"):
        list(prefetched(loader.batch, 0, 20, workers=2))
    with pytest.raises(InputError, match="found 2 of 8: d, f"):
        loader.batch(100)


@pytest.mark.parametrize("patch", [(8, 8, 8), (9, 8)], ids=str)
def test_what_an_earlier_stage_predicted_is_turned_as_the_labels_are(tmp_path: Path, patch: Sequence[int]) -> None:
    """Channels that say what the labels say still do after rotation and scaling; linear ones would be numbers between."""
    labels = np.zeros(SHAPE, np.int8)
    labels[2:6, 2:9, 2:7], labels[6:8, 9:12, 5:10] = 1, 2  # not at the border, where a label map ends and an image is 0
    image = np.stack([np.indices(SHAPE)[0], labels == 1, labels == 2])
    turning = RotateAndScale((30.0,), rotation_probability=1.0, scaling_probability=1.0)
    recipe = Recipe(spatial=turning, label_channels=2)
    loader = make_loader(tmp_path, {"one": labels}, one={"image": image}, patch=patch, recipe=recipe)
    seen = 0
    for iteration in range(4):
        batch = loader.batch(iteration)
        for label in (1, 2):
            np.testing.assert_array_equal(batch["data"][:, label], batch["seg"][:, 0] == label)
            seen += int((batch["seg"] == label).sum())
    assert seen > 100

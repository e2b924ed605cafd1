"""The tape: what lives when, in cases small enough to count by hand."""

from __future__ import annotations

import pytest

from autoseg.networks.tape import Backend, Tape

#: One channel of 4 x 4 x 4 voxels in float32.
MAP = 4 * 64
ONES, KERNEL = (1, 1, 1), (3, 3, 3)


def tape(*, training: bool = True) -> Tape:
    return Tape(Backend(device="cuda"), 1, training=training)


def test_what_the_backward_pass_needs_stays() -> None:
    """Convolution and norm: the image, the convolution's result, and the norm's, which the activation takes over."""
    walk = tape()
    image = walk.input(1, (4, 4, 4))
    convolved = walk.convolution(image, 2, KERNEL, ONES)
    active = walk.activation(walk.norm(convolved))
    walk.release(convolved, active)
    assert walk.live == MAP + 2 * MAP + 2 * MAP


def test_prediction_lets_go_of_what_has_no_more_use() -> None:
    walk = tape(training=False)
    image = walk.input(1, (4, 4, 4))
    convolved = walk.convolution(image, 2, KERNEL, ONES)
    active = walk.activation(walk.norm(convolved))
    walk.release(convolved)
    assert walk.live == MAP + 2 * MAP
    walk.release(active)
    assert walk.live == MAP


def test_after_the_backward_pass_only_image_logits_and_gradients_of_weights_live() -> None:
    walk = tape()
    image = walk.input(1, (4, 4, 4))
    convolved = walk.convolution(image, 2, KERNEL, ONES)
    active = walk.activation(walk.norm(convolved))
    walk.release(convolved)
    walk.output(walk.convolution(active, 3, ONES, ONES))
    walk.release(active)
    walk.loss()
    walk.backward()
    weights = 27 * 2 + 2 * 3
    assert walk.live == MAP + 3 * MAP + 4 * weights
    assert walk.parameters == weights + 2 + 3 + 2 * 2


def test_a_sum_in_place_takes_no_memory_and_its_gradient_is_shared() -> None:
    walk = tape()
    image = walk.input(2, (4, 4, 4))
    one, other = (walk.convolution(image, 2, KERNEL, ONES) for _ in range(2))
    before = walk.live
    total = walk.add(one, other)
    assert walk.live == before
    walk.output(total)
    walk.loss()
    before = walk.live
    walk.backward()
    assert walk.live == before - 2 * MAP + 2 * 4 * 27 * 4  # gradients of weights came, that of the sum went


def test_joined_maps_are_a_copy_and_share_one_gradient_until_both_have_used_it() -> None:
    walk = tape()
    image = walk.input(1, (4, 4, 4))
    one, other = (walk.norm(walk.convolution(image, 2, KERNEL, ONES)) for _ in range(2))
    before = walk.live
    joined = walk.concatenate(one, other)
    assert (joined.channels, joined.shape) == (4, (4, 4, 4))
    assert walk.live == before + 4 * MAP
    walk.release(one, other)
    assert walk.live == before  # neither norm nor concatenation saves its result


def test_strides_and_transposed_convolutions_change_the_grid() -> None:
    walk = tape()
    image = walk.input(1, (4, 5, 6))
    coarse = walk.convolution(image, 2, KERNEL, (1, 2, 2))
    assert coarse.shape == (4, 3, 3)
    assert walk.transposed_convolution(coarse, 1, (1, 2, 2)).shape == (4, 6, 6)
    assert walk.mean_pool(image, (2, 1, 3)).shape == (2, 5, 2)


@pytest.mark.parametrize("training", [True, False])
def test_16_bits_halve_feature_maps_but_not_the_image(training: bool) -> None:
    lives = []
    for precision in ("fp32", "bf16"):
        walk = Tape(Backend(device="cuda", precision=precision), 3, training=training)
        image = walk.input(1, (4, 4, 4))
        before = walk.live
        walk.norm(walk.convolution(image, 2, ONES, ONES))
        lives.append(walk.live - before)
    weights = 2 * 2  # their copies in 16 bits
    assert lives == [3 * 4 * MAP, 3 * 2 * MAP + weights]


def test_arithmetic_is_counted_per_result_and_for_all_samples() -> None:
    walk = Tape(Backend(), 5, training=False)
    image = walk.input(2, (4, 4, 4))
    coarse = walk.convolution(image, 3, KERNEL, (2, 2, 2))
    walk.transposed_convolution(coarse, 1, (2, 2, 2))
    assert walk.multiply_adds == 5 * (27 * 2 * 3 * 8 + 8 * 3 * 1 * 8)

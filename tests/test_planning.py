"""The budget that a planner is given, and the user's wishes in it: what they are without a word, and what is refused."""

from __future__ import annotations

import json

import pytest

from autoseg.errors import DocumentError, InputError
from autoseg.planning import GIBIBYTE, Budget, Wishes
from autoseg.values import decode, encode


def test_without_a_word_it_is_8_gibibytes_on_a_cpu_for_all_configurations() -> None:
    budget = Budget()
    assert (budget.memory_bytes, budget.device, budget.configurations) == (8 * 2**30, "cpu", ())


@pytest.mark.parametrize("memory", [1, GIBIBYTE, 10**15])
def test_any_memory_is_taken(memory: int) -> None:
    """What is too small for a network is refused by the planner, who knows what would do."""
    assert Budget(memory_bytes=memory).memory_bytes == memory


@pytest.mark.parametrize("memory", [0, -GIBIBYTE])
def test_no_memory_is_refused(memory: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Budget(memory_bytes=memory)


def test_it_survives_its_json_form() -> None:
    wishes = Wishes(
        patch_sizes=(("", (64, 64)), ("3d_fullres", (8, 16, 16))),
        batch_sizes=(("2d", 3),),
        spacing=(1.0, 2.0, 3.0),
        normalization=(("CT", "zscore"),),
    )
    budget = Budget(memory_bytes=3 * GIBIBYTE, device="mps", configurations=("2d",), seed=7, wishes=wishes)
    assert decode(Budget, encode(budget)) == budget


def test_the_patch_of_a_configuration_is_wished_by_name_or_by_its_number_of_axes() -> None:
    wishes = Wishes(patch_sizes=(("", (64, 64)), ("", (8, 8, 8)), ("3d_lowres", (9, 9, 9))))
    assert wishes.patch_size("2d", 2) == (64, 64)
    assert wishes.patch_size("3d_fullres", 3) == (8, 8, 8)
    assert wishes.patch_size("3d_lowres", 3) == (9, 9, 9)
    assert Wishes().patch_size("2d", 2) == ()


def test_a_wish_for_a_configuration_wins_over_one_for_all_and_a_later_one_over_an_earlier() -> None:
    wishes = Wishes(
        patch_sizes=(("2d", (64, 64)), ("", (32, 32))),
        batch_sizes=(("", 2), ("2d", 3), ("3d_lowres", 4), ("3d_lowres", 5)),
    )
    assert wishes.patch_size("2d", 2) == (64, 64)
    assert wishes.patch_size("other", 2) == (32, 32)
    sizes = [wishes.batch_size(name) for name in ("2d", "3d_fullres", "3d_lowres")]
    assert sizes == [3, 2, 5]
    assert Wishes().batch_size("2d") is None


def test_a_patch_with_another_number_of_axes_than_its_configuration_is_refused() -> None:
    with pytest.raises(InputError, match="2d has patches of 2 axes; found 8 x 8 x 8"):
        Wishes(patch_sizes=(("2d", (8, 8, 8)),)).patch_size("2d", 2)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"patch_sizes": (("", (64,)),)}, "2 or 3 numbers, not 1"),
        ({"patch_sizes": (("", (0, 64)),)}, "within 1..16384"),
        ({"patch_sizes": (("", (64, 2**14 + 1)),)}, "within 1..16384"),
        ({"batch_sizes": (("", 0),)}, "within 1..65536"),
        ({"batch_sizes": (("2d", 2**16 + 1),)}, "within 1..65536"),
        ({"spacing": (1.0,)}, "3 numbers, not 1"),
        ({"spacing": (1.0, 0.0, 1.0)}, "within 0.0001..10000 mm"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "within 0.0001..10000 mm"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(wish: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wishes(**wish)


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", "tpu"), ("memory_bytes", 0), ("memory_bytes", "8 GiB"), ("configurations", "2d"), ("surprise", 1)],
)
def test_a_document_that_is_no_budget_is_refused(field: str, value: object) -> None:
    with pytest.raises(DocumentError):
        decode(Budget, json.dumps({**json.loads(encode(Budget())), field: value}))

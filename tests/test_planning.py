"""The budget that a planner is given: what it is without a word, and what is refused."""

from __future__ import annotations

import json

import pytest

from autoseg.errors import DocumentError
from autoseg.planning import GIBIBYTE, Budget
from autoseg.values import decode, encode


def test_without_a_word_it_is_8_gibibytes_on_a_cpu_for_all_configurations() -> None:
    budget = Budget()
    assert (budget.memory_bytes, budget.device, budget.configurations) == (8 * 2**30, "cpu", ())


@pytest.mark.parametrize("memory", [GIBIBYTE, GIBIBYTE + 1, 10**15])
def test_a_gibibyte_or_more_is_taken(memory: int) -> None:
    assert Budget(memory_bytes=memory).memory_bytes == memory


@pytest.mark.parametrize("memory", [GIBIBYTE - 1, 8, 0, -GIBIBYTE])
def test_less_than_a_gibibyte_is_refused(memory: int) -> None:
    """Whoever says 8 and means GiB hears of it."""
    with pytest.raises(ValueError, match="at least 1 GiB"):
        Budget(memory_bytes=memory)


def test_it_survives_its_json_form() -> None:
    budget = Budget(memory_bytes=3 * GIBIBYTE, device="mps", configurations=("2d",), seed=7)
    assert decode(Budget, encode(budget)) == budget


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", "tpu"), ("memory_bytes", 1), ("memory_bytes", "8 GiB"), ("configurations", "2d"), ("surprise", 1)],
)
def test_a_document_that_is_no_budget_is_refused(field: str, value: object) -> None:
    with pytest.raises(DocumentError):
        decode(Budget, json.dumps({**json.loads(encode(Budget())), field: value}))

"""The socket that planners plug into: Fingerprint + Budget + cost -> Plan.

A planner is any object with ``plan``; it sees only values and never the network library. The package ``planners`` holds
the built-in ones; another is a class with an entry point in the group ``autoseg.planner``, or ``module:name``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from autoseg.values import Fingerprint, NetworkSpec, Plan
from autoseg.values.json_form import Value, require

__all__ = ["GIBIBYTE", "Budget", "MemoryCost", "Planner"]

GIBIBYTE = 2**30


class Budget(Value, frozen=True, kw_only=True):
    """What a plan may use.

    Attributes:
        memory_bytes: memory of the training device.
        device: that trains; a CPU gets a shorter training by default.
        configurations: wanted ones; empty for all that make sense.
        seed: for everything random in the experiment.
    """

    memory_bytes: int = 8 * GIBIBYTE
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    configurations: tuple[str, ...] = ()
    seed: int = 12345

    def __post_init__(self) -> None:
        require(self.memory_bytes >= GIBIBYTE, "the budget must be at least 1 GiB")


class MemoryCost(Protocol):
    """Predicts the peak memory in bytes of one training step."""

    def __call__(self, network: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> int:
        """Bytes for a batch of patches of that size."""
        ...


class Planner(Protocol):
    """Decides everything about an experiment before it starts.

    A planner may have an attribute ``default_memory_bytes``: what it plans for unless told otherwise, instead of what the
    device has free.
    """

    def plan(self, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, *, name: str) -> Plan:
        """A plan called ``name`` whose configurations keep within the budget.

        Raises:
            InputError: no configuration that was asked for makes sense for this data.
        """
        ...

"""The socket that planners plug into: Fingerprint + Budget + cost -> Plan.

A planner is any object with ``plan``; it sees only values and never the network library. The package ``planners`` holds
the built-in ones; another is a class with an entry point in the group ``autoseg.planner``, or ``module:name``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from autoseg.errors import InputError
from autoseg.values import Fingerprint, NetworkSpec, Plan, TrainingSpec
from autoseg.values.adoption import Template
from autoseg.values.json_form import Value, require

__all__ = ["GIBIBYTE", "Budget", "MemoryCost", "Planner", "Wishes"]

GIBIBYTE = 2**30


class Wishes(Value, frozen=True, kw_only=True):
    """What the user wants otherwise than a planner would choose.

    Attributes:
        patch_sizes: pairs of a configuration and its patch in voxels, per axis in the plan's axis order; an empty name
            means every other configuration with that many axes. Of equal names the later pair wins.
        batch_sizes: pairs of a configuration, or an empty name for all others, and its batch.
        spacing: of full resolution in millimetres, per axis in the plan's axis order; empty for the planner's choice. 2D
            images may have two numbers.
        normalization: pairs of a channel and its normalizer plug.
    """

    patch_sizes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    batch_sizes: tuple[tuple[str, int], ...] = ()
    spacing: tuple[float, ...] = ()
    normalization: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for _, size in self.patch_sizes:
            require(len(size) in (2, 3), f"a patch size has 2 or 3 numbers, not {len(size)}")
            require(all(0 < edge <= 2**14 for edge in size), f"patch sizes must be within 1..16384, not {size}")
        require(all(0 < size <= 2**16 for _, size in self.batch_sizes), "batch sizes must be within 1..65536")
        require(len(self.spacing) in (0, 2, 3), f"a spacing has 3 numbers, not {len(self.spacing)}")
        require(all(1e-4 <= step <= 1e4 for step in self.spacing), "spacing must be within 0.0001..10000 mm")

    def patch_size(self, configuration: str, dimensions: int) -> tuple[int, ...]:
        """The patch wanted for a configuration; empty if there is no wish.

        Raises:
            InputError: it has another number of axes than the configuration.
        """
        named = dict(self.patch_sizes).get(configuration, ())
        if named and len(named) != dimensions:
            raise InputError(f"{configuration} has patches of {dimensions} axes", found=" x ".join(map(str, named)))
        return named or {len(size): size for name, size in self.patch_sizes if not name}.get(dimensions, ())

    def batch_size(self, configuration: str) -> int | None:
        """The batch wanted for a configuration; None if there is no wish."""
        sizes = dict(self.batch_sizes)
        return sizes.get(configuration, sizes.get(""))


class Budget(Value, frozen=True, kw_only=True):
    """What a plan may use.

    Attributes:
        memory_bytes: memory of the training device.
        device: that trains; a CPU gets a shorter training by default.
        configurations: wanted ones; empty for all that make sense.
        seed: for everything random in the experiment.
        wishes: of the user.
        template: a trained model that the plan is to be made around, so that its weights fit; None for a plan of its own.
    """

    memory_bytes: int = 8 * GIBIBYTE
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    configurations: tuple[str, ...] = ()
    seed: int = 12345
    wishes: Wishes = Wishes()
    template: Template | None = None

    def __post_init__(self) -> None:
        require(self.memory_bytes > 0, "the budget must be positive")


class MemoryCost(Protocol):
    """Predicts the peak memory in bytes that a training takes."""

    def __call__(self, network: NetworkSpec, patch_size: Sequence[int], batch_size: int, training: TrainingSpec) -> int:
        """Bytes for a batch of patches of that size, with the optimizer's state."""
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

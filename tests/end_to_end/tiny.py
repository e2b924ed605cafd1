"""A planner of the tests' own, in a few lines: the default one with a very small network, so that training takes seconds."""

from __future__ import annotations

import msgspec

from autoseg.planning import Budget, MemoryCost
from autoseg.values import Fingerprint, Plan
from planners.unet import DefaultPlanner


class TinyPlanner:
    """Two stages of 8 and 16 features, batches of two."""

    def plan(self, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, *, name: str) -> Plan:
        """The default plan with every network cut to two stages."""
        plan = DefaultPlanner().plan(fingerprint, budget, cost, name=name)
        return msgspec.structs.replace(plan, planner="tiny", configurations=tuple(map(_tiny, plan.configurations)))


class ShortPlanner(TinyPlanner):
    """The same, with trainings of 20 iterations in two epochs."""

    def plan(self, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, *, name: str) -> Plan:
        """The tiny plan, to be trained for a moment."""
        plan = super().plan(fingerprint, budget, cost, name=name)
        return msgspec.structs.replace(plan, configurations=tuple(map(_short, plan.configurations)))


def _short(configuration):
    training = msgspec.structs.replace(configuration.training, epochs=2)
    return msgspec.structs.replace(configuration, training=training)


def _tiny(configuration):
    network = msgspec.structs.replace(
        configuration.network,
        features=(8, 16),
        kernel_sizes=configuration.network.kernel_sizes[:2],
        strides=configuration.network.strides[:2],
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )
    training = msgspec.structs.replace(configuration.training, iterations_per_epoch=10, validation_iterations=1)
    return msgspec.structs.replace(configuration, network=network, training=training, batch_size=2)

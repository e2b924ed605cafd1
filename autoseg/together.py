"""Whether this process was started together with others, by torchrun for example, and which of them it is."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Place", "own_place"]


@dataclass(frozen=True)
class Place:
    """Of a process among those that work together.

    Attributes:
        rank: of this process, counted from 0; the first one writes, prints and decides.
        count: of the processes.
        local_rank: among those on this machine.
        local_count: of those on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes, prints and decides."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank + 1} of {self.count}"


def own_place() -> Place:
    """As torchrun tells it in the environment; alone without."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    told = [os.environ.get(name, "") for name in names]
    if not all(each.isdecimal() for each in told) or int(told[1]) < 2:
        return Place()
    return Place(*map(int, told))

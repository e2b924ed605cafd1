"""Which of the waiting cases may start now, so that all that run together fit into memory. Pure: it asks nobody.

The largest goes first, because it fits nowhere else. While it waits for room, smaller ones may overtake it, but only so
often: then nothing starts until it fits. So nobody starves, and small cases fill what large ones leave.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Admission"]


class Admission:
    """The waiting room.

    Args:
        costs: bytes of every item.
        budget: bytes for all that run together; None if it is not known: then everything fits. An item that needs more runs
            alone.
        patience: how often an item may be overtaken.
    """

    def __init__(self, costs: Sequence[int], budget: int | None, *, patience: int = 8) -> None:
        self._costs = [max(0, cost) for cost in costs]
        self._budget, self._patience = budget, patience
        self._waiting = sorted(range(len(costs)), key=lambda index: (-self._costs[index], index))
        self._running: set[int] = set()
        self._alone: set[int] = set()
        self._overtaken = 0

    @property
    def running(self) -> int:
        """Bytes of what runs."""
        return sum(self._costs[index] for index in self._running)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def cost(self, index: int) -> int:
        """Bytes of an item."""
        return self._costs[index]

    def at_once(self, *, smallest: bool = False) -> int:
        """How many of those that wait fit together, if they are the largest, or the smallest."""
        total = 0
        for count, index in enumerate(reversed(self._waiting) if smallest else self._waiting):
            total += self._costs[index]
            if self._budget is not None and total > self._budget:
                return count
        return len(self._waiting)

    def refused(self, whole: int | None) -> list[int]:
        """The items that need more than there could ever be; they wait no longer."""
        if whole is None:
            return []
        large = [index for index in self._waiting if self._costs[index] > whole]
        self._waiting = self._waiting[len(large) :]  # they are the first
        return large

    def next(self, room: int | None = None) -> int | None:
        """The index of the item that starts now, or None if none may.

        Args:
            room: bytes for all that run together, as the machine is now, if that is less than the budget. It holds only
                while something runs: waiting for other programs alone could last for ever.
        """
        place = self._choice(room)
        if place is None:
            return None
        self._overtaken = self._overtaken + 1 if place else 0
        index = self._waiting.pop(place)
        self._running.add(index)
        return index

    def may_start(self, room: int | None = None) -> bool:
        """Whether ``next`` would give an item."""
        return self._choice(room) is not None

    def _choice(self, room: int | None) -> int | None:
        """The place in the row of the item that may start now."""
        if not self._waiting or self._running & self._alone:
            return None
        if not self._running or self._fits(self._waiting[0], room):
            return 0
        if self._waiting[0] in self._alone or self._overtaken >= self._patience:
            return None
        return next((place for place, index in enumerate(self._waiting) if self._fits(index, room)), None)

    def _fits(self, index: int, room: int | None) -> bool:
        if index in self._alone:
            return not self._running
        limits = [limit for limit in (self._budget, room) if limit is not None]
        return all(self.running + self._costs[index] <= limit for limit in limits)

    def finished(self, index: int) -> None:
        """The item runs no more: its memory is free."""
        self._running.remove(index)

    def again(self, index: int, *, alone: bool = False) -> None:
        """The item runs no more and has to start anew, before all others; ``alone``: while nothing else runs."""
        self._running.remove(index)
        if alone:
            self._alone.add(index)
        self._waiting.insert(0, index)
        self._overtaken = 0

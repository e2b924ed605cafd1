"""Cases that one of several processes could not read: none of them draws these from the next iteration on."""

from __future__ import annotations

from collections.abc import Mapping

from autoseg.training.batches import PatchLoader
from autoseg.training.ranks import Ranks
from autoseg.values import decode, encode

__all__ = ["SharedSkips"]


class SharedSkips:
    """What all processes know.

    Args:
        ranks: the processes.
        known: case to the iteration in which it could not be read, as the checkpoint tells that all go on from.
    """

    def __init__(self, ranks: Ranks, known: Mapping[str, int] | None = None) -> None:
        self._ranks, self._known = ranks, dict(known or {})

    def exchange(self, loader: PatchLoader) -> None:
        """Tells the others what the loader could not read since the last time, and the loader what theirs could not."""
        if self._ranks.count == 1:
            return
        reports = loader.reports()
        found = {case: iteration for case, (iteration, _) in reports.items()}
        if any(self._ranks.totals(found != self._known)):
            for text in self._ranks.gathered(encode(reports).decode()):
                for case, (iteration, reason) in decode(dict[str, tuple[int, str]], text).items():
                    loader.leave_out(case, iteration, reason)
                    found[case] = min(iteration, found.get(case, iteration))
            self._known = found

"""What the processes of a training tell each other before every iteration."""

from __future__ import annotations

from autoseg.training.batches import PatchLoader
from autoseg.training.ranks import Ranks
from autoseg.training.state import TrainState
from autoseg.values import Length, decode, encode

__all__ = ["Agreement"]


class Agreement:
    """The first process tells how far the training goes, and all which cases they could not read: those are drawn nowhere.

    Args:
        ranks: the processes.
        state: of the training here.
    """

    def __init__(self, ranks: Ranks, state: TrainState) -> None:
        self.ranks, self.state = ranks, state
        self._left_out = 0

    def reach(self, loader: PatchLoader, stopping: bool, *, decided: bool) -> bool:
        """Whether any of the processes was asked to stop; all call it together.

        Args:
            loader: of the training here; hears of cases that others could not read.
            stopping: whether this process was asked.
            decided: whether the first process has changed how far the training goes.
        """
        if self.ranks.count == 1:
            return stopping
        left_out = loader.left_out
        asked, told, news = self.ranks.totals(stopping, decided, len(left_out) > self._left_out)
        if told:
            self.state.length = decode(Length, self.ranks.told(lambda: encode(self.state.length).decode()))
        if news:
            for text in self.ranks.gathered(encode(left_out).decode()):
                for case, (iteration, reason) in decode(dict[str, tuple[int, str]], text).items():
                    loader.leave_out(case, iteration, reason)
            self._left_out = len(loader.left_out)
        return asked > 0

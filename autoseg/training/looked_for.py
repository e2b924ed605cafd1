"""Which labels were looked for in every sample of a batch, where some cases are annotated for some labels only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from autoseg.augmentation.contract import Transform, labels_exchanged
from autoseg.errors import InputError
from autoseg.training.records import SampleRecord
from autoseg.values import Labels

__all__ = ["LookedFor"]


class LookedFor:
    """Which labels were looked for, per case and, once transforms have exchanged labels, per sample.

    Who looked for the left kidney alone has, mirrored from left to right, looked for the right one alone.

    Args:
        labels: of the plan.
        annotated: case id to the names of the labels that were looked for; all were in a case that is not named.
    """

    def __init__(self, labels: Labels, annotated: Mapping[str, Collection[str]]) -> None:
        self._indices = [frozenset(indices) for indices in labels.region_indices]
        self._rows = {case: labels.looked_for(names) for case, names in annotated.items()}

    def concerns(self, cases: Collection[str]) -> bool:
        """Whether any of the cases is partly annotated."""
        return not self._rows.keys().isdisjoint(cases)

    def rows(self, samples: Sequence[SampleRecord], steps: Sequence[Transform]) -> np.ndarray:
        """For every sample, after the steps of its recipe, whether each foreground label was looked for.

        Returns:
            ``(batch, foreground labels)``, bool, in the order in which the labels are declared.
        """
        return np.array([self._row(sample, steps) for sample in samples])

    def require_told(
        self, samples: Sequence[SampleRecord], step: Transform, before: torch.Tensor, after: torch.Tensor
    ) -> None:
        """Sees to it that a step which made new labels and tells of no exchange has exchanged none, where that matters.

        Args:
            samples: of the batch.
            step: that was applied.
            before: labels ``(batch, *spatial)``.
            after: those that the step made; the same tensor if it left them alone, which costs nothing to see.

        Raises:
            InputError: a partly annotated sample holds a label that it did not hold before.
        """
        if after is before or hasattr(step, "labels_exchanged"):
            return
        for index, sample in enumerate(samples):
            if sample.case in self._rows and _foreground(after[index]) - _foreground(before[index]):
                raise InputError(
                    f"the transform {type(getattr(step, 'transform', step)).__name__} exchanges labels and does not tell "
                    "which: then it is not known which labels were looked for",
                    case=sample.case,
                    remedy="Give it a method labels_exchanged (docs/reference/plugs.md), or take the recipe default.",
                )

    def _row(self, sample: SampleRecord, steps: Sequence[Transform]) -> tuple[bool, ...]:
        row = self._rows.get(sample.case, (True,) * len(self._indices))
        for step, drawn in zip(steps, sample.parameters, strict=True):
            if not all(row) and (pairs := labels_exchanged(step, drawn)):
                row = self._exchanged(row, pairs)
        return row

    def _exchanged(self, row: tuple[bool, ...], pairs: Sequence[tuple[int, int]]) -> tuple[bool, ...]:
        """The row when the labels of each pair have changed places.

        A label or region is known if what it was before is made up of what was looked for, as in ``Labels.looked_for``.
        """
        other = {one: two for pair in pairs for one, two in (pair, pair[::-1])}
        searched = [indices for indices, known in zip(self._indices, row, strict=True) if known]
        before = [frozenset(other.get(index, index) for index in indices) for indices in self._indices]
        return tuple(wanted == frozenset().union(*(each for each in searched if each <= wanted)) for wanted in before)


def _foreground(labels: torch.Tensor) -> set[int]:
    return {label for label in labels.unique().tolist() if label > 0}

"""The learning curve of one training: what ``curve.json`` holds."""

from __future__ import annotations

from autoseg.values.json_form import Value, require

__all__ = ["Curve", "CurvePoint"]


class CurvePoint(Value, frozen=True, kw_only=True):
    """What was known at the end of an epoch; None where nothing was. Dice of labels is in the order of ``Curve.labels``.

    Attributes:
        iteration: that many were done.
        loss: mean over the epoch; after an interruption within it, over what was trained since.
        patch_dice: per label, on patches of held-out cases: a rough guide.
        truth: mean over labels on whole images of held-out cases, as the final score is made.
        truth_dice: the same per label.
        truth_cases: how many cases stand behind it.
    """

    iteration: int
    loss: float | None = None
    patch_dice: tuple[float | None, ...] = ()
    truth: float | None = None
    truth_dice: tuple[float | None, ...] = ()
    truth_cases: int = 0


class Curve(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.curve/1"):
    """All points, in order.

    Attributes:
        labels: names.
        held_out: how many cases are.
        points: one for every epoch.
        final: the final score of all held-out cases; None before.
    """

    labels: tuple[str, ...]
    held_out: int
    points: tuple[CurvePoint, ...] = ()
    final: float | None = None

    def __post_init__(self) -> None:
        iterations = [point.iteration for point in self.points]
        require(iterations == sorted(set(iterations)), "the points are not in order", field="points")

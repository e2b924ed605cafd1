"""FastScores and FastLoss: what predicting in the fast way costs in Dice, on held-out cases."""

from __future__ import annotations

from autoseg.values.json_form import Value, require

__all__ = ["FastCase", "FastLoss", "FastLossOf", "FastScores"]


class FastCase(Value, frozen=True, kw_only=True):
    """A held-out case predicted in the usual way and in the fast one, by the same network.

    Attributes:
        dice: mean over the labels, of the usual way; None if no label has one.
        fast_dice: of the fast way.
        seconds: that the usual way took; None where they are not known.
        fast_seconds: that the fast way took.
    """

    dice: float | None
    fast_dice: float | None
    seconds: float | None = None
    fast_seconds: float


class FastScores(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.fast-scores/1"):
    """Some held-out cases of a fold.

    Attributes:
        weights: SHA-256 of the fold's weights.
        step: largest distance of tiles in the fast way, as a share of their edge.
        cases: by id.
    """

    weights: str
    step: float
    cases: dict[str, FastCase] = {}


class FastLossOf(Value, frozen=True, kw_only=True):
    """What the fast way costs a configuration, over the folds.

    Attributes:
        cases: that were predicted in both ways.
        difference: mean Dice of the fast way less that of the usual one.
        lower: bound of its 95 % interval; None of fewer than two cases.
        upper: likewise.
        times_faster: seconds of the usual way by those of the fast one; None where they are not known.
    """

    cases: int
    difference: float
    lower: float | None
    upper: float | None
    times_faster: float | None

    def __post_init__(self) -> None:
        require(self.cases > 0, "there is at least one case", field="cases")


class FastLoss(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.fast-loss/1"):
    """What the fast way costs each configuration of a model; without names of cases.

    Attributes:
        step: largest distance of tiles in the fast way, as a share of their edge.
        configurations: by name; those that were measured.
    """

    step: float
    configurations: dict[str, FastLossOf]

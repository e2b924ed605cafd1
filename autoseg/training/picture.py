"""The learning curve as a picture, where matplotlib is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from autoseg.values import Curve

__all__ = ["draw_curve", "is_drawable"]

#: Told apart by colour-blind people as well: black, orange and blue of Okabe and Ito (2008), grey for what matters least.
LOSS, PATCHES, TRUTH, FINAL = "#8a8a8a", "#E69F00", "#0072B2", "#000000"


def is_drawable() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curve(curve: Curve, path: Path, title: str) -> None:
    """Draws loss, patch estimate and truth over iterations to a PNG file.

    Args:
        curve: with at least one point.
        path: of the file.
        title: above the picture.
    """
    from matplotlib.figure import Figure  # not pyplot: that has global state, and looks for a screen

    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=120)
    dice_axes = figure.add_subplot()
    loss_axes = dice_axes.twinx()
    losses = _known(curve, [point.loss for point in curve.points])
    patches = _known(curve, [_mean(point.patch_dice) for point in curve.points])
    truths = _known(curve, [point.truth for point in curve.points])
    lines = [*loss_axes.plot(*losses, color=LOSS, linewidth=1.2, marker=_marker(losses), label="training loss")]
    lines += dice_axes.plot(
        *patches, color=PATCHES, linestyle="--", marker=_marker(patches), label="Dice on patches (rough guide)"
    )
    behind = curve.points[-1].truth_cases
    label = f"Dice on whole images ({behind} of {curve.held_out} held-out cases)"
    lines += dice_axes.plot(*truths, color=TRUTH, linewidth=2.2, marker=_marker(truths), label=label)
    if curve.final is not None:
        final = [curve.points[-1].iteration], [curve.final]
        label = f"final Dice, all {curve.held_out} held-out cases: {curve.final:.3f}"
        lines += dice_axes.plot(*final, color=FINAL, linestyle="", marker="D", label=label)
    dice_axes.set(title=title, xlabel="iterations", ylabel="Dice of held-out cases (mean of labels)", ylim=(0, 1.02))
    dice_axes.set_xlim(0, curve.points[-1].iteration * 1.02)
    dice_axes.grid(color="#dddddd", linewidth=0.6)
    loss_axes.set_ylabel("training loss", color="#666666")
    loss_axes.tick_params(axis="y", colors="#666666")
    dice_axes.set_zorder(loss_axes.get_zorder() + 1)  # Dice above the loss
    dice_axes.patch.set_visible(False)
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, format="png")


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def _known(curve: Curve, values: Sequence[float | None]) -> tuple[list[int], list[float]]:
    """Iterations and values where there is one."""
    pairs = [(point.iteration, value) for point, value in zip(curve.points, values, strict=True) if value is not None]
    return [iteration for iteration, _ in pairs], [value for _, value in pairs]


def _marker(series: tuple[list[int], list[float]]) -> str:
    """Dots while they can be told apart; a line of one point would not be seen without."""
    return "o" if len(series[0]) <= 25 else ""

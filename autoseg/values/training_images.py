"""TrainingImages: what the images of a training were like, by which an image that is unlike them is known."""

from __future__ import annotations

from autoseg.values.json_form import Value, require

__all__ = ["IntensityRange", "TrainingImages"]


class IntensityRange(Value, frozen=True, kw_only=True):
    """One channel: the least and the most that each quantile was over the cases.

    Attributes:
        quantiles: of ``autoseg.volume.quantiles.QUANTILES``, in their order.
        spread: median over the cases of the distance between the lowest and the highest quantile.
    """

    quantiles: tuple[tuple[float, float], ...]
    spread: float

    def __post_init__(self) -> None:
        ordered = all(least <= most for least, most in self.quantiles)
        require(ordered, "the least is above the most", field="quantiles")
        require(self.spread >= 0, "must not be negative", field="spread", found=self.spread)


class TrainingImages(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.training-images/1"):
    """What the annotated images of a plan were like; their orientations and spacings stand in the plan itself.

    Attributes:
        cases: how many there were.
        sizes: least and most extent in millimetres along each axis, in the plan's order of axes.
        intensities: by channel.
    """

    cases: int
    sizes: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    intensities: tuple[IntensityRange, ...]

    def __post_init__(self) -> None:
        require(self.cases > 0, "there must be a case", field="cases")
        ordered = all(0 < least <= most for least, most in self.sizes)
        require(ordered, "sizes must be positive, the least first", field="sizes", found=self.sizes)

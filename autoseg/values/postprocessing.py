"""What is removed from predictions, and how the held-out cases decided it: Postprocessing."""

from __future__ import annotations

from autoseg.values.json_form import Value, require

__all__ = ["CaseEffects", "ComponentStep", "Postprocessing", "TriedStep"]


class ComponentStep(Value, frozen=True, kw_only=True):
    """Only the largest connected component of an object is kept; the rest of it becomes background.

    Attributes:
        name: of the label or region, or ``all foreground``.
        values: integers in label maps of which the object consists.
    """

    name: str
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        require(len(self.values) > 0, "an object needs an integer", field="values")
        require(all(value > 0 for value in self.values), "background is no object", field="values", found=self.values)


class CaseEffects(Value, frozen=True, kw_only=True):
    """Dice of one held-out case under every set of steps that may come to be decided on.

    Attributes:
        dice: first without and then with the step for all foreground; in each, per label or region one score for every set
            of steps of its group (labels and regions that share integers, in order of declaration): bit *j* of the score's
            place tells whether the group's *j*-th step is in the set. None where not defined.
    """

    dice: tuple[tuple[tuple[float | None, ...], ...], ...]

    def __post_init__(self) -> None:
        alike = len(self.dice) == 2 and [len(each) for each in self.dice[0]] == [len(each) for each in self.dice[1]]
        require(alike, "scores without and with the first step do not fit each other", field="dice")
        counts = {len(each) for side in self.dice for each in side}
        require(all(count.bit_count() == 1 for count in counts), "a label lacks scores of some steps", field="dice")


class TriedStep(Value, frozen=True, kw_only=True):
    """A step, and what it would change.

    Attributes:
        step: what was tried, on top of the steps adopted before it.
        adopted: whether it is part of the postprocessing.
        before: mean Dice that decides: over all labels for all foreground, else of the label or region itself.
        after: the same with the step.
        changed: cases of which it changes a score that decides.
        fell: names of labels and regions whose mean fell; they forbid the step for all foreground.
    """

    step: ComponentStep
    adopted: bool
    before: float | None
    after: float | None
    changed: int
    fell: tuple[str, ...] = ()


class Postprocessing(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.postprocessing/1"):
    """The steps to apply to every predicted label map, in order, with the evidence for each.

    Attributes:
        steps: adopted; none leaves predictions as they are.
        tried: all that were tried, in order.
        not_tried: labels and regions that share integers with too many others to be tried.
        cases: held-out cases behind the decision.
        dice_before: mean Dice over labels without any step.
        dice_after: with all that were adopted.
    """

    steps: tuple[ComponentStep, ...] = ()
    tried: tuple[TriedStep, ...] = ()
    not_tried: tuple[str, ...] = ()
    cases: int = 0
    dice_before: float | None = None
    dice_after: float | None = None

    def __post_init__(self) -> None:
        adopted = tuple(tried.step for tried in self.tried if tried.adopted)
        require(self.steps == adopted, "the steps are not those that were adopted", field="steps")

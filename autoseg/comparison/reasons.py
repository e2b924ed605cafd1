"""Experiments on kept label maps: where, in which structures and images, and how steadily two configurations differ.

No network is run. What is found goes together with the difference; that it causes it, only the experiments that run
networks can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.comparison.contrasts import contrast, contrast_of_groups, corrected
from autoseg.comparison.kept import Measured
from autoseg.comparison.measures import PARTS, CaseMeasures, LabelMeasures
from autoseg.comparison.words import points, told
from autoseg.errors import counted
from autoseg.selection.evidence import with_right_absence
from autoseg.values import Contrast, Evidence, Experiment

__all__ = ["Compared", "kept_experiments"]

#: Images whose slices differ in spacing by less are of one thickness.
SAME_THICKNESS = 1.25
ORDINALS = ("first", "second", "third", "fourth", "last")
#: From the measures of one label in one case to a number, None where it is not defined.
Pick = Callable[[LabelMeasures], float | None]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The cases of which both label maps are measured.

    Attributes:
        first: name of the one configuration.
        second: of the other.
        labels: names.
        patients: of each case.
        measures: of the first and the second, each in the order of the cases.
        dice: ``(2, cases, labels)``, NaN where not defined.
        left_out: how many cases are not measured.
    """

    first: str
    second: str
    labels: tuple[str, ...]
    patients: tuple[str, ...]
    measures: tuple[tuple[CaseMeasures, ...], tuple[CaseMeasures, ...]]
    dice: np.ndarray
    left_out: int

    @classmethod
    def of(cls, evidence: Evidence, dice: np.ndarray, measured: Measured) -> Compared:
        """Of evidence for two configurations, in order, and what is measured of its cases."""
        first, second = (each.name for each in evidence.candidates)
        one, other = measured.get(first, {}), measured.get(second, {})
        places = [place for place, case in enumerate(evidence.cases) if case in one and case in other]
        cases = [evidence.cases[place] for place in places]
        return cls(
            first=first,
            second=second,
            labels=evidence.labels,
            patients=tuple(evidence.patients[place] for place in places),
            measures=(tuple(one[case] for case in cases), tuple(other[case] for case in cases)),
            dice=dice[:, places],
            left_out=len(evidence.cases) - len(cases),
        )

    def table(self, pick: Pick) -> np.ndarray:
        """A number of every label map ``(2, cases, labels)``, NaN where it is not defined or nobody looked for the label."""
        return np.array(
            [
                [[_number(case.labels.get(label), pick) for label in self.labels] for case in measures]
                for measures in self.measures
            ],
            np.float64,
        ).reshape(2, len(self.patients), len(self.labels))

    @property
    def basis(self) -> str:
        """For methods."""
        cases = f"{counted(len(self.patients), 'case')} of {counted(len(set(self.patients)), 'patient')}"
        return cases + (f"; {self.left_out} left out, see there" if self.left_out else "")


def _number(measures: LabelMeasures | None, pick: Pick) -> float:
    value = None if measures is None else pick(measures)
    return np.nan if value is None else value


def kept_experiments(compared: Compared) -> tuple[Experiment, ...]:
    """All that label maps tell without a network."""
    return tuple(make(compared) for make in (position, structure_size, slice_thickness, slice_consistency))


def position(compared: Compared) -> Experiment:
    """Whether the difference is another one at the ends of structures than in their middle."""
    first, second = compared.first, compared.second

    def advantage(places: Sequence[int]) -> np.ndarray:
        def dice(measures: LabelMeasures) -> float | None:
            chosen = [measures.parts[place] for place in places if measures.parts]
            return sum(chosen[1:], chosen[0]).dice if chosen else None

        one, other = with_right_absence(compared.table(dice))
        return np.asarray(one - other)

    def extends(measures: LabelMeasures) -> float | None:
        whole = measures.parts and measures.parts[0].wanted and measures.parts[-1].wanted
        return 0.0 if whole else None

    spread = compared.table(extends)[0]  # 0 where a structure has ends and a middle, NaN elsewhere
    ends, middle = advantage((0, PARTS - 1)) + spread, advantage(range(1, PARTS - 1)) + spread
    question = "Is the difference another one at the ends of structures than in their middle?"
    if not np.isfinite(ends - middle).any():
        return Experiment(
            name="position_in_structure",
            question=question,
            method="Dice in fifths of each structure's extent along the axis through the slices.",
            missing="No structure lies in three slices or more, so there are no ends and no middle.",
        )
    quantity, patients = f"Dice of {first} minus Dice of {second}", compared.patients
    at_ends = contrast(quantity, ends, patients, group="first and last fifth")
    in_middle = contrast(quantity, middle, patients, group="the fifths between")
    more = f"{quantity}, at the ends minus between them"
    contrasts = [contrast(more, ends - middle, patients, group="ends minus middle"), at_ends, in_middle]
    contrasts += [
        contrast(quantity, advantage((place,)) + spread, patients, group=f"{ordinal} fifth")
        for place, ordinal in enumerate(ORDINALS)
    ]
    contrasts += _per_label(compared, more, ends - middle, group="ends minus middle")
    there = f"{_mean(at_ends)} at the ends, {_mean(in_middle)} between them"
    return Experiment(
        name="position_in_structure",
        question=question,
        method=f"Dice in fifths of each structure's extent along the axis through the slices, {first} minus {second}, in "
        f"{compared.basis}; what is predicted beyond the ends counts with the first and the last fifth.",
        contrasts=corrected(contrasts),
        answer=told(
            contrasts[0],
            f"At the ends of structures {first} does better against {second} than between them: {there}, {{span}} apart.",
            f"At the ends of structures {first} does worse against {second} than between them: {there}, {{span}} apart.",
            f"Whether the difference is another one at the ends of structures than between them is not sure: {there}, "
            "{span} apart.",
        ),
    )


def structure_size(compared: Compared) -> Experiment:
    """Whether the difference is another one in small structures than in large ones."""
    question = "Is the difference another one in small structures than in large ones?"
    volumes = compared.table(lambda measures: measures.whole.wanted or None)[0]
    voxels = np.array([np.nan if case.voxel_ml is None else case.voxel_ml for case in compared.measures[0]])
    volumes = volumes * voxels[:, None]
    differences = compared.dice[0] - compared.dice[1]
    thirds = [np.zeros(differences.shape, bool) for _ in range(3)]
    for label in range(len(compared.labels)):
        known = np.flatnonzero(np.isfinite(volumes[:, label] + differences[:, label]))
        ordered = known[np.argsort(volumes[known, label], kind="stable")]
        for third, chosen in zip(thirds, np.array_split(ordered, 3), strict=True):
            third[chosen, label] = True
    if not all(third.any() for third in thirds):
        return Experiment(
            name="structure_size",
            question=question,
            method="Dice by the volume of the reference, in thirds of the cases.",
            missing="No label has a volume in three cases or more, so there are no thirds; 2D images have no volume.",
        )
    method = (
        f"Dice of {compared.first} minus Dice of {compared.second} in {compared.basis}, for each label in thirds of the "
        f"cases by the volume of its reference ({_range(volumes)} ml)."
    )
    names = tuple(f"in the {which} third" for which in ("smallest", "middle", "largest"))
    return _of_groups(compared, ("structure_size", question, method), thirds, names)


def slice_thickness(compared: Compared) -> Experiment:
    """Whether the difference is another one in images with thick slices than in those with thin ones."""
    question = "Is the difference another one in images with thick slices than in those with thin ones?"
    steps = np.array([np.nan if case.spacing is None else case.spacing for case in compared.measures[0]])
    missing = ""
    if not np.isfinite(steps).all() or not len(steps):
        missing = "Images without a depth have no slices with a thickness."
    elif steps.max() < SAME_THICKNESS * steps.min():
        missing = f"All slices are about as thick: {_range(steps)} mm."
    if missing:
        return Experiment(
            name="slice_thickness", question=question, method="Dice by the distance of slices.", missing=missing
        )
    limit = float(np.median(steps))
    thin = steps <= limit if (steps > limit).any() else steps < limit
    groups = [np.broadcast_to(chosen[:, None], compared.dice.shape[1:]) for chosen in (~thin, thin)]
    method = (
        f"Dice of {compared.first} minus Dice of {compared.second} in {compared.basis}: images whose slices are "
        f"{_range(steps[~thin])} mm apart against those with {_range(steps[thin])} mm."
    )
    return _of_groups(
        compared, ("slice_thickness", question, method), groups, ("with thick slices", "with thin slices")
    )


def _of_groups(
    compared: Compared, titles: tuple[str, str, str], groups: Sequence[np.ndarray], names: Sequence[str]
) -> Experiment:
    """The first group against the last, which hold different cases.

    Args:
        compared: the cases.
        titles: name, question and method.
        groups: bool ``(cases, labels)``: who is in each.
        names: of the groups, with their prepositions.
    """
    quantity, patients = f"Dice of {compared.first} minus Dice of {compared.second}", compared.patients
    apart = f"{names[0]} minus {names[-1]}"
    more = f"{quantity}, {apart}"
    values = compared.dice[0] - compared.dice[1]
    of_groups = [
        contrast(quantity, np.where(chosen, values, np.nan), patients, group=group)
        for group, chosen in zip(names, groups, strict=True)
    ]
    extremes = (groups[0], groups[-1])
    contrasts = [contrast_of_groups(more, values, extremes, patients, group=apart), *of_groups]
    if len(compared.labels) > 1:
        contrasts += [
            contrast_of_groups(more, values[:, [place]], (one, other), patients, group=apart, label=label)
            for place, label in enumerate(compared.labels)
            for one, other in [(extremes[0][:, [place]], extremes[1][:, [place]])]
        ]
    there = f"{_mean(of_groups[0])} {names[0]}, {_mean(of_groups[-1])} {names[-1]}"
    name, question, method = titles
    return Experiment(
        name=name,
        question=question,
        method=method,
        contrasts=corrected(contrasts),
        answer=told(
            contrasts[0],
            f"{compared.first} does better against {compared.second} {names[0]}: {there}, {{span}} apart.",
            f"{compared.first} does worse against {compared.second} {names[0]}: {there}, {{span}} apart.",
            f"Whether the difference is another one {names[0]} than {names[-1]} is not sure: {there}, {{span}} apart.",
        ),
    )


def slice_consistency(compared: Compared) -> Experiment:
    """Whether label maps of one configuration change more from slice to slice than those of the other."""
    first, second, patients = compared.first, compared.second, compared.patients
    question = "Do the predictions of one change more from slice to slice, and more than the references?"
    agreement = compared.table(lambda measures: measures.prediction.agreement)
    own = compared.table(lambda measures: measures.reference.agreement)
    flips = compared.table(lambda measures: measures.prediction.flip_rate)
    own_flips = compared.table(lambda measures: measures.reference.flip_rate)
    if not np.isfinite(agreement[0] - agreement[1]).any():
        return Experiment(
            name="slice_consistency",
            question=question,
            method="Dice of neighbouring slices of the same label map.",
            missing="In no case have both predicted a structure in two slices or more.",
        )
    quantity = f"Dice of neighbouring slices of {first} minus that of {second}"
    contrasts = [contrast(quantity, agreement[0] - agreement[1], patients)]
    against = [
        contrast(
            f"Dice of neighbouring slices of {name} minus that of the reference",
            agreement[place] - own[place],
            patients,
        )
        for place, name in enumerate((first, second))
    ]
    flipping = "voxels that differ from both neighbouring slices, for each voxel of the structure, of "
    contrasts += [
        *against,
        contrast(f"{flipping}{first} minus those of {second}", flips[0] - flips[1], patients),
        *(
            contrast(f"{flipping}{name} minus those of the reference", flips[place] - own_flips[place], patients)
            for place, name in enumerate((first, second))
        ),
        *_per_label(compared, quantity, agreement[0] - agreement[1]),
    ]
    return Experiment(
        name="slice_consistency",
        question=question,
        method=f"Dice of neighbouring slices of the same label map, all pairs of a structure together, in {compared.basis}.",
        contrasts=corrected(contrasts),
        answer=_consistency_answer(corrected(contrasts), first, second),
    )


def _consistency_answer(contrasts: Sequence[Contrast], first: str, second: str) -> str:
    parts = [
        told(
            contrasts[0],
            f"Predictions of {second} change more from slice to slice than those of {first}: neighbouring slices agree by "
            "{span} less.",
            f"Predictions of {first} change more from slice to slice than those of {second}: neighbouring slices agree by "
            "{turned} less.",
            f"Which of the two changes more from slice to slice is not sure: neighbouring slices of {first} agree by "
            f"{{span}} more than those of {second}.",
        )
    ]
    sides = {-1: "less", 1: "more"}
    named = zip((first, second), contrasts[1:3], strict=True)
    against = [
        f"{sides[each.claim]} in those of {name} ({points(abs(each.interval.mean or 0))} points)"
        for name, each in named
        if each.claim
    ]
    if against:
        parts.append(f"Compared with the references, they agree {' and '.join(against)}.")
    return " ".join(parts)


def _per_label(compared: Compared, quantity: str, values: np.ndarray, *, group: str = "") -> list[Contrast]:
    """One for each label, if there are several."""
    if len(compared.labels) == 1:
        return []
    return [
        contrast(quantity, values[:, place], compared.patients, label=label, group=group)
        for place, label in enumerate(compared.labels)
    ]


def _mean(of: Contrast) -> str:
    return "not defined" if of.interval.mean is None else points(of.interval.mean)


def _range(values: np.ndarray) -> str:
    low, high = np.nanmin(values), np.nanmax(values)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"

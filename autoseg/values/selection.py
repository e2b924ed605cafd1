"""Which configuration or ensemble is used, and every number that the choice rests on: Selection."""

from __future__ import annotations

from typing import Literal

from autoseg.values.json_form import Value, require
from autoseg.values.statistics import IntervalMethod

__all__ = ["Basis", "Candidate", "Cost", "Evidence", "Missing", "Selection", "SelectionRule", "Standing", "Verdict"]

#: One stands out, several are as good as far as the cases tell, or there was nothing to compare.
Verdict = Literal["clear", "tie", "only"]


class Cost(Value, frozen=True, kw_only=True):
    """What a candidate costs; cheaper is what predicts faster, and of equally fast ones what was trained in less time.

    Attributes:
        seconds_per_case: at prediction; None where it was not measured, which counts as the most expensive.
        training_hours: likewise.
    """

    seconds_per_case: float | None
    training_hours: float | None

    def __post_init__(self) -> None:
        for name in ("seconds_per_case", "training_hours"):
            cost = getattr(self, name)
            require(cost is None or cost >= 0, "out of range", field=name, found=cost, expected="0 or more")

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts from cheap to expensive."""
        first, second = self.seconds_per_case, self.training_hours
        return (float("inf") if first is None else first, float("inf") if second is None else second)


class Candidate(Value, frozen=True, kw_only=True):
    """A configuration, or an ensemble that averages the probabilities of several.

    Attributes:
        name: of the configuration; of an ensemble, its members' joined by ``+``.
        members: configurations.
        cost: of all of them, with the earlier stages that they need.
    """

    name: str
    members: tuple[str, ...]
    cost: Cost

    def __post_init__(self) -> None:
        require(len(self.members) > 0, "a candidate has no member", field="members")
        require(len(set(self.members)) == len(self.members), "a member repeats", field="members", found=self.members)


class Missing(Value, frozen=True, kw_only=True):
    """What has no score of a candidate although others have, or although it is held out in some fold.

    Attributes:
        candidate: its name.
        cases: their ids, sorted.
        folds: of which not one case is scored, where the split is known.
        nothing: True if no case at all is scored; such a candidate is not compared.
    """

    candidate: str
    cases: tuple[str, ...]
    folds: tuple[str, ...] = ()
    nothing: bool = False


class Evidence(Value, frozen=True, kw_only=True):
    """The scores that a choice rests on: held-out cases that every compared candidate has predicted.

    Attributes:
        labels: names, in order.
        cases: ids, sorted.
        patients: of each case.
        candidates: compared, single configurations first.
        dice: candidate to its scores, per case a row with one per label; None where not defined.
        missing: what could not be compared.
    """

    labels: tuple[str, ...]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    dice: dict[str, tuple[tuple[float | None, ...], ...]]
    missing: tuple[Missing, ...] = ()

    def __post_init__(self) -> None:
        require(list(self.cases) == sorted(set(self.cases)), "cases must be sorted, each once", field="cases")
        require(len(self.patients) == len(self.cases), "every case needs a patient", field="patients")
        names = [candidate.name for candidate in self.candidates]
        require(len(set(names)) == len(names), "a candidate repeats", field="candidates", found=names)
        require(set(names) == set(self.dice), "every candidate needs scores, and nobody else", field="dice")
        for name, rows in self.dice.items():
            whole = len(rows) == len(self.cases) and all(len(row) == len(self.labels) for row in rows)
            require(whole, f"{name} needs a row for each case, with a score for each label", field="dice")
            within = all(score is None or 0 <= score <= 1 for row in rows for score in row)
            require(within, f"a score of {name} is out of range", field="dice", expected="0 to 1, or null")


class SelectionRule(Value, frozen=True, kw_only=True):
    """How the winner follows from the scores; fixed before they are looked at.

    Attributes:
        name: ``regret``: the cheapest candidate that is surely less than the margin behind the best; ``nnunet``: the
            highest mean.
        margin: of mean Dice; 0.005 is half a Dice point.
        confidence: one-sided, of the statement "less than the margin behind".
        draws: of patients, in the bootstrap.
        method: of its bounds.
        seed: of its draws.
        fewest_patients: with fewer no bound is given, and nothing is called sure.
    """

    name: Literal["regret", "nnunet"] = "regret"
    margin: float = 0.005
    confidence: float = 0.95
    draws: int = 10_000
    method: IntervalMethod = "expanded"
    seed: int = 0
    fewest_patients: int = 5

    def __post_init__(self) -> None:
        require(self.margin >= 0, "out of range", field="margin", found=self.margin, expected="0 or more")
        sensible = 0.5 <= self.confidence < 1
        require(sensible, "out of range", field="confidence", found=self.confidence, expected="0.5 to below 1")
        require(self.draws >= 100, "too few", field="draws", found=self.draws, expected="100 or more")
        enough = self.fewest_patients >= 2
        require(enough, "out of range", field="fewest_patients", found=self.fewest_patients, expected="2 or more")


class Standing(Value, frozen=True, kw_only=True):
    """How a candidate did.

    Attributes:
        candidate: its name.
        mean: Dice over cases and then labels, as the rule counts them.
        per_label: the same for each label; None where it is defined in no case.
        raw_mean: as in ``summary.json``, over the cases in which its own score is defined.
        rightly_absent: scores that count as 1 because it found nothing where nothing is and another candidate did.
        regret: how far its mean is behind the best one.
        regret_lower: one-sided lower bound of that; None of too few patients.
        regret_upper: one-sided upper bound.
        place: ``best``: has the highest mean; ``equivalent``: surely less than the margin behind it; ``worse``: surely
            behind it, and maybe by more than the margin; ``undecided``: the cases cannot tell.
    """

    candidate: str
    mean: float
    per_label: tuple[float | None, ...]
    raw_mean: float | None
    rightly_absent: int
    regret: float
    regret_lower: float | None
    regret_upper: float | None
    place: Literal["best", "equivalent", "worse", "undecided"]


class Basis(Value, frozen=True, kw_only=True):
    """What a choice was made of; while these are the same, it holds.

    Attributes:
        plan: its id.
        weights: configuration to its finished folds to the SHA-256 of their weights; of a stage before one of these, which
            need not have been compared itself, to all folds that may predict. What is not named was left out.
        postprocessing: digest of the document beside the selection.
    """

    plan: str
    weights: dict[str, dict[str, str]]
    postprocessing: str


class Selection(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.selection/1"):
    """The choice, with all that it rests on: made again from ``evidence`` and ``rule``, it comes out the same.

    Attributes:
        winner: the candidate to use.
        best: the candidate with the highest mean.
        verdict: ``clear``, ``tie`` (others are as good as the best, as far as the cases tell) or ``only``.
        reason: all that in words, made from the numbers.
        rule: by which it was chosen.
        standings: in the order of the candidates.
        evidence: scores, costs and patients.
        basis: the trainings behind it; None of a choice from scores alone.
    """

    winner: str
    best: str
    verdict: Verdict
    reason: str
    rule: SelectionRule
    standings: tuple[Standing, ...]
    evidence: Evidence
    basis: Basis | None = None

    def __post_init__(self) -> None:
        names = [candidate.name for candidate in self.evidence.candidates]
        for field in ("winner", "best"):
            known = getattr(self, field) in names
            require(known, "is no candidate", field=field, found=getattr(self, field), expected=", ".join(names))
        same = [standing.candidate for standing in self.standings] == names
        require(same, "every candidate needs one, in the same order", field="standings")

    @property
    def members(self) -> tuple[str, ...]:
        """Configurations of the winner."""
        return next(each.members for each in self.evidence.candidates if each.name == self.winner)

    @property
    def tied(self) -> tuple[str, ...]:
        """The candidates that are as good as the best one as far as the cases tell, itself included."""
        return tuple(standing.candidate for standing in self.standings if standing.place != "worse")

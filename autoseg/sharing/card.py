"""The model card: what a model segments, what it was trained on, how good it is, where it ends; made from its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoseg.errors import counted
from autoseg.values import (
    ExportedFile,
    Fingerprint,
    Interval,
    Metrics,
    Plan,
    Postprocessing,
    Selection,
)

__all__ = ["CardFacts", "TrainedFold", "model_card"]


@dataclass(frozen=True, kw_only=True)
class TrainedFold:
    """One training behind the model.

    Attributes:
        configuration: its name.
        fold: a number, or "full".
        trained: cases that it was trained on.
        held_out: cases that it was not.
        iterations: of the training.
        hours: of it; None where that is not known any more.
        device: kind of device that it was trained on; empty if not known.
    """

    configuration: str
    fold: str
    trained: int
    held_out: int
    iterations: int
    hours: float | None
    device: str


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that a card tells.

    Attributes:
        plan: of the model.
        members: configuration to folds, of what predicts.
        trainings: of members and of the stages before them.
        cases: that any of them was trained on or that were held out.
        patients: of these cases; None where that is not known.
        fingerprint: sizes, spacings and intensities of these cases; None where it is not there any more.
        metrics: on held-out cases.
        selection: None where nothing was selected.
        postprocessing: likewise.
        versions: of the programs that exported it.
        files: path to size and content, of all files but the card and the list.
    """

    plan: Plan
    members: Mapping[str, Sequence[str]]
    trainings: Sequence[TrainedFold]
    cases: int
    patients: int | None
    fingerprint: Fingerprint | None
    metrics: Metrics
    selection: Selection | None
    postprocessing: Postprocessing | None
    versions: Mapping[str, str]
    files: Mapping[str, ExportedFile]


def model_card(facts: CardFacts) -> str:
    """The card in Markdown."""
    name = "+".join(facts.members)
    sections = {
        f"{facts.plan.dataset}: {name}": _summary(facts),
        "What it segments": _labels(facts.plan),
        "What it was trained on": _data(facts),
        "How good it is": _scores(facts),
        "Why this one": _choice(facts),
        "How it was trained": _trainings(facts),
        "Limits": _limits(facts),
        "How to use it": _usage(facts.plan),
        "Versions and files": _files(facts),
    }
    lines = []
    for place, (title, text) in enumerate(sections.items()):
        lines += [f"{'#' if place == 0 else '##'} {title}", "", *text, ""]
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    for row in (head, ["---"] * len(head), *body):
        yield f"| {' | '.join(row)} |"


def _summary(facts: CardFacts) -> Iterator[str]:
    kind = "An ensemble of networks" if len(facts.members) > 1 else "A network"
    yield f"{kind} that segments medical images, trained by autoseg. Plan `{facts.plan.name}`, id `{facts.plan.id}`."
    yield ""
    yield "This card was made from the numbers of the training. It holds no names of cases or patients."


def _labels(plan: Plan) -> Iterator[str]:
    region = " (one region; labels may overlap)" if plan.labels.has_regions else ""
    yield f"Input: {counted(len(plan.channels), 'channel')} ({', '.join(plan.channels)}). Output{region}:"
    yield ""
    written = dict(zip(plan.labels.foreground, plan.labels.predicted_integers, strict=True))
    rows: list[Sequence[object]] = [["label", "integer in label maps"]]
    rows += [[label.name, integer] for label, integer in written.items()]
    yield from _table(rows)


def _data(facts: CardFacts) -> Iterator[str]:
    of = "" if facts.patients is None else f" of {counted(facts.patients, 'patient')}"
    yield f"{counted(facts.cases, 'annotated case')}{of}, those held out included."
    fingerprint = facts.fingerprint
    if fingerprint is None:
        return
    spacings = fingerprint.spacings(facts.plan.orientation)
    pairs = zip(fingerprint.cases, spacings, strict=True)
    axes = [case.to_canonical if facts.plan.orientation == "canonical" else None for case, _ in pairs]
    shapes = [
        case.shape if axis is None else axis.reorder(case.shape)
        for case, axis in zip(fingerprint.cases, axes, strict=True)
    ]
    told = "superior, posterior, left" if facts.plan.orientation == "canonical" else "as stored in the files"
    yield ""
    yield f"Smallest and largest, per array axis ({told}):"
    yield ""
    rows: list[Sequence[object]] = [["", "axis 0", "axis 1", "axis 2"]]
    rows.append(["spacing in mm", *(f"{min(each):.4g} to {max(each):.4g}" for each in zip(*spacings, strict=True))])
    rows.append(["size in voxels", *(f"{min(each)} to {max(each)}" for each in zip(*shapes, strict=True))])
    yield from _table(rows)
    yield ""
    yield "Intensities of voxels of the labels, all cases weighted equally:"
    yield ""
    rows = [["channel", "smallest", "0.5 %", "median", "99.5 %", "largest"]]
    for channel, each in zip(fingerprint.channels, fingerprint.intensities, strict=True):
        values = [each.min, each.percentile_00_5, each.median, each.percentile_99_5, each.max] if each else ["–"] * 5
        rows.append([channel, *(value if isinstance(value, str) else f"{value:.4g}" for value in values)])
    yield from _table(rows)


def _scores(facts: CardFacts) -> Iterator[str]:
    metrics = facts.metrics
    if not metrics.cases:
        yield "No case was held out from this model, so nothing is known of how good it is on new images."
        return
    yield (
        f"Dice on {counted(metrics.cases, 'case')} of {counted(metrics.patients, 'patient')} that were held out from the "
        "networks that predicted them, with 95 % intervals by a bootstrap of patients:"
    )
    yield ""
    rows: list[Sequence[object]] = [["label", "Dice", "95 % interval", "cases"]]
    rows += [[label, *_interval(each)] for label, each in metrics.dice.items()]
    rows.append(["mean of the labels", *_interval(metrics.mean)])
    yield from _table(rows)
    done = facts.postprocessing
    if done is not None and done.steps:
        yield ""
        yield (
            f"The table is without postprocessing. Only the largest component is kept of "
            f"{', '.join(step.name for step in done.steps)}, which on these cases, by which that was decided, changed the "
            f"mean from {_number(done.dice_before)} to {_number(done.dice_after)}."
        )
    yield ""
    yield "More measures are in `metrics.json`."


def _interval(each: Interval) -> tuple[str, str, int]:
    bounds = "too few patients" if each.lower is None else f"{_number(each.lower)} to {_number(each.upper)}"
    return _number(each.mean), bounds, each.cases


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _choice(facts: CardFacts) -> Iterator[str]:
    selection = facts.selection
    if selection is None:
        yield "Nothing was selected: this model was not compared with others by their held-out cases (`autoseg select`)."
        return
    yield selection.reason
    yield ""
    costs = {each.name: each.cost.seconds_per_case for each in selection.evidence.candidates}
    rows: list[Sequence[object]] = [["candidate", "Dice", "points behind the best", "s per case", ""]]
    for each in selection.standings:
        seconds = costs[each.candidate]
        told = ", ".join(filter(None, ["taken" if each.candidate == selection.winner else "", each.place]))
        spent = "–" if seconds is None else f"{seconds:.3g}"
        rows.append([each.candidate, _number(each.mean), f"{100 * each.regret:.2f}", spent, told])
    yield from _table(rows)
    yield ""
    yield "The Dice of what was taken is a little too high, because it was chosen by it. All numbers: `selection.json`."


def _trainings(facts: CardFacts) -> Iterator[str]:
    rows: list[Sequence[object]] = [["configuration", "fold", "cases", "held out", "iterations", "batch", "hours", ""]]
    for each in facts.trainings:
        batch = facts.plan.configuration(each.configuration).batch_size
        hours = "–" if each.hours is None else f"{each.hours:.2g}"
        role = "" if each.configuration in facts.members else "stage before"
        told = ", ".join(filter(None, [each.device, role]))
        rows.append([each.configuration, each.fold, each.trained, each.held_out, each.iterations, batch, hours, told])
    yield from _table(rows)


def _limits(facts: CardFacts) -> Iterator[str]:
    yield "- Not a medical device. Every result has to be looked at by somebody who can judge it."
    yield "- The scores hold for images like those above; of other scanners, protocols, ages or diseases they say nothing."
    if facts.metrics.cases and facts.metrics.patients < 20:
        yield f"- {counted(facts.metrics.patients, 'patient')} are few: what went wrong in none of them is in no interval."
    if any(each.iterations < 10_000 for each in facts.trainings):
        fewest = min(each.iterations for each in facts.trainings)
        yield f"- The training was short ({fewest} iterations at least): a longer one may do better."
    absent = [label for label, each in facts.metrics.dice.items() if each.mean is None]
    if absent and facts.metrics.cases:
        yield f"- No held-out case tells anything of {', '.join(absent)}."
    yield "- Weights hold something of the images that they were learnt from. That no image follows from them is not proven."


def _usage(plan: Plan) -> Iterator[str]:
    yield "```bash"
    yield "autoseg predict -i IMAGES -o PREDICTIONS -m THIS_FOLDER_OR_ARCHIVE"
    yield "autoseg train CONFIGURATION 0 --from THIS_FOLDER_OR_ARCHIVE     # begins with its weights"
    yield "```"
    if len(plan.channels) > 1:
        yield ""
        yield f"Channels, one file each or in this order in one: {', '.join(plan.channels)}."


def _files(facts: CardFacts) -> Iterator[str]:
    yield ", ".join(f"{name} {version}" for name, version in facts.versions.items()) + "."
    yield f"Planned by autoseg {facts.plan.autoseg_version}."
    yield ""
    rows: list[Sequence[object]] = [["file", "bytes", "SHA-256"]]
    rows += [[f"`{name}`", each.bytes, f"`{each.sha256}`"] for name, each in sorted(facts.files.items())]
    yield from _table(rows)

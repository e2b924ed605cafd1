"""Plain tables for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET

from autoseg.cli.options import seconds
from autoseg.errors import counted
from autoseg.planning import GIBIBYTE
from autoseg.values import (
    Comparison,
    Configuration,
    Cost,
    MeanScore,
    Patients,
    Plan,
    Postprocessing,
    Selection,
    Split,
    Standing,
    Summary,
)
from autoseg.values.scores import Measured

if TYPE_CHECKING:
    from autoseg.estimates import Explanation

__all__ = [
    "comparison_text",
    "explanation_text",
    "patients_text",
    "plan_text",
    "selection_text",
    "summary_text",
    "table",
]


DEVICES = {
    "cpu": "on a CPU",
    "cuda": "of a GPU; --device cpu plans for a CPU",
    "mps": "on Apple's GPU",
}
#: What is shown beside Dice and IoU, where it was measured.
SHOWN_MEASURES = {"hd95": "HD95", "assd": "ASSD", "nsd": "NSD", "lesion_f1": "lesion F1", "lesion_fp": "FP per case"}
#: Reasons that stand beside the choice they explain.
SHOWN_REASONS = {
    *("purpose", "spacing", "anisotropy", "patch size", "pooling", "features", "batch size", "memory", "length"),
}


def table(rows: Sequence[Sequence[str]], *, header: bool = True) -> str:
    """Rows as aligned columns, numbers to the right, with a line under the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = [all(_is_number(row[column]) for row in rows[header:]) for column in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(cells).rstrip()

    lines = [line(row) for row in rows]
    if header:
        lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit() or text in ("", "–")


def plan_text(plan: Plan) -> str:
    """The plan with the reason of every choice."""
    parts = [
        f"Plan {plan.name!r} for {plan.dataset} (planner {plan.planner}; for {plan.budget_bytes / GIBIBYTE:.3g} GiB "
        f"{DEVICES[plan.device]})",
        _choices(
            [("orientation", plan.orientation.replace("_", " "), plan.reasons.get("orientation", ""))]
            + [("axis order", " ".join(map(str, plan.axis_order)), plan.reasons.get("axis order", ""))]
            + [
                (f"channel {name}", spec.scheme + (" in mask" if spec.use_mask else ""), spec.reason)
                for name, spec in zip(plan.channels, plan.normalization, strict=True)
            ]
            + [(name, "", reason) for name, reason in plan.reasons.items() if name not in ("orientation", "axis order")]
        ),
    ]
    if plan.warnings:
        parts.insert(1, "\n".join(_wrapped(f"Warning: {warning}") for warning in plan.warnings))
    for configuration in plan.configurations:
        parts.append(f"{configuration.name}\n{_choices(_configuration_rows(configuration))}")
    return "\n\n".join(parts)


def explanation_text(explanation: Explanation, budget_bytes: int) -> str:
    """Why a configuration exists, what it costs and what more memory would change, in plain words."""
    configuration, expected = explanation.configuration, explanation.expected
    training = configuration.training
    memory = (
        f"{configuration.expected_memory_bytes / GIBIBYTE:.1f} GiB of the {budget_bytes / GIBIBYTE:.3g} GiB planned for, "
        f"predicted for patches of {_sizes(configuration.patch_size)} and batches of {configuration.batch_size}"
    )
    if expected.seconds_per_iteration is None or expected.seconds is None:
        time = f"not measured: this machine has no device {explanation.device!r}"
    else:
        epoch = expected.seconds_per_iteration * training.iterations_per_epoch
        time = (
            f"{expected.seconds_per_iteration:.2g} s an iteration, {seconds(epoch)} an epoch, {seconds(expected.seconds)} a "
            f"fold of {training.iterations} iterations, by a short probe on this device ({explanation.device})"
        )
    disk = f"{expected.case_bytes / GIBIBYTE:.2g} GiB for the cases, {expected.fold_bytes / GIBIBYTE:.2g} GiB for each fold"
    rows = [
        ("what for", configuration.reasons.get("purpose", "")),
        ("memory", memory),
        ("time", time),
        ("disk", disk),
        (f"with {explanation.larger_bytes / GIBIBYTE:.3g} GiB", _change(explanation)),
    ]
    return f"{configuration.name}, explained\n{_choices([(name, '', text) for name, text in rows])}"


def _change(explanation: Explanation) -> str:
    now, then = explanation.configuration, explanation.larger
    if then is None:
        return "it would not be planned: a patch at full resolution would then see enough of an image"
    if (now.patch_size, now.batch_size) == (then.patch_size, then.batch_size):
        return "nothing would change: patch and batch are limited by the images and by their number"
    changes = []
    if now.patch_size != then.patch_size:
        changes.append(f"patches of {_sizes(then.patch_size)} instead of {_sizes(now.patch_size)}")
    if now.batch_size != then.batch_size:
        changes.append(f"batches of {then.batch_size} instead of {now.batch_size}")
    return ", ".join(changes)


def _sizes(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _configuration_rows(configuration: Configuration) -> list[tuple[str, str, str]]:
    reasons, network, training = configuration.reasons, configuration.network, configuration.training
    spacing = " x ".join("own" if step is None else f"{step:.4g}" for step in configuration.spacing)
    features = "-".join(map(str, network.features))
    kind = "; ".join(filter(None, [f"{len(network.features)} stages, {network.architecture}", reasons.get("features")]))
    pooled = " x ".join(str(_halvings(network.strides, axis)) for axis in range(network.dimensions))
    return [
        ("purpose", "", reasons.get("purpose", "")),
        ("spacing", f"{spacing} mm", reasons.get("spacing", "")),
        ("median size", " x ".join(f"{size:g}" for size in configuration.median_shape), reasons.get("anisotropy", "")),
        ("patch size", _sizes(configuration.patch_size), reasons.get("patch size", "")),
        ("pooling", pooled, reasons.get("pooling", "")),
        ("features", features, kind),
        ("batch size", str(configuration.batch_size), reasons.get("batch size", "")),
        ("memory", f"{configuration.expected_memory_bytes / GIBIBYTE:.1f} GiB", reasons.get("memory", "")),
        ("training", f"{training.iterations} iterations", f"{training.optimizer}; {reasons.get('length', '')}"),
        *((name, "", reason) for name, reason in reasons.items() if name not in SHOWN_REASONS),
    ]


def _wrapped(text: str) -> str:
    return "\n  ".join(textwrap.wrap(text, 108, break_on_hyphens=False))


def _halvings(strides: Sequence[Sequence[int]], axis: int) -> int:
    return sum(stride[axis] > 1 for stride in strides)


def _choices(rows: Sequence[tuple[str, str, str]]) -> str:
    """Name, value and reason; long reasons wrap in their column."""
    name_width = max(len(name) for name, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows)
    indent = " " * (name_width + value_width + 6)
    lines = []
    for name, value, reason in rows:
        wrapped = textwrap.wrap(reason, max(40, 110 - len(indent))) or [""]
        lines.append(f"  {name.ljust(name_width)}  {value.ljust(value_width)}  {wrapped[0]}".rstrip())
        lines.extend(indent + rest for rest in wrapped[1:])
    return "\n".join(lines)


def patients_text(patients: Patients, split: Split) -> str:
    """Whose cases are whose, in one line; empty where the names suggest nothing, and nobody said anything."""
    several, cases = patients.several, len(patients.patient_of)
    origin = {
        "names": "their names",
        "pattern": f"the pattern {patients.rule!r}",
        "table": patients.rule,
        "dataset": "the data set",
    }
    by = origin[patients.source] + (" and equal images" if patients.joined else "")
    if not several:
        return f"patients: one for each of {cases} cases, by {by}." if patients.stated else ""
    shown = [f"{patient}: {_listed(', ', each, 4)}" for patient, each in several.items()]
    divided = patients.divided_by(split)
    return (
        f"patients: {len(set(patients.patient_of.values()))} in {cases} cases, by {by} "
        f"({_listed('; ', shown, 3)}); "
        + (f"{len(divided)} on both sides of a fold." if divided else "none stands on both sides of a fold.")
        + ("" if patients.stated else " Not so? --group-by tells.")
    )


def _listed(separator: str, names: Sequence[str], count: int) -> str:
    return separator.join([*names[:count], *(["…"] if len(names) > count else [])])


def summary_text(summary: Summary) -> str:
    """Mean scores per label, and over labels, with the number of cases behind them."""
    overall = summary.foreground_mean
    shown = {name: heading for name, heading in SHOWN_MEASURES.items() if getattr(overall, name) is not UNSET}

    def row(name: str, mean: MeanScore, cases: str) -> list[str]:
        measured = (_score(getattr(mean, each), digits=4 if each == "nsd" else 2) for each in shown)
        return [name, _score(mean.dice), _score(mean.iou), *measured, cases]

    rows = [["label", "Dice", "IoU", *shown.values(), "cases"]]
    for key, mean in summary.mean.items():
        rows.append(row(f"{summary.label_names[key]} ({key.strip('()')})", mean, str(mean.cases)))
    rows.append(row("mean of labels", overall, ""))
    text = table(rows)
    if shown and summary.measured_with:
        text += f"\nHD95 and ASSD in mm; NSD: the part of the surfaces within {summary.measured_with.tolerance_mm:g} mm"
    for key, mean in summary.mean.items():
        without = mean.cases - (mean.cases_of or {}).get("HD95", mean.cases)
        if without:
            name = summary.label_names[key]
            text += f"\n{name}: {counted(without, 'case')} without distances: nothing there, or nothing predicted"
    if summary.absent_labels:
        text += f"\nnever in reference or prediction, so not in the mean: {', '.join(summary.absent_labels)}"
    return text


def selection_text(selection: Selection, postprocessing: Postprocessing) -> str:
    """Every candidate with its mean, how far it is behind the best and its cost; then the choice in words."""
    costs = {each.name: each.cost for each in selection.evidence.candidates}
    rows = [["", "candidate", "Dice", "behind the best", "s per case", "training", ""]]
    for standing in selection.standings:
        rows.append(
            [
                "→" if standing.candidate == selection.winner else "",
                standing.candidate,
                f"{100 * standing.mean:.2f}",
                _behind(standing),
                *_cost(costs[standing.candidate]),
                standing.place,
            ]
        )
    return f"{table(rows)}\n\n{_wrapped(selection.reason)}\n{_wrapped(_postprocessing(postprocessing))}"


def comparison_text(comparison: Comparison) -> str:
    """The difference per label, its costs, the first number of every experiment; then the answer in words."""
    from autoseg.comparison.report import cost_rows, difference_rows, experiment_rows

    parts = [table(list(difference_rows(comparison))), table(list(cost_rows(comparison)))]
    if comparison.experiments:
        parts.append(table(list(experiment_rows(comparison))))
    return "\n\n".join([*parts, _wrapped(comparison.answer)])


def _behind(standing: Standing) -> str:
    if standing.place == "best":
        return "–"
    if standing.regret_lower is None or standing.regret_upper is None:
        return f"{100 * standing.regret:.2f}, no bounds"
    lower, upper = 100 * standing.regret_lower, 100 * standing.regret_upper
    return f"{100 * standing.regret:.2f} ({lower:.2f} to {upper:.2f})"


def _cost(cost: Cost) -> list[str]:
    per_case = "–" if cost.seconds_per_case is None else f"{cost.seconds_per_case:.3g}"
    return [per_case, "–" if cost.training_hours is None else seconds(cost.training_hours * 3600)]


def _postprocessing(decided: Postprocessing) -> str:
    if not decided.steps:
        return "Postprocessing: none; removing small components does not raise the Dice of these cases."
    objects = ", ".join(step.name for step in decided.steps)
    gain = 100 * ((decided.dice_after or 0) - (decided.dice_before or 0))
    return f"Postprocessing: only the largest component is kept of {objects}; that adds {gain:.2f} points of mean Dice."


def _score(value: Measured, digits: int = 4) -> str:
    return "–" if value is None or value is UNSET else f"{value:.{digits}f}"

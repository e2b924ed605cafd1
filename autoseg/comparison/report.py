"""A comparison as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from autoseg.comparison.words import cost_text, points
from autoseg.values import Comparison, Contrast, Experiment, Interval

__all__ = ["cost_rows", "difference_rows", "experiment_rows", "report_of"]


def report_of(comparison: Comparison) -> str:
    """The answer, the difference with its costs, and every experiment with its numbers."""
    first, second = comparison.first, comparison.second
    parts = [
        f"# {first} and {second} compared",
        _escaped(comparison.answer),
        "Numbers are in hundredths: Dice points. Intervals are by patients and tell of patients like these, not of another "
        "training of the same networks.",
        "## The difference",
        _escaped(comparison.difference.method),
        _table(difference_rows(comparison)),
        "## What they cost",
        _table(cost_rows(comparison)),
        *(text for experiment in comparison.experiments for text in _experiment(experiment)),
    ]
    if comparison.left_out:
        parts += ["## Left out of the experiments", _table([["case", "why"], *map(list, comparison.left_out.items())])]
    parts += ["## Made of", f"Plan `{comparison.plan}`.", _table(_weight_rows(comparison))]
    return "\n\n".join(parts) + "\n"


def _bounds(interval: Interval) -> str:
    """Lower to upper bound in points, or why there is none."""
    if interval.lower is None or interval.upper is None:
        return f"none: {interval.patients} patients" if interval.cases else "–"
    return f"{points(interval.lower)} to {points(interval.upper)}"


def _probability(p_value: float | None) -> str:
    """A p value in two digits."""
    return "–" if p_value is None else f"{p_value:.2g}"


def difference_rows(comparison: Comparison) -> Iterator[list[str]]:
    """A header, then a row for all labels and for each, in points."""
    first, second = comparison.first, comparison.second
    yield ["label", first, second, "difference", "95 % interval", "p", f"{first} better", "worse", "equal"]
    for each in comparison.difference.contrasts:
        effects = each.effects
        counts = ("–",) * 3 if effects is None else (effects.better, effects.worse, effects.equal)
        scores = (comparison.dice[name].get(each.label) for name in (first, second))
        yield [
            each.label,
            *map(_points, scores),
            _points(each.interval.mean),
            _bounds(each.interval),
            _probability(each.p_value),
            *map(str, counts),
        ]


def cost_rows(comparison: Comparison) -> Iterator[list[str]]:
    """A header, then a row for each thing that was paid."""
    names = (comparison.first, comparison.second)
    yield ["", *names]
    for quantity in comparison.costs[comparison.first]:
        costs = (comparison.costs[name].get(quantity) for name in names)
        yield [quantity, *("not measured" if cost is None else cost_text(cost) for cost in costs)]


def experiment_rows(comparison: Comparison) -> Iterator[list[str]]:
    """A header, then a row for each experiment: its first number, which answers its question, or that there is none."""
    yield ["experiment", "difference", "95 % interval", "p"]
    for each in comparison.experiments:
        name = each.name.replace("_", " ")
        if each.contrasts:
            first = each.contrasts[0]
            yield [name, _points(first.interval.mean), _bounds(first.interval), _probability(first.p_value)]
        else:
            yield [name, "–", "not measured", "–"]


def _weight_rows(comparison: Comparison) -> Iterator[list[str]]:
    yield ["configuration", "fold", "SHA-256 of the weights"]
    for name, folds in comparison.weights.items():
        for fold, weights in folds.items():
            yield [name, fold, f"`{weights}`"]


def _experiment(experiment: Experiment) -> Iterator[str]:
    yield f"## {_escaped(experiment.question)}"
    yield _escaped(experiment.method)
    if experiment.failures:
        yield _table([["failed", "why"], *map(list, experiment.failures.items())])
    if experiment.missing:
        yield f"Not measured: {_escaped(experiment.missing)}"
        return
    yield f"**{_escaped(experiment.answer)}**"
    yield _table([["what", "label", "where", "mean", "95 % interval", "p", "cases"], *map(_row, experiment.contrasts)])


def _row(contrast: Contrast) -> list[str]:
    interval = contrast.interval
    return [
        contrast.quantity,
        contrast.label,
        contrast.group,
        _points(interval.mean),
        _bounds(interval),
        _probability(contrast.p_value),
        str(interval.cases),
    ]


def _points(number: float | None) -> str:
    return "–" if number is None else points(number)


def _table(rows: Iterator[list[str]] | Sequence[list[str]]) -> str:
    header, *rest = [[_escaped(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rest])


def _escaped(text: str) -> str:
    """Names of labels are the user's: none of their characters may start a tag or break a table."""
    return " ".join(text.replace("<", "&lt;").split())

"""The measures of all held-out cases, kept case by case under digests of what they were made of."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from autoseg.comparison.measures import CaseMeasures, measure_case
from autoseg.crossvalidation.ensembles import Attempts, HeldOutCase
from autoseg.errors import CasesFailedError, DocumentError, InputError
from autoseg.files import read_document, write_document
from autoseg.held_out_files import ComparisonFiles
from autoseg.inference.ensembles import ensemble_bytes
from autoseg.values import Labels, digest
from autoseg.values.json_form import Value

__all__ = ["MeasureLabelMap", "Measured", "measured_cases"]

#: Changes when the same files get other measures.
MEASURING = "1"
#: A voxel of two label maps as they are read, their copies in the plan's order, and masks of a label.
BYTES_A_VOXEL = 24
#: Scores are equal up to rounding.
SAME_DICE = 1e-9
#: Configuration to case to its measures.
Measured = dict[str, dict[str, CaseMeasures]]


class MeasureLabelMap(Value, frozen=True, kw_only=True):
    """Measures the label map of the one configuration that a case asks for; a task for any executor."""

    labels: Labels

    @property
    def stage(self) -> str:
        """For messages."""
        return "compare"

    def __call__(self, item: HeldOutCase) -> CaseMeasures:
        """The measures.

        Raises:
            InputError: the label map is not on the grid of its reference.
        """
        stored, (prediction,) = item.stored(), item.label_maps(self.labels)
        record = stored.record
        if prediction.shape != record.source.shape:
            raise InputError(
                "the label map of a held-out case is of another size than its reference",
                case=item.id,
                file=item.label_map,
                found=prediction.shape,
                expected=record.source.shape,
            )
        return measure_case(item.reference(), prediction, record.source, record.axes, self.labels, item.annotated)

    def bytes(self, item: HeldOutCase) -> int:
        """Memory that the work on a case takes at most."""
        made = 0 if item.label_map else ensemble_bytes(item.voxels, 1, 1)
        return made + BYTES_A_VOXEL * item.voxels


class _Entry(Value, frozen=True, kw_only=True):
    """Measures, and the digest of what they depend on."""

    key: str
    measures: CaseMeasures


class _Document(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.compared-case/1"):
    """What has been measured of a case, by configuration."""

    measured: dict[str, _Entry] = {}


def measured_cases(
    files: ComparisonFiles,
    cases: Sequence[HeldOutCase],
    dice: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    labels: Labels,
    attempts: Attempts,
) -> tuple[Measured, dict[str, str]]:
    """Measures of every case that asks for one configuration; only what is not known yet is computed.

    Args:
        files: where they are kept.
        cases: each with one candidate; a case may come once for each configuration.
        dice: configuration to case to label to the Dice that the label map was scored with.
        labels: what the integers mean.
        attempts: runs the cases.

    Returns:
        The measures; and, by case, why there are none.

    Raises:
        InterruptedRunError: the work was stopped; what is measured is kept.
    """
    task, found, waiting = MeasureLabelMap(labels=labels), Measured(), list[HeldOutCase]()
    keys, left_out = dict[tuple[str, str], str](), dict[str, str]()
    for case in cases:
        (name,) = case.candidates
        keys[case.id, name] = digest([MEASURING, case.depends_on(name, labels)])
        entry = _known(files, case.id).measured.get(name)
        if entry is not None and entry.key == keys[case.id, name]:
            found.setdefault(name, {})[case.id] = entry.measures
        else:
            waiting.append(case)
    try:
        for case, measures in attempts.run(task, waiting, len(cases)):
            (name,) = case.candidates
            entry = _Entry(key=keys[case.id, name], measures=measures)
            measured = {**_known(files, case.id).measured, name: entry}
            write_document(files.case(case.id), _Document(measured=measured))
            found.setdefault(name, {})[case.id] = measures
    except CasesFailedError as error:
        left_out = {case: str(why) or type(why).__name__ for case, why in error.failures.items()}
    for name, measured_of in found.items():
        for case_id, measures in list(measured_of.items()):
            if not _as_scored(measures, dice[name][case_id]):
                left_out[case_id] = (
                    f"the label map by {name} does not have the Dice that it was scored with; remove the fold's folder "
                    "validation and repeat the training's command, which makes it anew"
                )
    kept = {name: {case: each for case, each in of.items() if case not in left_out} for name, of in found.items()}
    return kept, dict(sorted(left_out.items()))


def _known(files: ComparisonFiles, case_id: str) -> _Document:
    file = files.case(case_id)
    with contextlib.suppress(DocumentError):  # a damaged one is as good as none
        return read_document(_Document, file) if file.is_file() else _Document()
    return _Document()


def _as_scored(measures: CaseMeasures, dice: Mapping[str, float | None]) -> bool:
    found = {name: each.whole.dice for name, each in measures.labels.items()}
    return all(_same(found.get(name), score) for name, score in dice.items())


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SAME_DICE

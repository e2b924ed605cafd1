"""Tasks that do their work and tell the most memory that their process has held."""

from __future__ import annotations

from autoseg.case_conversion import CaseToConvert, ConvertCase
from autoseg.inference.inputs import PrepareInput
from autoseg.io.case_work import CaseFiles, FileList
from autoseg.io.layouts.integers import FindIntegers
from autoseg.machine import process_memory
from autoseg.measuring import MeasureCase
from autoseg.preprocessing.case_task import CaseToPreprocess, PreprocessCase
from autoseg.values import Value


class Peak(Value, frozen=True, kw_only=True):
    """One of two tasks."""

    measure: MeasureCase | None = None
    prepare: PrepareInput | None = None

    def __call__(self, item: CaseFiles) -> int:
        for task in (self.measure, self.prepare):
            if task is not None:
                task(item)
        return _most()


class PeakOfPreprocessing(Value, frozen=True, kw_only=True):
    """Preprocessing a case."""

    task: PreprocessCase

    def __call__(self, item: CaseToPreprocess) -> int:
        made = self.task(item).grids
        assert made.keys() == set(item.wanted)
        assert all(each.made and each.error is None for each in made.values()), made
        return _most()


class PeakOfConversion(Value, frozen=True, kw_only=True):
    """Converting a case."""

    task: ConvertCase

    def __call__(self, item: CaseToConvert) -> int:
        self.task(item)
        return _most()


class PeakOfLook(Value, frozen=True, kw_only=True):
    """Looking into a label file."""

    task: FindIntegers

    def __call__(self, item: FileList) -> int:
        self.task(item)
        return _most()


def _most() -> int:
    memory = process_memory()
    assert memory is not None
    return memory[1]

"""What a cascade's stage before predicted, brought to the grid of the next stage: one way for training and for new images.

The label map lies on the case's own grid, as it is written. It takes the way of the case's reference: reordered, cropped as
the record of the case says, and resampled as labels. Only that background outside of the non-zero region stays background.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoseg import plugins
from autoseg.errors import InputError
from autoseg.io.cases import read_labels
from autoseg.io.earlier_store import EarlierStore
from autoseg.io.headers import Header
from autoseg.preprocessing.memory import preprocessing_bytes
from autoseg.values import Labels, Plan, PreprocessRecord, digest
from autoseg.values.json_form import Value
from autoseg.volume.axes import reorder
from autoseg.volume.lookup import look_up

__all__ = ["EarlierMap", "StoreEarlier", "earlier_key", "earlier_on_grid"]

#: Raise this when the arrays change for the same label maps: what is stored is then made anew.
FORMAT_VERSION = 1


def earlier_key(content: str, case_key: str) -> str:
    """Content key of a predicted label map on the grid of a preprocessed case.

    Args:
        content: hash of the label map's file.
        case_key: content key of the case on that grid; it tells the way, too.
    """
    return digest([str(FORMAT_VERSION), content, case_key])


def earlier_on_grid(labels: np.ndarray, record: PreprocessRecord, plan: Plan, configuration: str) -> np.ndarray:
    """A predicted label map on the grid of a configuration, as numbers of channels.

    Args:
        labels: integers ``(1, *spatial)`` on the grid and in the order of the case's files, as autoseg writes them.
        record: of the case on the configuration's grid.
        plan: tells the labels.
        configuration: whose resampling is used.

    Returns:
        Small unsigned integers ``(*spatial)``: 1 + position in ``Labels.predicted_integers``; 0 is background.

    Raises:
        InputError: the label map is that of another image, or of other labels.
    """
    if labels.shape[1:] != record.source.shape:
        raise InputError(
            "what the stage before predicted is no label map of this image",
            case=record.case_id,
            found=f"{labels.shape[1:]} voxels",
            expected=f"{record.source.shape}",
        )
    inner = _to_channels(reorder(labels, record.axes)[(slice(None), *record.crop)][0], plan.labels, record.case_id)
    resampling = plan.configuration(configuration).resampling
    resampler = plugins.load("resampler", resampling.resampler)(resampling)
    return np.ascontiguousarray(resampler.labels(inner, record.shape, record.spacing, record.target_spacing))


def _to_channels(labels: np.ndarray, declared: Labels, case_id: str) -> np.ndarray:
    """Integers of a written label map to numbers of channels; where two regions are written as one integer, the last."""
    integers = declared.predicted_integers
    table = np.full(max(integers) + 1, -1, np.int32)
    for position, integer in enumerate(integers, start=1):
        table[integer] = position
    table[0] = 0
    found = np.unique(labels)
    foreign = [int(integer) for integer in found if not 0 <= integer < len(table) or table[integer] < 0]
    if foreign:
        raise InputError(
            "what the stage before predicted holds integers that no model of this plan writes",
            case=case_id,
            found=", ".join(map(str, foreign[:5])),
            expected=", ".join(map(str, sorted({0, *integers}))),
        )
    return look_up(table.astype(np.uint8 if len(integers) < 256 else np.uint16), labels)


class EarlierMap(Value, frozen=True, kw_only=True):
    """A label map that the stage before predicted of a case.

    Attributes:
        id: of the case.
        file: the label map.
        record: of the case on the next stage's grid.
        key: of the label map there; see ``earlier_key``.
    """

    id: str
    file: str
    record: PreprocessRecord
    key: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that the work reads."""
        return (self.file,)


class StoreEarlier(Value, frozen=True, kw_only=True):
    """Brings predicted label maps to the grid of the next stage and stores them; for any executor.

    Attributes:
        plan: of both stages.
        configuration: the next stage.
        folder: of the store.
        spared: keys of older entries that are still needed.
    """

    plan: Plan
    configuration: str
    folder: str
    spared: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """For messages."""
        return f"preprocess what {self.plan.configuration(self.configuration).previous_stage} predicted"

    def __call__(self, item: EarlierMap) -> None:
        """Stores one.

        Raises:
            InputError: it cannot be read, or is none of the case.
            DiskFullError: there is no room for it.
        """
        labels = read_labels(Path(item.file), item.id)
        array = earlier_on_grid(labels.array, item.record, self.plan, self.configuration)
        patch_size = self.plan.configuration(self.configuration).patch_size
        EarlierStore(Path(self.folder)).save(item.id, item.key, array, patch_size=patch_size, spared=self.spared)

    def bytes(self, item: EarlierMap, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on one takes at most: less than on an image with a label map of that size."""
        return preprocessing_bytes(headers, headers[0], self.plan, self.plan.configuration(self.configuration))

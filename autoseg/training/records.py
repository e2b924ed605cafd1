"""What is drawn for a batch, on its own: written as JSON and read back, it makes the same batch again."""

from __future__ import annotations

from typing import Any

from autoseg.values.json_form import Value, require

__all__ = ["BatchRecord", "SampleRecord"]


class SampleRecord(Value, frozen=True, kw_only=True):
    """All that was drawn for one sample.

    Attributes:
        case: its id.
        key: content key of the preprocessed case.
        corner: first voxel of the patch in the case, before rotation and scaling; in 2D the first entry is the slice.
        matrix: maps offsets from the patch's centre to offsets in the case, in voxels; None: a plain crop.
        parameters: of each step of the recipe, in order; None where it does nothing.
    """

    case: str
    key: str
    corner: tuple[int, int, int]
    matrix: tuple[tuple[float, ...], ...] | None
    parameters: tuple[dict[str, Any] | None, ...]


class BatchRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.batch/1"):
    """All that was drawn for one batch.

    Attributes:
        iteration: that it was drawn for.
        patch_size: of the samples; two entries: slices of axis 0.
        samples: in order.
    """

    iteration: int
    patch_size: tuple[int, ...]
    samples: tuple[SampleRecord, ...]

    def __post_init__(self) -> None:
        require(len(self.patch_size) in (2, 3), "a patch has two or three edges", field="patch_size")
        require(all(edge > 0 for edge in self.patch_size), "edges of a patch are over 0", field="patch_size")
        require(len(self.samples) > 0, "a batch has a sample", field="samples")
        edges = len(self.patch_size)
        for sample in self.samples:
            matrix = sample.matrix
            fits = matrix is None or [len(row) for row in matrix] == [edges] * edges
            require(fits, "a matrix has as many rows and columns as the patch has axes", field="samples")

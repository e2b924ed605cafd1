"""The spacing of pictures, which say nothing about millimetres: a file beside them, ``NAME.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from autoseg.errors import DocumentError, UnreadableFileError
from autoseg.values.geometry import LARGEST_STEP, SMALLEST_STEP

__all__ = ["spacing_beside"]

#: What msgspec raises for content that is no such JSON.
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Triple = tuple[float, float, float]


def spacing_beside(path: Path, stem: str) -> Triple | None:
    """The spacing in millimetres ``(z, y, x)`` that ``STEM.json`` beside a picture gives, or None.

    A file without the field ``spacing`` is somebody else's and says nothing.

    Args:
        path: of the picture.
        stem: its name without ending.

    Raises:
        DocumentError: there is such a file, and its spacing is not two or three positive numbers.
        UnreadableFileError: there is such a file, and it cannot be read.
    """
    beside = path.with_name(f"{stem}.json")
    if not beside.is_file():
        return None
    try:
        stated = msgspec.json.decode(beside.read_bytes(), type=dict[str, msgspec.Raw])
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=beside) from error
    except _NO_JSON:
        return None
    if "spacing" not in stated:
        return None
    try:
        steps = msgspec.json.decode(stated["spacing"], type=list[float])
    except _NO_JSON:
        steps = []
    if len(steps) not in (2, 3) or not all(SMALLEST_STEP <= step <= LARGEST_STEP for step in steps):
        raise DocumentError(
            f"the spacing must be two or three positive numbers, from {SMALLEST_STEP:g} to {LARGEST_STEP:g}",
            file=beside,
            found=bytes(stated["spacing"])[:100].decode(errors="replace"),
            expected='{"spacing": [z, y, x]} in millimetres, or [y, x]',
        )
    return (max(steps), steps[0], steps[1]) if len(steps) == 2 else (steps[0], steps[1], steps[2])

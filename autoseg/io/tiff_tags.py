"""What the tags of a TIFF file say: whether all its pages are there, and how large a pixel is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.errors import UnreadableFileError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

__all__ = ["require_all_pages", "require_alone", "require_chain", "told_spacing"]

#: Millimetres per unit, as ImageJ and OME name it.
_UNITS = {
    "m": 1e3,
    "cm": 10.0,
    "mm": 1.0,
    "µm": 1e-3,
    "μm": 1e-3,
    "um": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "nm": 1e-6,
}
_UNITS |= {"\\u00b5m": 1e-3, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3, "nanometer": 1e-6, "inch": 25.4}
_RESOLUTION_UNIT, _CENTIMETRE = 296, 3
#: Bytes of TIFF's types of values, if not 1.
_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_TAGS = 2**16


def require_chain(path: Path) -> None:
    """Raises ``ValueError`` if a page, or what its tags say, lies beyond the file: readers would silently give
    the pages before that."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        orders = {b"II": "little", b"MM": "big"}
        if head[:2] not in orders or len(head) < 8:
            raise ValueError("this is not a TIFF file")
        order: Any = orders[head[:2]]
        version = int.from_bytes(head[2:4], order)
        if version not in (42, 43):
            raise ValueError("this is not a TIFF file")
        counted, entry, pointer = (2, 12, 4) if version == 42 else (8, 20, 8)
        at = int.from_bytes(head[4:8] if version == 42 else head[8:16], order)
        seen: set[int] = set()
        while at:
            file.seek(at)
            count = int.from_bytes(file.read(counted), order)
            tags = file.read(count * entry) if count <= _MOST_TAGS else b""
            following = file.read(pointer)
            whole = len(tags) == count * entry and len(following) == pointer
            if at in seen or not whole or _tags_end(tags, entry, pointer, order) > size:
                raise ValueError(f"the file is truncated: its page {len(seen) + 1} is not there")
            seen.add(at)
            at = int.from_bytes(following, order)
    if not seen:
        raise ValueError("the file has no page")


def _tags_end(tags: bytes, entry: int, pointer: int, order: Any) -> int:
    """The last byte of values that lie apart from the tags themselves, for being too long."""
    last = 0
    for at in range(0, len(tags), entry):
        kind = int.from_bytes(tags[at + 2 : at + 4], order)
        length = int.from_bytes(tags[at + 4 : at + 4 + pointer], order) * _TYPE_BYTES.get(kind, 1)
        if length > pointer:
            last = max(last, length + int.from_bytes(tags[at + entry - pointer : at + entry], order))
    return last


def require_alone(file: TiffFile, path: Path) -> None:
    """Refuses OME-TIFF that is spread over several files, whose names could lead anywhere.

    Names are looked for as XML may write them; declarations of the document's own, which could hide them, are refused.
    """
    text = (file.ome_metadata or "") if file.is_ome else ""
    if re.search(r"<!(DOCTYPE|ENTITY|ATTLIST)", text, re.IGNORECASE):
        raise UnreadableFileError("the OME description of this TIFF holds declarations, which are not read", file=path)
    stated = re.findall(r"""(?:FileName|MetadataFile)\s*=\s*(["'])(.*?)\1""", text, re.DOTALL)
    others = {name for _, name in stated} - {path.name}
    if others:
        raise UnreadableFileError(
            "this OME-TIFF is spread over several files, which are not followed",
            file=path,
            found=", ".join(sorted(others)[:3]),
            remedy="Save the image as one file.",
        )


def require_all_pages(file: TiffFile, series: TiffPageSeries) -> None:
    """Raises ``ValueError`` if the file's own description tells of more than was found, as when it is truncated."""
    found = int(np.prod(series.shape, dtype=object))
    plane = int(
        np.prod([size for size, axis in zip(series.shape, series.axes, strict=True) if axis in "YXS"], dtype=object)
    )
    stated = found
    if file.is_imagej and file.imagej_metadata:
        stated = int(file.imagej_metadata.get("images", 1)) * plane
    elif file.is_shaped and file.shaped_metadata:
        stated = int(np.prod(file.shaped_metadata[0].get("shape", series.shape), dtype=object))
    elif file.is_ome and file.ome_metadata:
        sizes = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", file.ome_metadata)
        counts = re.findall(r'Size[CZTXY]="(\d+)"', sizes[1]) if sizes else []
        stated = int(np.prod([int(count) for count in counts], dtype=object)) if len(counts) == 5 else found
    if stated > found:
        raise ValueError(f"the file is truncated: it has {found} of the {stated} pixels that it tells of")


def told_spacing(file: TiffFile) -> tuple[float | None, float | None, float | None]:
    """Millimetres (z, y, x) in the file, where it says so."""
    if file.is_ome and file.ome_metadata:
        pixels = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", file.ome_metadata)
        fields = dict(re.findall(r'(\w+)="([^"]*)"', pixels[1])) if pixels else {}
        depth, height, width = (
            _millimetres(fields.get(f"PhysicalSize{axis}"), fields.get(f"PhysicalSize{axis}Unit", "µm"))
            for axis in "ZYX"
        )
        return depth, height or width, width or height
    page: Any = file.pages[0]
    steps = [_resolution(page, name) for name in ("YResolution", "XResolution")]
    if file.is_imagej and file.imagej_metadata:
        unit = str(file.imagej_metadata.get("unit", ""))
        return (
            _millimetres(file.imagej_metadata.get("spacing"), unit),
            _millimetres(steps[0], unit),
            _millimetres(steps[1], unit),
        )
    tag = page.tags.get(_RESOLUTION_UNIT)
    if tag is not None and int(tag.value) == _CENTIMETRE:  # dots per inch are for printing
        return None, _millimetres(steps[0], "cm"), _millimetres(steps[1], "cm")
    return None, None, None


def _resolution(page: Any, name: str) -> float | None:
    tag = page.tags.get(name)
    if tag is None or not isinstance(tag.value, tuple) or not all(tag.value[:2]):
        return None
    return float(tag.value[1] / tag.value[0])


def _millimetres(value: Any, unit: str) -> float | None:
    try:
        number = abs(float(value)) * _UNITS[unit.strip().lower()]
    except (TypeError, ValueError, KeyError):
        return None
    return number if 0 < number < float("inf") else None

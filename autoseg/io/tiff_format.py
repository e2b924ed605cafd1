"""TIFF: one page as a picture, several pages as a volume, with the spacing that ImageJ, OME or a file beside them tells."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autoseg.errors import InputError, MissingPartError, UnreadableFileError
from autoseg.files import replacing
from autoseg.io.dtypes import smallest_integers
from autoseg.io.headers import DEFLATE_RATIO, LARGEST_RATIO, Header, require_room, require_within
from autoseg.io.natural_format import flat_geometry, picture_to_write, without_alpha
from autoseg.io.spacing_file import spacing_beside
from autoseg.io.tiff_tags import require_all_pages, require_alone, require_chain, told_spacing
from autoseg.values import Geometry, Volume
from autoseg.values.geometry import CANONICAL_DIRECTIONS

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

__all__ = ["TiffFormat"]

#: How pixels are meant, by TIFF's code: those that are read.
_GREY_INVERTED, _GREY, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_ORIENTATION = 274


class _Layout(NamedTuple):
    """The axes of a file's array: those that are channels, slices, rows and columns, and how many of each."""

    channels: tuple[int, ...]
    slices: tuple[int, ...]
    rows: int
    columns: int
    shape: tuple[int, int, int, int]


class TiffFormat:
    """Micrographs, stacks and masks. Pages are slices; colours and ImageJ's channels are channels.

    Compressions that tifffile cannot decode alone (LZW, JPEG) are decoded by Pillow where it keeps the pixels as they are.
    """

    endings = (".tif", ".tiff")
    label_endings: Mapping[str, str] = {}

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The file, and the one beside it that gives its spacing."""
        return (path, path.with_name(f"{_stem(path)}.json")) if spacing_beside(path, _stem(path)) else (path,)

    def header(self, path: Path) -> Header:
        """Shape, channels and spacing, from tags alone."""
        return self._with(path, lambda file: _header(file, path)[0])

    def read(self, path: Path) -> Volume:
        """The pixels as ``(channels, z, y, x)``; one page is a planar volume."""
        volume: Volume = self._with(path, lambda file: _read(file, path))
        return volume

    def write(self, path: Path, volume: Volume) -> None:
        """Writes the label map: a page with the volume's palette, or a stack whose spacing ImageJ understands."""
        import tifffile

        if volume.geometry.planar:
            array, palette = picture_to_write(path, volume)
            options: dict[str, Any] = {"metadata": None}
        else:
            array, palette, options = _stack_to_write(path, volume)
        options["photometric"] = "palette" if palette else "minisblack"
        if palette:
            colours = np.zeros((3, 256), np.uint16)
            colours[:, : len(palette)] = np.array(palette, np.uint16).T * 257
            options["colormap"] = colours
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            tifffile.imwrite(beside, array, compression="zlib", **options)

    def _with(self, path: Path, use: Any) -> Any:
        import tifffile

        if not path.is_file():
            raise UnreadableFileError("there is no such file", file=path)
        log = logging.getLogger("tifffile")
        if not log.handlers:  # what matters is raised; without a handler, the rest would go to standard error
            log.addHandler(logging.NullHandler())
        try:
            require_chain(path)
            with tifffile.TiffFile(path, _multifile=False) as file:  # no file but this one
                return use(file)
        except (InputError, MissingPartError):
            raise
        except Exception as error:  # the libraries behind raise whatever they like
            raise UnreadableFileError(
                f"cannot read this as an image: {error}", file=path, remedy="Restore or remove the file."
            ) from error


def _stem(path: Path) -> str:
    return path.name[: -len(path.suffix)]


def _header(file: TiffFile, path: Path) -> tuple[Header, TiffPageSeries, _Layout, int]:
    """The header, the images behind it, how they are laid out, and how many channels are kept of those."""
    require_alone(file, path)
    if len(file.series) != 1:
        shapes = ", ".join(str(series.shape) for series in list(file.series)[:4])
        raise UnreadableFileError("the pages of the file are of different kinds", file=path, found=shapes)
    series = file.series[0]
    page: Any = file.pages[0]
    require_all_pages(file, series)
    _require_usual(page, path)
    layout = _layout(series, path)
    compressed = int(page.compression)
    ratio = {1: 1, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO}.get(compressed, LARGEST_RATIO)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8 * series.dtype.itemsize
    require_room(int(np.prod(series.shape, dtype=object)) * bits // 8, path.stat().st_size, ratio=ratio)
    kept = _without_extra(page, layout.shape[0])
    notes = ["an alpha channel is left out if it is the same everywhere"] if kept < layout.shape[0] else []
    if int(page.photometric) == _GREY_INVERTED:
        notes.append("0 is white in this file; its numbers are kept as they are")
    if "T" in series.axes and layout.slices and series.axes[layout.slices[0]] == "T":
        notes.append("the pages are points in time, says the file; they are taken for slices")
    spacing, spaced, spacing_notes = _spacing(file, path, planar=layout.shape[1] == 1)
    shape = layout.shape[1:]
    planar = shape[0] == 1
    header = Header(
        channels=kept,
        dtype="uint8" if series.dtype == bool else series.dtype.newbyteorder("=").name,
        geometry=flat_geometry(shape[1:], spacing) if planar else Geometry(shape=shape, spacing=spacing),
        palette=_palette(page),
        spaced=spaced,
        notes=(*notes, *spacing_notes),
    )
    return header, series, layout, kept


def _read(file: TiffFile, path: Path) -> Volume:
    header, series, layout, kept = _header(file, path)
    require_within(header)
    try:
        array = series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        array = _by_pillow(path, series, error)
    if array.shape != series.shape:
        raise ValueError(f"its pages give {array.shape}, its tags promise {series.shape}")
    array = np.moveaxis(array, [*layout.channels, *layout.slices, layout.rows, layout.columns], range(array.ndim))
    pixels = np.moveaxis(array.reshape(layout.shape), 0, -1)
    array = np.moveaxis(without_alpha(pixels, kept, path), -1, 0).astype(header.dtype, copy=False)
    return Volume(array=array, geometry=header.geometry, palette=header.palette, spaced=header.spaced)


def _require_usual(page: TiffPage, path: Path) -> None:
    meant = int(page.photometric)
    if meant not in (_GREY_INVERTED, _GREY, _RGB, _PALETTE, _YCBCR):
        raise UnreadableFileError(
            f"TIFF pictures of type {getattr(page.photometric, 'name', meant)} are not read",
            file=path,
            expected="grey, palette or RGB",
            remedy="Save the picture as RGB or grey." if meant == _SEPARATED else None,
        )
    tag = page.tags.get(_ORIENTATION)
    if tag is not None and tag.value != 1:
        raise UnreadableFileError(
            "the picture is to be turned before it is looked at, and its label map may have been drawn either way",
            file=path,
            found=f"orientation {tag.value}",
            expected="1 (upright), or none",
            remedy="Turn the pixels and save it without that tag, so that it lies as its label map does.",
        )
    if page.dtype is None or page.dtype.kind not in "biuf":
        raise UnreadableFileError(f"voxels of type {page.dtype} are not supported; real numbers are", file=path)


def _layout(series: TiffPageSeries, path: Path) -> _Layout:
    axes, shape = series.axes, series.shape
    rows, columns = axes.index("Y"), axes.index("X")
    channels = tuple(at for at, axis in enumerate(axes) if axis in "SC")
    others = tuple(at for at, axis in enumerate(axes) if axis not in "SCYX")
    long = [axes[at] for at in others if shape[at] > 1]
    if len(long) > 1 or (long and long[0] not in "ZIQT"):
        raise UnreadableFileError(
            "the file has more axes than a volume",
            file=path,
            found=", ".join(f"{axis}: {size}" for axis, size in zip(axes, shape, strict=True)),
            expected="slices, rows and columns, and channels",
            remedy="Save every point in time as a file of its own.",
        )
    sizes = [int(np.prod([shape[at] for at in part], dtype=int)) for part in (channels, others)]
    main = tuple(sorted(others, key=lambda at: -shape[at]))
    return _Layout(channels, main, rows, columns, (sizes[0], sizes[1], shape[rows], shape[columns]))


def _without_extra(page: TiffPage, channels: int) -> int:
    """Channels that are not alpha."""
    alpha = sum(int(extra) in (1, 2) for extra in page.extrasamples)
    return channels - alpha if 0 < alpha < channels and page.samplesperpixel == channels else channels


def _palette(page: TiffPage) -> tuple[tuple[int, int, int], ...]:
    if int(page.photometric) != _PALETTE or page.colormap is None:
        return ()
    colours = (np.asarray(page.colormap) >> 8).T
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours[:256])


def _spacing(file: TiffFile, path: Path, *, planar: bool) -> tuple[tuple[float, float, float], bool, list[str]]:
    """Spacing (z, y, x), whether the file tells all of it, and notes. Of single pages only a file beside them tells it."""
    beside = spacing_beside(path, _stem(path))
    if beside is not None:
        return beside, True, []
    depth, height, width = (None, None, None) if planar else told_spacing(file)
    if height is None or width is None:
        return (1.0, 1.0, 1.0), False, []
    if depth is None:
        note = f"the distance between pages is not told and taken for that of pixels; {_stem(path)}.json can tell it"
        return (max(height, width), height, width), False, [note]
    return (depth, height, width), True, []


def _by_pillow(path: Path, series: TiffPageSeries, error: ValueError) -> np.ndarray:
    """The pages, where Pillow gives the pixels as they are stored: 8 bits of any kind, and 16 or 32 bits of grey."""
    from PIL import TiffImagePlugin

    modes = {"1": "bool", "L": "uint8", "P": "uint8", "RGB": "uint8", "RGBA": "uint8", "I;16": "uint16", "F": "float32"}
    pages = []
    with TiffImagePlugin.TiffImageFile(path) as picture:
        count = int(np.prod(series.shape, dtype=int)) // int(
            np.prod([size for size, axis in zip(series.shape, series.axes, strict=True) if axis in "YXS"], dtype=int)
        )
        for index in range(count):
            picture.seek(index)
            stored = modes.get(picture.mode)
            if stored != series.dtype.name or int(picture.tag_v2.get(262, _GREY)) == _GREY_INVERTED:
                raise MissingPartError(
                    f"{path.name}: this kind of TIFF needs another package ({error}): pip install imagecodecs"
                ) from error
            pages.append(np.asarray(picture))
    return np.stack(pages).reshape(series.shape)


def _stack_to_write(path: Path, volume: Volume) -> tuple[np.ndarray, tuple[tuple[int, int, int], ...], dict[str, Any]]:
    geometry = volume.geometry
    placed = not np.allclose(geometry.directions, CANONICAL_DIRECTIONS, atol=1e-6) or any(geometry.origin)
    if placed or len(volume.array) != 1:
        raise InputError(
            "a TIFF file holds neither directions nor an origin" if placed else "a label map has one channel",
            file=path,
            remedy="Write it as .nii.gz, .nrrd or .mha.",
        )
    array = smallest_integers(volume.array[0])
    if array.dtype.itemsize > 2:
        raise InputError("TIFF files hold label maps up to 65535", file=path, found=int(array.max()))
    depth, height, width = geometry.spacing
    covered = array.dtype == np.uint8 and int(array.max(initial=0)) < len(volume.palette)
    options = {
        "imagej": True,
        "resolution": (1 / width, 1 / height),
        "metadata": {"axes": "ZYX", "spacing": depth, "unit": "mm"},
    }
    return np.ascontiguousarray(array), volume.palette if covered else (), options

"""PNG, JPEG and BMP: planar volumes of grey, colour or palette pixels, whose spacing only a file beside them can tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.errors import InputError, UnreadableFileError
from autoseg.files import replacing
from autoseg.io.dtypes import smallest_integers
from autoseg.io.headers import DEFLATE_RATIO, LARGEST_RATIO, Header, require_room, require_within
from autoseg.io.spacing_file import spacing_beside
from autoseg.values import Geometry, Volume

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["NaturalFormat", "flat_geometry", "picture_to_write", "without_alpha"]

#: Pillow's kinds of pixels: channels that are kept, whether an alpha follows, and their number type.
_MODES = {
    "1": (1, False, "uint8"),
    "L": (1, False, "uint8"),
    "P": (1, False, "uint8"),
    "LA": (1, True, "uint8"),
    "RGB": (3, False, "uint8"),
    "RGBA": (3, True, "uint8"),
    "I;16": (1, False, "uint16"),
    "I;16B": (1, False, "uint16"),
}
_REMEDY = {
    "CMYK": "CMYK is for printing: save the picture as RGB or grey.",
    "YCCK": "CMYK is for printing: save the picture as RGB or grey.",
}
EXIF_ORIENTATION = 0x0112


class NaturalFormat:
    """Photographs, micrographs and masks: the pixels as they are stored.

    Grey pictures have one channel, colours three; pictures with a palette have one channel with the numbers of the colours.
    An alpha channel that says nothing (the same everywhere) is left out, any other is refused. Pictures that are to be
    turned before they are looked at (EXIF) are refused, because whoever drew the labels may or may not have turned them.
    """

    endings = (".png", ".jpg", ".jpeg", ".bmp")
    #: JPEG changes pixels, and BMP holds no more than 256 labels.
    label_endings: Mapping[str, str] = {".jpg": ".png", ".jpeg": ".png", ".bmp": ".png"}

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The picture, and the file beside it that gives its spacing."""
        beside = path.with_name(f"{_stem(path)}.json")
        return (path, beside) if spacing_beside(path, _stem(path)) else (path,)

    def header(self, path: Path) -> Header:
        """Size, channels and palette; an alpha channel does not count, since none is kept."""
        try:
            with _opened(path) as picture:
                return _header(picture, path)
        except InputError:
            raise
        except Exception as error:
            raise _unreadable(error, path) from error

    def read(self, path: Path) -> Volume:
        """The pixels as ``(channels, 1, y, x)``; colours are channels."""
        try:
            with _opened(path) as picture:
                header = require_within(_header(picture, path))
                pixels = _deep_pixels(path) if _is_deep(path) else _pixels(picture, path)
        except InputError:
            raise
        except Exception as error:  # the libraries behind raise whatever they like
            raise _unreadable(error, path) from error
        pixels = without_alpha(pixels, header.channels, path)
        array = np.moveaxis(pixels, -1, 0)[:, None]
        return Volume(array=array, geometry=header.geometry, palette=header.palette, spaced=header.spaced)

    def write(self, path: Path, volume: Volume) -> None:
        """Writes the label map as PNG: with the volume's palette, or else as grey values of 8 or 16 bits."""
        from PIL import Image

        if path.suffix.lower() in self.label_endings:
            raise InputError(
                f"{path.suffix} files do not hold label maps as they are", file=path, remedy="Write it as .png."
            )
        array, palette = picture_to_write(path, volume)
        picture = Image.fromarray(array)
        if palette:
            picture = Image.frombytes("P", picture.size, array.tobytes())
            picture.putpalette([part for colour in palette for part in colour])
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            picture.save(beside, format="PNG")


def flat_geometry(shape: tuple[int, int], spacing: tuple[float, float, float] | None) -> Geometry:
    """A planar grid of ``(y, x)`` pixels with a spacing in millimetres, or one pixel."""
    step = spacing or (1.0, 1.0, 1.0)
    return Geometry(shape=(1, *shape), spacing=(max(step[1:]), step[1], step[2]), planar=True)


def without_alpha(pixels: np.ndarray, kept: int, path: Path) -> np.ndarray:
    """Pixels ``(…, channels)`` without an alpha channel that is the same everywhere.

    Raises:
        UnreadableFileError: the alpha channel differs from pixel to pixel, so it may mean something.
    """
    if pixels.shape[-1] == kept:
        return pixels
    alpha = pixels[..., kept]
    if (alpha != alpha.flat[0]).any():
        raise UnreadableFileError(
            "the picture is transparent in places (its alpha channel is not the same everywhere)",
            file=path,
            found=f"alpha from {alpha.min()} to {alpha.max()}",
            remedy="Put it onto a background and save it without transparency; if the transparency means something, save it "
            "as a channel of its own.",
        )
    return pixels[..., :kept]


def picture_to_write(path: Path, volume: Volume) -> tuple[np.ndarray, tuple[tuple[int, int, int], ...]]:
    """The pixels ``(y, x)`` of a planar label map, as small as they can be, and the palette if it covers them.

    Raises:
        InputError: more than one slice or channel, or values beyond 65535.
    """
    if volume.array.shape[:2] != (1, 1):
        raise InputError(
            "a picture holds one slice of one channel",
            file=path,
            found=f"shape {volume.array.shape} (channels, slices, rows, columns)",
            remedy="Write a volume as .nii.gz, .nrrd or .mha.",
        )
    array = np.ascontiguousarray(smallest_integers(volume.array[0, 0]))
    if array.dtype.itemsize > 2:
        raise InputError("pictures hold label maps up to 65535", file=path, found=int(array.max()))
    covered = array.dtype == np.uint8 and int(array.max(initial=0)) < len(volume.palette)
    return array, volume.palette if covered else ()


def _stem(path: Path) -> str:
    return path.name[: -len(path.suffix)]


def _opened(path: Path) -> ImageFile:
    """The picture, by its signature. Classes are used directly: Pillow's own limit of pixels is below large slides."""
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin

    if not path.is_file():
        raise UnreadableFileError("there is no such file", file=path)
    with path.open("rb") as file:
        start = file.read(8)
    for signature, kind in (
        (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
        (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
        (b"BM", BmpImagePlugin.BmpImageFile),
    ):
        if start.startswith(signature):
            return kind(path)
    raise UnreadableFileError(
        "cannot read this as an image: it is neither PNG nor JPEG nor BMP",
        file=path,
        remedy="Restore or remove the file.",
    )


def _header(picture: ImageFile, path: Path) -> Header:
    if getattr(picture, "n_frames", 1) > 1:
        raise UnreadableFileError("the file holds several pictures", file=path, found=getattr(picture, "n_frames", 1))
    if picture.mode not in _MODES:
        raise UnreadableFileError(
            f"pictures of type {picture.mode} are not read",
            file=path,
            expected="grey, palette or RGB",
            remedy=_REMEDY.get(picture.mode),
        )
    if picture.format in ("JPEG", "MPO"):
        _require_upright(picture, path)
    channels, alpha, dtype = _MODES[picture.mode]
    bits, kind = _png_kind(path)
    if bits == 16 and kind == 4:
        raise UnreadableFileError(
            "grey pictures of 16 bits with an alpha channel are not read", file=path, remedy="Save it without alpha."
        )
    if bits == 16:
        dtype = "uint16"
    width, height = picture.size
    ratio = DEFLATE_RATIO if picture.format == "PNG" else LARGEST_RATIO
    require_room(width * height * (channels + alpha) * bits // 8, path.stat().st_size, ratio=ratio)
    spacing = spacing_beside(path, _stem(path))
    return Header(
        channels=channels,
        dtype=dtype,
        geometry=flat_geometry((height, width), spacing),
        palette=_palette(picture),
        spaced=spacing is not None,
        notes=("an alpha channel is left out if it is the same everywhere",) if alpha else (),
    )


def _require_upright(picture: Any, path: Path) -> None:
    orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    if orientation not in (0, 1):
        raise UnreadableFileError(
            "the picture is to be turned before it is looked at (EXIF orientation), and its label map may have been drawn "
            "either way",
            file=path,
            found=f"orientation {orientation}",
            expected="1 (upright), or none",
            remedy="Turn the pixels and save it without that tag, so that it lies as its label map does.",
        )


def _palette(picture: ImageFile) -> tuple[tuple[int, int, int], ...]:
    parts = picture.getpalette("RGB") if picture.mode == "P" else None
    if not parts:
        return ()
    return tuple((parts[at], parts[at + 1], parts[at + 2]) for at in range(0, len(parts) - 2, 3))


def _pixels(picture: ImageFile, path: Path) -> np.ndarray:
    """The samples ``(y, x, channels)`` as stored; Pillow stretches grey values of 2 and 4 bits to 255, which is undone."""
    picture.load()
    pixels = np.asarray(picture)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if picture.mode == "L":
        pixels = pixels // {(2, 0): 85, (4, 0): 17}.get(_png_kind(path), 1)
    if pixels.dtype.byteorder == ">":
        pixels = pixels.astype(np.uint16)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _png_kind(path: Path) -> tuple[int, int]:
    """Bits and colour type that a PNG file states; 8 and -1 for all else."""
    with path.open("rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if head.startswith(b"\x89PNG") and len(head) == 26 else (8, -1)


def _is_deep(path: Path) -> bool:
    """Whether a PNG has 16 bits and more than one channel, of which Pillow keeps only 8 bits."""
    bits, kind = _png_kind(path)
    return bits == 16 and kind in (2, 4, 6)


def _deep_pixels(path: Path) -> np.ndarray:
    from autoseg.io.simpleitk_format import ONE_AT_A_TIME, simpleitk

    sitk = simpleitk()
    with ONE_AT_A_TIME:
        image = sitk.ReadImage(str(path), imageIO="PNGImageIO")
    pixels: np.ndarray = sitk.GetArrayFromImage(image)
    return pixels


def _unreadable(error: Exception, path: Path) -> UnreadableFileError:
    return UnreadableFileError(
        f"cannot read this as an image: {error}", file=path, remedy="Restore or remove the file."
    )

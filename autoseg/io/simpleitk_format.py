"""NIfTI, NRRD, MetaImage and GIPL through SimpleITK, geometry kept exactly, headers checked before voxels are read."""

from __future__ import annotations

import dataclasses
import functools
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from autoseg.errors import InputError, MissingPartError, UnreadableFileError
from autoseg.files import replacing
from autoseg.io.detached import require_intact, voxel_data
from autoseg.io.dtypes import smallest_integers
from autoseg.io.headers import Header, require_stream, require_within
from autoseg.io.nifti import Placement, RawHeader, is_nifti, placement, raw_header, require_whole, with_nonfinite
from autoseg.io.nifti_voxels import plain_header, plain_voxels
from autoseg.values import Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["ONE_AT_A_TIME", "SimpleITKFormat", "itk_header", "itk_image", "itk_volume", "simpleitk"]

T = TypeVar("T")
_READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".gipl": "GiplImageIO",
    ".gipl.gz": "GiplImageIO",
}
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


#: Held while ITK reads or writes a file: it keeps some state for all threads, such as the locale, and was seen to crash when
#: two threads read headers at once, in one of a hundred thousand readings or so.
ONE_AT_A_TIME = threading.Lock()


def simpleitk() -> Any:
    """The library, quiet: what matters is raised, the rest would tear the progress bar."""
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingPartError("SimpleITK is not installed here; install it with: pip install SimpleITK") from error
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    return SimpleITK


class SimpleITKFormat:
    """Medical volumes: one file with its geometry; 4D files and vector pixels are channels.

    A header in a file of its own (``.mhd``, ``.nhdr``) is read with the data file beside it; label maps for such images are
    written as one file.
    """

    endings = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".gipl.gz")
    label_endings: Mapping[str, str] = {".mhd": ".mha", ".nhdr": ".nrrd"}

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The file, and the data file that its header names; found without SimpleITK."""
        data = None if not path.is_file() else _readable(path, voxel_data)
        return (path,) if data is None or data.file == path else (path, data.file)

    def header(self, path: Path) -> Header:
        """What the file promises, if it is large enough for it."""
        return _readable(path, lambda file: _seen(file).header)

    def read(self, path: Path) -> Volume:
        """The file's voxels as ``(channels, z, y, x)`` with their LPS geometry; a 2D file is a planar volume."""
        return _readable(path, _read)

    def write(self, path: Path, volume: Volume) -> None:
        """Writes the label map compressed, with spacing, origin and direction of its geometry."""
        sitk = simpleitk()
        ending = _ending(path)
        if ending in self.label_endings:
            raise InputError(
                "a label map is written as one file, with its header",
                file=path,
                remedy=f"Write it as {self.label_endings[ending]}.",
            )
        if _READERS[ending] == "GiplImageIO":
            volume = _for_gipl(volume, path)
        image = itk_image(volume)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            with ONE_AT_A_TIME:
                sitk.WriteImage(image, str(beside), True)
            require_whole(beside)
            require_intact(beside)


def itk_volume(image: SimpleITK.Image) -> Volume:
    """The voxels ``(channels, z, y, x)`` and the place of an image in memory; they are copied.

    Raises:
        ValueError: its voxels are no real numbers, or it has other than 2, 3 or 4 dimensions.
    """
    if image.GetDimension() not in (2, 3, 4):
        raise ValueError(f"an image with {image.GetDimension()} dimensions is not supported; 2, 3 or 4 are")
    _dtype(image.GetPixelID())
    return Volume(array=_channels_first(image), geometry=_geometry(image))


def itk_image(volume: Volume) -> SimpleITK.Image:
    """An image of the first channel, with spacing, origin and direction of its geometry; planar ones have two dimensions."""
    geometry = volume.geometry
    first = 1 if geometry.planar else 0
    axes = list(range(first, 3))[::-1]  # file order: x first
    array = volume.array[0, 0] if geometry.planar else volume.array[0]
    image = simpleitk().GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(geometry.spacing[axis]) for axis in axes])
    image.SetOrigin(geometry.origin[: len(axes)])
    image.SetDirection([geometry.directions[axis][world] for world in range(len(axes)) for axis in axes])
    return image


def itk_header(reader: SimpleITK.ImageFileReader, *, planar: bool = False, notes: tuple[str, ...] = ()) -> Header:
    """The header of a reader that has read it.

    Args:
        reader: after ``ReadImageInformation``.
        planar: a volume of one slice is to be taken as 2D.
        notes: to keep with it.
    """
    dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
    if dimension not in (2, 3, 4) or (dimension == 4 and components > 1):
        raise ValueError(f"an image with {dimension} dimensions is not supported; 2, 3 or 4 are")
    size = reader.GetSize()
    return Header(
        channels=components * (int(size[3]) if dimension == 4 else 1),
        dtype=_dtype(reader.GetPixelID()),
        geometry=_geometry(reader, planar=planar),
        notes=notes,
    )


def _readable(path: Path, read: Callable[[Path], T]) -> T:
    """What ``read`` gives, or one error that names the file."""
    if not path.is_file():
        raise UnreadableFileError("there is no such file", file=path)
    try:
        return read(path)
    except (RuntimeError, ValueError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise UnreadableFileError(
            f"cannot read this as an image: {_reason(error, path)}", file=path, remedy="Restore or remove the file."
        ) from error


class _Seen(NamedTuple):
    """A file whose header was read: by ITK, whose reader is kept, or else here, where it is plain, or for nibabel."""

    header: Header
    reader: SimpleITK.ImageFileReader | None
    raw: RawHeader | None
    placed: Placement


def _seen(path: Path) -> _Seen:
    if not is_nifti(path):
        voxel_data(path)
        reader = _reader(path)
        header = itk_header(reader, planar=_READERS[_ending(path)] == "GiplImageIO")
        return _Seen(header, reader, None, Placement(through_nibabel=False))
    raw = raw_header(path)
    placed = placement(raw)
    if placed.through_nibabel:
        from autoseg.io.nifti_affine import read_affine_header

        return _Seen(read_affine_header(path, raw, placed), None, raw, placed)
    plain = plain_header(raw, placed.notes)
    if plain is not None:
        return _Seen(plain, None, raw, placed)
    reader = _reader(path)
    return _Seen(itk_header(reader, notes=placed.notes), reader, raw, placed)


def _read(path: Path) -> Volume:
    header, reader, raw, placed = _seen(path)
    require_within(header)
    if raw is None:
        require_intact(path)
    else:
        voxels = None if placed.through_nibabel else plain_voxels(path)
        if voxels is not None and voxels.shape == header.geometry.shape:
            return Volume(array=voxels[None], geometry=header.geometry)
        require_stream(path, raw.file_bytes)
        if placed.through_nibabel:
            from autoseg.io.nifti_affine import read_affine

            return read_affine(path, raw, placed)
    reader = reader or _reader(path)
    with ONE_AT_A_TIME:
        image = reader.Execute()
    array = _channels_first(image)
    if raw is not None and np.issubdtype(array.dtype, np.floating):
        array = with_nonfinite(array, path)
    return Volume(array=array, geometry=header.geometry)


def _ending(path: Path) -> str:
    name = path.name.lower()
    return next(ending for ending in sorted(_READERS, key=len, reverse=True) if name.endswith(ending))


def _reader(path: Path) -> SimpleITK.ImageFileReader:
    """A reader of the format that the ending says, and no other, that has read the header."""
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO(_READERS[_ending(path)])
    reader.SetFileName(str(path))
    with ONE_AT_A_TIME:
        reader.ReadImageInformation()
    return reader


def _for_gipl(volume: Volume, path: Path) -> Volume:
    directions = tuple(part for axis in (2, 1, 0) for part in volume.geometry.directions[axis])
    if not np.allclose(directions, IDENTITY, atol=1e-6):
        raise InputError(
            "GIPL files hold no directions", file=path, remedy="Write the label map as .nii.gz, .nrrd or .mha."
        )
    array = smallest_integers(volume.array)
    if array.dtype.itemsize > 2:
        raise InputError("GIPL files hold label maps up to 65535", file=path, found=int(array.max()))
    return dataclasses.replace(volume, array=array)


@functools.cache
def _dtypes() -> dict[int, str]:
    sitk = simpleitk()
    kinds = {"UInt8": "uint8", "Int8": "int8", "UInt16": "uint16", "Int16": "int16", "UInt32": "uint32"}
    kinds |= {"Int32": "int32", "UInt64": "uint64", "Int64": "int64", "Float32": "float32", "Float64": "float64"}
    return {getattr(sitk, f"sitk{prefix}{name}"): dtype for name, dtype in kinds.items() for prefix in ("", "Vector")}


def _dtype(pixel: int) -> str:
    if pixel not in _dtypes():
        kind = simpleitk().GetPixelIDValueAsString(pixel)
        raise ValueError(f"voxels of type {kind} are not supported; real numbers are")
    return _dtypes()[pixel]


def _channels_first(image: SimpleITK.Image) -> np.ndarray:
    array = simpleitk().GetArrayFromImage(image)  # (t, z, y, x, component), those that there are
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
        if image.GetDimension() == 2:
            array = array[:, None]
    elif image.GetDimension() == 2:
        array = array[None, None]
    elif image.GetDimension() == 3:
        array = array[None]
    return np.asarray(array)


def _geometry(image: SimpleITK.Image | SimpleITK.ImageFileReader, *, planar: bool = False) -> Geometry:
    dimension = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    spacing, origin, size = image.GetSpacing(), image.GetOrigin(), image.GetSize()
    if dimension == 2:
        plane = np.eye(3)
        plane[:2, :2] = direction
        direction, origin, size = plane, (*origin, 0.0), (*size, 1)
        spacing = (*spacing, max(spacing))
    flat = dimension == 2 or (planar and dimension == 3 and size[2] == 1)
    # axis i of the array is axis 2 - i of the file, whose direction is that column of the matrix
    columns = [tuple(float(value) for value in direction[:3, 2 - axis]) for axis in range(3)]
    return Geometry(
        shape=(int(size[2]), int(size[1]), int(size[0])),
        spacing=(float(max(spacing[:2]) if flat else spacing[2]), float(spacing[1]), float(spacing[0])),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        directions=(columns[0], columns[1], columns[2]),  # type: ignore[arg-type]
        planar=flat,
    )


def _reason(error: Exception, path: Path) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].removeprefix("sitk::ERROR: ").replace(str(path), path.name)

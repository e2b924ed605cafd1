"""NIfTI, NRRD and MetaImage through SimpleITK, with geometry kept exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.errors import MissingPartError, UnreadableFileError
from autoseg.files import replacing
from autoseg.io.headers import Header
from autoseg.io.nifti import is_nifti, require_whole, with_nonfinite
from autoseg.values import Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["SimpleITKFormat"]


def _sitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingPartError("SimpleITK is not installed here; install it with: pip install SimpleITK") from error
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # what matters is raised; the rest would tear the progress bar
    return SimpleITK


class SimpleITKFormat:
    """Medical volumes: one file with its geometry; 4D files and vector pixels are channels."""

    endings = (".nii.gz", ".nii", ".nrrd", ".mha")

    def header(self, path: Path) -> Header:
        """Channels, number type and geometry, from the header alone."""
        sitk = _sitk()
        if not path.is_file():
            raise UnreadableFileError("there is no such file", file=path)
        try:
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            size = reader.GetSize()
            small = sitk.Image([1] * len(size), reader.GetPixelID(), reader.GetNumberOfComponents())
            array = _channels_first(sitk, small)
            channels = len(array) * (size[3] if len(size) == 4 else 1)
            return Header(channels=channels, dtype=array.dtype.name, geometry=_geometry(reader))
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            raise UnreadableFileError(
                f"cannot read this as an image: {_reason(error, path)}", file=path, remedy="Restore or remove the file."
            ) from error

    def read(self, path: Path) -> Volume:
        """The file's voxels as ``(channels, z, y, x)`` with their LPS geometry; a 2D file is a planar volume."""
        sitk = _sitk()
        if not path.is_file():
            raise UnreadableFileError("there is no such file", file=path)
        try:
            require_whole(path)
            image = sitk.ReadImage(str(path))
            array = _channels_first(sitk, image)
            if np.issubdtype(array.dtype, np.floating) and is_nifti(path):
                array = with_nonfinite(array, path)
            return Volume(array=array, geometry=_geometry(image))
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            raise UnreadableFileError(
                f"cannot read this as an image: {_reason(error, path)}", file=path, remedy="Restore or remove the file."
            ) from error

    def write(self, path: Path, volume: Volume) -> None:
        """Writes the label map compressed, with spacing, origin and direction of its geometry."""
        sitk = _sitk()
        geometry = volume.geometry
        first = 1 if geometry.planar else 0  # a planar geometry is written as a 2D image
        axes = list(range(first, 3))[::-1]  # file order: x first
        array = volume.array[0, 0] if geometry.planar else volume.array[0]
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing([float(geometry.spacing[axis]) for axis in axes])
        image.SetOrigin(geometry.origin[: len(axes)])
        image.SetDirection([geometry.directions[axis][world] for world in range(len(axes)) for axis in axes])
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            sitk.WriteImage(image, str(beside), True)
            require_whole(beside)


def _channels_first(sitk: Any, image: SimpleITK.Image) -> np.ndarray:
    array = sitk.GetArrayFromImage(image)  # (t, z, y, x, component), those that there are
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
        if image.GetDimension() == 2:
            array = array[:, None]
    elif image.GetDimension() == 2:
        array = array[None, None]
    elif image.GetDimension() == 3:
        array = array[None]
    if array.ndim != 4:
        raise ValueError(f"an image with {image.GetDimension()} dimensions is not supported; 2, 3 or 4 are")
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"voxels of type {array.dtype} are not supported; real numbers are")
    return np.asarray(array)


def _geometry(image: SimpleITK.Image) -> Geometry:
    dimension = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    spacing, origin, size = image.GetSpacing(), image.GetOrigin(), image.GetSize()
    if dimension == 2:
        plane = np.eye(3)
        plane[:2, :2] = direction
        direction, origin, size = plane, (*origin, 0.0), (*size, 1)
        spacing = (*spacing, max(spacing))
    # axis i of the array is axis 2 - i of the file, whose direction is that column of the matrix
    columns = [tuple(float(value) for value in direction[:3, 2 - axis]) for axis in range(3)]
    return Geometry(
        shape=(int(size[2]), int(size[1]), int(size[0])),
        spacing=(float(spacing[2]), float(spacing[1]), float(spacing[0])),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        directions=(columns[0], columns[1], columns[2]),  # type: ignore[arg-type]
        planar=dimension == 2,
    )


def _reason(error: Exception, path: Path) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].removeprefix("sitk::ERROR: ").replace(str(path), path.name)

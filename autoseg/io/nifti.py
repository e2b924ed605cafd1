"""What ITK's NIfTI reader does not tell: truncated files, voxels that are not numbers, and doubtful places in space.

ITK reads a truncated file of integers without a word, reports a write to a full disk as done, turns NaN into 0, takes a
spacing of 0 for 1 mm, and does not say when a file has two forms (qform, sform) that contradict each other. So the header is
looked at here, too.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from autoseg.io.headers import DEFLATE_RATIO, opened, require_room, require_stream

__all__ = ["Placement", "RawHeader", "is_nifti", "placement", "raw_header", "require_whole", "with_nonfinite"]

#: NIfTI's codes of floating-point voxels.
FLOATS = {16: "f4", 64: "f8"}
#: Cosines between axes, from orthogonal: up to the first, ITK reads the sform; up to the second (half a degree), it is taken
#: for rounding, and the nearest rotation is used.
ITK_SHEAR, LARGEST_SHEAR = 9e-5, 1e-2
#: The two forms of a file differ by no more than this, or it is noted.
FORM_VOXELS, FORM_DEGREES = 0.5, 1.0


class RawHeader(NamedTuple):
    """The fields of a NIfTI-1 or NIfTI-2 header that reading depends on, in file order (x, y, z)."""

    version: int
    order: str
    code: int
    begin: int
    data_bytes: int
    sizes: tuple[int, ...]
    steps: np.ndarray
    scale: tuple[float, float]
    units: int
    qform_code: int
    sform_code: int
    quaternion: np.ndarray
    sform: np.ndarray

    @property
    def file_bytes(self) -> int:
        """Size of the uncompressed file, at least."""
        return self.begin + self.data_bytes

    @property
    def qform(self) -> np.ndarray:
        """The affine ``(3, 4)`` of the quaternion form, as the standard defines it (RAS)."""
        b, c, d = self.quaternion[:3]
        a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
            ]
        )
        handed = -1.0 if self.steps[0] < 0 else 1.0
        columns = rotation * np.abs(self.steps[1:4]) * np.array([1.0, 1.0, handed])
        return np.column_stack([columns, self.quaternion[3:]])


class Placement(NamedTuple):
    """How a file's place in space is to be taken.

    Attributes:
        through_nibabel: ITK cannot read it, or would read it wrong.
        notes: what somebody may want to know.
    """

    through_nibabel: bool
    notes: tuple[str, ...] = ()


def is_nifti(path: Path) -> bool:
    """Whether the file's ending says NIfTI, in any case of letters."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def raw_header(path: Path) -> RawHeader:
    """The header of a NIfTI file, if the file can hold what it promises; voxels are not looked at.

    Raises:
        ValueError: it is not a NIfTI header, or the file is too small for it.
    """
    with opened(path) as file:
        header = _read_header(file)
    compressed = path.name.lower().endswith(".gz")
    require_room(header.file_bytes, path.stat().st_size, ratio=DEFLATE_RATIO if compressed else 1)
    return header


def require_whole(path: Path) -> None:
    """Raises ``ValueError`` unless the file holds as many bytes as its header says; other formats are not looked at."""
    if is_nifti(path):
        with opened(path) as file:
            wanted = _read_header(file).file_bytes
        require_stream(path, wanted)


def with_nonfinite(array: np.ndarray, path: Path) -> np.ndarray:
    """The array, as ITK read it from this NIfTI file, with NaN and infinity as the file has them.

    Args:
        array: floating-point voxels in the file's order.
        path: of the file.
    """
    with opened(path) as file:
        header = _read_header(file)
        if header.code not in FLOATS:
            return array
        file.seek(header.begin)
        raw = file.read(header.data_bytes)
    stored = np.frombuffer(raw, header.order + FLOATS[header.code], array.size).reshape(array.shape)
    broken = ~np.isfinite(stored)
    if broken.any():
        array = array.copy()
        array[broken] = stored[broken]
    return array


def placement(header: RawHeader) -> Placement:
    """Decides how the file lies in space.

    ITK takes the qform if there is one, else the sform, else a guess; that is kept. It is refused where the two forms
    contradict each other about which way the axes run, where the axes are clearly not at right angles, and where there is no
    usable spacing.

    Raises:
        ValueError: refused, with the reason.
    """
    used = [axis for axis in range(min(3, len(header.sizes))) if header.sizes[axis] > 1]
    steps = np.abs(header.steps[1:4])
    notes: list[str] = []
    spaced = bool(np.all(np.isfinite(steps[used]) & (steps[used] > 0)))
    if header.qform_code <= 0 and header.sform_code > 0:
        return _by_sform(header, steps)
    if not spaced:
        raise ValueError(f"the header has no usable spacing: {tuple(map(float, steps))} (x, y, z)")
    if not np.isfinite(header.quaternion).all() and header.qform_code > 0:
        raise ValueError("the header's qform is not finite")
    if header.qform_code <= 0:
        notes.append("neither qform nor sform: which way the axes run is not known, and was guessed")
    elif header.sform_code > 0:
        notes.extend(_conflict(header))
    return Placement(through_nibabel=header.version == 2, notes=tuple(notes))


def shear(columns: np.ndarray) -> float:
    """The largest cosine between two axes that should be at right angles; nan if an axis has no length."""
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        return math.nan
    unit = columns / lengths
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


def _by_sform(header: RawHeader, steps: np.ndarray) -> Placement:
    columns = header.sform[:, :3]
    found = shear(columns)
    if math.isnan(found) or not np.isfinite(header.sform).all():
        raise ValueError("the header's sform is not usable, and there is no qform")
    if found > LARGEST_SHEAR:
        degrees = math.degrees(math.asin(min(1.0, found)))
        raise ValueError(
            f"the axes are not at right angles: the sform shears them by {degrees:.2f} degrees (up to "
            f"{math.degrees(math.asin(LARGEST_SHEAR)):.2f} is taken for rounding); resample the image onto a straight "
            "grid first"
        )
    if found > ITK_SHEAR:
        return Placement(
            through_nibabel=True,
            notes=(
                f"the axes are {math.degrees(math.asin(found)):.3f} degrees from right angles; "
                "the nearest rotation is used",
            ),
        )
    lengths = np.linalg.norm(columns, axis=0)
    used = [axis for axis in range(min(3, len(header.sizes))) if header.sizes[axis] > 1]
    if not np.allclose(steps[used], lengths[used], rtol=1e-3):
        return Placement(
            through_nibabel=True,
            notes=(
                f"the spacing {_rounded(steps)} differs from the sform's {_rounded(lengths)}, which is used (x, y, z)",
            ),
        )
    return Placement(through_nibabel=header.version == 2)


def _conflict(header: RawHeader) -> list[str]:
    """A note if qform and sform place the image differently."""
    qform, sform = header.qform, header.sform
    found = shear(sform[:, :3])
    if math.isnan(found) or not np.isfinite(sform).all():
        return ["the sform is not usable; the qform is used"]
    steps = np.linalg.norm(qform[:, :3], axis=0)
    unit_q, unit_s = qform[:, :3] / steps, sform[:, :3] / np.linalg.norm(sform[:, :3], axis=0)
    if _nearest_axes(unit_q) != _nearest_axes(unit_s) and np.diag(unit_q.T @ unit_s).min() < math.cos(math.radians(45)):
        raise ValueError(
            "qform and sform contradict each other about which way the axes run; correct the wrong one (with nibabel: "
            "image.set_qform(image.get_sform()) if the sform is right)"
        )
    sizes = [*header.sizes[:3], 1, 1, 1][:3]
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, size - 1) for size in sizes))])
    distance = np.linalg.norm(corners @ (qform - sform).T, axis=1).max() / steps.min()
    angle = math.degrees(math.acos(max(-1.0, min(1.0, float(np.diag(unit_q.T @ unit_s).min())))))
    if distance > FORM_VOXELS or angle > FORM_DEGREES:
        return [
            f"qform and sform differ by {distance:.1f} voxels and {angle:.1f} degrees; the qform is used, as in ITK"
        ]
    return []


def _nearest_axes(unit: np.ndarray) -> list[tuple[int, bool]]:
    """For each axis the world axis that it is nearest to, and whether it runs against it."""
    nearest = np.abs(unit).argmax(axis=0)
    return [(int(world), bool(unit[world, axis] < 0)) for axis, world in enumerate(nearest)]


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


#: Per version: bytes of the header, and offset and type of each field.
_FIELDS: dict[int, dict[str, tuple[str, int, int]]] = {
    1: {
        "dim": ("i2", 40, 8),
        "code": ("i2", 70, 1),
        "bits": ("i2", 72, 1),
        "steps": ("f4", 76, 8),
        "begin": ("f4", 108, 1),
        "scale": ("f4", 112, 2),
        "units": ("u1", 123, 1),
        "qform": ("i2", 252, 1),
        "sform": ("i2", 254, 1),
        "quaternion": ("f4", 256, 6),
        "rows": ("f4", 280, 12),
    },
    2: {
        "dim": ("i8", 16, 8),
        "code": ("i2", 12, 1),
        "bits": ("i2", 14, 1),
        "steps": ("f8", 104, 8),
        "begin": ("i8", 168, 1),
        "scale": ("f8", 176, 2),
        "units": ("i4", 500, 1),
        "qform": ("i4", 344, 1),
        "sform": ("i4", 348, 1),
        "quaternion": ("f8", 352, 6),
        "rows": ("f8", 400, 12),
    },
}
_SIZES = {1: 348, 2: 540}


def _read_header(file: BinaryIO) -> RawHeader:
    raw = file.read(_SIZES[1])
    if len(raw) < _SIZES[1]:
        raise ValueError("the file is truncated within its header")
    kinds = {_SIZES[version].to_bytes(4, "little"): (version, "<") for version in (1, 2)}
    kinds |= {_SIZES[version].to_bytes(4, "big"): (version, ">") for version in (1, 2)}
    if raw[:4] not in kinds or (kinds[raw[:4]][0] == 2 and raw[4:7] not in (b"n+2", b"ni2")):
        raise ValueError("this is not a NIfTI file")
    version, order = kinds[raw[:4]]
    if version == 2:
        raw += file.read(_SIZES[2] - _SIZES[1])
        if len(raw) < _SIZES[2]:
            raise ValueError("the file is truncated within its header")

    def field(name: str) -> np.ndarray:
        kind, offset, count = _FIELDS[version][name]
        return np.frombuffer(raw, order + kind, count, offset)

    dim = field("dim")
    axes = min(7, max(0, int(dim[0])))
    sizes = tuple(max(1, int(size)) for size in dim[1 : axes + 1])
    begin = float(field("begin")[0])
    if not _SIZES[version] <= begin < 2**31:
        begin = _SIZES[version] + 4
    return RawHeader(
        version=version,
        order=order,
        code=int(field("code")[0]),
        begin=int(begin),
        data_bytes=math.prod(sizes) * int(field("bits")[0]) // 8,
        sizes=sizes,
        steps=field("steps").astype(np.float64),
        scale=(float(field("scale")[0]), float(field("scale")[1])),
        units=int(field("units")[0]) & 7,
        qform_code=int(field("qform")[0]),
        sform_code=int(field("sform")[0]),
        quaternion=field("quaternion").astype(np.float64),
        sform=field("rows").astype(np.float64).reshape(3, 4),
    )

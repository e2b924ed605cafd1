"""NRRD, MetaImage and GIPL headers, read far enough to know how much voxel data belongs to them, and where it lies.

ITK follows whatever file name such a header gives, fills memory as it says, and complains about truncated files on standard
error. So files of these formats are looked at before ITK gets them.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from autoseg.io.headers import DEFLATE_RATIO, opened, require_room, require_stream

__all__ = ["VoxelData", "require_intact", "voxel_data"]

LONGEST_HEADER = 2**16
_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_META_PER_AXIS = {"DimSize", "TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin"}
_META_PER_AXIS |= {"CenterOfRotation", "ElementSpacing", "ElementSize", "AnatomicalOrientation"}
_NRRD_BYTES = {
    **dict.fromkeys(["signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"], 1),
    **dict.fromkeys(["short", "short int", "signed short", "signed short int", "int16", "int16_t"], 2),
    **dict.fromkeys(["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"], 2),
    **dict.fromkeys(
        ["int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"], 4
    ),
    **dict.fromkeys(["longlong", "long long", "long long int", "signed long long", "signed long long int"], 8),
    **dict.fromkeys(["int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"], 8),
    **dict.fromkeys(["uint64", "uint64_t", "double"], 8),
}
_GIPL_BITS = {1: 1, 7: 8, 8: 8, 15: 16, 16: 16, 31: 32, 32: 32, 64: 32, 65: 64}
_GIPL_MAGIC = {719555000, 4026526128}


class VoxelData(NamedTuple):
    """Where the voxels of a file lie.

    Attributes:
        file: that holds them: the file itself, or one beside it.
        begin: of the data in it.
        data_bytes: of the voxels, uncompressed.
        compressed: None, or zlib's ``wbits`` for its container.
        stored: bytes that the compressed data takes, if the header says so.
    """

    file: Path
    begin: int
    data_bytes: int
    compressed: int | None = None
    stored: int | None = None


def voxel_data(path: Path) -> VoxelData | None:
    """Where the voxels lie, if the file is large enough for what its header promises; None for other formats.

    Raises:
        ValueError: the header is not understood, names a file outside its folder, or promises more than is there.
    """
    name = path.name.lower()
    if name.endswith((".nrrd", ".nhdr")):
        data = _nrrd(path)
    elif name.endswith((".mha", ".mhd")):
        data = _meta(path)
    elif name.endswith((".gipl", ".gipl.gz")):
        return _gipl(path)
    else:
        return None
    found = data.file.stat().st_size - data.begin
    if data.stored is not None:
        require_room(data.stored, found)
    require_room(data.data_bytes, max(0, found), ratio=1 if data.compressed is None else DEFLATE_RATIO)
    return data


def require_intact(path: Path) -> None:
    """Raises ``ValueError`` unless the voxels are all there, and compressed ones as they were written."""
    data = voxel_data(path)
    if data is None:
        return
    if data.compressed is None:
        require_stream(data.file, data.begin + data.data_bytes)
        return
    stream, found, left = zlib.decompressobj(data.compressed), 0, data.stored or data.file.stat().st_size
    with data.file.open("rb") as file:
        file.seek(data.begin)
        try:
            while not stream.eof and found <= data.data_bytes:
                block = stream.unconsumed_tail or file.read(min(2**18, left))
                if not block:
                    break
                left -= 0 if stream.unconsumed_tail else len(block)
                found += len(stream.decompress(block, 2**22))
        except zlib.error as error:
            raise ValueError(f"the compressed voxels are damaged: {error}") from error
    if found > data.data_bytes:
        raise ValueError("the compressed voxels are damaged: they are more than the header promises")
    if found < data.data_bytes or not stream.eof:
        raise ValueError(f"the file is truncated: {found} bytes of {data.data_bytes}")


def _beside(path: Path, name: str) -> Path:
    """The data file that a header names, which must lie in the header's folder."""
    stated = Path(name.strip())
    data = path.parent / stated
    inside = data.resolve().parent == path.parent.resolve()
    if stated.is_absolute() or len(stated.parts) != 1 or not inside:
        raise ValueError(f"its header names a data file outside its folder ({name.strip()}), which is not followed")
    if not data.is_file():
        raise ValueError(f"the data file {name.strip()} that its header names is not there")
    return data


def _skipping(data: VoxelData, skip: int) -> VoxelData:
    """The same with bytes before the voxels skipped; -1 means that the voxels are the last bytes of the file."""
    if skip == 0:
        return data
    if skip < -1:
        raise ValueError(f"a header cannot skip {skip} bytes")
    last = max(data.begin, data.file.stat().st_size - data.data_bytes)
    return data._replace(begin=last if skip == -1 else data.begin + skip)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LONGEST_HEADER)


def _text(head: bytes) -> str:
    """A header's text. Control characters are refused: readers differ in which of them end a line, and so in its fields."""
    if re.search(rb"\r(?!\n|$)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head):
        raise ValueError("the header holds control characters, and readers differ in where its lines end")
    return head.decode("latin-1")


def _nrrd(path: Path) -> VoxelData:
    head = _head(path)
    if not head.startswith(b"NRRD000"):
        raise ValueError("this is not an NRRD file")
    ends = re.search(rb"\r?\n\r?\n", head)
    if ends is None and len(head) == LONGEST_HEADER:
        raise ValueError(f"its header does not end within {LONGEST_HEADER} bytes")
    text = _text(head[: ends.start() if ends else len(head)])
    found: list[tuple[str, str]] = re.findall(r"^([^:#\n][^:\n]*): *(.*?)\r?$", text, re.MULTILINE)
    fields = {key.lower().strip(): value.strip() for key, value in found}
    kind, name = fields.get("type", "").lower(), fields.get("data file", fields.get("datafile"))
    if sum(key.lower().strip() in ("data file", "datafile") for key, _ in found) > 1:
        raise ValueError("the NRRD header names its data file more than once")
    if kind not in _NRRD_BYTES or "sizes" not in fields:
        raise ValueError(f"the NRRD header has no usable type and sizes: type {kind or 'missing'}")
    sizes = [int(size) for size in fields["sizes"].split()]
    if not sizes or min(sizes) < 1:
        raise ValueError(f"the NRRD header has no usable sizes: {fields['sizes']}")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ValueError(f"NRRD encoding {encoding or 'missing'} is not supported; raw and gzip are")
    if int(fields.get("line skip", fields.get("lineskip", "0"))):
        raise ValueError("NRRD files that skip lines are not supported")
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    if name is None and ends is None:
        raise ValueError("the file is truncated within its header")
    if name is not None and (name.upper().startswith("LIST") or "%" in name):
        raise ValueError("NRRD headers that name several data files are not supported")
    if skip and encoding != "raw":
        raise ValueError("compressed NRRD files that skip bytes are not supported")
    begin = 0 if name is not None or ends is None else ends.end()
    data = VoxelData(
        file=path if name is None else _beside(path, name),
        begin=begin,
        data_bytes=math.prod(sizes) * _NRRD_BYTES[kind],
        compressed=None if encoding == "raw" else 31,
    )
    return _skipping(data, skip)


def _meta(path: Path) -> VoxelData:
    head = _head(path)
    last = re.search(rb"^[ \t]*ElementDataFile[ \t]*=\s*([^\r\n]*)\r?\n?", head, re.MULTILINE)
    if last is None:
        raise ValueError("this is not a MetaImage file, or it is truncated within its header")
    lines = _text(head[: last.start()]).split("\n")
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    before = list(fields)[: list(fields).index("NDims")] if "NDims" in fields else list(fields)
    if "NDims" not in fields or not _META_PER_AXIS.isdisjoint(before):  # ITK would complain on standard error
        raise ValueError("the MetaImage header has no NDims, or it comes after fields that depend on it")
    if not all(line.strip().isprintable() and "=" in line for line in lines if line.strip()):
        raise ValueError("the MetaImage header holds lines that are none of it")
    if any(":" in key or "%" in key for key in fields):  # ITK takes a colon for the sign of equality, too
        raise ValueError("the MetaImage header holds names of fields with a colon or a percent sign")
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    size = _META_BYTES.get(kind, _META_BYTES.get(kind.removeprefix("U")))
    if size is None or "DimSize" not in fields:
        raise ValueError(f"the MetaImage header has no usable ElementType and DimSize: {kind or 'missing'}")
    sizes = [int(part) for part in fields["DimSize"].split()]
    if not sizes or min(sizes) < 1 or len(sizes) != int(fields.get("NDims", len(sizes))):
        raise ValueError(f"the MetaImage header has no usable DimSize: {fields['DimSize']}")
    if fields.get("BinaryData", "True").lower() != "true":
        raise ValueError("MetaImage files of decimal text are not supported")
    skip = int(fields.get("HeaderSize", "0"))
    name = last[1].decode("latin-1").strip()
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError("MetaImage headers that name several data files are not supported")
    local = name.upper() == "LOCAL"
    compressed = fields.get("CompressedData", "False").lower() == "true"
    stored = fields.get("CompressedDataSize", "")
    if compressed and not stored.isdigit() and (local or stored):
        raise ValueError(f"the MetaImage header has no usable CompressedDataSize: {stored or 'missing'}")
    if skip and (compressed or local):
        raise ValueError(
            "MetaImage files with a HeaderSize are supported with voxels that are apart and not compressed"
        )
    data = VoxelData(
        file=path if local else _beside(path, name),
        begin=last.end() if local else 0,
        data_bytes=math.prod(sizes) * int(fields.get("ElementNumberOfChannels", "1")) * size,
        compressed=47 if compressed else None,
        stored=int(stored) if compressed and stored else None,
    )
    return _skipping(data, skip)


def _gipl(path: Path) -> VoxelData:
    with opened(path) as file:
        head = file.read(256)
    if len(head) < 256 or int.from_bytes(head[252:256], "big") not in _GIPL_MAGIC:
        raise ValueError("this is not a GIPL file, or it is truncated within its header")
    sizes = [max(1, int.from_bytes(head[at : at + 2], "big")) for at in (0, 2, 4, 6)]
    kind = int.from_bytes(head[8:10], "big")
    if kind not in _GIPL_BITS:
        raise ValueError(f"GIPL voxels of type {kind} are not supported")
    data = VoxelData(file=path, begin=256, data_bytes=math.prod(sizes) * _GIPL_BITS[kind] // 8)
    compressed = path.name.lower().endswith(".gz")
    require_room(256 + data.data_bytes, path.stat().st_size, ratio=DEFLATE_RATIO if compressed else 1)
    return data

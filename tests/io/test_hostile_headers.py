"""Headers that promise what their files do not hold are refused at once, and files outside a folder are not followed."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile

from autoseg.errors import InputError, UnreadableFileError
from autoseg.io.formats import format_of, parts_of, read_header
from autoseg.io.headers import Header, require_room, require_stream, require_within
from autoseg.values import Geometry
from tests.conftest import PROJECT

SIDE = 30000
#: Far below what reading so many voxels would take, far above what a busy machine takes to look at a header.
SECONDS = 2.0


def nifti(version: int) -> bytes:
    """Only a header: a cube of 30000^3 voxels."""
    header = nibabel.Nifti1Header() if version == 1 else nibabel.Nifti2Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((SIDE, SIDE, SIDE))
    return bytes(header.binaryblock)


def nrrd(encoding: str = "raw", data: str = "", sizes: str = f"{SIDE} {SIDE} {SIDE}", kind: str = "short") -> bytes:
    named = f"data file: {data}\n" if data else ""
    return (
        f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\n"
        f"encoding: {encoding}\nspace origin: (0,0,0)\n{named}\n"
    ).encode()


def meta(data: str = "LOCAL", compressed: bool = False, sizes: str = f"{SIDE} {SIDE} {SIDE}") -> bytes:
    stated = "CompressedDataSize = 11\n" if compressed else ""
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = {compressed}\n{stated}TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = 1 1 1\nDimSize = {sizes}\nElementType = MET_SHORT\nElementDataFile = {data}\n"
    ).encode()


def gipl() -> bytes:
    head = bytearray(256)
    head[:10] = struct.pack(">5H", SIDE, SIDE, SIDE, 1, 15)
    head[10:26] = struct.pack(">4f", 1, 1, 1, 1)
    head[252:] = (719555000).to_bytes(4, "big")
    return bytes(head)


def png(width: int = SIDE, height: int = SIDE) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


def bmp() -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, 0, 1, 1, 0, 0)
    )


def jpeg() -> bytes:
    frame = struct.pack(">BHHB", 8, SIDE, SIDE, 3) + bytes([1, 17, 0, 2, 17, 0, 3, 17, 0])
    return b"\xff\xd8\xff\xc0" + (len(frame) + 2).to_bytes(2, "big") + frame + b"\xff\xda\x00\x0c" + bytes(200)


def tiff(compression: int = 1) -> bytes:
    tags = [(256, 4, SIDE), (257, 4, SIDE), (258, 3, 16), (259, 3, compression), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, SIDE), (279, 4, 2 * SIDE * SIDE)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


LIARS = {
    "1.nii": nifti(1),
    "1.nii.gz": gzip.compress(nifti(1)),
    "2.nii": nifti(2),
    "2.nii.gz": gzip.compress(nifti(2)),
    "a.nrrd": nrrd(),
    "b.nrrd": nrrd("gzip") + gzip.compress(bytes(1000)),
    "a.mha": meta(),
    "b.mha": meta(compressed=True) + zlib.compress(bytes(1000)),
    "a.gipl": gipl(),
    "a.gipl.gz": gzip.compress(gipl()),
    "a.png": png(),
    "a.bmp": bmp(),
    "a.jpg": jpeg(),
    "a.tif": tiff(),
    "b.tif": tiff(8),
    "c.tif": tiff(5),
}


@pytest.mark.parametrize("name", LIARS)
def test_more_voxels_than_the_file_can_hold_are_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(LIARS[name])
    format_of(path)  # loading the libraries is not what is measured
    for look in (read_header, format_of(path).read):
        begin = time.perf_counter()
        with pytest.raises(UnreadableFileError, match="promise") as caught:
            look(path)
        assert time.perf_counter() - begin < SECONDS
        assert name in str(caught.value)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".png"])
def test_honest_files_of_nothing_but_zeros_are_read(ending: str, tmp_path: Path) -> None:
    """The most that compression can do is still believed."""
    path = tmp_path / f"a{ending}"
    shape = (1, 1500, 2000) if ending == ".png" else (30, 200, 300)
    array = np.zeros(shape, np.uint8)
    image = SimpleITK.GetImageFromArray(array[0] if ending == ".png" else array)
    SimpleITK.WriteImage(image, str(path), True, 9)
    np.testing.assert_array_equal(format_of(path).read(path).array[0], array)


def test_an_image_above_the_limit_is_refused_whatever_its_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((10, 20, 30), np.int16)), str(path))
    assert read_header(path, limit=12000).bytes == 12000
    with pytest.raises(UnreadableFileError, match=r"promises .*more than the limit of 11 KiB") as caught:
        read_header(path, limit=11999)
    assert "a.nii.gz" in str(caught.value)


def test_a_header_knows_its_voxels_and_bytes() -> None:
    header = Header(channels=3, dtype="int16", geometry=Geometry(shape=(4, 5, 6), spacing=(1.0, 1.0, 1.0)))
    assert (header.voxels, header.bytes) == (360, 720)
    assert require_within(header, 720) is header
    with pytest.raises(ValueError, match="limit"):
        require_within(header, 719)


def test_room_is_compared_with_the_strongest_compression() -> None:
    require_room(1032, 1, ratio=1032)
    with pytest.raises(ValueError, match="truncated"):
        require_room(1033, 1, ratio=1032)
    with pytest.raises(ValueError, match="3 bytes"):
        require_room(4, 3)


@pytest.mark.parametrize("kept", [10, 50, 99])
def test_a_streams_length_is_known_without_its_trailer(kept: int, tmp_path: Path) -> None:
    data = gzip.compress(np.random.default_rng(0).bytes(10000))
    (tmp_path / "a.gz").write_bytes(data)
    require_stream(tmp_path / "a.gz", 10000)
    (tmp_path / "a.gz").write_bytes(data[: len(data) * kept // 100])
    with pytest.raises((ValueError, EOFError)):
        require_stream(tmp_path / "a.gz", 10000)


OUTSIDE = ["../secret.raw", "/etc/passwd", "sub/secret.raw", "..", "link.raw", "sub/../../secret.raw"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_data_files_outside_the_folder_are_not_followed(name: str, ending: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.raw", folder / "sub" / "secret.raw"):
        secret.write_bytes(bytes(2 * 4 * 5 * 6))
    os.symlink(tmp_path / "secret.raw", folder / "link.raw")
    path = folder / f"a{ending}"
    path.write_bytes(nrrd(data=name, sizes="6 5 4") if "n" in ending else meta(name, sizes="6 5 4"))
    for look in (read_header, format_of(path).read):
        with pytest.raises(UnreadableFileError, match="outside its folder"):
            look(path)
    assert parts_of(path) == (path,)


SNEAKY = {
    "comment ended by CR.nrrd": nrrd(sizes="6 5 4").replace(b"encoding", b"# c\rdata file: ../secret.raw\nencoding"),
    "vertical tab.nrrd": nrrd(sizes="6 5 4").replace(b"encoding", b"# c\x0bdata file: ../secret.raw\nencoding"),
    "named twice.nhdr": nrrd(data="own.raw\ndatafile: ../secret.raw", sizes="6 5 4"),
    "colon.mha": meta(sizes="6 5 4").replace(b"DimSize", b"ElementDataFile : a=/../../secret.raw\nDimSize"),
    "colon.mhd": meta("own.raw", sizes="6 5 4").replace(b"DimSize", b"ElementDataFile:a=/../../secret.raw\nDimSize"),
    "pattern.mha": meta(sizes="6 5 4").replace(b"DimSize", b"ElementDataFile%.0d = ../secret.raw\nDimSize"),
    "comment ended by CR.mha": meta(sizes="6 5 4").replace(b"DimSize", b"Comment = x\rElementDataFile=../s\nDimSize"),
}


@pytest.mark.parametrize("name", SNEAKY)
def test_headers_that_readers_take_apart_differently_are_refused(name: str, tmp_path: Path) -> None:
    """ITK would follow a second name of a data file, which ours does not see."""
    folder = tmp_path / "set"
    folder.mkdir()
    for file in (tmp_path / "secret.raw", folder / "own.raw"):
        file.write_bytes(bytes(2 * 4 * 5 * 6))
    path = folder / name
    path.write_bytes(SNEAKY[name] + bytes(2 * 4 * 5 * 6))
    for look in (read_header, format_of(path).read):
        with pytest.raises(UnreadableFileError, match="header"):
            look(path)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_headers_with_either_end_of_lines_are_read(ends: str, tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    for name, head in (("a.nrrd", nrrd(sizes="6 5 4")), ("a.mha", meta(sizes="6 5 4"))):
        (tmp_path / name).write_bytes(head.replace(b"\n", ends.encode()) + array.tobytes())
        np.testing.assert_array_equal(format_of(Path(name)).read(tmp_path / name).array[0], array)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_data_files_beside_the_header_are_read(ending: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 5, 6), dtype=np.int16)
    for compressed in (False, True):
        path = tmp_path / f"{compressed}{ending}"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), compressed)
        np.testing.assert_array_equal(format_of(path).read(path).array[0], array)
        assert len(parts_of(path)) == 2
        parts_of(path)[1].unlink()
        with pytest.raises(InputError, match="not there"):
            format_of(path).read(path)


@pytest.mark.parametrize("skip", [0, 7, -1])
def test_bytes_before_the_voxels_are_skipped(skip: int, tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    (tmp_path / "a.raw").write_bytes(b"\xff" * (12 if skip == -1 else skip) + array.tobytes())
    text = nrrd(data="a.raw", sizes="6 5 4").decode().replace("encoding", f"byte skip: {skip}\nencoding")
    (tmp_path / "a.nhdr").write_text(text)
    text = meta("a.raw", sizes="6 5 4").decode().replace("DimSize", f"HeaderSize = {skip}\nDimSize")
    (tmp_path / "a.mhd").write_text(text)
    for name in ("a.nhdr", "a.mhd"):
        np.testing.assert_array_equal(format_of(Path(name)).read(tmp_path / name).array[0], array)


@pytest.mark.parametrize(
    "content",
    [
        nrrd("bzip2"),
        nrrd("ascii"),
        nrrd(data="LIST"),
        nrrd(data="a%03d.raw 1 4 1"),
        nrrd(kind="block"),
        nrrd(sizes="0 5 4"),
        nrrd(sizes="-6 5 4"),
        nrrd(sizes="six"),
        nrrd()[:60],
        b"NRRD0004\n",
    ],
)
def test_nrrd_headers_that_are_not_understood_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"a\.nrrd"):
        read_header(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    "change",
    [
        ("MET_SHORT", "MET_BLOCK"),
        ("DimSize = ", "Size = "),
        ("NDims = 3", "NDims = 4"),
        (f"{SIDE}", "-1"),
        (f"{SIDE}", "many"),
        ("BinaryData = True", "BinaryData = False"),
        ("LOCAL", "LIST"),
        ("LOCAL", "a%03d.raw 1 4 1"),
        ("ElementDataFile", "Element"),
    ],
)
def test_metaimage_headers_that_are_not_understood_are_refused(change: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(meta().replace(change[0].encode(), change[1].encode()))
    with pytest.raises(UnreadableFileError, match=r"a\.mha"):
        read_header(tmp_path / "a.mha")


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_damaged_compressed_voxels_are_refused(ending: str, tmp_path: Path) -> None:
    """ITK reads them without a word."""
    path = tmp_path / f"a{ending}"
    array = np.random.default_rng(0).integers(0, 99, (6, 20, 20), dtype=np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), True)
    data = bytearray(path.read_bytes())
    data[-600] ^= 255
    path.write_bytes(data)
    with pytest.raises(UnreadableFileError, match="damaged"):
        format_of(path).read(path)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii.gz", ".nii", ".tif", ".gipl", ".mhd", ".jpg"])
def test_a_truncated_file_writes_nothing_to_standard_error(ending: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 200, (6, 20, 20), dtype=np.uint8)
    for compressed in (False, True):
        path = tmp_path / f"{compressed}{ending}"
        if ending == ".tif":
            tifffile.imwrite(path, array, compression="zlib" if compressed else None)
        else:
            image = SimpleITK.GetImageFromArray(array[0] if ending == ".jpg" else array)
            SimpleITK.WriteImage(image, str(path), compressed)
        cut = parts_of(path)[-1]
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    code = (
        "import sys\nfrom pathlib import Path\nfrom autoseg.errors import UnreadableFileError\n"
        "from autoseg.io.formats import format_of\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        format_of(Path(name)).read(Path(name))\n"
        "    except UnreadableFileError:\n        print('refused')\n"
    )
    names = [str(tmp_path / f"{compressed}{ending}") for compressed in (False, True)]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["refused", "refused"], "")

"""PNG, JPEG and BMP: pixels are the numbers in the file, and what cannot be taken as it is is refused."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.errors import AutosegError, DocumentError, InputError, UnreadableFileError
from autoseg.io.natural_format import NaturalFormat
from autoseg.values import Geometry, Volume
from tests.conftest import PROJECT

FORMAT = NaturalFormat()


def planar(array: np.ndarray) -> Volume:
    return Volume(
        array=array[None, None], geometry=Geometry(shape=(1, *array.shape), spacing=(1.0, 1.0, 1.0), planar=True)
    )


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_pixels_of_8_and_16_bits_come_back(dtype: type, largest: int, tmp_path: Path) -> None:
    array = np.linspace(0, largest, 35).astype(dtype).reshape(5, 7)
    FORMAT.write(tmp_path / "new" / "a.png", planar(array))
    read = FORMAT.read(tmp_path / "new" / "a.png")
    assert read.array.dtype == dtype
    np.testing.assert_array_equal(read.array, array[None, None])
    assert read.geometry == planar(array).geometry
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "new" / "a.png"))), array
    )


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_colours_are_channels(ending: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / f"a{ending}")
    read = FORMAT.read(tmp_path / f"a{ending}").array
    assert read.shape == (3, 1, 5, 7)
    np.testing.assert_array_equal(read[:, 0], np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("alpha", [255, 0, 128])
def test_an_alpha_channel_that_is_the_same_everywhere_is_left_out(mode: str, alpha: int, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (5, 7, len(mode)), dtype=np.uint8)
    array[..., -1] = alpha
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(FORMAT.read(tmp_path / "a.png").array[:, 0], np.moveaxis(array[..., :-1], -1, 0))
    header = FORMAT.header(tmp_path / "a.png")
    assert header.channels == len(mode) - 1
    assert "alpha" in header.notes[0]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_alpha_channel_that_may_mean_something_is_refused(mode: str, tmp_path: Path) -> None:
    array = np.full((5, 7, len(mode)), 255, np.uint8)
    array[2, 3, -1] = 254
    Image.fromarray(array).save(tmp_path / "a.png")
    with pytest.raises(UnreadableFileError, match=r"alpha from 254 to 255") as caught:
        FORMAT.read(tmp_path / "a.png")
    assert "a.png" in str(caught.value)


def raw_png(width: int, bits: int, kind: int, row: bytes) -> bytes:
    """A PNG of one row, by the standard and not by a library."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    start = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"\0" + row)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (1, b"\xa5", [1, 0, 1, 0, 0, 1, 0, 1]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x01\x5f", [0, 1, 5, 15]),
        (8, b"\x00\x01\xff", [0, 1, 255]),
        (16, b"\x00\x01\xfe\xff", [1, 0xFEFF]),
    ],
)
def test_grey_samples_of_any_depth_are_the_numbers_in_the_file(
    bits: int, row: bytes, expected: list[int], tmp_path: Path
) -> None:
    """Labels of few bits are not stretched to 255."""
    (tmp_path / "a.png").write_bytes(raw_png(len(expected), bits, 0, row))
    assert FORMAT.read(tmp_path / "a.png").array.ravel().tolist() == expected


def test_colours_of_16_bits_keep_all_of_them(tmp_path: Path) -> None:
    samples = [1, 2, 3, 1000, 2000, 60000]
    (tmp_path / "a.png").write_bytes(raw_png(2, 16, 2, struct.pack(">6H", *samples)))
    read = FORMAT.read(tmp_path / "a.png").array
    assert read.dtype == np.uint16
    assert np.moveaxis(read[:, 0], 0, -1).ravel().tolist() == samples
    assert FORMAT.header(tmp_path / "a.png").dtype == "uint16"
    (tmp_path / "b.png").write_bytes(raw_png(2, 16, 4, bytes(8)))
    with pytest.raises(UnreadableFileError, match="16 bits with an alpha"):
        FORMAT.read(tmp_path / "b.png")


PALETTE = ((0, 0, 0), (255, 0, 0), (0, 128, 255), (9, 9, 9))


def test_a_palette_picture_is_its_numbers_and_goes_back_as_it_came(tmp_path: Path) -> None:
    array = (np.arange(35, dtype=np.uint8) % 4).reshape(5, 7)
    picture = Image.frombytes("P", (7, 5), array.tobytes())
    picture.putpalette([part for colour in PALETTE for part in colour])
    for ending in (".png", ".bmp"):
        picture.save(tmp_path / f"a{ending}")
        volume = FORMAT.read(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(volume.array, array[None, None])
        assert volume.palette[:4] == PALETTE
        assert FORMAT.header(tmp_path / f"a{ending}").palette == volume.palette
        FORMAT.write(tmp_path / "b.png", volume)
        with Image.open(tmp_path / "b.png") as written:
            assert written.mode == "P"
            np.testing.assert_array_equal(np.asarray(written), array)
            np.testing.assert_array_equal(np.asarray(written.convert("RGB")), np.array(PALETTE, np.uint8)[array])


def test_labels_beyond_the_palette_are_written_as_numbers(tmp_path: Path) -> None:
    array = np.array([[0, 1, 4]], np.uint8)
    FORMAT.write(tmp_path / "a.png", dataclasses.replace(planar(array), palette=PALETTE))
    assert FORMAT.read(tmp_path / "a.png").palette == ()
    np.testing.assert_array_equal(FORMAT.read(tmp_path / "a.png").array[0, 0], array)
    with pytest.raises(InputError, match="65535"):
        FORMAT.write(tmp_path / "b.png", planar(np.array([[0, 65536]])))


@pytest.mark.parametrize("value", [255, 1])
def test_a_mask_of_two_values_is_read_as_it_is(value: int, tmp_path: Path) -> None:
    array = np.array([[0, value], [value, 0]], np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(FORMAT.read(tmp_path / "a.png").array[0, 0], array)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    smooth = np.linspace(0, 250, 40 * 50 * 3).reshape(40, 50, 3).astype(np.uint8)
    for array in (smooth, smooth[..., 0]):
        Image.fromarray(array).save(tmp_path / "a.jpg", quality=95)
        with Image.open(tmp_path / "a.jpg") as picture:
            expected = np.atleast_3d(np.asarray(picture))
        np.testing.assert_array_equal(np.moveaxis(FORMAT.read(tmp_path / "a.jpg").array[:, 0], 0, -1), expected)


def test_pictures_for_printing_are_refused_with_a_remedy(tmp_path: Path) -> None:
    Image.new("CMYK", (7, 5)).save(tmp_path / "a.jpg")
    with pytest.raises(UnreadableFileError, match=r"CMYK.*save the picture as RGB"):
        FORMAT.header(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_is_to_be_turned_is_refused(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    if orientation == 1:
        assert FORMAT.read(tmp_path / "a.jpg").geometry.shape == (1, 6, 8)
        return
    with pytest.raises(UnreadableFileError, match=f"orientation {orientation}"):
        FORMAT.read(tmp_path / "a.jpg")


def test_content_counts_not_the_ending(tmp_path: Path) -> None:
    array = np.arange(35, dtype=np.uint8).reshape(5, 7)
    Image.fromarray(array).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(FORMAT.read(tmp_path / "a.jpg").array[0, 0], array)


def test_a_file_beside_the_picture_tells_its_spacing(tmp_path: Path) -> None:
    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    assert not FORMAT.read(tmp_path / "a.png").spaced
    assert FORMAT.parts(tmp_path / "a.png") == (tmp_path / "a.png",)
    for text, spacing in (("[9, 0.5, 0.25]", (0.5, 0.5, 0.25)), ("[0.5, 0.75]", (0.75, 0.5, 0.75))):
        (tmp_path / "a.json").write_text(f'{{"spacing": {text}, "stain": "H&E"}}')
        volume = FORMAT.read(tmp_path / "a.png")
        assert volume.spaced
        assert volume.geometry.spacing == spacing
        assert FORMAT.header(tmp_path / "a.png").geometry == volume.geometry
        assert len(FORMAT.parts(tmp_path / "a.png")) == 2


@pytest.mark.parametrize("text", ["[1]", "[1, 2, 3, 4]", "[0, 1, 1]", "[1, -1]", '"mm"', "null", "[1e999, 1]"])
def test_a_spacing_that_cannot_be_meant_is_refused(text: str, tmp_path: Path) -> None:
    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(f'{{"spacing": {text}}}')
    with pytest.raises(DocumentError, match=r"a\.json"):
        FORMAT.header(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["[]", "{}", "{broken", '{"stain": "H&E"}'])
def test_somebody_elses_file_beside_the_picture_says_nothing(text: str, tmp_path: Path) -> None:
    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(text)
    assert not FORMAT.header(tmp_path / "a.png").spaced


def test_a_large_colour_picture_takes_little_more_than_its_pixels(tmp_path: Path) -> None:
    """3600 x 3600 RGB is 39 MB; Pillow holds it once with four bytes a pixel, and the array is one more copy."""
    resource = pytest.importorskip("resource", reason="memory is measured as POSIX systems tell it")
    array = np.zeros((60, 3600, 3), np.uint8)
    Image.fromarray(np.tile(array, (60, 1, 1))).save(tmp_path / "a.png", compress_level=1)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom autoseg.io.formats import format_of\n"
        "path = Path(sys.argv[1])\nformat_of(path).read(path.with_name('small.png'))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "array = format_of(path).read(path).array\n"
        "print(array.nbytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    size, grown = map(int, done.stdout.split())
    assert size == 3600 * 3600 * 3
    assert grown * (1 if sys.platform == "darwin" else 1024) < 3.5 * size
    assert resource


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"a\.png"):
        FORMAT.read(tmp_path / "a.png")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused(kept: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    FORMAT.write(tmp_path / "a.png", planar(noise))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UnreadableFileError, match=r"a\.png"):
        FORMAT.read(tmp_path / "a.png")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="no such file"):
        FORMAT.read(tmp_path / "a.png")


def test_several_slices_are_refused_rather_than_dropped(tmp_path: Path) -> None:
    volume = Volume(array=np.ones((1, 3, 5, 7), np.uint8), geometry=Geometry(shape=(3, 5, 7), spacing=(1.0, 1.0, 1.0)))
    with pytest.raises((AutosegError, ValueError)):
        FORMAT.write(tmp_path / "a.png", volume)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.mkdir()  # a file cannot take the place of a folder
    with pytest.raises(OSError, match=r"."):
        FORMAT.write(target, planar(np.ones((4, 4), np.uint8)))
    assert list(tmp_path.iterdir()) == [target]

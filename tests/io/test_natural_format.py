"""PNG: pixels come back as they were, and what does not fit into one picture is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import AutosegError, UnreadableFileError
from autoseg.io.natural_format import NaturalFormat
from autoseg.values import Geometry, Volume

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


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_are_channels(channels: int, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (5, 7, channels), dtype=np.uint8)
    image = SimpleITK.GetImageFromArray(array, isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "a.png"))
    read = FORMAT.read(tmp_path / "a.png").array
    assert read.shape == (channels, 1, 5, 7)
    np.testing.assert_array_equal(read[:, 0], np.moveaxis(array, -1, 0))


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

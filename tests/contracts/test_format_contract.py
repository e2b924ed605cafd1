"""What every format plug promises: see ``autoseg.io.formats.Format``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg import plugins
from autoseg.errors import AutosegError, InputError, UnreadableFileError
from autoseg.io.formats import Format, format_of, label_ending, split_ending
from autoseg.io.headers import Header
from autoseg.values import Geometry, Volume

TILTED = ((0.0, 0.6, 0.8), (0.0, 0.8, -0.6), (-1.0, 0.0, 0.0))


def every_ending() -> Iterator[object]:
    for name in plugins.available("format"):
        plug = plugins.load("format", name)()
        yield from (pytest.param(plug, ending, id=f"{name}{ending}") for ending in plug.endings)


def writes(parameters: object) -> bool:
    plug, ending = parameters.values
    return ending not in plug.label_endings


each = pytest.mark.parametrize(("plug", "ending"), list(every_ending()))
each_written = pytest.mark.parametrize(("plug", "ending"), list(filter(writes, every_ending())))


def flat(dtype: type = np.uint8, largest: int = 200) -> Volume:
    """A 2D label map."""
    array = np.linspace(0, largest, 30).astype(dtype).reshape(1, 1, 5, 6)
    return Volume(array=array, geometry=Geometry(shape=(1, 5, 6), spacing=(1.0, 1.0, 1.0), planar=True))


def solid(dtype: type = np.uint8) -> Volume:
    """A 3D label map on a tilted, anisotropic grid."""
    array = np.arange(60).astype(dtype).reshape(1, 3, 4, 5)
    geometry = Geometry(shape=(3, 4, 5), spacing=(3.0, 1.5, 0.5), origin=(-10.0, 20.0, 5.5), directions=TILTED)
    return Volume(array=array, geometry=geometry)


def sample(plug: Format, path: Path) -> Path:
    """A file of noise with this ending, by somebody else's hand where the plug does not write it."""
    noise = np.random.default_rng(0).integers(0, 255, (1, 1, 50, 60), dtype=np.uint8)
    ending = split_ending(path.name)[1]
    if ending not in plug.label_endings:
        geometry = Geometry(shape=(1, 50, 60), spacing=(1.0, 1.0, 1.0), planar=True)
        plug.write(path, Volume(array=noise, geometry=geometry))
    elif ending in (".jpg", ".jpeg", ".bmp"):
        Image.fromarray(noise[0, 0]).save(path)
    elif ending in (".mhd", ".nhdr"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise[0]), str(path))
    else:
        pytest.skip(f"no sample of {ending}")
    return path


def assert_told(header: Header, read: Volume) -> None:
    assert header.channels == len(read.array)
    assert header.dtype == read.array.dtype.name
    assert header.geometry == read.geometry
    assert header.palette == read.palette
    assert header.spaced == read.spaced
    assert header.bytes == read.array.nbytes


@each
def test_endings_are_in_small_letters_with_their_dot(plug: Format, ending: str) -> None:
    assert ending.startswith(".")
    assert ending == ending.lower()


@each_written
@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535), (np.int32, 1000)])
def test_a_2d_label_map_comes_back(plug: Format, ending: str, dtype: type, largest: int, tmp_path: Path) -> None:
    volume = flat(dtype, largest)
    plug.write(tmp_path / "new" / f"a{ending}", volume)
    read = plug.read(tmp_path / "new" / f"a{ending}")
    np.testing.assert_array_equal(read.array, volume.array)
    assert read.geometry.planar


@each_written
def test_a_3d_label_map_comes_back_in_its_place_or_is_refused(plug: Format, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    try:
        plug.write(path, solid())
    except AutosegError:
        assert not list(tmp_path.iterdir())
        return
    read = plug.read(path)
    np.testing.assert_array_equal(read.array, solid().array)
    np.testing.assert_allclose(read.geometry.spacing, solid().geometry.spacing, rtol=1e-6)
    np.testing.assert_allclose(read.geometry.origin, solid().geometry.origin, rtol=1e-6)
    np.testing.assert_allclose(read.geometry.directions, TILTED, atol=1e-6)


@each_written
def test_what_was_read_stays_when_the_file_is_replaced(plug: Format, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    plug.write(path, flat())
    first = plug.read(path)
    plug.write(path, flat(largest=7))
    np.testing.assert_array_equal(first.array, flat().array)
    assert first.array.shape[1:] == first.geometry.shape


@each_written
def test_writing_replaces_the_old_file_and_leaves_nothing_else(plug: Format, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"old")
    plug.write(path, flat())
    np.testing.assert_array_equal(plug.read(path).array, flat().array)
    assert list(tmp_path.iterdir()) == [path]


@each
def test_a_failed_write_leaves_nothing(plug: Format, ending: str, tmp_path: Path) -> None:
    target = tmp_path / f"a{ending}"
    target.mkdir()
    with pytest.raises((OSError, AutosegError)):
        plug.write(target, flat())
    assert list(tmp_path.iterdir()) == [target]


@each
def test_a_missing_file_is_unreadable_by_name(plug: Format, ending: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="nowhere"):
        plug.read(tmp_path / f"nowhere{ending}")


@each
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(1000)], ids=["empty", "text", "zeros"])
def test_what_is_something_else_is_unreadable_by_name(
    plug: Format, ending: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / f"wrong{ending}").write_bytes(content)
    with pytest.raises(UnreadableFileError, match="wrong"):
        plug.read(tmp_path / f"wrong{ending}")


@each
def test_half_a_file_is_unreadable_by_name(plug: Format, ending: str, tmp_path: Path) -> None:
    path = sample(plug, tmp_path / f"half{ending}")
    damaged = plug.parts(path)[-1]
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(UnreadableFileError, match="half"):
        plug.read(path)


@each
def test_the_header_is_what_reading_gives(plug: Format, ending: str, tmp_path: Path) -> None:
    path = sample(plug, tmp_path / f"a{ending}")
    assert_told(plug.header(path), plug.read(path))


@each_written
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_header_of_a_written_volume_is_what_reading_gives(
    plug: Format, ending: str, dtype: type, tmp_path: Path
) -> None:
    straight = Geometry(shape=(3, 4, 5), spacing=(3.0, 1.5, 0.5))
    try:
        plug.write(tmp_path / f"a{ending}", Volume(array=solid(dtype).array + 250, geometry=straight))
    except AutosegError:  # one slice at most
        return
    header, read = plug.header(tmp_path / f"a{ending}"), plug.read(tmp_path / f"a{ending}")
    assert_told(header, read)
    np.testing.assert_allclose(read.geometry.spacing, straight.spacing, rtol=1e-6)


@each
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(1000)], ids=["empty", "text", "zeros"])
def test_the_header_of_something_else_is_unreadable_by_name(
    plug: Format, ending: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / f"wrong{ending}").write_bytes(content)
    with pytest.raises(UnreadableFileError, match="wrong"):
        plug.header(tmp_path / f"wrong{ending}")
    with pytest.raises(UnreadableFileError, match="nowhere"):
        plug.header(tmp_path / f"nowhere{ending}")


@each
def test_reading_depends_on_the_file_and_on_others_that_are_there(plug: Format, ending: str, tmp_path: Path) -> None:
    path = sample(plug, tmp_path / f"a{ending}")
    assert plug.parts(path)[0] == path
    assert all(part.is_file() for part in plug.parts(path))


@each
def test_label_maps_get_an_ending_that_holds_them(plug: Format, ending: str, tmp_path: Path) -> None:
    chosen = label_ending(ending)
    assert label_ending(chosen) == chosen
    format_of(Path(f"a{chosen}")).write(tmp_path / f"a{chosen}", flat())
    np.testing.assert_array_equal(format_of(Path(f"a{chosen}")).read(tmp_path / f"a{chosen}").array, flat().array)


@each
def test_what_holds_no_label_maps_refuses_to_write_them(plug: Format, ending: str, tmp_path: Path) -> None:
    if ending in plug.label_endings:
        with pytest.raises(InputError, match=re.escape(label_ending(ending))):
            plug.write(tmp_path / f"a{ending}", flat())
        assert not list(tmp_path.iterdir())

"""TIFF: pages are slices, spacing comes from where it is told, and label maps go back with palette and spacing."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg.errors import InputError, MissingPartError, UnreadableFileError
from autoseg.io.tiff_format import TiffFormat
from autoseg.values import Geometry, Volume

FORMAT = TiffFormat()
PALETTE = ((0, 0, 0), (255, 0, 0), (0, 128, 255), (9, 9, 9))
STACK = np.random.default_rng(0).integers(0, 60000, (5, 6, 7), dtype=np.uint16)


def read(path: Path) -> Volume:
    """The file, whose header must say the same."""
    header, volume = FORMAT.header(path), FORMAT.read(path)
    assert (header.channels, header.dtype) == (len(volume.array), volume.array.dtype.name)
    assert (header.geometry, header.spaced, header.palette) == (volume.geometry, volume.spaced, volume.palette)
    return volume


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_are_slices(dtype: type, compression: str | None, order: str, tmp_path: Path) -> None:
    array = (STACK % 200).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, compression=compression, byteorder=order, photometric="minisblack")
    volume = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, array[None])
    assert volume.array.dtype == dtype
    assert not volume.geometry.planar
    assert not volume.spaced
    assert volume.geometry.spacing == (1.0, 1.0, 1.0)


def test_one_page_is_a_picture(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0])
    volume = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, STACK[None, :1])
    assert volume.geometry.planar


@pytest.mark.parametrize("pages", [1, 5])
def test_colours_are_channels(pages: int, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (pages, 6, 7, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array if pages > 1 else array[0], photometric="rgb")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, np.moveaxis(array, -1, 0))


def test_imagejs_channels_are_channels_and_its_slices_slices(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 2, 6, 7), dtype=np.uint8)
    metadata = {"axes": "ZCYX", "spacing": 1.5, "unit": "micron"}
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    volume = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, 1, 0))
    assert volume.geometry.spacing == pytest.approx((0.0015, 0.0005, 0.00025))
    assert volume.spaced


@pytest.mark.parametrize(("unit", "millimetres"), [("mm", 1.0), ("µm", 1e-3), ("um", 1e-3), ("nm", 1e-6), ("cm", 10.0)])
def test_imagejs_spacing_is_in_its_unit(unit: str, millimetres: float, tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": unit.replace("µ", "\\u00B5")}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, resolution=(2.0, 4.0), metadata=metadata)
    assert read(tmp_path / "a.tif").geometry.spacing == pytest.approx(
        (3 * millimetres, millimetres / 4, millimetres / 2)
    )


def test_ome_tells_the_spacing(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 300.0, "PhysicalSizeYUnit": "nm"}
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 1.5, **sizes}  # OME's unit is the micrometre unless it says so
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata=metadata)
    volume = read(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(volume.array, STACK[None])
    assert volume.geometry.spacing == pytest.approx((0.0015, 0.0003, 0.0002))


def test_resolution_in_centimetres_counts_and_dots_per_inch_do_not(tmp_path: Path) -> None:
    options = {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", STACK, resolution=(1000, 500), resolutionunit="CENTIMETER", **options)
    assert read(tmp_path / "a.tif").geometry.spacing == pytest.approx((0.02, 0.02, 0.01))
    assert not read(tmp_path / "a.tif").spaced
    assert "a.json" in FORMAT.header(tmp_path / "a.tif").notes[-1]
    tifffile.imwrite(tmp_path / "b.tif", STACK, resolution=(72, 72), resolutionunit="INCH", **options)
    assert read(tmp_path / "b.tif").geometry.spacing == (1.0, 1.0, 1.0)


def test_a_file_beside_it_tells_the_spacing_before_all_else(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "mm"}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, resolution=(2.0, 4.0), metadata=metadata)
    (tmp_path / "a.json").write_text('{"spacing": [5, 2, 1]}')
    assert read(tmp_path / "a.tif").geometry.spacing == (5.0, 2.0, 1.0)
    assert FORMAT.parts(tmp_path / "a.tif") == (tmp_path / "a.tif", tmp_path / "a.json")


def test_time_alone_is_taken_for_slices_with_a_note_and_time_of_volumes_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, STACK[None])
    assert "time" in FORMAT.header(tmp_path / "a.tif").notes[0]
    tifffile.imwrite(tmp_path / "b.tif", np.stack([STACK] * 2), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(UnreadableFileError, match="T: 2, Z: 5"):
        FORMAT.header(tmp_path / "b.tif")


def test_pages_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(STACK[0])
        writer.write(STACK[0, :3])
    with pytest.raises(UnreadableFileError, match="different kinds"):
        FORMAT.read(tmp_path / "a.tif")


def test_alpha_is_left_out_if_it_is_the_same_everywhere_else_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (6, 7, 4), dtype=np.uint8)
    array[..., 3] = 255
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[:, 0], np.moveaxis(array[..., :3], -1, 0))
    array[2, 3, 3] = 7
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(UnreadableFileError, match="alpha from 7 to 255"):
        FORMAT.read(tmp_path / "a.tif")


def test_channels_that_are_no_colours_are_kept(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (6, 7, 4), dtype=np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unspecified"] * 3}
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[:, 0], np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", None])
def test_what_pillow_wrote_in_any_compression(mode: str, compression: str | None, tmp_path: Path) -> None:
    """LZW is not decoded by tifffile alone."""
    array = (STACK[0] % 4).astype(np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(array)
    if mode == "P":
        picture = Image.frombytes("P", picture.size, array.tobytes())
        picture.putpalette([part for colour in PALETTE for part in colour])
    elif mode == "1":
        picture = Image.fromarray(array > 1)
    elif mode == "RGB":
        picture = Image.merge("RGB", [picture, picture, picture])
    picture.save(tmp_path / "a.tif", compression=compression)
    volume = read(tmp_path / "a.tif")
    expected = (array > 1).astype(np.uint8) if mode == "1" else array
    for channel in volume.array:
        np.testing.assert_array_equal(channel[0], expected)
    assert len(volume.array) == (3 if mode == "RGB" else 1)
    assert volume.palette[:4] == (PALETTE if mode == "P" else ())


def test_lzw_pages_make_a_volume(tmp_path: Path) -> None:
    array = (STACK % 255).astype(np.uint8)
    pages = [Image.fromarray(page) for page in array]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[0], array)


def test_what_needs_another_package_says_which(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("imagecodecs is here")
    tifffile.imwrite(tmp_path / "a.tif", STACK[0].astype(np.int16), metadata=None)
    data = (tmp_path / "a.tif").read_bytes()
    tag = (259).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert data.count(tag) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(tag + b"\1", tag + b"\5"))  # says that it is LZW
    with pytest.raises(MissingPartError, match="imagecodecs"):
        FORMAT.read(tmp_path / "a.tif")


def test_pictures_for_printing_and_turned_ones_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (7, 6)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableFileError, match="SEPARATED"):
        FORMAT.header(tmp_path / "a.tif")
    Image.new("L", (7, 6)).save(tmp_path / "b.tif", tiffinfo={274: 6})
    with pytest.raises(UnreadableFileError, match="orientation 6"):
        FORMAT.header(tmp_path / "b.tif")


@pytest.mark.parametrize("writer", ["tifffile", "imagej", "pillow"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_stack_is_refused_and_never_read_in_part(writer: str, kept: float, tmp_path: Path) -> None:
    path, array = tmp_path / "a.tif", (STACK % 255).astype(np.uint8)
    if writer == "pillow":
        pages = [Image.fromarray(page) for page in array]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        tifffile.imwrite(path, array, imagej=writer == "imagej", photometric="minisblack", metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    if kept == 0.99:  # may lack no more than the text at its end
        with contextlib.suppress(UnreadableFileError):
            np.testing.assert_array_equal(FORMAT.read(path).array[0], array)
    else:
        with pytest.raises(UnreadableFileError, match=r"a\.tif"):
            FORMAT.read(path)


def test_files_that_an_ome_header_names_are_not_followed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "secret.ome.tif", STACK, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata={"axes": "ZYX"})
    data = (tmp_path / "a.ome.tif").read_bytes()
    description = b'<TiffData IFD="0" PlaneCount="5"/>'
    named = b'<TiffData><UUID FileName="../b"/>'
    assert description in data
    (tmp_path / "a.ome.tif").write_bytes(data.replace(description, named.ljust(len(description))))
    with pytest.raises(UnreadableFileError, match=r"several files.*\.\./b"):
        FORMAT.header(tmp_path / "a.ome.tif")


def test_pages_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], metadata=None)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    data[first + 2 + 12 * count : first + 6 + 12 * count] = data[4:8]
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(UnreadableFileError, match="page 2"):
        FORMAT.header(tmp_path / "a.tif")


def labels(shape: tuple[int, int, int], largest: int = 3, **geometry: object) -> Volume:
    array = np.linspace(0, largest, int(np.prod(shape))).astype(np.int32).reshape(1, *shape)
    return Volume(array=array, geometry=Geometry(shape=shape, **{"spacing": (0.003, 0.0002, 0.0004), **geometry}))  # type: ignore[arg-type]


@pytest.mark.parametrize("palette", [(), PALETTE])
@pytest.mark.parametrize("largest", [3, 300])
def test_a_label_stack_keeps_its_spacing_and_palette(largest: int, palette: tuple, tmp_path: Path) -> None:
    volume = dataclasses.replace(labels((5, 6, 7), largest), palette=palette)
    FORMAT.write(tmp_path / "a.tif", volume)
    found = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.array, volume.array)
    assert found.spaced
    assert found.geometry.spacing == pytest.approx(volume.geometry.spacing, rel=1e-6)
    assert found.palette[:4] == (palette if largest < 256 else ())


def test_a_planar_label_map_keeps_its_palette(tmp_path: Path) -> None:
    volume = dataclasses.replace(labels((1, 6, 7), spacing=(1.0, 1.0, 1.0), planar=True), palette=PALETTE)
    FORMAT.write(tmp_path / "a.tif", volume)
    found = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.array, volume.array)
    assert found.palette[:4] == PALETTE
    with Image.open(tmp_path / "a.tif") as picture:
        np.testing.assert_array_equal(
            np.asarray(picture.convert("RGB")), np.array(PALETTE, np.uint8)[volume.array[0, 0]]
        )


@pytest.mark.parametrize(
    "volume",
    [
        labels((5, 6, 7), origin=(1.0, 0.0, 0.0)),
        labels((5, 6, 7), directions=((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))),
        labels((5, 6, 7), largest=70000),
    ],
)
def test_what_a_tiff_cannot_hold_is_refused(volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tif"):
        FORMAT.write(tmp_path / "a.tif", volume)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "named",
    [
        "FileName = '../other.ome.tif'",
        'FileName="../other.ome.tif"',
        "FileName\n=\n'../other.ome.tif'",
    ],
)
def test_ome_files_that_name_others_are_refused_however_it_is_written(named: str, tmp_path: Path) -> None:
    path = tmp_path / "set" / "x.ome.tif"
    path.parent.mkdir()
    tifffile.imwrite(tmp_path / "other.ome.tif", np.full((2, 8, 8), 200, np.uint8), ome=True, metadata={"axes": "ZYX"})
    pixels = 'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="2" SizeC="1" SizeT="1"'
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" {pixels}><TiffData IFD="0" FirstZ="0" PlaneCount="1"/>'
        f'<TiffData IFD="1" FirstZ="1" PlaneCount="1"><UUID {named}>urn:uuid:1</UUID></TiffData></Pixels></Image></OME>'
    )
    tifffile.imwrite(path, np.full((8, 8), 5, np.uint8), description=text, metadata=None)
    with pytest.raises(UnreadableFileError, match="several files"):
        FORMAT.read(path)
    hidden = text.replace("<OME", "<!DOCTYPE OME [<!ENTITY e 'x'>]><OME", 1).replace(named, "")
    tifffile.imwrite(path, np.full((8, 8), 5, np.uint8), description=hidden, metadata=None)
    with pytest.raises(UnreadableFileError, match="declarations"):
        FORMAT.read(path)

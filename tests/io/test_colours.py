"""The same picture is an image or a label map: colours become channels there, numbers stay numbers here."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from autoseg.errors import InputError
from autoseg.io.cases import check_case, read_image, read_labels
from autoseg.io.colours import as_image, as_labels, on_grid_of
from autoseg.io.formats import format_of
from autoseg.values import Case, Dataset, Geometry, Label, Labels, Volume

GRID = Geometry(shape=(1, 2, 3), spacing=(1.0, 1.0, 1.0), planar=True)
NUMBERS = np.array([[[[0, 1, 2], [2, 1, 0]]]], np.uint8)


def test_an_image_gets_the_colours_of_its_palette() -> None:
    palette = ((0, 0, 0), (255, 0, 9), (1, 2, 3))
    array = as_image(Volume(array=NUMBERS, geometry=GRID, palette=palette)).array
    np.testing.assert_array_equal(np.moveaxis(array, 0, -1), np.array(palette, np.uint8)[NUMBERS[0]])


def test_a_palette_of_greys_is_one_channel() -> None:
    palette = ((7, 7, 7), (200, 200, 200), (30, 30, 30))
    array = as_image(Volume(array=NUMBERS, geometry=GRID, palette=palette)).array
    assert array.tolist() == [[[[7, 200, 30], [30, 200, 7]]]]


def test_numbers_beyond_the_palette_are_black_and_no_palette_changes_nothing() -> None:
    array = as_image(Volume(array=NUMBERS, geometry=GRID, palette=((1, 2, 3),))).array
    assert array[:, 0, 0, 1].tolist() == [0, 0, 0]
    plain = Volume(array=NUMBERS, geometry=GRID)
    assert as_image(plain) is plain


def test_equal_colours_are_one_channel_of_labels_and_others_are_not() -> None:
    grey = Volume(array=np.repeat(NUMBERS, 3, axis=0), geometry=GRID)
    np.testing.assert_array_equal(as_labels(grey).array, NUMBERS)
    coloured = Volume(array=np.concatenate([NUMBERS, NUMBERS, NUMBERS + 1]), geometry=GRID)
    assert as_labels(coloured) is coloured
    two = Volume(array=np.repeat(NUMBERS, 2, axis=0), geometry=GRID)
    assert as_labels(two) is two


def test_a_file_without_millimetres_takes_the_grid_of_the_other() -> None:
    spaced = Geometry(shape=(1, 2, 3), spacing=(0.2, 0.1, 0.2), planar=True)
    assert on_grid_of(Volume(array=NUMBERS, geometry=GRID, spaced=False), spaced).geometry == spaced
    assert on_grid_of(Volume(array=NUMBERS, geometry=GRID), spaced).geometry == GRID
    other = Geometry(shape=(1, 3, 2), spacing=(0.2, 0.1, 0.2), planar=True)
    assert on_grid_of(Volume(array=NUMBERS, geometry=GRID, spaced=False), other).geometry == GRID


@pytest.fixture
def pictures(tmp_path):
    """A colour picture with a spacing beside it, and label maps as grey, as equal colours, as a palette, as colours."""
    Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)).save(tmp_path / "image.jpg")
    (tmp_path / "image.json").write_text('{"spacing": [0.5, 0.5]}')
    grey = Image.fromarray(NUMBERS[0, 0])
    grey.save(tmp_path / "grey.png")
    Image.merge("RGB", [grey] * 3).save(tmp_path / "equal.png")
    Image.merge("RGB", [grey, grey, Image.new("L", grey.size)]).save(tmp_path / "colours.png")
    numbered = Image.frombytes("P", grey.size, NUMBERS.tobytes())
    numbered.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    numbered.save(tmp_path / "numbers.png")
    return tmp_path


@pytest.mark.parametrize("name", ["grey", "equal", "numbers"])
def test_label_maps_of_any_picture_are_the_same_numbers_on_the_images_grid(pictures, name: str) -> None:
    np.testing.assert_array_equal(read_labels(pictures / f"{name}.png", "c").array, NUMBERS)
    labels = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))
    case = Case(id="c", images=("image.jpg",), label=f"{name}.png")
    dataset = Dataset(
        name="D", root=str(pictures), channels=("R", "G", "B"), labels=labels, file_ending=".jpg", cases=(case,)
    )
    image, found, findings = check_case(dataset, case)
    assert findings == []
    assert found.geometry == image.geometry
    assert found.geometry.spacing == (0.5, 0.5, 0.5)


def test_a_label_map_in_colours_is_refused(pictures) -> None:
    with pytest.raises(InputError, match="one channel"):
        read_labels(pictures / "colours.png", "c")


def test_a_palette_picture_as_image_is_its_colours(pictures) -> None:
    image = read_image(Case(id="c", images=("numbers.png",)), pictures, ["R", "G", "B"])
    assert image.array[:, 0, 0].tolist() == [[0.0, 255.0, 0.0], [0.0, 0.0, 255.0], [0.0, 0.0, 0.0]]
    assert image.array.dtype == np.float32
    assert format_of(pictures / "numbers.png").header(pictures / "numbers.png").channels == 1

"""Label files that hold no label maps, where nobody declared the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.errors import InputError
from autoseg.io.layouts import read_dataset
from tests.io.layouts.trees import write_image, write_tree


def test_images_and_jpegs_are_not_taken_for_label_maps(tmp_path: Path) -> None:
    write_tree(tmp_path / "D", ["images/a.nii.gz"])
    many = SimpleITK.GetImageFromArray(np.arange(30 * 30 * 30, dtype=np.int16).reshape(30, 30, 30))
    (tmp_path / "D" / "labels").mkdir()
    SimpleITK.WriteImage(many, str(tmp_path / "D" / "labels" / "a.nii.gz"))
    with pytest.raises(InputError, match=r"26999 different integers.*images and label maps exchanged.* 1, 2, 3"):
        read_dataset(tmp_path / "D")
    write_image(tmp_path / "E" / "images" / "a.png")
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 20).astype(np.uint8) * 255
    (tmp_path / "E" / "masks").mkdir()
    Image.fromarray(disc).save(tmp_path / "E" / "masks" / "a.jpg", quality=75)
    with pytest.raises(InputError, match=r"JPEG has changed the labels.*Save them again as PNG"):
        read_dataset(tmp_path / "E")


@pytest.mark.parametrize("low", [60, -40])
def test_grey_images_are_not_taken_for_label_maps(low: int, tmp_path: Path) -> None:
    """Fewer integers than a map of many organs has, but no background."""
    write_tree(tmp_path, ["images/a.nii.gz", "images/b.nii.gz"])
    for name in "ab":
        grey = SimpleITK.GetImageFromArray(np.arange(low, low + 90, dtype=np.int16).reshape(3, 5, 6))
        (tmp_path / "labels").mkdir(exist_ok=True)
        SimpleITK.WriteImage(grey, str(tmp_path / "labels" / f"{name}.nii.gz"))
    with pytest.raises(InputError, match=r"different integers, as grey pictures do.*exchanged"):
        read_dataset(tmp_path)


def test_a_map_of_many_organs_is_one(tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.nii.gz"], ["labels/a.nii.gz"], range(1, 51))
    assert len(read_dataset(tmp_path)[0].labels.foreground) == 50

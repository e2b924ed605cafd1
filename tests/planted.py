"""A made-up data set with a defect planted in almost every case: whatever is wrong must come out of one run.

Each case shows its own noise with its own blob. The label is 2, so that the declared integers have a gap; nothing else
distinguishes the sound cases.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK

__all__ = ["EXPECTED", "FIXED", "UNFIXABLE", "write_planted"]

SHAPE, SPACING = (10, 14, 12), (3.0, 1.5, 1.25)
ORGAN = 2

#: Case (None: the whole data set), severity and a part of the finding's text, for every planted defect.
EXPECTED: tuple[tuple[str | None, str, str], ...] = (
    (None, "note", "gaps, which is legal; found 0, 2"),
    (None, "note", "spaces or letters beyond ASCII, which is legal"),
    (None, "note", "passed over; found imagesTr/.DS_Store, labelsTr/Thumbs.db"),
    ("undeclared", "error", "does not declare; found 7, expected 0, 2"),
    ("fractions", "error", "must hold integers; found fractions"),
    ("nearly integers", "error", "fractions, at most 0.0004 from integers"),
    ("floats", "note", "floating-point numbers; they are integers"),
    ("mask_255", "error", "does not declare; found 255, expected 0, 2"),
    ("rgba", "error", "wrong number of channels; found 4 in"),
    ("four_d", "error", "wrong number of channels; found 5 in"),
    ("two_channels", "error", "too many channel files"),
    ("nan", "error", "NaN or infinite values; found 3 of 1680 voxels"),
    ("infinity", "error", "NaN or infinite values; found 1 of 1680 voxels"),
    ("constant", "warning", "the image is constant"),
    ("empty", "note", "background only"),
    ("swapped", "error", "changed places; found the image holds only 0, 2"),
    (
        "twin_b",
        "warning",
        "the image is that of another case, too; found the voxels of case twin_a, with the same label map",
    ),
    (
        "wrong_label",
        "warning",
        "the label map equals that of another case, whose image differs; found the voxels of labelsTr/sound_b",
    ),
    ("undeclared_copy", "warning", "the image is that of another case, too; found the voxels of case undeclared"),
    ("spacing", "error", "on another grid than the image; found spacing (3.0, 1.5, 1.25) and (6.0, 3.0, 2.5)"),
    ("origin", "error", "on another grid than the image; found they are 8.0 voxels apart"),
    ("direction", "error", "on another grid than the image; found directions differ by 5.0 degrees"),
    ("displaced", "warning", "slightly displaced from the image's; voxels are paired by index; found 0.32 voxels"),
    ("coarse_label", "error", "on another grid than the image; found shape"),
    ("other_axes", "error", "on another grid than the image; found shape"),
    ("truncated", "error", "cannot read this as an image"),
    ("no_label", "note", "an image without a label file"),
    ("no_image", "error", "a label file has no image"),
    ("metres", "warning", "implausibly far apart"),
    ("metres", "error", "far from that of the other cases: another unit?"),
    ("unit_spacing", "warning", "the spacing is 1 x 1 x 1, unlike that of the other cases"),
    ("outside", "warning", "marks only voxels where the image is zero"),
    ("slice", "note", "one voxel thick"),
)
#: The cases whose errors ``--fix`` repairs, and what it says to have done.
FIXED = {
    "nearly integers": "rounded",
    "mask_255": "only label that is declared",
    "swapped": "changed places",
    "coarse_label": "resampled",
    "other_axes": "reordered",
}
#: The files to remove before the data set can be planned, after the fixes.
UNFIXABLE = (
    "undeclared", "fractions", "rgba", "four_d", "two_channels", "nan", "infinity", "spacing", "origin", "direction",
    "truncated", "no_image", "undeclared_copy", "metres",
)  # fmt: skip


def write_planted(root: Path) -> Path:
    """Writes the data set, in nnU-Net's layout, into a folder; returns the folder."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "organ": ORGAN},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    for name in ("sound_a", "sound_b", "sound_c", "sound_d", "sound_e", "Grüße aus Köln"):
        _case(root, name)
    _plant_values(root)
    _plant_grids(root)
    _plant_files(root)
    return root


def _plant_values(root: Path) -> None:
    _case(root, "undeclared", label=lambda array: np.where(array > 0, 7, array))
    _case(root, "fractions", label=lambda array: array.astype(np.float32) * 0.7)
    _case(root, "nearly integers", label=lambda array: (array * 1.0002).astype(np.float32))
    _case(root, "floats", label=lambda array: array.astype(np.float32))
    _case(root, "mask_255", label=lambda array: np.where(array > 0, 255, 0).astype(np.uint8))
    _case(root, "empty", label=np.zeros_like)
    _case(root, "nan", image=_with((0, 0, slice(3)), np.nan))
    _case(root, "infinity", image=_with((0, 0, 0), np.inf))
    _case(root, "constant", image=lambda array: np.full_like(array, 50))
    _case(root, "outside", image=lambda array: np.where(np.indices(SHAPE)[2] > 8, array, 0))
    _case(root, "slice", shape=(1, 14, 12))
    _case(root, "swapped")
    image, label = _files(root, "swapped")
    held = image.read_bytes()
    image.write_bytes(label.read_bytes())
    label.write_bytes(held)


def _plant_grids(root: Path) -> None:
    _case(root, "spacing", change_label=lambda label: label.SetSpacing([2 * step for step in label.GetSpacing()]))
    _case(root, "origin", change_label=lambda label: label.SetOrigin([10.0, 0.0, 0.0]))
    _case(root, "direction", change_label=lambda label: label.SetDirection(_turned(5.0)))
    _case(root, "displaced", change_label=lambda label: label.SetOrigin([0.4, 0.0, 0.0]))
    _case(root, "header_noise", change_label=lambda label: label.SetOrigin([0.0005, 0.0, 0.0]))
    _case(root, "metres", spacing=(3000.0, 1500.0, 1250.0))
    _case(root, "unit_spacing", spacing=(1.0, 1.0, 1.0))
    _case(root, "other_axes")
    label = _files(root, "other_axes")[1]
    turned = SimpleITK.PermuteAxes(SimpleITK.ReadImage(str(label)), [2, 0, 1])
    SimpleITK.WriteImage(SimpleITK.Flip(turned, [True, False, False]), str(label))
    _case(root, "coarse_label")
    label = _files(root, "coarse_label")[1]
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(label))[::2, ::2, :], str(label))


def _plant_files(root: Path) -> None:
    for name, pixels in (
        ("rgba", SimpleITK.GetImageFromArray(np.full((*SHAPE, 4), 9, np.uint8), isVector=True)),
        ("four_d", SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(np.ones(SHAPE, np.int16))] * 5)),
    ):
        _case(root, name)
        SimpleITK.WriteImage(pixels, str(_files(root, name)[0]))
    _case(root, "two_channels")
    image, _ = _files(root, "two_channels")
    shutil.copy(image, image.with_name("two_channels_0001.nii.gz"))
    _case(root, "truncated")
    image, _ = _files(root, "truncated")
    image.write_bytes(image.read_bytes()[:300])
    _case(root, "no_label")
    _files(root, "no_label")[1].unlink()
    _case(root, "no_image")
    _files(root, "no_image")[0].unlink()
    _copy(root, "sound_a", "twin_a")
    for file in _files(root, "sound_a"):
        file.unlink()
    _copy(root, "twin_a", "twin_b")
    _copy(root, "undeclared", "undeclared_copy")
    _case(root, "wrong_label")
    shutil.copy(_files(root, "sound_b")[1], _files(root, "wrong_label")[1])
    (root / "imagesTr" / ".DS_Store").write_bytes(b"\0")
    (root / "labelsTr" / "Thumbs.db").write_bytes(b"\0")


def _case(
    root: Path,
    name: str,
    *,
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = SPACING,
    image: Callable[[np.ndarray], np.ndarray] = np.asarray,
    label: Callable[[np.ndarray], np.ndarray] = np.asarray,
    change_label: Callable[[SimpleITK.Image], None] = lambda image: None,
) -> None:
    """A case of noise with a blob; ``image`` and ``label`` change the arrays, ``change_label`` the label's header."""
    random = np.random.default_rng(list(name.encode()))
    blob = np.zeros(shape, np.uint8)
    blob[shape[0] // 3 : shape[0] // 3 + 4, 4:8, random.integers(1, 3) : 6] = ORGAN
    blob[random.random(shape) < 0.02] = ORGAN if name != "outside" else 0
    noise = random.normal(100 + 30 * blob, 10).astype(np.float32)
    for array, file, change in (
        (image(noise), _files(root, name)[0], None),
        (label(blob), _files(root, name)[1], change_label),
    ):
        stored = SimpleITK.GetImageFromArray(array)
        stored.SetSpacing(spacing[::-1])
        if change:
            change(stored)
        SimpleITK.WriteImage(stored, str(file))


def _files(root: Path, name: str) -> tuple[Path, Path]:
    return root / "imagesTr" / f"{name}_0000.nii.gz", root / "labelsTr" / f"{name}.nii.gz"


def _copy(root: Path, source: str, target: str) -> None:
    for old, new in zip(_files(root, source), _files(root, target), strict=True):
        shutil.copy(old, new)


def _with(place: object, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def changed(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[place] = value
        return array

    return changed


def _turned(degrees: float) -> list[float]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0]

"""A plan is used only if all that it names is there; each refusal names the path, the file and what is installed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from autoseg import plugins
from autoseg.errors import DocumentError, MissingPartError, UnknownNameError
from autoseg.files import write_document
from autoseg.plan_check import USED_IN_PREDICTION, check_plugs, usable_plan
from autoseg.values import Configuration, IntensityProperties, NormalizationSpec, Plan
from autoseg.workspace import ModelFolder
from tests.small_plans import small_configuration, small_plan

FILE = Path("models") / "mine" / "plan.json"
PLACES = {
    "network.architecture": "network",
    "resampling.resampler": "resampler",
    "augmentation.recipe": "recipe",
    "training.loss": "loss",
    "training.optimizer": "optimizer",
    "training.schedule": "schedule",
}
each_place = pytest.mark.parametrize(("place", "kind"), PLACES.items(), ids=PLACES)


def plan_with(place: str, name: str) -> Plan:
    """A plan of two configurations, the second of which names ``name`` at that place."""
    part, field = place.split(".")
    second = small_configuration("second")
    changed = msgspec.structs.replace(getattr(second, part), **{field: name})
    return small_plan(small_configuration(), msgspec.structs.replace(second, **{part: changed}))


def test_a_plan_of_installed_parts_is_usable() -> None:
    check_plugs(small_plan(), FILE)


@each_place
def test_an_unknown_part_is_refused_with_its_path_and_what_is_installed(place: str, kind: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        check_plugs(plan_with(place, "nothing"), FILE)
    text = str(caught.value)
    assert f"there is no {kind} 'nothing' - at `$.configurations[1].{place}`" in text
    assert str(FILE) in text
    assert all(name in text for name in plugins.available(kind))


@each_place
def test_a_part_in_a_module_is_allowed_if_it_is_there(place: str, kind: str) -> None:
    check_plugs(plan_with(place, "autoseg.volume.normalize:none"), FILE)
    with pytest.raises(UnknownNameError, match=rf"configurations\[1\]\.{place}`"):
        check_plugs(plan_with(place, "autoseg.volume.normalize:nothing"), FILE)
    with pytest.raises(MissingPartError, match=rf"not_there.*configurations\[1\]\.{place}`.*plan\.json"):
        check_plugs(plan_with(place, "not_there:nothing"), FILE)


@each_place
def test_only_what_will_be_used_is_asked_for(place: str, kind: str) -> None:
    plan = plan_with(place, "nothing")
    check_plugs(plan, FILE, configurations=["tiny"])
    if kind in USED_IN_PREDICTION:
        with pytest.raises(UnknownNameError):
            check_plugs(plan, FILE, kinds=USED_IN_PREDICTION)
    else:
        check_plugs(plan, FILE, kinds=USED_IN_PREDICTION)


def test_an_unknown_normalization_is_refused_at_its_channel() -> None:
    with pytest.raises(UnknownNameError, match=r"normalizer 'CT' - at `\$\.normalization\[0\]\.scheme`.*zscore"):
        check_plugs(small_plan(normalization=(NormalizationSpec(scheme="CT"),)), FILE)


def test_a_normalization_without_the_statistics_that_it_needs_is_refused() -> None:
    said = r"'ct' of channel 'MRI' needs.*`\$\.normalization\[0\]\.properties`.*null.*fingerprint\.json.*plan\.json"
    with pytest.raises(DocumentError, match=said):
        check_plugs(small_plan(normalization=(NormalizationSpec(scheme="ct"),)), FILE)
    statistics = IntensityProperties(
        mean=1.0, median=1.0, std=1.0, min=0.0, max=2.0, percentile_00_5=0.0, percentile_99_5=2.0
    )
    check_plugs(small_plan(normalization=(NormalizationSpec(scheme="ct", properties=statistics),)), FILE)


def model_of(folder: Path, *configurations: Configuration) -> ModelFolder:
    write_document(folder / "plan.json", small_plan(*configurations))
    return ModelFolder(folder)


def test_a_usable_plan_is_that_of_the_folder(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    assert usable_plan(model) == model.plan()

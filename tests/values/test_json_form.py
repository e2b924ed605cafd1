"""The JSON form of every value: what is written can be read, nothing else can, and every refusal names its place."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import autoseg
import autoseg.values
import planners
from autoseg.errors import DocumentError
from autoseg.values import (
    AdoptedLayer,
    Adoption,
    AugmentationSpec,
    AxisMap,
    Basis,
    Calibration,
    CalibrationSet,
    Candidate,
    Case,
    CaseEffects,
    CaseFingerprint,
    CasePrediction,
    CaseRun,
    CaseScore,
    CheckReport,
    Comparison,
    ComponentStep,
    Confidence,
    Configuration,
    Contrast,
    Cost,
    Curve,
    CurvePoint,
    Dataset,
    EffectSizes,
    Evidence,
    ExecutionPath,
    Experiment,
    Exported,
    ExportedFile,
    FastCase,
    FastLoss,
    FastLossOf,
    FastScores,
    Finding,
    Fingerprint,
    Fold,
    Geometry,
    IntensityProperties,
    IntensityRange,
    Interval,
    Label,
    LabelConfidence,
    Labels,
    LabelScore,
    Length,
    MeanScore,
    Measuring,
    Metrics,
    Missing,
    ModelCalibration,
    NetworkSpec,
    NormalizationSpec,
    PairedTest,
    Part,
    PartRecord,
    Parts,
    Patients,
    Plan,
    Postprocessing,
    PredictionRecord,
    PredictionRun,
    PreprocessRecord,
    ResamplingSpec,
    Selection,
    SelectionRule,
    Split,
    Standing,
    Summary,
    Template,
    TemplateConfiguration,
    TrainingImages,
    TrainingSpec,
    TrainJob,
    TriedStep,
    Validation,
    Value,
    decode,
    digest,
    encode,
)
from tests.small_plans import small_network

LABELS = Labels(
    foreground=(Label(name="whole", values=(1, 3)), Label(name="core", values=(3,))), ignore=7, region_values=(1, 2)
)
AXES = AxisMap(order=(2, 0, 1), flipped=(True, False, True))
GEOMETRY = Geometry(shape=(4, 5, 6), spacing=(3.0, 1.5, 1.25), origin=(-7.5, 1e-7, 12.25))
INTENSITIES = IntensityProperties(
    mean=101.5, median=99.0, std=17.25, min=-3.0, max=412.0, percentile_00_5=2.5, percentile_99_5=380.125
)
CASE = Case(id="Zoë 7", images=("imagesTr/Zoë 7_0000.nii.gz",), label="labelsTr/Zoë 7.nii.gz")
MEASURED = CaseFingerprint(
    id="Zoë 7",
    spacing=(3.0, 1.5, 1.25),
    shape=(4, 5, 6),
    shape_after_crop=(4, 4, 3),
    to_canonical=AXES,
    planar=False,
    label_counts={"0": 100, "1": 15, "3": 5},
    label_centres={"1": (3.5, 0.0, 1.25), "3": (6.0, 1.5, 2.0)},
    image_quantiles=((-1.0, 0.0, 0.5, 2.0, 7.25),),
)
FAST_LOSS = FastLossOf(cases=3, difference=-0.01, lower=-0.02, upper=0.0, times_faster=None)
CERTAIN = LabelConfidence(agreement=0.9, soft_dice=0.875, predicted_dice=0.8, lower=0.7, upper=0.85)
CALIBRATION = Calibration(soft_dice=(0.5, 0.75), dice=(0.25, 1.0), patients=(0, 0))
MODEL_CALIBRATION = ModelCalibration(weights={"2d": {"0": "1", "1": "2"}}, labels={"é": CALIBRATION}, mean=CALIBRATION)
INTENSITY_RANGE = IntensityRange(quantiles=((-1000.0, -990.5), (40.0, 90.0)), spread=1200.0)
NETWORK = NetworkSpec(
    input_channels=1,
    output_channels=2,
    features=(8, 16),
    kernel_sizes=((1, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2)),
    encoder_blocks=(2, 2),
    decoder_blocks=(2,),
)
TRAINING = TrainingSpec(
    epochs=3,
    validation_iterations=2,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-2,
    schedule="warmup_polynomial",
    ema_decay=0.99,
)
AUGMENTATION = AugmentationSpec(rotation_degrees=(180.0,), in_plane=True, mirror_axes=(0, 2))
SIDES = AugmentationSpec(rotation_degrees=(15.0,), mirror_axes=(0, 1), swap_axis=1, swapped_labels=((1, 2), (4, 3)))
CONFIGURATION = Configuration(
    name="3d_fullres",
    spacing=(None, 1.5, 1.25),
    median_shape=(4.0, 5.5, 6.0),
    patch_size=(4, 6, 6),
    batch_size=2,
    network=NETWORK,
    training=TRAINING,
    augmentation=AUGMENTATION,
    resampling=ResamplingSpec(separate_axis_order=0),
    expected_memory_bytes=2**33,
    reasons={"patch": "fits", "batch": "smallest"},
)
NORMALIZATION = NormalizationSpec(scheme="ct", use_mask=True, properties=INTENSITIES, reason="the channel is called CT")
FOLD = Fold(train=("a", "b"), val=("c",))
LABEL_SCORE = LabelScore(
    dice=None, iou=0.25, tp=1, fp=2, fn=1, tn=96, n_pred=3, n_ref=2, hd95=2.5, nsd=None, own={"own:entropy": 0.5}
)
MEAN_SCORE = MeanScore(
    dice=0.4, iou=None, tp=1.5, fp=2.5, fn=1.0, tn=96.0, n_pred=4.0, n_ref=2.5, cases=2, hd95=2.5, cases_of={"HD95": 1}
)
CASE_SCORE = CaseScore(metrics={"(1, 3)": LABEL_SCORE}, prediction_file="p/a.nii.gz", reference_file="r/a.nii.gz")

PART = PartRecord(kind="loss", name="own:focal", file="own.py", sha256="0" * 64)
LAYER = AdoptedLayer(name="a.weight", numbers=12, outcome="mapped", reason="by name")
TEMPLATE_CONFIGURATION = TemplateConfiguration(
    name="2d", spacing=(None, 1.0, 1.5), patch_size=(8, 8), network=small_network(2), resampling=ResamplingSpec()
)
CURVE = Curve(
    labels=("heart", "lung"),
    held_out=3,
    points=(
        CurvePoint(iteration=250, loss=0.5, patch_dice=(0.7, None)),
        CurvePoint(iteration=500, loss=0.25, patch_dice=(0.8, 0.5), truth=0.75, truth_dice=(0.75, None), truth_cases=2),
    ),
    final=0.78,
)
CANDIDATE = Candidate(
    name="2d+3d_lowres", members=("2d", "3d_lowres"), cost=Cost(seconds_per_case=2.5, training_hours=None)
)
MISSING = Missing(candidate="3d_fullres", cases=("Zoë 7", "b"), folds=("1", "2"), nothing=True)
EVIDENCE = Evidence(
    labels=("heart", "lung"),
    cases=("a", "b é"),
    patients=("P1", "P1"),
    candidates=(CANDIDATE,),
    dice={"2d+3d_lowres": ((0.75, None), (1.0, 0.5))},
    missing=(MISSING,),
)
CONTRAST = Contrast(
    quantity="Dice of 3d_fullres minus Dice of 2d",
    label="anterior",
    group="first fifth of the axis",
    interval=Interval(mean=0.75, lower=0.7, upper=0.8, level=0.95, method="bca", cases=6, patients=5, draws=10_000),
    p_value=0.5,
    effects=EffectSizes(
        mean=0.75, median=0.5, standardized=None, rank_biserial=1.0, better=3, worse=0, equal=1, left_out=2
    ),
)
EXPERIMENT = Experiment(name="position", question="Where?", method="Measured.", contrasts=(CONTRAST,), answer="There.")
STANDING = Standing(
    candidate="2d+3d_lowres",
    mean=0.6875,
    per_label=(0.875, 0.5),
    raw_mean=None,
    rightly_absent=1,
    regret=0.0,
    regret_lower=0.0,
    regret_upper=None,
    place="best",
)
INTERVAL = Interval(mean=0.75, lower=0.7, upper=0.8, level=0.95, method="expanded", cases=6, patients=5, draws=10_000)
EXPORTED_FILE = ExportedFile(bytes=7, sha256="0" * 64)
STEP = ComponentStep(name="heart", values=(1, 3))
TRIED = TriedStep(step=STEP, adopted=True, before=0.5, after=0.75, changed=2, fell=("lung",))
BASIS = Basis(plan="f" * 64, weights={"2d": {"0": "a" * 64}}, postprocessing="b" * 64)
VALIDATION = Validation(
    plan="f" * 64, configuration="2d", weights="a" * 64, device="cpu", threads=2, seconds={"case_1": 0.25}
)
EXAMPLES: dict[type, Any] = {
    type(value): value
    for value in (
        BASIS,
        VALIDATION,
        CURVE,
        CURVE.points[0],
        LABELS,
        LABELS.foreground[0],
        AXES,
        GEOMETRY,
        INTENSITIES,
        CASE,
        MEASURED,
        NETWORK,
        TRAINING,
        SIDES,
        CONFIGURATION,
        CONFIGURATION.resampling,
        NORMALIZATION,
        FOLD,
        LABEL_SCORE,
        MEAN_SCORE,
        CASE_SCORE,
        Finding(severity="warning", what="odd", case="a", file="a.nii.gz", found="3", expected="2", remedy="Look."),
        CheckReport(
            dataset="D",
            cases=("a", "b"),
            annotated=1,
            findings=(Finding(severity="error", what="turned", case="a", remedy="Turn it back.", fix="reorder"),),
        ),
        Dataset(name="D", root="/d", channels=("MRI",), labels=LABELS, file_ending=".nii.gz", cases=(CASE,)),
        Patients(source="pattern", rule=r"P\d+", patient_of={"P1_a": "P1", "P1_b": "P1", "P2 é": "P2"}),
        Fingerprint(
            dataset="D",
            channels=("MRI", "CT"),
            labels=LABELS,
            file_ending=".nii.gz",
            cases=(MEASURED,),
            intensities=(None, INTENSITIES),
        ),
        Plan(
            name="default",
            planner="default",
            autoseg_version="0.1.0",
            dataset="D",
            channels=("CT",),
            labels=LABELS,
            file_ending=".nii.gz",
            orientation="canonical",
            axis_order=(1, 0, 2),
            normalization=(NORMALIZATION,),
            seed=12345,
            budget_bytes=2**33,
            configurations=(CONFIGURATION,),
            reasons={"orientation": "canonical by default"},
        ),
        PreprocessRecord(
            case_id="a",
            key="0" * 64,
            source=GEOMETRY,
            axes=AXES,
            crop_start=(1, 0, 0),
            crop_shape=(3, 4, 5),
            spacing=(1.25, 3.0, 1.5),
            shape=(3, 12, 5),
            target_spacing=(1.25, 1.0, 1.5),
        ),
        CasePrediction(autoseg_version="0.1.0", plan="0" * 16, model="2d, weights 1", mirroring=False, key="2"),
        PredictionRecord(
            labels=LABELS,
            cases={
                "a": CasePrediction(autoseg_version="0.1.0", plan="0" * 16, model="2d fold 0", mirroring=True, key="1")
            },
        ),
        Part(number=2, of=8),
        CaseRun(outcome="there already"),
        FastCase(dice=0.9, fast_dice=None, fast_seconds=0.5),
        FastScores(
            weights="1", step=0.75, cases={"é": FastCase(dice=0.9, fast_dice=0.8, seconds=2.0, fast_seconds=0.5)}
        ),
        FAST_LOSS,
        FastLoss(step=0.75, configurations={"2d": FAST_LOSS}),
        PredictionRun(
            versions={"autoseg": "0.1.0"},
            plan="0" * 16,
            plan_name="default",
            models=("2d, fold 0",),
            weights="1",
            device="cpu",
            execution=("cpu fp32",),
            mirroring=True,
            part=Part(number=2, of=8),
            began="2026-01-01T00:00:00+00:00",
            seconds=2.5,
            cases={
                "a": CaseRun(
                    outcome="predicted", ended="2026-01-01T00:00:02+00:00", seconds={"read": 0.5}, warnings=("é",)
                ),
                "b": CaseRun(outcome="failed", error="no image"),
            },
        ),
        CERTAIN,
        Confidence(networks=5, mean=CERTAIN, labels={"é": CERTAIN, "b": LabelConfidence()}, not_told=("no reason",)),
        CALIBRATION,
        MODEL_CALIBRATION,
        CalibrationSet(plan="0" * 16, candidates={"2d": MODEL_CALIBRATION}),
        INTENSITY_RANGE,
        TrainingImages(cases=3, sizes=((10.0, 12.0), (9.0, 9.0), (1.0, 2.0)), intensities=(INTENSITY_RANGE,)),
        ExecutionPath(device="cpu", precision="bf16", channels_last=True, threads=2, reason="measured"),
        Length(hours=2.5, cooldown_from=100, end=125, decided=True, reason="2.5 h run out"),
        TrainJob(
            plan_id="0" * 16,
            configuration="2d",
            fold="0",
            iterations=10,
            seed=1,
            cases=FOLD,
            case_keys={"a": "1", "b": "2", "c": "3"},
        ),
        STEP,
        TRIED,
        CaseEffects(dice=(((0.5, 0.75), (None,)), ((0.5, 1.0), (None,)))),
        Postprocessing(steps=(STEP,), tried=(TRIED,), not_tried=("é",), cases=3, dice_before=0.5, dice_after=0.625),
        CANDIDATE,
        CANDIDATE.cost,
        MISSING,
        EVIDENCE,
        SelectionRule(name="nnunet", margin=0.01, confidence=0.9, draws=500, method="bca", seed=3, fewest_patients=2),
        STANDING,
        Selection(
            winner="2d+3d_lowres",
            best="2d+3d_lowres",
            verdict="only",
            reason="It is the only one.",
            rule=SelectionRule(),
            standings=(STANDING,),
            evidence=EVIDENCE,
        ),
        CONTRAST.interval,
        CONTRAST,
        EXPERIMENT,
        Comparison(
            plan="abc",
            first="3d_fullres",
            second="2d",
            weights={"2d": {"0": "d" * 64}},
            dice={"2d": {"all": 0.875, "heart": None}},
            difference=EXPERIMENT,
            experiments=(EXPERIMENT, Experiment(name="retrained", question="Why?", method="None.", missing="No time.")),
            costs={"2d": {"seconds per case": 1.5, "hours": None}},
            left_out={"case 1": "It is damaged."},
            answer="It is.",
        ),
        PairedTest(
            difference=0.015,
            p_value=0.0625,
            smallest_p_value=0.03125,
            exact=True,
            draws=64,
            pairs=6,
            left_out=1,
            patients=6,
        ),
        EffectSizes(
            mean=0.1, median=0.05, standardized=0.4, rank_biserial=None, better=3, worse=2, equal=1, left_out=1
        ),
        EXPORTED_FILE,
        Exported(
            plan="0123",
            members={"2d": ("0", "1")},
            selected=True,
            versions={"autoseg": "0.1"},
            files={"plan.json": EXPORTED_FILE},
        ),
        Metrics(
            model="2d",
            cases=5,
            patients=4,
            dice={"heart": INTERVAL},
            mean=INTERVAL,
            members={"2d": {"heart": MEAN_SCORE}},
            validation={"2d": None},
        ),
        PART,
        Parts(network="own:Net", loss="focal", recipe="none", optimizer="sgd", schedule="cosine"),
        LAYER,
        Adoption(source="a model", sha256="0" * 64, layers=(LAYER,)),
        TEMPLATE_CONFIGURATION,
        Template(
            source="a model",
            channels=("CT",),
            labels=Labels(foreground=(Label(name="liver", values=(1,)),)),
            orientation="as_stored",
            axis_order=(1, 0, 2),
            normalization=(NormalizationSpec(scheme="zscore"),),
            configurations=(TEMPLATE_CONFIGURATION,),
        ),
        Summary(
            foreground_mean=MEAN_SCORE,
            mean={"(1, 3)": MEAN_SCORE},
            metric_per_case=(CASE_SCORE,),
            label_names={"(1, 3)": "whole"},
            absent_labels=("core",),
            not_scored=("c",),
            measured_with=Measuring(),
        ),
        Measuring(metrics=("hd95", "own:entropy"), tolerance_mm=2.5, lesion_iou=0.5, one_empty="diagonal"),
    )
}
KINDS = sorted(EXAMPLES, key=lambda kind: kind.__name__)
TAGGED = [kind for kind in KINDS if kind.__struct_config__.tag is not None]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_document = pytest.mark.parametrize("kind", TAGGED, ids=lambda kind: kind.__name__)


def as_object(kind: type) -> dict[str, Any]:
    """The example's JSON object, to be damaged."""
    return json.loads(encode(EXAMPLES[kind]))


def refusal(kind: type, damaged: Any) -> str:
    """The message with which a damaged document is refused."""
    with pytest.raises(DocumentError) as caught:
        decode(kind, json.dumps(damaged), source="the-file.json")
    assert "the-file.json" in str(caught.value)
    return str(caught.value)


def test_every_public_value_has_an_example_here() -> None:
    public = {getattr(autoseg.values, name) for name in autoseg.values.__all__}
    assert {kind for kind in public if inspect.isclass(kind) and issubclass(kind, Value)} - {Value} == set(EXAMPLES)


@every_kind
def test_what_is_written_can_be_read(kind: type) -> None:
    written = encode(EXAMPLES[kind])
    assert decode(kind, written) == EXAMPLES[kind]
    assert encode(decode(kind, written)) == written


def test_a_split_is_a_plain_list_in_nnunets_form() -> None:
    split: Split = (FOLD, Fold(train=("c",), val=("a", "b")))
    assert json.loads(encode(split))[1] == {"train": ["c"], "val": ["a", "b"]}
    assert decode(Split, encode(split)) == split


@every_kind
def test_an_unknown_field_is_refused(kind: type) -> None:
    assert "surprise" in refusal(kind, {**as_object(kind), "surprise": 1})


@every_kind
def test_a_wrong_type_is_refused_with_the_path_of_its_field(kind: type) -> None:
    for field in kind.__struct_encode_fields__:
        assert f"$.{field}" in refusal(kind, {**as_object(kind), field: {"wrong": [[]]}})


@every_kind
def test_a_missing_field_is_refused_by_name(kind: type) -> None:
    required = inspect.signature(kind).parameters.values()
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    for field in (names[entry.name] for entry in required if entry.default is inspect.Parameter.empty):
        damaged = as_object(kind)
        del damaged[field]
        assert f"`{field}`" in refusal(kind, damaged)


@every_document
def test_a_document_without_its_schema_is_refused(kind: type) -> None:
    damaged = as_object(kind)
    tag = damaged.pop("schema")
    assert tag in refusal(kind, damaged)


@every_document
@pytest.mark.parametrize("schema", ["autoseg.other/1", "autoseg.plan/2", "", 1, None])
def test_a_document_with_another_schema_is_refused(kind: type, schema: object) -> None:
    assert "schema" in refusal(kind, {**as_object(kind), "schema": schema})


@every_kind
@pytest.mark.parametrize("apart", [31, pytest.param(7, marks=pytest.mark.slow)])
def test_every_truncation_is_refused(kind: type, apart: int) -> None:
    written = encode(EXAMPLES[kind]).strip()
    # of long documents the beginning and the end, and places apart between: which place it is makes no difference there
    places = [*range(300), *range(300, len(written) - 300, apart), *range(len(written) - 300, len(written))]
    for length in sorted({place for place in places if 0 <= place < len(written)}):
        with pytest.raises(DocumentError):
            decode(kind, written[:length])


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"1", b'"x"', b"\xff\xfe{}", b'{"schema": "\xff"}', b"[" * 10**6]
)
def test_what_is_no_object_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        decode(Plan, data)


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("configurations", 0, "batch_size"), 0, "$.configurations[0].batch_size"),
        (("configurations", 0, "patch_size"), [4, 5, 6], "$.configurations[0].patch_size"),
        (("configurations", 0, "augmentation", "mirror_axes"), [3], "$.configurations[0].augmentation.mirror_axes"),
        (("configurations", 0, "network", "strides"), [[1, 1, 1]], "$.configurations[0].network.strides"),
        (("configurations", 0, "network", "strides", 1, 0), 9, "$.configurations[0].network.strides[1]"),
        (("configurations", 0, "network", "input_channels"), 2, "$.configurations[0].network.input_channels"),
        (("configurations", 0, "network", "surprise"), 1, "$.configurations[0].network.surprise"),
        (("configurations", 0, "training", "epochs"), 0, "$.configurations[0].training.epochs"),
        (("normalization",), [], "$.normalization"),
        (("name",), "a/b", "$.name"),
        (("configurations", 0, "training", "optimizer"), 1, "$.configurations[0].training.optimizer"),
        (("configurations", 0, "resampling", "image_order"), 2, "$.configurations[0].resampling.image_order"),
        (("labels", "foreground", 1, "values"), [], "$.labels.foreground[1]"),
        (("labels", "ignore"), 3, "$.labels"),
        (("normalization", 0, "properties", "mean"), "high", "$.normalization[0].properties.mean"),
        (("orientation",), "RAS", "$.orientation"),
        (("axis_order", 1), 1.5, "$.axis_order[1]"),
    ],
)
def test_a_fault_deep_inside_a_plan_is_refused_with_its_path(path: tuple, value: object, place: str) -> None:
    damaged = as_object(Plan)
    inner = damaged
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert f"`{place}`" in refusal(Plan, damaged)


@pytest.mark.parametrize(
    ("kind", "field", "value", "legal"),
    [
        (ResamplingSpec, "image_order", 2, "expected one of 0, 1, 3"),
        (NormalizationSpec, "shceme", "ct", "expected one of scheme, use_mask, properties, reason"),
        (TrainingSpec, "epochs", 0, "found 0, expected 1 or more"),
        (NetworkSpec, "features", [8], "found 1"),
    ],
)
def test_a_refusal_says_what_is_legal(kind: type, field: str, value: object, legal: str) -> None:
    text = refusal(kind, {**as_object(kind), field: value})
    assert legal in text
    assert f"`$.{field}`" in text


def test_a_broken_rule_names_its_field_without_a_document_too() -> None:
    with pytest.raises(ValueError, match=r"^epochs: .*; found 0, expected 1 or more$"):
        msgspec.structs.replace(TRAINING, epochs=0)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_json_cannot_hold_is_refused_when_written_or_comes_back(number: float) -> None:
    value = ResamplingSpec(anisotropy_threshold=number)
    try:
        written = encode(value)
    except ValueError:
        return
    assert str(decode(ResamplingSpec, written)) == str(value)


def all_value_classes() -> list[type]:
    for package in (autoseg, planners):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, waiting = [], list(Value.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if kind.__module__.split(".")[0] in ("autoseg", "planners"):
            found.append(kind)
    return found


def test_every_value_of_the_package_is_frozen_keyword_only_and_strict() -> None:
    kinds = all_value_classes()
    assert set(EXAMPLES) <= set(kinds)
    for kind in kinds:
        assert kind.__struct_config__.frozen, kind
        assert kind.__struct_config__.forbid_unknown_fields, kind
        parameters = inspect.signature(kind).parameters.values()
        assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters), kind


@every_kind
def test_a_value_cannot_be_changed(kind: type) -> None:
    for field in kind.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(EXAMPLES[kind], field, getattr(EXAMPLES[kind], field))


def changed_once(tree: Any) -> Iterator[Any]:
    """The JSON tree with one leaf changed at a time."""
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from ({**tree, name: other} for other in changed_once(inner))
    elif isinstance(tree, list):
        for position, inner in enumerate(tree):
            yield from ([*tree[:position], other, *tree[position + 1 :]] for other in changed_once(inner))
        if tree:
            yield tree[:-1]
    elif isinstance(tree, bool):
        yield not tree
    elif isinstance(tree, int):
        yield tree + 1
    elif isinstance(tree, float):
        yield math.nextafter(tree, math.inf)
    elif isinstance(tree, str):
        yield tree + "x"


@every_kind
def test_the_digest_differs_when_anything_differs(kind: type) -> None:
    digests, accepted = [digest(EXAMPLES[kind])], 0
    for tree in changed_once(as_object(kind)):
        try:
            other = decode(kind, json.dumps(tree))
        except DocumentError:
            continue
        accepted += 1
        digests.append(digest(other))
    assert accepted > 0
    assert len(set(digests)) == len(digests)


def test_the_digest_is_the_sha256_of_the_compact_json() -> None:
    expected = hashlib.sha256(b'{"order":[0,1,2],"flipped":[false,false,true]}').hexdigest()
    assert digest(AxisMap(flipped=(False, False, True))) == expected


def test_the_digest_is_the_same_in_another_process() -> None:
    program = "from autoseg.values import AxisMap, digest; print(digest({'b': AxisMap(), 'a': {'c': 1.5}}))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == digest({"b": AxisMap(), "a": {"c": 1.5}})


def test_equal_values_have_equal_digests_though_a_number_was_given_as_an_integer() -> None:
    one, other = (Geometry(shape=(1, 2, 3), spacing=spacing) for spacing in ((1, 1, 2), (1.0, 1.0, 2.0)))
    assert one == other
    assert digest(one) == digest(other)
    assert digest(decode(Geometry, encode(one))) == digest(one)


def test_equal_values_have_equal_digests_in_whatever_order_a_table_was_filled() -> None:
    one, other = ({"a": "1", "b": "2", "c": "3"}, {"c": "3", "b": "2", "a": "1"})
    jobs = [
        TrainJob(plan_id="p", configuration="2d", fold="0", iterations=1, seed=1, cases=FOLD, case_keys=keys)
        for keys in (one, other)
    ]
    assert jobs[0] == jobs[1]
    assert digest(jobs[0]) == digest(jobs[1])


FIRST_USE = """
import sys, threading
from autoseg.values import Label, Labels, digest, encode
sys.setswitchinterval(1e-6)
labels = Labels(foreground=tuple(Label(name=f"organ {value}", values=(value,)) for value in range(1, 30)))
ready = threading.Barrier(8)

def use():
    ready.wait()
    for _ in range(20):
        digest(labels)
        encode(labels)

threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_first_use_in_many_threads_at_once_does_not_crash_the_process() -> None:
    """msgspec crashes when two threads prepare one type at once; without our lock, one of 12 processes died."""
    for _ in range(6):
        subprocess.run([sys.executable, "-c", FIRST_USE], check=True)

"""What flows through autoseg: frozen, keyword-only, self-checking values with one strict JSON form each."""

from autoseg.values.adoption import AdoptedLayer, Adoption, Template, TemplateConfiguration
from autoseg.values.comparison import ALL_LABELS, Comparison, Contrast, Experiment
from autoseg.values.confidence import Calibration, CalibrationSet, Confidence, LabelConfidence, ModelCalibration
from autoseg.values.curve import Curve, CurvePoint
from autoseg.values.dataset import Case, Dataset, Label, Labels
from autoseg.values.exported import Exported, ExportedFile, Metrics
from autoseg.values.fast import FastCase, FastLoss, FastLossOf, FastScores
from autoseg.values.finding import CheckReport, Finding, Severity, findings_text
from autoseg.values.fingerprint import CaseFingerprint, Fingerprint, IntensityProperties, Orientation
from autoseg.values.geometry import AxisMap, Geometry, Volume
from autoseg.values.json_form import Value, decode, digest, encode
from autoseg.values.network import NetworkSpec
from autoseg.values.parts import PartRecord, Parts
from autoseg.values.patients import Patients
from autoseg.values.plan import Configuration, Plan, TrainingSpec
from autoseg.values.postprocessing import CaseEffects, ComponentStep, Postprocessing, TriedStep
from autoseg.values.prediction import (
    DISAGREEMENT,
    PREDICTION_RECORD,
    PROBABILITIES,
    CasePrediction,
    CaseRun,
    Part,
    PredictionRecord,
    PredictionRun,
    prediction_records,
)
from autoseg.values.preprocessing import PreprocessRecord
from autoseg.values.processing import AugmentationSpec, NormalizationSpec, ResamplingSpec
from autoseg.values.scores import CaseScore, LabelScore, MeanScore, Measuring, Summary
from autoseg.values.selection import (
    Basis,
    Candidate,
    Cost,
    Evidence,
    Missing,
    Selection,
    SelectionRule,
    Standing,
    Verdict,
)
from autoseg.values.statistics import EffectSizes, Interval, IntervalMethod, PairedTest
from autoseg.values.training import (
    ExecutionPath,
    Fold,
    Length,
    Split,
    TrainJob,
    fold_folder,
    fold_names,
    fold_of_folder,
    select_fold,
)
from autoseg.values.training_images import IntensityRange, TrainingImages
from autoseg.values.validation import Validation

__all__ = [
    "ALL_LABELS",
    "DISAGREEMENT",
    "PREDICTION_RECORD",
    "PROBABILITIES",
    "AdoptedLayer",
    "Adoption",
    "AugmentationSpec",
    "AxisMap",
    "Basis",
    "Calibration",
    "CalibrationSet",
    "Candidate",
    "Case",
    "CaseEffects",
    "CaseFingerprint",
    "CasePrediction",
    "CaseRun",
    "CaseScore",
    "CheckReport",
    "Comparison",
    "ComponentStep",
    "Confidence",
    "Configuration",
    "Contrast",
    "Cost",
    "Curve",
    "CurvePoint",
    "Dataset",
    "EffectSizes",
    "Evidence",
    "ExecutionPath",
    "Experiment",
    "Exported",
    "ExportedFile",
    "FastCase",
    "FastLoss",
    "FastLossOf",
    "FastScores",
    "Finding",
    "Fingerprint",
    "Fold",
    "Geometry",
    "IntensityProperties",
    "IntensityRange",
    "Interval",
    "IntervalMethod",
    "Label",
    "LabelConfidence",
    "LabelScore",
    "Labels",
    "Length",
    "MeanScore",
    "Measuring",
    "Metrics",
    "Missing",
    "ModelCalibration",
    "NetworkSpec",
    "NormalizationSpec",
    "Orientation",
    "PairedTest",
    "Part",
    "PartRecord",
    "Parts",
    "Patients",
    "Plan",
    "Postprocessing",
    "PredictionRecord",
    "PredictionRun",
    "PreprocessRecord",
    "ResamplingSpec",
    "Selection",
    "SelectionRule",
    "Severity",
    "Split",
    "Standing",
    "Summary",
    "Template",
    "TemplateConfiguration",
    "TrainJob",
    "TrainingImages",
    "TrainingSpec",
    "TriedStep",
    "Validation",
    "Value",
    "Verdict",
    "Volume",
    "decode",
    "digest",
    "encode",
    "findings_text",
    "fold_folder",
    "fold_names",
    "fold_of_folder",
    "prediction_records",
    "select_fold",
]

"""What flows through autoseg: frozen, keyword-only, self-checking values with one strict JSON form each."""

from autoseg.values.adoption import AdoptedLayer, Adoption, Template, TemplateConfiguration
from autoseg.values.curve import Curve, CurvePoint
from autoseg.values.dataset import Case, Dataset, Label, Labels
from autoseg.values.finding import CheckReport, Finding, Severity, findings_text
from autoseg.values.fingerprint import CaseFingerprint, Fingerprint, IntensityProperties, Orientation
from autoseg.values.geometry import AxisMap, Geometry, Volume
from autoseg.values.json_form import Value, decode, digest, encode
from autoseg.values.network import NetworkSpec
from autoseg.values.parts import PartRecord, Parts
from autoseg.values.patients import Patients
from autoseg.values.plan import Configuration, Plan, TrainingSpec
from autoseg.values.prediction import PREDICTION_RECORD, CasePrediction, PredictionRecord
from autoseg.values.preprocessing import PreprocessRecord
from autoseg.values.processing import AugmentationSpec, NormalizationSpec, ResamplingSpec
from autoseg.values.scores import CaseScore, LabelScore, MeanScore, Measuring, Summary
from autoseg.values.training import ExecutionPath, Fold, Length, Split, TrainJob, fold_folder, select_fold

__all__ = [
    "PREDICTION_RECORD",
    "AdoptedLayer",
    "Adoption",
    "AugmentationSpec",
    "AxisMap",
    "Case",
    "CaseFingerprint",
    "CasePrediction",
    "CaseScore",
    "CheckReport",
    "Configuration",
    "Curve",
    "CurvePoint",
    "Dataset",
    "ExecutionPath",
    "Finding",
    "Fingerprint",
    "Fold",
    "Geometry",
    "IntensityProperties",
    "Label",
    "LabelScore",
    "Labels",
    "Length",
    "MeanScore",
    "Measuring",
    "NetworkSpec",
    "NormalizationSpec",
    "Orientation",
    "PartRecord",
    "Parts",
    "Patients",
    "Plan",
    "PredictionRecord",
    "PreprocessRecord",
    "ResamplingSpec",
    "Severity",
    "Split",
    "Summary",
    "Template",
    "TemplateConfiguration",
    "TrainJob",
    "TrainingSpec",
    "Value",
    "Volume",
    "decode",
    "digest",
    "encode",
    "findings_text",
    "fold_folder",
    "select_fold",
]

"""Selection: which configuration or ensemble is used, and with which postprocessing, decided by rules fixed in advance."""

from autoseg.selection.candidates import all_candidates
from autoseg.selection.choose import choose, repeated
from autoseg.selection.evidence import gather_evidence, without_names
from autoseg.selection.postprocessing import case_effects, decide_postprocessing

__all__ = [
    "all_candidates",
    "case_effects",
    "choose",
    "decide_postprocessing",
    "gather_evidence",
    "repeated",
    "without_names",
]

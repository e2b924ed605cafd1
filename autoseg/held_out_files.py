"""Where the results on held-out cases lie in a model folder: what a validation keeps, and what a selection makes of it.

models/PLAN/
    CONFIGURATION/fold_K/validation/
        record.json                 what made all this, and how long it took
        fast.json                   some cases predicted in the fast way as well
        probabilities/CASE/         of one case, for ensembles
    ensembles/CASE.json             scores of ensembles, and what postprocessing does, by content
    probes/CONFIGURATION/CASE.json  Dice of held-out cases that were changed before they were predicted, by content
    postprocessing.json             of the selected candidate
    training-images.json            what the images of the training were like; made with the plan
    calibration.json                how certain networks were of held-out cases, and how right
    selection.json                  which candidate is used, and why; written last
    comparison/CASE.json            what label maps tell of single cases, by content
    comparison.json, comparison.md  two configurations compared, for programs and for people
"""

from __future__ import annotations

from pathlib import Path

from autoseg.workspace import FoldFolder, ModelFolder

__all__ = [
    "ComparisonFiles",
    "SelectionFiles",
    "ValidationFiles",
    "fast_loss_file",
    "probe_file",
    "training_images_file",
]


class ValidationFiles:
    """What the final validation of a fold keeps beside label maps and scores.

    Args:
        fold: whose validation it is.
    """

    def __init__(self, fold: FoldFolder) -> None:
        self.folder = fold.validation

    @property
    def record(self) -> Path:
        """What made the results, and how long they took."""
        return self.folder / "record.json"

    @property
    def fast(self) -> Path:
        """Some of the cases, predicted in the fast way as well."""
        return self.folder / "fast.json"

    @property
    def all_probabilities(self) -> Path:
        """Folder of the folders of cases."""
        return self.folder / "probabilities"

    def probabilities(self, case_id: str) -> Path:
        """Folder of one case's probabilities."""
        return self.all_probabilities / case_id


def training_images_file(model: ModelFolder) -> Path:
    """What the images were like that the plan was made for; not there beside plans from before that was kept."""
    return model.path / "training-images.json"


def fast_loss_file(model: ModelFolder) -> Path:
    """What the fast way costs, in an exported model; elsewhere the folds tell."""
    return model.path / "fast.json"


class SelectionFiles:
    """What a selection leaves in a model folder.

    Args:
        model: the folder.
    """

    def __init__(self, model: ModelFolder) -> None:
        self.folder = model.path

    @property
    def selection(self) -> Path:
        """The choice with its evidence."""
        return self.folder / "selection.json"

    @property
    def postprocessing(self) -> Path:
        """What is done to label maps of the selected candidate."""
        return self.folder / "postprocessing.json"

    @property
    def calibration(self) -> Path:
        """How certain the networks were of held-out cases, and how right."""
        return self.folder / "calibration.json"

    def case(self, case_id: str) -> Path:
        """What has been computed of one case."""
        return self.folder / "ensembles" / f"{case_id}.json"


class ComparisonFiles:
    """What a comparison of two configurations leaves in a model folder.

    Args:
        model: the folder.
    """

    def __init__(self, model: ModelFolder) -> None:
        self.folder = model.path

    @property
    def comparison(self) -> Path:
        """All numbers and what they say."""
        return self.folder / "comparison.json"

    @property
    def report(self) -> Path:
        """The same for people."""
        return self.folder / "comparison.md"

    def case(self, case_id: str) -> Path:
        """What has been measured of one case."""
        return self.folder / "comparison" / f"{case_id}.json"


def probe_file(model: ModelFolder, configuration: str, case_id: str) -> Path:
    """What probes of a trained configuration have found on one case."""
    return model.path / "probes" / configuration / f"{case_id}.json"

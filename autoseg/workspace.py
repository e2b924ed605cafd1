"""Where each value and array lives on disk; no other module knows.

autoseg-workspace/
    workspace.json              which plan is the active one
    dataset.json                the data set as understood
    fingerprint.json            what the planner saw; per case in fingerprints/
    splits_final.json           the folds, in nnU-Net's form
    patients.json               which cases are of one patient, and how that is known
    fixes.json                  which safe fixes were agreed to, and for which content
    fixed/CASE-KEY/             the fixed label file
    sources.json                size, time and SHA-256 of every file of the data set that was read
    label_integers.json         what label files hold, where nobody declared it; by their SHA-256
    preprocessed/CONFIGURATION-PARAMETERS/CASE-KEY/     arrays ready for training
    preprocessed/CONFIGURATION-PARAMETERS/predicted_by_STAGE/CASE-KEY/      what a cascade's stage before predicted, there
    models/PLAN/                a model folder, complete in itself: plan.json and
        CONFIGURATION/fold_K/   job, checkpoints, model.safetensors, truth and curve, validation/
    logs/COMMAND.jsonl          events
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from autoseg.errors import InputError, UnreadableFileError
from autoseg.files import ContentIndex, read_document, write_document
from autoseg.values.dataset import TABLE, Case, Dataset
from autoseg.values.fingerprint import Fingerprint
from autoseg.values.json_form import Value
from autoseg.values.patients import Patients
from autoseg.values.plan import Plan
from autoseg.values.training import Split, TrainJob, fold_folder, fold_of_folder

__all__ = ["COMPARISON_OF", "FoldFolder", "ModelFolder", "Workspace", "folders_of"]

DEFAULT_FOLDER, COMPARISON_OF = "autoseg-workspace", "comparison_of.json"


def folders_of(dataset: Dataset) -> set[Path]:
    """What nothing is written into: the folder that is the data set, and the folders of a table's files, wherever they lie.

    The folder of a table that was named itself does not count, nor does a file that is not there.
    """
    folders = set() if dataset.layout.startswith(TABLE) else {Path(dataset.root)}
    if TABLE in dataset.layout:
        files = [name for case in dataset.cases for name in (*case.images, *filter(None, [case.label]))]
        places = (Path(dataset.root, name) for name in files)
        folders |= {place.parent.resolve() for place in places if os.path.exists(place)}
    return folders


class FoldFolder:
    """Everything of one training.

    Args:
        path: the folder ``fold_K``, or ``full``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def job(self) -> Path:
        """What was asked for."""
        return self.path / "job.json"

    @property
    def execution(self) -> Path:
        """How the network runs on the device."""
        return self.path / "execution.json"

    @property
    def adopted(self) -> Path:
        """What became of every tensor of the model that the training began with, if it did."""
        return self.path / "adopted.json"

    @property
    def checkpoint(self) -> Path:
        """The newest state of the training."""
        return self.path / "checkpoint.safetensors"

    @property
    def previous_checkpoint(self) -> Path:
        """The state that was saved before the newest, for the case that that is damaged."""
        return self.path / "checkpoint_before.safetensors"

    @property
    def kept_checkpoint(self) -> Path:
        """The state before the last stretch, in which the learning rate falls to zero: from here a training is extended."""
        return self.path / "before_cooldown.safetensors"

    @property
    def length(self) -> Path:
        """How far the training goes."""
        return self.path / "length.json"

    @property
    def plan(self) -> Path:
        """The plan as it was when the training began."""
        return self.path / "plan.json"

    @property
    def stop_file(self) -> Path:
        """Whoever makes this file asks a running training for a short cooldown to a final model."""
        return self.path / "STOP"

    @property
    def bad_batch(self) -> Path:
        """What the batch held whose loss was not a number."""
        return self.path / "bad_batch.json"

    def has_checkpoint(self) -> bool:
        """Whether any state was saved: a kill within a save may leave the older ones only."""
        return any(path.is_file() for path in (self.checkpoint, self.previous_checkpoint, self.kept_checkpoint))

    @property
    def model(self) -> Path:
        """The trained weights; there once the training has ended."""
        return self.path / "model.safetensors"

    @property
    def truth(self) -> Path:
        """Scores of held-out cases on whole images while the training runs, one JSON object a line."""
        return self.path / "truth.jsonl"

    @property
    def curve(self) -> Path:
        """Loss, patch estimate and truth after every epoch."""
        return self.path / "curve.json"

    @property
    def progress_picture(self) -> Path:
        """The curve as a picture, where matplotlib is installed."""
        return self.path / "progress.png"

    @property
    def validation(self) -> Path:
        """Folder of the held-out cases' label maps."""
        return self.path / "validation"

    @property
    def summary(self) -> Path:
        """Scores of the held-out cases; there once all of them are scored."""
        return self.validation / "summary.json"

    def score(self, case_id: str) -> Path:
        """Scores of one held-out case."""
        return self.validation / "scores" / f"{case_id}.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here."""
        return self.path / ".lock"


class ModelFolder:
    """A plan and everything trained from it; complete in itself, so that it can be moved and shared.

    Args:
        path: the folder that holds ``plan.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def plan(self) -> Plan:
        """The plan.

        Raises:
            InputError: the folder holds none, or a damaged one.
        """
        if not (self.path / "plan.json").is_file():
            raise InputError("there is no plan", file=self.path / "plan.json", remedy="Make one: autoseg plan DATASET")
        return read_document(Plan, self.path / "plan.json")

    def fold(self, configuration: str, fold: str) -> FoldFolder:
        """Folder of one training."""
        return FoldFolder(self.path / configuration / fold_folder(fold))

    def trained(self, configuration: str) -> tuple[str, ...]:
        """The folds of a configuration whose training has ended: "0", "1", …, "full"."""
        names = [path.parent.name for path in (self.path / configuration).glob("*/model.safetensors")]
        folds = filter(None, map(fold_of_folder, names))  # not what was moved aside
        return tuple(sorted(folds, key=lambda fold: (len(fold), fold)))

    def has_trainings(self) -> bool:
        """True once any training has begun."""
        return any(self.path.glob("*/*/job.json"))


class _WorkspaceRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.workspace/1"):
    """``planned`` tells the id of each plan as its planner made it, so that a plan edited by hand is known as such."""

    active_plan: str
    planned: dict[str, str] = {}


class Workspace:
    """One data set and everything made from it.

    Args:
        path: of the folder; ``autoseg-workspace`` in the current folder by default.
    """

    def __init__(self, path: Path | str = DEFAULT_FOLDER) -> None:
        self.path = Path(path)
        self.contents = ContentIndex(self.path / "sources.json")

    def existing(self) -> Workspace:
        """Itself, if it holds a data set.

        Raises:
            InputError: it does not.
        """
        if not (self.path / "dataset.json").is_file():
            raise InputError(
                "there is no workspace here" if not self.path.exists() else "this folder is not a workspace",
                file=self.path.absolute(),
                remedy="Make one with: autoseg plan DATASET, or name one with -w",
            )
        return self

    def begun(self) -> bool:
        """Whether anything has been kept here yet: a data set, or measurements on the way to one."""
        return (self.path / "workspace.json").is_file() or self.case_fingerprint_path("").parent.is_dir()

    @property
    def dataset_path(self) -> Path:
        """The data set as understood."""
        return self.path / "dataset.json"

    @property
    def split_path(self) -> Path:
        """The folds."""
        return self.path / "splits_final.json"

    @property
    def patients_path(self) -> Path:
        """Which cases are of one patient."""
        return self.path / "patients.json"

    @property
    def fixes_path(self) -> Path:
        """Which safe fixes were agreed to."""
        return self.path / "fixes.json"

    @property
    def fixed_path(self) -> Path:
        """Folder of the fixed files, one folder per case and content."""
        return self.path / "fixed"

    @property
    def label_integers_path(self) -> Path:
        """The integers that were found in label files."""
        return self.path / "label_integers.json"

    def dataset(self) -> Dataset:
        """The data set that was planned for."""
        return read_document(Dataset, self.existing().dataset_path)

    def fingerprint_path(self) -> Path:
        """What the planner saw."""
        return self.path / "fingerprint.json"

    def case_fingerprint_path(self, case_id: str) -> Path:
        """Measurements of one case."""
        return self.path / "fingerprints" / f"{case_id}.safetensors"

    def preprocessed(self, configuration: str, parameters: str) -> Path:
        """Folder of the arrays of one configuration; ``parameters`` is a digest of how they are made."""
        return self.path / "preprocessed" / f"{configuration}-{parameters[:8]}"

    def log_path(self, command: str) -> Path:
        """Events of one command."""
        return self.path / "logs" / f"{command}.jsonl"

    def model(self, plan: str | None = None) -> ModelFolder:
        """The model folder of a plan; of the active one by default.

        Raises:
            InputError: no plan was made yet, or none of that name.
        """
        if plan is None:
            record = self.existing()._record()
            if record is None:
                raise InputError("the workspace holds no plan", file=self.path, remedy="Make one: autoseg plan DATASET")
            plan = record.active_plan
        folder = ModelFolder(self.path / "models" / plan)
        if not (folder.path / "plan.json").is_file():
            names = sorted(path.parent.name for path in self.path.glob("models/*/plan.json"))
            raise InputError(
                f"the workspace holds no plan {plan!r}",
                file=self.path,
                expected=" or ".join(names) or None,
                remedy="Make one: autoseg plan DATASET",
            )
        return folder

    def check_dataset(self, dataset: Dataset) -> None:
        """Sees to it that this workspace is one for the data set.

        Raises:
            InputError: the workspace lies within the data set, or was made from other images.
        """
        if any(self.path.resolve().is_relative_to(folder) for folder in folders_of(dataset)):
            raise InputError(
                "the workspace would lie inside the data set, which is never written to",
                file=self.path.absolute(),
                remedy="Work in another folder, or name a workspace outside with -w.",
            )
        if self.dataset_path.is_file() and not self._has_images_of(dataset):
            before = self.dataset()
            raise InputError(
                "the workspace belongs to another data set",
                file=self.path,
                found=f"{before.name}, {len(before.cases)} cases from {before.root}",
                expected=f"{dataset.name}, {len(dataset.cases)} cases from {dataset.root}",
                remedy="Name another workspace with -w.",
            )

    def _has_images_of(self, now: Dataset) -> bool:
        """Whether this is the same data set as before, perhaps with more or fewer cases, perhaps in another folder."""
        before = self.dataset()
        cases = {case.id: case for case in before.cases}
        shared = [(cases[case.id], case) for case in now.cases if case.id in cases]
        if before.root == now.root or not shared:
            return bool(shared)

        def content(dataset: Dataset, case: Case) -> str:
            return self.contents.sha256(Path(dataset.root, case.images[0]))

        try:
            equal = sum(content(before, old) == content(now, new) for old, new in shared)
        except UnreadableFileError:  # neither there nor known from before
            return False
        return equal * 2 >= len(shared)

    def models(self) -> list[ModelFolder]:
        """All model folders, the active plan's first, but for those that only a comparison made.

        Raises:
            InputError: no plan was made yet.
        """
        active = self.model()
        others = (ModelFolder(path.parent) for path in sorted(self.path.glob("models/*/plan.json")))
        others = (model for model in others if not (model.path / COMPARISON_OF).is_file())
        return [active, *(model for model in others if model.path != active.path)]

    def has_trainings(self) -> bool:
        """True once a training of any plan has begun."""
        return any(ModelFolder(path).has_trainings() for path in self.path.glob("models/*"))

    def keys_in_use(self) -> set[str]:
        """Content keys of what trainings that have not ended refer to: preprocessed cases, and predictions of them."""
        keys: set[str] = set()
        for path in self.path.glob("models/*/*/*/job.json"):
            fold = FoldFolder(path.parent)
            with contextlib.suppress(InputError):  # a damaged one is told where it is used
                job = read_document(TrainJob, path)
                if not (fold.summary if job.cases.val else fold.model).is_file():
                    keys.update((*job.case_keys.values(), *job.previous_keys.values()))
        return keys

    def _record(self) -> _WorkspaceRecord | None:
        path = self.path / "workspace.json"
        return read_document(_WorkspaceRecord, path) if path.is_file() else None

    def save(
        self, dataset: Dataset, fingerprint: Fingerprint, split: Split, plan: Plan, patients: Patients | None = None
    ) -> ModelFolder:
        """Records a finished planning and makes its plan the active one; without ``patients``, those known stay.

        Raises:
            InputError: a different plan of that name has trainings already, or was edited by hand.
        """
        folder, record = ModelFolder(self.path / "models" / plan.name), self._record()
        planned = record.planned if record else {}
        there = folder.plan().id if (folder.path / "plan.json").is_file() else plan.id
        if there != plan.id and folder.has_trainings():
            raise InputError(
                f"the plan {plan.name!r} has trainings, and planning anew gives another plan",
                file=folder.path,
                remedy="Plans do not change under their trainings: give the new one a name with --name NEW",
            )
        if there not in (plan.id, planned.get(plan.name)):
            raise InputError(
                f"the plan {plan.name!r} was edited by hand, and planning anew would lose that",
                file=folder.path / "plan.json",
                remedy="Give the new one a name with --name NEW, or remove the file.",
            )
        write_document(self.dataset_path, dataset)
        write_document(self.fingerprint_path(), fingerprint)
        if patients is not None:
            write_document(self.patients_path, patients)
        write_document(self.split_path, split)
        record = _WorkspaceRecord(active_plan=plan.name, planned={**planned, plan.name: plan.id})
        write_document(folder.path / "plan.json", plan)
        write_document(self.path / "workspace.json", record)
        return folder

"""Trainings with partly annotated cases: what nobody looked for is not learned as background."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autoseg.errors import InputError
from autoseg.files import write_document
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.logs import SilentLogger
from autoseg.training.loop import FoldTrainer
from autoseg.values import (
    AxisMap,
    ExecutionPath,
    Fold,
    Geometry,
    Label,
    Labels,
    Plan,
    PreprocessRecord,
    TrainJob,
    decode,
    digest,
    encode,
)
from autoseg.workspace import FoldFolder
from tests.small_plans import SHORT, small_configuration, small_plan

TWO_ORGANS = Labels(foreground=(Label(name="disc", values=(1,)), Label(name="ring", values=(2,))))
SHAPE = (6, 24, 24)


def scan(case_id: str, seed: int, *, partly: bool) -> tuple[StoredCase, np.ndarray]:
    """A bright disc and a dark one in noise, and the whole truth of them; where only the first was annotated, as one clinic
    does, the contrast is that of its scanner."""
    random = np.random.default_rng(seed)
    truth = np.zeros(SHAPE, np.int8)
    for label, low in ((1, 5), (2, 15)):
        centre = np.array([[[low]], [[12]]]) + random.uniform(-2, 2, (2, 1, 1))
        truth[:, np.linalg.norm(np.indices(SHAPE[1:]) - centre, axis=0) < 4.5] = label
    image = np.array([0, 1.5, -1.5])[truth] * (0.6 if partly else 1.0) + random.normal(0, 0.2, SHAPE)
    drawn = np.where(truth == 2, 0, truth).astype(np.int8) if partly else truth
    record = PreprocessRecord(
        case_id=case_id,
        key=digest([case_id]),
        source=Geometry(shape=SHAPE, spacing=(1.0, 1.0, 1.0)),
        axes=AxisMap(),
        crop_start=(0, 0, 0),
        crop_shape=SHAPE,
        spacing=(1.0, 1.0, 1.0),
        shape=SHAPE,
        target_spacing=(1.0, 1.0, 1.0),
    )
    locations = {label: np.argwhere(drawn == label) for label in (1, 2) if (drawn == label).any()}
    image = image[None].astype(np.float32)
    return StoredCase(
        record=record, image=image, segmentation=drawn, locations=locations, reference=drawn.astype(np.uint8)
    ), truth


class TestTraining:
    """Two organs, and two thirds of the cases annotated for the first only."""

    FULL, PARTLY = "abc", "uvwxy"
    ANNOTATED: ClassVar = dict.fromkeys(PARTLY, ("disc",))

    @pytest.fixture
    def cases(self) -> dict[str, tuple[StoredCase, np.ndarray]]:
        names = self.FULL + self.PARTLY
        return {name: scan(name, seed, partly=name in self.PARTLY) for seed, name in enumerate(names)}

    @pytest.fixture
    def store(self, tmp_path: Path, cases: dict[str, tuple[StoredCase, np.ndarray]]) -> CaseStore:
        store = CaseStore(tmp_path / "store")
        for case, _ in cases.values():
            store.save(case)
        return store

    def plan(self, **changes: object) -> Plan:
        training = msgspec.structs.replace(
            SHORT, iterations_per_epoch=60, learning_rate=0.02, validation_iterations=8, **changes
        )
        return small_plan(small_configuration(patch=(24, 24), outputs=3, training=training), labels=TWO_ORGANS)

    def job(self, plan: Plan, iterations: int, annotated: dict[str, tuple[str, ...]]) -> TrainJob:
        return TrainJob(
            plan_id=plan.id,
            configuration="tiny",
            fold="0",
            iterations=iterations,
            seed=plan.seed,
            cases=Fold(train=("a", "b", "u", "v", "w", "x"), val=("c", "y")),
            case_keys={case: digest([case]) for case in self.FULL + self.PARTLY},
            annotated=annotated,
        )

    def trainer(self, plan: Plan, store: CaseStore, folder: Path, iterations: int, annotated: dict) -> FoldTrainer:
        fold = FoldFolder(folder)
        write_document(fold.execution, ExecutionPath(device="cpu", threads=1, reason="chosen before"))
        return FoldTrainer(self.job(plan, iterations, annotated), plan, store, fold, SilentLogger(), "cpu")

    def dice_of_rings(self, trainer: FoldTrainer, cases: dict[str, tuple[StoredCase, np.ndarray]], names: str) -> float:
        network = trainer.step.network.eval()
        with torch.no_grad():
            found = {
                name: network(torch.from_numpy(cases[name][0].image[0][:, None]))[0].argmax(1) == 2 for name in names
            }
        truth = {name: torch.from_numpy(cases[name][1] == 2) for name in names}
        both = sum(int((found[name] & truth[name]).sum()) for name in names)
        return 2 * both / sum(int(found[name].sum() + truth[name].sum()) for name in names)

    def test_the_organ_is_found_where_it_was_not_looked_for_and_would_not_be_if_taken_for_background(
        self, tmp_path: Path, store: CaseStore, cases: dict[str, tuple[StoredCase, np.ndarray]]
    ) -> None:
        plan, dice, estimates = self.plan(), {}, {}
        for name, annotated in (("told", self.ANNOTATED), ("untold", {})):
            trainer = self.trainer(plan, store, tmp_path / name, 60, annotated)
            trainer.run(lambda: False)
            dice[name] = [self.dice_of_rings(trainer, cases, names) for names in (self.FULL, self.PARTLY)]
            estimates[name] = trainer.estimate()
        assert min(dice["told"]) > 0.85, dice
        assert dice["untold"][1] < 0.65, dice
        assert min(estimates["told"]) > 0.85  # no ring in the case of which nobody knows counts as wrong

    def test_batches_say_what_was_looked_for_only_if_some_case_is_partly_annotated(self, tmp_path, store) -> None:
        plan = self.plan()
        trainer = self.trainer(plan, store, tmp_path / "told", 1, self.ANNOTATED)
        for train in (True, False):
            batch = trainer.loader(train=train).batch(0)
            expected = [[True, case not in self.PARTLY] for case in batch["keys"]]
            assert batch["looked_for"].tolist() == expected
            assert batch["looked_for"].dtype == bool
        trainer = self.trainer(plan, store, tmp_path / "untold", 1, {})
        assert "looked_for" not in trainer.loader(train=True).batch(0)
        trainer = self.trainer(plan, store, tmp_path / "held out", 1, {"y": ("disc",)})
        assert "looked_for" not in trainer.loader(train=True).batch(0)
        assert "looked_for" in trainer.loader(train=False).batch(0)

    def test_a_loss_that_cannot_be_told_is_refused(self, tmp_path: Path, store: CaseStore) -> None:
        plan = self.plan(loss="tests.training.test_partly_annotated_training:simple_loss")
        self.trainer(plan, store, tmp_path / "untold", 1, {}).run(lambda: False)
        with pytest.raises(InputError, match="5 cases are annotated for some labels only: the loss"):
            self.trainer(plan, store, tmp_path / "told", 1, self.ANNOTATED)

    def test_the_job_of_fully_annotated_cases_is_as_before(self) -> None:
        plan = self.plan()
        job = self.job(plan, 1, {})
        assert b"annotated" not in encode(job)
        assert decode(TrainJob, encode(job)) == job
        partly = self.job(plan, 1, self.ANNOTATED)
        assert decode(TrainJob, encode(partly)) == partly
        assert digest(partly) != digest(job)


def simple_loss(labels: Labels, *, batch_dice: bool):
    """A user's own loss, of two arguments."""
    return lambda logits, target: F.cross_entropy(logits, target)

"""What several processes do in ``test_ranks.py``; torchrun starts this file, which writes down what each of them got."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.recipe import default_recipe
from autoseg.errors import AutosegError, InterruptedRunError
from autoseg.files import read_document, write_document
from autoseg.io.case_store import CaseStore
from autoseg.training.accumulation import backward_in_parts
from autoseg.training.batches import PatchLoader
from autoseg.training.joining import joined
from autoseg.training.loop import train_fold
from autoseg.training.losses import DiceCrossEntropy, Loss
from autoseg.training.ranks import Ranks
from autoseg.values import ExecutionPath, Length, Plan, digest
from autoseg.workspace import FoldFolder
from tests.training.test_accumulation import KINDS, Batch, network_for
from tests.training.test_loop import IGNORING, NNUNET, PLAIN, TRAINING, Listening, make_job, make_plan


@dataclass(frozen=True)
class Case:
    """One batch and its loss."""

    kind: str
    batch_dice: bool = False
    samples: int = 3
    parts: int = 1
    partly: bool = False
    summed: bool = True


CASES = {
    "batch Dice": Case("labels", batch_dice=True),
    "batch Dice, evenly divided": Case("labels", batch_dice=True, samples=4),
    "batch Dice in parts": Case("labels", batch_dice=True, samples=5, parts=2),
    "Dice per sample": Case("labels"),
    "Dice per sample in parts": Case("labels", samples=5, parts=2),
    "ignore label": Case("labels, ignore"),
    "regions": Case("regions, ignore", batch_dice=True),
    "partly annotated": Case("labels", partly=True),
    "partly annotated, batch Dice in parts": Case("labels", batch_dice=True, samples=5, parts=2, partly=True),
    "partly annotated regions": Case("regions", samples=4, partly=True),
    "without sums": Case("labels", samples=5, parts=2, summed=False),
}


def squares(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A user's loss, the mean over samples and not made of sums."""
    return (logits - target[:, None]).square().mean()


def gradients(case: Case, ranks: Ranks, parts: int) -> dict[str, torch.Tensor]:
    """Loss and gradients, in float64, of what this process has of the batch."""
    labels = KINDS[case.kind]
    batch, network = Batch(labels, case.samples, 2, seed=3), network_for(labels, 2).double()
    own = slice(ranks.share(case.samples).start, ranks.share(case.samples).stop)
    image, target = batch.image[own].double(), batch.target[own]
    looked_for = None
    if case.partly:  # the samples of the last process are known altogether
        looked_for = torch.ones(case.samples, 2, dtype=torch.bool)
        looked_for[0, 1] = looked_for[1, 0] = False
        looked_for = looked_for[own]
    loss: Loss = DiceCrossEntropy(labels, batch_dice=case.batch_dice) if case.summed else squares
    wrapped = ranks.wrap(network)
    value = backward_in_parts(
        *(lambda part: (wrapped(image[part]), target[part]), loss, len(image), parts, looked_for),
        ranks=ranks,
        batch_size=case.samples,
        waiting=lambda: ranks.wait_with(wrapped),
    )
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return {**found, "loss": torch.tensor(value, dtype=torch.float64)}


def loader(store: CaseStore, ranks: Ranks, *, augmented: bool) -> PatchLoader:
    """Batches of five, of which a third is forced to hold foreground."""
    plan = make_plan()
    recipe = default_recipe(plan.configuration("tiny").augmentation) if augmented else Recipe()
    keys = {name: digest([name]) for name in "abc"}
    shared = None if ranks.count == 1 else ranks.share(5)
    return PatchLoader(
        store, keys, (8, 8, 8), 5, foreground_share=0.33, recipe=recipe, seed=1, purpose=0, positions=shared
    )


def drawn(store: CaseStore, ranks: Ranks, *, augmented: bool) -> dict[str, torch.Tensor]:
    """The voxels of three batches, as far as this process makes them, by iteration and place."""
    made, own = loader(store, ranks, augmented=augmented), ranks.share(5)
    found = {}
    for iteration in range(3):
        batch = made.batch(iteration)
        for index, position in enumerate(own):
            for name in ("data", "seg"):
                found[f"{iteration}/{position}/{name}"] = torch.from_numpy(batch[name][index].copy())
    return found


def plan_of(name: str) -> Plan:
    """Batches of three; with nnU-Net's optimizer or ours, and with or without batch Dice."""
    training = msgspec.structs.replace(
        NNUNET if "SGD" in name else TRAINING, batch_dice="batch Dice" in name, validation_iterations=1
    )
    plan = make_plan(patch=(8, 8), labels=IGNORING if "ignore" in name else PLAIN, training=training)
    configuration = msgspec.structs.replace(plan.configurations[0], batch_size=3)
    return msgspec.structs.replace(plan, configurations=(configuration,))


def fold_of(folder: Path, name: str, parts: int = 1) -> FoldFolder:
    """A fold's folder in which the way to run was chosen before."""
    fold = FoldFolder(folder / name)
    write_document(fold.execution, ExecutionPath(device="cpu", threads=1, parts=parts, reason="chosen before"))
    return fold


TRAININGS = {"AdamW, batch Dice": 1, "SGD, ignore": 1, "AdamW, partly": 1, "SGD, batch Dice in parts": 2}


def train(
    name: str,
    folder: Path,
    store: CaseStore,
    ranks: Ranks,
    logger: Listening,
    stop: Callable[[], bool],
    where: str = "",
) -> Path:
    """Six iterations of a training."""
    plan, annotated = plan_of(name), {"b": ("ball",)} if "partly" in name else {}
    fold = FoldFolder(folder / (where or name))
    return train_fold(
        *(make_job(plan, annotated=annotated), plan, store, fold, logger),
        device="cpu",
        stop=stop,
        ranks=ranks,
    )


def stopped_and_gone_on_with(folder: Path, store: CaseStore, ranks: Ranks) -> dict[str, object]:
    """The second process is asked to stop; then both go on."""
    asked = iter(range(1000))
    stop = lambda: next(asked) == 4 and not ranks.first  # noqa: E731
    told = ""
    try:
        train("SGD, ignore", folder, store, ranks, Listening(), stop, "stopped")
    except InterruptedRunError as error:
        told = str(error)
    logger = Listening()
    train("SGD, ignore", folder, store, ranks, logger, lambda: False, "stopped")
    return {"told": told, "resumed": [entry["iteration"] for entry in logger.all("resumed")]}


def ended_early(folder: Path, store: CaseStore, ranks: Ranks) -> dict[str, object]:
    """Somebody asks for the end after two iterations, of sixty; the first process decides on a cooldown."""
    fold, asked = FoldFolder(folder / "early"), iter(range(1000))

    def stop() -> bool:
        if next(asked) == 2 and ranks.first:
            fold.stop_file.touch()
        return False

    plan = plan_of("SGD")
    train_fold(
        *(make_job(plan, 60), plan, store, fold, Listening()),
        device="cpu",
        stop=stop,
        ranks=ranks,
    )
    return {"asked": next(asked), "end": read_document(Length, fold.length).end}


def not_a_number(folder: Path, store: CaseStore, ranks: Ranks) -> dict[str, object]:
    """Steps that are far too large; all see the same loss."""
    plan = plan_of("SGD")
    training = msgspec.structs.replace(plan.configurations[0].training, learning_rate=1e30)
    configuration = msgspec.structs.replace(plan.configurations[0], training=training)
    plan = msgspec.structs.replace(plan, configurations=(configuration,))
    try:
        train_fold(
            *(make_job(plan), plan, store, FoldFolder(folder / "not a number"), Listening()), device="cpu", ranks=ranks
        )
    except AutosegError as error:
        return {"kind": type(error).__name__, "told": str(error)}
    return {}


def left_out(folder: Path, whole: CaseStore, ranks: Ranks) -> dict[str, object]:
    """One process cannot read a case: neither draws it any more, and the first one tells."""
    store = whole
    if not ranks.first:
        shutil.copytree(whole.folder, folder / "damaged")
        for file in (folder / "damaged").glob("b-*/record.json"):
            file.unlink()
        store = CaseStore(folder / "damaged")
    plan, logger = plan_of("SGD"), Listening()
    names = "abdefg"
    job = msgspec.structs.replace(
        make_job(plan, 30),
        cases=msgspec.structs.replace(make_job(plan).cases, train=tuple(names)),
        case_keys={name: digest([name]) for name in names + "c"},
    )
    train_fold(job, plan, store, FoldFolder(folder / "left out"), logger, device="cpu", ranks=ranks)
    return {"skipped": [entry["case"] for entry in logger.all("case_skipped")]}


def main(folder: Path) -> None:
    """Writes tensors and numbers of this process, named by its rank."""
    torch.set_num_threads(1)
    store = CaseStore(folder / "store")
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, object] = {}
    with joined() as ranks:
        for name, case in CASES.items():
            tensors |= {f"{name}/{key}": each for key, each in gradients(case, ranks, case.parts).items()}
        for kind in ("plain", "augmented"):
            tensors |= {f"{kind}/{key}": each for key, each in drawn(store, ranks, augmented=kind != "plain").items()}
        for name in TRAININGS:
            train(name, folder, store, ranks, Listening(), lambda: False)
        numbers["stopped"] = stopped_and_gone_on_with(folder, store, ranks)
        numbers["early"] = ended_early(folder, store, ranks)
        numbers["not a number"] = not_a_number(folder, store, ranks)
        numbers["left out"] = left_out(folder, store, ranks)
        try:
            ranks.share(1)
        except AutosegError as error:
            numbers["too many"] = str(error)
        rank = ranks.place.rank
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

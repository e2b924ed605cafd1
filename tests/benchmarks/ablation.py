"""Which choices of training reach a Dice sooner: learning curves of variants that differ in one thing each.

python -m tests.benchmarks.ablation WORKSPACE CONFIGURATION RESULTS [--iterations 300] [--batch 2] [--seeds 3] [--only NAME]

WORKSPACE is one in which ``autoseg plan`` and ``autoseg preprocess`` have run. Every run trains fold 0 with a batch of that
size and scores whole held-out images on the grid of the configuration, without mirroring, ``--points`` times on its way.
A finished run is kept in RESULTS and not repeated, so the script can be stopped and goes on. At the end: a table with the
mean over the seeds, and the range, and another over the time that the default takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from autoseg.files import read_document, write_atomically
from autoseg.inference.predict import Predictor
from autoseg.io.case_store import CaseStore
from autoseg.logs import SilentLogger
from autoseg.networks.build import build_network
from autoseg.networks.execution import keep_freed_memory
from autoseg.pipeline import preprocess
from autoseg.preprocessing.forward import parameters_key
from autoseg.training.batches import PatchLoader
from autoseg.training.loop import FoldTrainer
from autoseg.values import Configuration, Fold, Plan, Split, TrainJob, select_fold
from autoseg.workspace import FoldFolder, Workspace


@dataclass(frozen=True)
class Variant:
    """One thing that differs from the default.

    Attributes:
        training: fields of the TrainingSpec.
        recipe: of augmentation.
        augmentation: other fields of the AugmentationSpec; ``rotation_degrees`` is one number for all axes.
        small_until: share of the training during which patches have half the edge (rounded up to what the network halves).
        features: number of feature maps at every level, as a share of the planned.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    small_until: float = 0.0
    features: float = 1.0


SGD = {"optimizer": "sgd", "momentum": 0.99, "weight_decay": 3e-5, "schedule": "warmup_polynomial", "ema_decay": None}
VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "learning rate 5e-4": Variant({"learning_rate": 5e-4}),
    "learning rate 1e-3": Variant({"learning_rate": 1e-3}),
    "learning rate 4e-3": Variant({"learning_rate": 4e-3}),
    "learning rate 8e-3": Variant({"learning_rate": 8e-3}),
    "no warm-up": Variant({"warmup_iterations": 0}),
    "no average of weights": Variant({"ema_decay": None}),
    "average over 100": Variant({"ema_decay": 0.99}),
    "SGD 0.01 (nnU-Net's)": Variant({**SGD, "learning_rate": 0.01, "warmup_iterations": 0}),
    "SGD 0.03, warm-up": Variant({**SGD, "learning_rate": 0.03}),
    "SGD 0.01, average": Variant({**SGD, "learning_rate": 0.01, "ema_decay": 0.999}),
    "weight decay 0.05": Variant({"weight_decay": 0.05}),
    "batch Dice the other way": Variant({"batch_dice": None}),
    "no foreground share": Variant({"foreground_share": 0.0}),
    "half of the foreground share": Variant({"foreground_share": 0.167}),
    "twice the foreground share": Variant({"foreground_share": 0.67}),
    "no augmentation": Variant(recipe="none"),
    "no mirroring": Variant(augmentation={"mirror_axes": ()}),
    "no rotation, mirroring": Variant(augmentation={"rotation_degrees": 0.0}),
    "no mirroring, 30 degrees": Variant(augmentation={"mirror_axes": (), "rotation_degrees": 30.0}),
    "no mirroring, 15 degrees": Variant(augmentation={"mirror_axes": (), "rotation_degrees": 15.0}),
    "small patches for the first half": Variant(small_until=0.5),
    "small patches for four fifths": Variant(small_until=0.8),
    "half of the features": Variant(features=0.5),
    "a quarter of the features": Variant(features=0.25),
}


def changed(configuration: Configuration, variant: Variant, batch: int, iterations: int) -> Configuration:
    """The configuration of a variant, with another batch and length."""
    changes = dict(variant.training)
    if "batch_dice" in changes:
        changes["batch_dice"] = not configuration.training.batch_dice
    training = msgspec.structs.replace(configuration.training, epochs=1, iterations_per_epoch=iterations, **changes)
    augmentation = configuration.augmentation
    if variant.recipe:
        augmentation = msgspec.structs.replace(augmentation, recipe=variant.recipe)
    other = dict(variant.augmentation)
    if "rotation_degrees" in other:
        other["rotation_degrees"] = (other["rotation_degrees"],) * len(augmentation.rotation_degrees)
    augmentation = msgspec.structs.replace(augmentation, **other)
    features = tuple(int(number * variant.features) for number in configuration.network.features)
    network = msgspec.structs.replace(configuration.network, features=features)
    return msgspec.structs.replace(
        configuration, batch_size=batch, training=training, augmentation=augmentation, network=network
    )


def halved(configuration: Configuration) -> Configuration:
    """The configuration with patches of half the edge, as far as the network's strides allow."""
    steps = np.prod(np.array(configuration.network.strides), axis=0)
    edges = [int(-(-(edge / 2) // step) * step) for edge, step in zip(configuration.patch_size, steps, strict=True)]
    return msgspec.structs.replace(configuration, patch_size=tuple(edges))


class Study:
    """The runs of one configuration."""

    def __init__(self, workspace: Workspace, name: str, arguments: argparse.Namespace) -> None:
        self.plan: Plan = workspace.model().plan()
        self.configuration = self.plan.configuration(name)
        self.arguments = arguments
        self.keys = preprocess(workspace, [name])[name]
        key = parameters_key(self.plan, self.configuration)
        first = next(each.name for each in self.plan.configurations if parameters_key(self.plan, each) == key)
        self.store = CaseStore(workspace.preprocessed(first, key), patch_size=self.configuration.patch_size)
        split: Split = read_document(Split, workspace.split_path)
        fold = select_fold(split, "0")
        self.fold = Fold(train=fold.train, val=fold.val[: arguments.cases])

    def run(self, name: str, seed: int) -> list[dict[str, float]]:
        """Trains one variant; at every point: iteration, seconds of the wall and of processors, Dice."""
        arguments, variant = self.arguments, VARIANTS[name]
        configuration = changed(self.configuration, variant, arguments.batch, arguments.iterations)
        plan = msgspec.structs.replace(self.plan, configurations=(configuration,))
        cases = sorted((*self.fold.train, *self.fold.val))
        job = TrainJob(
            plan_id=plan.id,
            configuration=configuration.name,
            fold="0",
            iterations=arguments.iterations,
            seed=seed,
            cases=self.fold,
            case_keys={case: self.keys[case] for case in cases},
        )
        folder = FoldFolder(arguments.results / "folders" / f"{name.replace(' ', '_').replace('/', '_')}-{seed}")
        trainer = FoldTrainer(job, plan, self.store, folder, SilentLogger(), "cpu")
        trainer.step.network.train()
        loaders = {False: trainer.loader(train=True)}
        if variant.small_until:
            loaders[True] = self._small_loader(trainer)
        points, wall, processors = [], 0.0, 0.0
        every = arguments.iterations // arguments.points
        for iteration in range(arguments.iterations):
            begin, busy = time.perf_counter(), time.process_time()
            small = iteration < variant.small_until * arguments.iterations
            trainer.train_step(loaders[small].batch(iteration))
            wall, processors = wall + time.perf_counter() - begin, processors + time.process_time() - busy
            if (iteration + 1) % every == 0:
                dice = self.dice(trainer, configuration)
                point = {"iteration": iteration + 1, "seconds": wall, "processor_seconds": processors, "dice": dice}
                print(f"{name}, seed {seed}: {point}", flush=True)
                points.append(point)
        return points

    def _small_loader(self, trainer: FoldTrainer) -> PatchLoader:
        whole = trainer.configuration
        trainer.configuration = halved(whole)
        try:
            return trainer.loader(train=True)
        finally:
            trainer.configuration = whole

    def dice(self, trainer: FoldTrainer, configuration: Configuration) -> float:
        """Mean over labels and held-out cases, whole images on the configuration's grid."""
        network = build_network(configuration.network, seed=0)
        network.load_state_dict(trainer.state.model_weights())
        predictor = Predictor([network], configuration, trainer.step.execution, mirroring=False)
        values = []
        for case in self.fold.val:
            stored = self.store.open(case, self.keys[case])
            guess, truth = predictor.logits(stored.image).argmax(0), np.asarray(stored.segmentation[:])
            for label in range(1, len(self.plan.labels.integers)):
                both = np.sum((guess == label) & (truth == label))
                size = np.sum(guess == label) + np.sum(truth == label)
                values.append(2 * both / size if size else np.nan)
        return float(np.nanmean(values))


def table(results: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> str:
    """Mean Dice over the seeds at every point, the range at the end, and the time against the default's."""
    points = next(iter(results.values()))[0]
    head = ["variant", *(f"{int(point['iteration'])} it" for point in points), "lowest to highest at the end", "time"]
    usual = results.get("default") or next(iter(results.values()))
    seconds = statistics.median(run[-1]["processor_seconds"] for run in usual)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, runs in sorted(results.items(), key=lambda item: -statistics.mean(run[-1]["dice"] for run in item[1])):
        means = [statistics.mean(run[index]["dice"] for run in runs) for index in range(len(points))]
        ends = sorted(run[-1]["dice"] for run in runs)
        share = statistics.median(run[-1]["processor_seconds"] for run in runs) / seconds
        cells = [
            name,
            *(f"{mean:.3f}" for mean in means),
            f"{ends[0]:.3f} to {ends[-1]:.3f} ({len(runs)})",
            f"{share:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_over_time(results: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> str:
    """Mean Dice over the seeds after shares of the processor time that the default takes; lines between the points."""
    usual = results.get("default") or next(iter(results.values()))
    whole = statistics.median(run[-1]["processor_seconds"] for run in usual)
    shares = (0.25, 0.5, 0.75, 1.0)
    head = ["variant", *(f"{share * whole:.0f} s" for share in shares)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, runs in results.items():
        reached = [
            [np.interp(share * whole, [p["processor_seconds"] for p in run], [p["dice"] for p in run]) for run in runs]
            for share in shares
        ]
        lines.append("| " + " | ".join([name, *(f"{statistics.mean(values):.3f}" for values in reached)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, seed by seed, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("configuration")
    parser.add_argument("results", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=6)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="append", default=[])
    arguments = parser.parse_args()
    keep_freed_memory()
    study = Study(Workspace(arguments.workspace), arguments.configuration, arguments)
    names = [name for name in VARIANTS if not arguments.only or any(part in name for part in arguments.only)]
    results: dict[str, list[list[dict[str, float]]]] = {}
    for seed in range(arguments.seeds):
        for name in names:
            file = arguments.results / f"{name.replace(' ', '_').replace('/', '_')}-{seed}.json"
            if not file.is_file():
                torch.set_num_threads(arguments.threads)
                write_atomically(file, json.dumps(study.run(name, seed)).encode())
            results.setdefault(name, []).append(json.loads(file.read_bytes()))
    print(f"\n{' '.join(sys.argv[1:])}; batch {arguments.batch}, {len(study.fold.val)} held-out cases\n")
    print(table(results))
    print()
    print(table_over_time(results))


if __name__ == "__main__":
    main()

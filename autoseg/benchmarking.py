"""How fast this machine does the planned work: a training step, prediction, preprocessing. Nothing is left behind."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from autoseg import pipeline
from autoseg.errors import InputError
from autoseg.executors import usable_cpus
from autoseg.files import read_document
from autoseg.inference.predict import Predictor
from autoseg.io.case_store import CaseStore
from autoseg.io.case_work import CaseFiles
from autoseg.io.earlier_store import ReferenceStore
from autoseg.logs import Logger
from autoseg.networks.build import build_network
from autoseg.networks.choosing import choose_execution
from autoseg.networks.execution import autocast, memory_format, place, resolve_device, synchronize
from autoseg.phantom import write_phantom_dataset
from autoseg.plan_stage import plan_in_memory
from autoseg.preprocessing.case_task import CaseToPreprocess, Grid, PreprocessCase
from autoseg.preprocessing.forward import case_key, parameters_key
from autoseg.processes.wire import rebuilt
from autoseg.stores import case_store_of
from autoseg.training.crew import seconds_to_make
from autoseg.training.optimization import WeightAverage
from autoseg.training.planned_loader import planned_loader
from autoseg.training.step import TrainingStep
from autoseg.values import Configuration, ExecutionPath, Fingerprint, Fold, Plan, TrainJob
from autoseg.values.json_form import Value
from autoseg.workspace import FoldFolder, Workspace

__all__ = ["WORKS", "Benchmark", "Timing", "benchmark"]

Work = Literal["trainstep", "predict", "preprocess"]
WORKS: tuple[Work, ...] = ("trainstep", "predict", "preprocess")
#: The data set where there is no workspace: phantoms of 3 x 1.25 x 1.25 mm, three organs.
PHANTOMS, PHANTOM_SHAPE = 6, (32, 96, 96)


class Timing(Value, frozen=True, kw_only=True):
    """Seconds of several runs after a first one, which is not counted."""

    median: float
    least: float
    most: float
    runs: int


class Benchmark(Value, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        work: trainstep, predict or preprocess.
        data: where the numbers come from that were worked on.
        dataset: its name.
        configuration: that was planned.
        planner: that planned it.
        patch_size: voxels per axis.
        batch_size: patches.
        path: how the network ran, with the reason; None where none ran.
        seconds_per_iteration: median of the training step, of a batch of tiles, or of a case.
        timing: its spread.
        data_wait_seconds: median, of a training step, of waiting for its batch.
        case_seconds: a whole case of the median size, predicted with mirroring.
        floor_seconds: the convolutions of the step alone, forward and backward (prediction: forward).
        peak_bytes: on a GPU of all tensors; else the largest that this process has been; None on Windows.
        cores: processors that may be used.
        load: processes that wanted a processor when this began, those of others included; None where it is not told.
        torch: its version.
    """

    work: Work
    data: str
    dataset: str
    configuration: str
    planner: str
    patch_size: tuple[int, ...]
    batch_size: int
    path: ExecutionPath | None
    seconds_per_iteration: float
    timing: Timing
    data_wait_seconds: float | None = None
    case_seconds: float | None = None
    floor_seconds: float | None = None
    peak_bytes: int | None
    cores: int
    load: float | None
    torch: str


def benchmark(
    work: Work,
    name: str,
    workspace: Workspace,
    *,
    preset: str | None = None,
    plan_name: str | None = None,
    iterations: int = 5,
    device: str = "auto",
    logger: Logger,
) -> Benchmark:
    """Times the planned work on this device.

    Args:
        work: trainstep, predict or preprocess.
        name: of the configuration.
        workspace: with a plan; one that is not there is replaced by phantoms.
        preset: a planner, whose plan for the same data is made in memory instead.
        plan_name: the active plan by default.
        iterations: timed runs, after a first one.
        device: cpu, cuda, mps or auto.
        logger: for progress.

    Raises:
        InputError: no such device, planner or configuration.
    """
    device, load = resolve_device(device), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="autoseg-benchmark-") as folder:
        made = not workspace.dataset_path.is_file()
        if made:
            workspace = _phantoms(Path(folder), logger)
            if work == "trainstep" and preset is None:
                pipeline.preprocess(workspace, [name])
        plan = workspace.model(plan_name).plan()
        if preset is not None:
            fingerprint = read_document(Fingerprint, workspace.fingerprint_path())
            plan = plan_in_memory(fingerprint, preset, device=device)
        measure = {"trainstep": _trainstep, "predict": _predict, "preprocess": _preprocess}[work]
        found = measure(_Setting(workspace, plan, plan.configuration(name), Path(folder), device, iterations, logger))
    configuration = plan.configuration(name)
    return Benchmark(
        work=work,
        dataset=plan.dataset,
        configuration=name,
        planner=plan.planner,
        patch_size=configuration.patch_size,
        batch_size=configuration.batch_size,
        seconds_per_iteration=found["timing"].median,
        peak_bytes=_peak_bytes(device),
        cores=usable_cpus(),
        load=load,
        torch=str(torch.__version__),
        **found,
    )


class _Setting:
    """What is timed, and where."""

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        configuration: Configuration,
        folder: Path,
        device: str,
        iterations: int,
        logger: Logger,
    ) -> None:
        self.workspace, self.plan, self.configuration = workspace, plan, configuration
        self.folder, self.device, self.iterations, self.logger = folder, device, iterations, logger

    def timed(self, stage: str, work: Callable[[], object]) -> Timing:
        """Seconds of the work, over and over."""
        seconds = []
        for run in range(self.iterations + 1):
            begin = time.perf_counter()
            work()
            synchronize(self.device)
            seconds.append(time.perf_counter() - begin)
            self.logger.event("progress", stage=stage, done=run + 1, total=self.iterations + 1)
        counted = seconds[1:]
        return Timing(median=statistics.median(counted), least=min(counted), most=max(counted), runs=len(counted))

    def path(self, network: nn.Module) -> ExecutionPath:
        """What a training of the planned length would choose."""
        self.logger.event("message", text=f"choosing the fastest way to run the network on {self.device}")
        length = self.configuration.training.iterations
        return choose_execution(network, self.configuration, device=self.device, iterations=length)


def _phantoms(folder: Path, logger: Logger) -> Workspace:
    logger.event("message", text=f"there is no workspace: {PHANTOMS} phantoms take the place of a data set")
    dataset = write_phantom_dataset(folder / "Dataset001_Phantom", PHANTOMS, shape=PHANTOM_SHAPE)
    workspace = Workspace(folder / "workspace")
    pipeline.plan_dataset(dataset, workspace)
    return workspace


def _trainstep(setting: _Setting) -> dict[str, Any]:
    configuration = setting.configuration
    keys, store = _stored(setting)
    cases = tuple(keys) or ("synthetic",)
    job = TrainJob(
        plan_id=setting.plan.id,
        configuration=configuration.name,
        fold="full",
        iterations=configuration.training.iterations,
        seed=setting.plan.seed,
        cases=Fold(train=cases, val=()),
        case_keys=keys,
    )
    folder = FoldFolder(setting.folder / "training")
    folder.path.mkdir()
    loader = planned_loader(setting.plan, configuration, store, keys, setting.plan.seed) if keys else None
    making = functools.partial(seconds_to_make, loader.batch) if loader else None
    step = TrainingStep(job, setting.plan, folder, setting.logger, setting.device, making)
    step.network.train()
    weights, decay = step.network.state_dict(), configuration.training.ema_decay
    average = None if decay is None else WeightAverage(weights, decay)
    count = setting.iterations + 1
    feed = step.supplied(loader, 0, count) if loader else step.fed(itertools.repeat(_synthetic(setting)))
    waits: list[float] = []

    def iteration() -> None:
        before = step.waited
        batch = next(feed)
        waits.append(step.waited - before)
        step.gradients(batch)
        step.update(configuration.training.learning_rate)
        if average is not None:
            average.update(step.network.state_dict(), len(waits) - 1)

    with contextlib.closing(feed):
        timing = setting.timed("training step", iteration)
    return {
        "data": f"{len(keys)} preprocessed cases{_staged(setting)}" if keys else "synthetic batches: noise",
        "path": step.execution,
        "timing": timing,
        "data_wait_seconds": statistics.median(waits[1:]),
        "floor_seconds": _floor(setting, step.network, step.execution, configuration.batch_size, backward=True),
    }


def _stored(setting: _Setting) -> tuple[dict[str, str], CaseStore]:
    """Case id to content key, of the cases that are preprocessed for this grid and known not to have changed."""
    plan, configuration, workspace = setting.plan, setting.configuration, setting.workspace
    parameters = parameters_key(plan, configuration)
    store = case_store_of(workspace, plan, configuration.name)
    dataset, keys = workspace.dataset(), {}
    for case in dataset.annotated_cases:
        hashes = CaseFiles.of(case, Path(dataset.root), workspace.contents).hashes
        if hashes and store.has(case.id, key := case_key(parameters, hashes)):
            keys[case.id] = key
    return keys, ReferenceStore(store, len(plan.labels.foreground)) if _staged(setting) else store


def _staged(setting: _Setting) -> str:
    """What takes the place of an earlier stage's prediction, if there is one."""
    before = setting.configuration.previous_stage
    return f", their references for what {before} predicts" if before else ""


def _synthetic(setting: _Setting) -> dict[str, Any]:
    """A batch of noise, with all labels."""
    configuration, random = setting.configuration, np.random.default_rng(0)
    shape = (configuration.batch_size, configuration.network.input_channels, *configuration.patch_size)
    labels = random.integers(0, len(setting.plan.labels.foreground) + 1, (shape[0], 1, *shape[2:]))
    keys = ["synthetic"] * shape[0]
    return {"data": random.standard_normal(shape, np.float32), "seg": labels.astype(np.int16), "keys": keys}


def _predict(setting: _Setting) -> dict[str, Any]:
    configuration = setting.configuration
    network = build_network(configuration.network, seed=0)
    path = setting.path(network)
    predictor = Predictor([network], configuration, path)
    network, count = predictor.networks[0], predictor.at_once
    tiles = _noise(path, configuration, count)

    @torch.inference_mode()
    def forward() -> None:
        with autocast(path):
            network(tiles)

    timing = setting.timed("tiles", forward)
    shape = tuple(max(1, round(edge)) for edge in configuration.median_shape)
    image = np.random.default_rng(0).standard_normal((configuration.network.input_channels, *shape), np.float32)
    begin = time.perf_counter()
    predictor.logits(image, lambda done, total: setting.logger.event("progress", stage="case", done=done, total=total))
    return {
        "data": f"noise; {count} tiles at once, a case of {' x '.join(map(str, shape))}",
        "path": path,
        "timing": timing,
        "case_seconds": time.perf_counter() - begin,
        "floor_seconds": _floor(setting, network, path, count, backward=False),
    }


def _preprocess(setting: _Setting) -> dict[str, Any]:
    dataset, plan = setting.workspace.dataset(), setting.plan
    cases = dataset.annotated_cases
    if not cases:
        raise InputError("the data set has no annotated case", file=setting.workspace.path)
    name, store = setting.configuration.name, CaseStore(setting.folder / "preprocessed")
    grid = Grid(configuration=name, parameters=parameters_key(plan, setting.configuration), store=str(store.folder))
    task = PreprocessCase(dataset=dataset, plan=plan, grids=(grid,), verify=True)
    chosen = itertools.cycle(cases)

    def one() -> None:
        files = CaseFiles.of(next(chosen), Path(dataset.root), setting.workspace.contents)
        made = task(CaseToPreprocess(files=files, wanted=(name,))).grids[name]
        if made.error is not None:
            raise rebuilt(made.error)
        store.discard(files.id, made.key)

    timing = setting.timed("cases", one)
    return {"data": f"{min(len(cases), setting.iterations)} cases, read and stored", "path": None, "timing": timing}


def _noise(path: ExecutionPath, configuration: Configuration, count: int) -> torch.Tensor:
    shape = (count, configuration.network.input_channels, *configuration.patch_size)
    layout = memory_format(path, configuration.dimensions)
    return torch.empty(shape, device=path.device, memory_format=layout).normal_()


def _floor(setting: _Setting, network: nn.Module, path: ExecutionPath, count: int, *, backward: bool) -> float:
    """Seconds of the network's convolutions alone, on tensors of the planned shapes; the fastest of some runs each."""
    place(network, path, setting.configuration.dimensions)
    total, seen = 0.0, list(_convolutions(setting, network, path, count))
    for done, (module, shape, first) in enumerate(seen, start=1):
        layout = memory_format(path, setting.configuration.dimensions)
        x = torch.empty(shape, device=path.device, memory_format=layout).normal_()
        x.requires_grad_(backward and not first)
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            with autocast(path), torch.set_grad_enabled(backward):
                y = module(x)
            if backward:
                y.backward(torch.ones_like(y))
                module.zero_grad()
                x.grad = None
            synchronize(path.device)
            seconds.append(time.perf_counter() - begin)
        total += min(seconds[1:])
        setting.logger.event("progress", stage="convolutions alone", done=done, total=len(seen))
    return total


def _convolutions(
    setting: _Setting, network: nn.Module, path: ExecutionPath, count: int
) -> Iterator[tuple[nn.Module, tuple[int, ...], bool]]:
    """The convolutions that a pass goes through, each with the shape of its input, and whether that is the image."""
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    found: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        found.append((module, (count, *inputs[0].shape[1:])))

    hooks = [each.register_forward_hook(note) for each in network.modules() if isinstance(each, kinds)]
    with torch.no_grad(), autocast(path):
        network(_noise(path, setting.configuration, 1))
    for hook in hooks:
        hook.remove()
    for index, (module, shape) in enumerate(found):
        yield module, shape, index == 0


def _peak_bytes(device: str) -> int | None:
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

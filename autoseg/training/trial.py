"""Parts that are not autoseg's own are tried for a moment before anything long begins: do they do what training needs?

Each is told in one sentence what it gave and what was expected. What is built in is tried by the tests.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from autoseg import plugins
from autoseg.augmentation.contract import Recipe, Transform
from autoseg.errors import AutosegError, InputError
from autoseg.networks.build import build_network
from autoseg.networks.optimizers import make_optimizer, set_learning_rate
from autoseg.values import Configuration, Labels, TrainingSpec

__all__ = ["try_parts", "try_recipe"]

#: Edge of the patches that losses and recipes are tried on, in voxels.
EDGE = 8
#: How often a recipe draws: most of its steps act now and then only.
DRAWS = 16
#: Steps of an optimizer after a checkpoint.
STEPS = 9
#: How often a recipe is drawn to see whether it exchanges the sides: mirroring along one axis of three, the right one, comes
#: once in eight times or more.
SIDE_TRIALS = 48
#: Folder of our own code.
AUTOSEG = str(Path(__file__).parent.parent)


def try_parts(configuration: Configuration, labels: Labels, *, device: str) -> None:
    """Tries the network, loss, recipe, optimizer and schedule of a configuration, those that are autoseg's own excepted.

    Args:
        configuration: to be trained.
        labels: of the plan.
        device: cpu, cuda or mps; the network is tried there, on one patch.

    Raises:
        InputError: a part fails, or gives something else than was expected; names it.
    """
    trials = {
        "network": lambda: _try_network(configuration, device),
        "loss": lambda: _try_loss(configuration, labels),
        "recipe": lambda: try_recipe(configuration),
        "optimizer": lambda: _try_optimizer(configuration.training),
        "schedule": lambda: _try_schedule(configuration.training),
    }
    for kind, name in configuration.parts.items():
        if kind in trials and plugins.record(kind, name) is not None:
            with _told(kind, name), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(0)
                trials[kind]()


class _MisfitError(Exception):
    """A part gave something else than was expected."""


def _expect(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise _MisfitError(found, expected)


@contextlib.contextmanager
def _told(kind: str, name: str) -> Iterator[None]:
    remedy = "See docs/reference/plugs.md for what each kind of part is given and has to give."
    try:
        yield
    except _MisfitError as error:
        found, expected = error.args
        what = f"the {kind} {name!r} does not fit"
        raise InputError(what, found=found, expected=expected, remedy=remedy) from error
    except (AutosegError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever somebody's own code raises
        place = _place_of(error)
        what = f"the {kind} {name!r} failed when it was tried{place}: {type(error).__name__}: {error}"
        raise InputError(what, remedy=remedy) from error


def _place_of(error: BaseException) -> str:
    """Where in the user's own file it happened: the innermost frame that is not a library's."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "site-packages" not in file and not file.startswith(AUTOSEG):
            place = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _try_network(configuration: Configuration, device: str) -> None:
    """One patch forward and back, with and without deep supervision."""
    spec, patch = configuration.network, configuration.patch_size
    network: Any = build_network(spec, seed=0)
    _expect(isinstance(network, nn.Module), _kind_of(network), "a torch.nn.Module")
    _expect(hasattr(network, "deep_supervision"), "none", "an attribute deep_supervision")
    _expect(any(True for _ in network.parameters()), "no parameters", "parameters to train")
    network, image = network.to(device), torch.randn(1, spec.input_channels, *patch, device=device)
    network.deep_supervision = True
    outputs = network.train()(image)
    _check_logits(outputs, (1, spec.output_channels, *patch))
    sum(output.float().square().mean() for output in outputs).backward()
    learning = [weight.grad for weight in network.parameters() if weight.grad is not None]
    _expect(bool(learning), "no gradient in any parameter", "logits that depend on the parameters")
    network.deep_supervision = False
    with torch.no_grad():
        _check_logits(network.eval()(image), (1, spec.output_channels, *patch))


def _check_logits(outputs: Any, shape: tuple[int, ...]) -> None:
    whole = f"a list of logits, the first of shape {shape}: batch, outputs and the patch"
    tensors = isinstance(outputs, list | tuple) and all(isinstance(output, torch.Tensor) for output in outputs)
    _expect(tensors and len(outputs) > 0, _kind_of(outputs), whole)
    _expect(tuple(outputs[0].shape) == shape, f"logits of shape {tuple(outputs[0].shape)}", whole)
    for output in outputs[1:]:
        fits = len(output.shape) == len(shape) and tuple(output.shape[:2]) == shape[:2]
        _expect(fits, f"further logits of shape {tuple(output.shape)}", "batch and outputs as of the first")
    _expect(all(bool(torch.isfinite(output).all()) for output in outputs), "logits with NaN or infinity", "numbers")


def _try_loss(configuration: Configuration, labels: Labels) -> None:
    """Two tiny samples, in which every label and the ignore label occur."""
    loss = plugins.load("loss", configuration.training.loss)(labels, batch_dice=configuration.training.batch_dice)
    shape = (2, *(EDGE,) * configuration.dimensions)
    classes = len(labels.integers) + (labels.ignore is not None)
    target = torch.arange(math.prod(shape)).reshape(shape) % classes
    logits = torch.randn(2, labels.output_count, *shape[1:], requires_grad=True)
    value: Any = loss(logits, target)
    scalar = "one number, a tensor without axes"
    _expect(isinstance(value, torch.Tensor), _kind_of(value), scalar)
    _expect(value.dim() == 0, f"a tensor of shape {tuple(value.shape)}", scalar)
    _expect(bool(torch.isfinite(value)), f"the loss {float(value.detach())} for random logits", "a finite number")
    _expect(value.requires_grad, "a loss without a gradient", "a loss that depends on the logits through torch")
    value.backward()
    found = logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    _expect(found, "a gradient that is missing, or holds NaN or infinity", "a finite gradient of the logits")


def try_recipe(configuration: Configuration, device: str = "cpu") -> None:
    """A batch of one tiny patch through all steps on a device, drawn a few times; whatever goes wrong is raised."""
    recipe: Any = plugins.load("recipe", configuration.augmentation.recipe)(configuration.augmentation)
    _expect(isinstance(recipe, Recipe), _kind_of(recipe), "an autoseg.augmentation.contract.Recipe")
    size, channels = (EDGE,) * configuration.dimensions, configuration.network.input_channels
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        images = torch.from_numpy(random.normal(size=(1, channels, *size)).astype(np.float32)).to(device)
        labels = torch.zeros((1, *size), dtype=torch.int16, device=device)
        labels[:, EDGE // 2 :] = 1
        matrix: Any = recipe.spatial.draw(random, size) if recipe.spatial else None
        square = (len(size),) * 2
        fits = matrix is None or (isinstance(matrix, np.ndarray) and matrix.shape == square)
        _expect(fits, f"{_kind_of(matrix)} of shape {np.shape(matrix)} as sampling", f"an array of {square}")
        for step in recipe.steps():
            images, labels = _stepped(step, random, images, labels)
    _try_sides(recipe, configuration)


def _stepped(
    step: Transform, random: np.random.Generator, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels after one step of a recipe, which has to keep their shapes and number types."""
    name = type(getattr(step, "transform", step)).__name__
    parameters = step.draw(random, tuple(images.shape[1:]))
    if parameters is None:
        return images, labels
    plain = "JSON's types, which read back are the same: dict, list, str, bool, int, float, None"
    _expect(_survives_json(parameters), f"{parameters!r} drawn by {name}", plain)
    before = {"image": images, "label map": labels}
    after = dict(zip(before, step.apply(images, labels, [parameters]), strict=True))
    wanted, shapes = tuple(images.shape), {key: tuple(np.shape(value)) for key, value in after.items()}
    same = all(shapes[key] == tuple(value.shape) for key, value in before.items())
    found = f"tensors of {shapes['image']} and {shapes['label map']} after {name}"
    _expect(same, found, f"{wanted} and {tuple(labels.shape)}")
    for key, value in after.items():
        given = value.dtype if isinstance(value, torch.Tensor) else _kind_of(value)
        expected = before[key].dtype
        _expect(given == expected, f"{given} as {key} after {name}", f"a tensor of {expected}, as it was given")
    _expect(bool(torch.isfinite(after["image"]).all()), f"NaN or infinity in the image after {name}", "numbers")
    return after["image"], after["label map"]


def _survives_json(parameters: Any) -> bool:
    """Whether what was drawn is the same after it was written and read, so that the batch can be made again."""
    try:
        return bool(msgspec.json.decode(msgspec.json.encode(parameters)) == parameters)
    except (TypeError, ValueError):  # what JSON cannot hold, a number of NumPy's for example
        return False


def _try_sides(recipe: Recipe, configuration: Configuration) -> None:
    """Where labels are sides of the patient: a patch that is mirrored from left to right has them exchanged.

    Their pattern has no symmetry, so that no rotation makes of it what mirroring along one axis or all three does.
    """
    spec, size = configuration.augmentation, (EDGE,) * configuration.dimensions
    axis, axes = spec.swap_axis, range(len(size))
    if axis is None:
        return
    reflections = [flips for count in (1, 3) for flips in itertools.combinations(axes, count) if axis in flips]
    for seed in range(SIDE_TRIALS):
        random = np.random.default_rng(seed)
        images = torch.from_numpy(random.normal(size=(1, configuration.network.input_channels, *size)))
        before = torch.from_numpy(random.choice((0, *spec.swapped_labels[0]), (1, *size)).astype(np.int16))
        images, labels = images.float(), before
        for step in recipe.steps():
            parameters = step.draw(random, images.shape[1:])
            if parameters is not None:
                images, labels = step.apply(images, labels, [parameters])
        mirrored = any(
            torch.equal(labels.long(), before.flip([each + 1 for each in flips]).long()) for flips in reflections
        )
        _expect(
            not mirrored,
            f"a patch that is mirrored along axis {axis}, from left to right, with its labels as they were",
            f"the labels {' and '.join(map(str, spec.swapped_labels[0]))} exchanged with the sides, as "
            "autoseg.augmentation.spatial.Mirror does with swap_axis and swapped_labels of the recipe's argument",
        )


def _try_optimizer(spec: TrainingSpec) -> None:
    """Some steps of a tiny weight, once in a row and once through a checkpoint: the same to the last bit."""
    through, weight = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer: Any = make_optimizer(spec, [weight])
    _expect(isinstance(optimizer, torch.optim.Optimizer), _kind_of(optimizer), "a torch.optim.Optimizer")
    _expect(bool(optimizer.param_groups), "no parameters in it", "an optimizer of the parameters that it is given")
    groups = make_optimizer(spec, [nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4))]).param_groups
    rates = sorted({float(group["lr"]) for group in groups if "lr_scale" not in group})
    several = f"learning rates of {' and '.join(map(str, rates))} in different groups"
    expected = "the schedule's rate in all, or a group's share of it as its lr_scale"
    _expect(len(rates) <= 1, f"{several}, which the schedule would make one", expected)
    first, *others = torch.randn(1 + STEPS, 3, 4)
    settings = _settings(optimizer)
    _step(optimizer, weight, first, spec)
    _expect(bool(torch.isfinite(weight).all()), "weights with NaN or infinity after a step", "numbers")
    _expect(not torch.equal(weight, torch.ones(3, 4)), "a step that changes nothing", "weights that move")
    state = optimizer.state_dict()["state"]
    for value in (value for kept in state.values() for value in kept.values()):
        plain = value is None or isinstance(value, torch.Tensor | bool | int | float)
        _expect(plain, f"{_kind_of(value)} in its state", "tensors and numbers, which a checkpoint can hold")
    again = make_optimizer(spec, [through])
    with torch.no_grad():
        through.copy_(weight)
    copied = {key: {name: _copy(value) for name, value in kept.items()} for key, kept in state.items()}
    again.load_state_dict({"state": copied, "param_groups": again.state_dict()["param_groups"]})
    for gradient in others:
        _step(optimizer, weight, gradient, spec)
        _step(again, through, gradient, spec)
    after = _settings(optimizer)
    for name in sorted(settings.keys() | after.keys()):
        _expect(
            settings.get(name) == after.get(name),
            f"steps that change {name!r} in param_groups",
            "an optimizer that keeps what changes per parameter, in its state, which is what a checkpoint holds",
        )
    _expect(
        torch.equal(weight, through),
        "another step after a checkpoint than without",
        "an optimizer that keeps all it needs per parameter, in its state",
    )


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the groups hold beside the parameters and the learning rate, which training sets."""
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    return {
        f"{index}/{name}" if index else name: value.tolist() if isinstance(value, torch.Tensor) else value
        for index, group in enumerate(groups)
        for name, value in group.items()
        if name not in ("params", "lr")
    }


def _step(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradient: torch.Tensor, spec: TrainingSpec) -> None:
    """As training does it: the learning rate comes from the schedule."""
    set_learning_rate(optimizer, spec.learning_rate)
    weight.grad = gradient.clone()
    optimizer.step()


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _try_schedule(spec: TrainingSpec) -> None:
    schedule = plugins.load("schedule", spec.schedule)
    for iteration in (0, 1, spec.iterations // 2, spec.iterations - 1):
        rate: Any = schedule(spec, iteration, spec.iterations)
        number = isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0
        _expect(
            number, f"{rate!r} for iteration {iteration} of {spec.iterations}", "a learning rate: 0 or a number over it"
        )


def _kind_of(value: Any) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"

"""Parts that are not autoseg's own are tried for a moment before anything long begins: do they do what training needs?

Each is told in one sentence what it gave and what was expected. What is built in is tried by the tests.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoseg import plugins
from autoseg.augmentation.contract import Recipe
from autoseg.errors import AutosegError, InputError
from autoseg.networks.build import build_network
from autoseg.networks.optimizers import make_optimizer
from autoseg.values import Configuration, Labels, TrainingSpec

__all__ = ["try_parts"]

#: Edge of the patches that losses and recipes are tried on, in voxels.
EDGE = 8
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
        "recipe": lambda: _try_recipe(configuration),
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


def _try_recipe(configuration: Configuration) -> None:
    """A batch of one tiny patch through all steps, drawn a few times."""
    recipe: Any = plugins.load("recipe", configuration.augmentation.recipe)(configuration.augmentation)
    _expect(isinstance(recipe, Recipe), _kind_of(recipe), "an autoseg.augmentation.contract.Recipe")
    size, channels = (EDGE,) * configuration.dimensions, configuration.network.input_channels
    for seed in range(4):
        random = np.random.default_rng(seed)
        images = torch.from_numpy(random.normal(size=(1, channels, *size)).astype(np.float32))
        labels = torch.zeros((1, *size), dtype=torch.int16)
        labels[:, EDGE // 2 :] = 1
        matrix = recipe.spatial.draw(random, size) if recipe.spatial else None
        square = (len(size),) * 2
        _expect(
            matrix is None or np.shape(matrix) == square, f"{_kind_of(matrix)} as sampling", f"a matrix of {square}"
        )
        for step in recipe.steps():
            parameters = step.draw(random, (channels, *size))
            if parameters is None:
                continue
            images, labels = step.apply(images, labels, [parameters])
            shapes, wanted = (tuple(np.shape(images)), tuple(np.shape(labels))), ((1, channels, *size), (1, *size))
            name = type(getattr(step, "transform", step)).__name__
            _expect(
                shapes == wanted, f"tensors of {shapes[0]} and {shapes[1]} after {name}", f"{wanted[0]} and {wanted[1]}"
            )
            _expect(bool(torch.isfinite(images).all()), f"NaN or infinity in the image after {name}", "numbers")
    _try_sides(recipe, configuration)


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
    """Two steps of a tiny weight, once in a row and once through a checkpoint: the same to the last bit."""
    through, weight = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer: Any = make_optimizer(spec, [weight])
    _expect(isinstance(optimizer, torch.optim.Optimizer), _kind_of(optimizer), "a torch.optim.Optimizer")
    _expect(bool(optimizer.param_groups), "no parameters in it", "an optimizer of the parameters that it is given")
    gradients = torch.randn(2, 3, 4)
    _step(optimizer, weight, gradients[0], spec)
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
    _step(optimizer, weight, gradients[1], spec)
    _step(again, through, gradients[1], spec)
    _expect(
        torch.equal(weight, through),
        "another step after a checkpoint than without",
        "an optimizer that keeps all it needs per parameter, in its state",
    )


def _step(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradient: torch.Tensor, spec: TrainingSpec) -> None:
    """As training does it: the learning rate comes from the schedule, into every group."""
    for group in optimizer.param_groups:
        group["lr"] = spec.learning_rate
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

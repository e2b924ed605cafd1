"""What a network costs: bytes of training and of prediction, parameters and arithmetic. Nothing is computed or allocated.

The cost comes from the network's own description of its forward pass on a tape (see ``autoseg.networks.tape``): a network
plug has a static method ``describe(spec, tape, patch_size)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoseg import plugins
from autoseg.networks.optimizers import state_copies
from autoseg.networks.tape import FLOAT_BYTES, Backend, Tape
from autoseg.values import NetworkSpec, TrainingSpec

__all__ = [
    "BOX",
    "inference_bytes",
    "making_bytes",
    "multiply_adds",
    "parameter_count",
    "process_bytes",
    "training_bytes",
]

TARGET_BYTES = 8
#: What a device gives to a process before its first tensor: a GPU to CUDA and its libraries; a CPU to Python, torch and the
#: image libraries (measured: 0.43 GiB).
BEFORE_TENSORS = {"cpu": 450 * 2**20, "cuda": 500 * 2**20, "mps": 450 * 2**20}
#: Batches that wait or are being made while one is trained on, in the memory of the CPU; bytes of a voxel's label there.
BATCHES_AHEAD, LABEL_BYTES = 4, 2
#: By the patch's number of axes, the largest box that a turned patch is sampled from on a GPU, in patches. What needs a
#: larger one, a few in a hundred of those that are turned, is sampled on the CPU.
BOX = {2: 4, 3: 5}
#: Bytes of a voxel: of the box beside image and label, while one label is sampled from it; of the patch meanwhile.
LABEL_SAMPLED_BYTES, SAMPLING_BYTES = 5, 36
#: Images of a batch that are there at once while transforms change it.
COPIES_OF_IMAGES = 8


def training_bytes(
    spec: NetworkSpec,
    patch_size: Sequence[int],
    batch_size: int,
    training: TrainingSpec,
    *,
    backend: Backend,
) -> int:
    """Predicted peak of the memory that tensors take in one training step, as torch's allocator counts it.

    Args:
        spec: the network.
        patch_size: voxels per axis.
        batch_size: patches.
        training: its optimizer keeps some numbers for every weight, its moving average another.
        backend: device and precision; feature maps take 2 bytes an element under 16-bit autocast.
    """
    tape = Tape(backend, batch_size, training=True)
    _describe(spec, tape, patch_size)
    tape.loss()
    tape.backward()
    weights = tape.parameters * FLOAT_BYTES
    # copies of the weights that live during the whole training: themselves and what the optimizer and the average keep
    copies = 1 + state_copies(training) + (training.ema_decay is not None)
    # the target in integers, at all resolutions that are supervised
    target = TARGET_BYTES * batch_size * sum(math.prod(logits.shape) for logits in tape.outputs)
    # while the optimizer steps, feature maps are gone, and gradients and its own temporaries are there
    passing = weights if backend.device == "cuda" else 2 * tape.largest_weights * FLOAT_BYTES
    image = spec.input_channels * math.prod(patch_size) * batch_size * FLOAT_BYTES
    return copies * weights + target + max(tape.peak, image + weights + passing)


def process_bytes(
    spec: NetworkSpec,
    patch_size: Sequence[int],
    batch_size: int,
    training: TrainingSpec,
    *,
    backend: Backend,
) -> int:
    """Predicted memory of a training as the device sees it: the tensors, and what is there beside them.

    Arguments as of ``training_bytes``.
    """
    tensors = training_bytes(spec, patch_size, batch_size, training, backend=backend)
    voxels = math.prod(patch_size) * batch_size
    waiting = BATCHES_AHEAD * voxels * (spec.input_channels * FLOAT_BYTES + LABEL_BYTES)
    if backend.device == "cuda":  # where one batch is made while the one before is computed on
        waiting = making_bytes(spec, patch_size, batch_size)
    return tensors + BEFORE_TENSORS[backend.device] + (waiting if backend.device != "mps" else 0)


def making_bytes(spec: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> int:
    """Predicted peak of the memory that a batch takes while it is sampled and augmented, itself included.

    Args:
        spec: the network; tells the channels.
        patch_size: voxels per axis.
        batch_size: patches.
    """
    patch, image = math.prod(patch_size), spec.input_channels * FLOAT_BYTES
    box = BOX[len(patch_size)] * (image + LABEL_BYTES + LABEL_SAMPLED_BYTES)
    sampling = batch_size * (image + LABEL_BYTES) + box + SAMPLING_BYTES + image
    return patch * max(sampling, COPIES_OF_IMAGES * image * batch_size)


def inference_bytes(
    spec: NetworkSpec,
    patch_size: Sequence[int],
    batch_size: int,
    *,
    backend: Backend,
    networks: int = 1,
) -> int:
    """Predicted peak of the memory that tensors take while a batch of tiles is predicted.

    Args:
        spec: the network.
        patch_size: voxels per axis.
        batch_size: tiles at once.
        backend: device and precision.
        networks: whose outputs are averaged.
    """
    tape = Tape(backend, batch_size, training=False)
    _describe(spec, tape, patch_size)
    voxels = math.prod(patch_size) * batch_size
    image = 2 * spec.input_channels * voxels * FLOAT_BYTES  # as it is, and mirrored
    logits = spec.output_channels * voxels * FLOAT_BYTES
    # of every network the sum over mirrored passes, which is there while the next pass runs
    held = networks * (tape.parameters * FLOAT_BYTES + logits)
    at_the_end = (networks + 1) * logits if networks > 1 else 0
    return held + image + max(tape.peak, 2 * logits, at_the_end)


def parameter_count(spec: NetworkSpec) -> int:
    """Trainable numbers, those of heads that are never computed included."""
    tape = Tape(Backend(), 1, training=True)
    _describe(spec, tape, spec.divisor)
    return tape.parameters


def multiply_adds(spec: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> int:
    """Multiplications of the convolutions in the forward pass of a training batch; the backward pass has twice as many.

    Args:
        spec: the network.
        patch_size: voxels per axis.
        batch_size: patches.
    """
    tape = Tape(Backend(), batch_size, training=True)
    _describe(spec, tape, patch_size)
    return tape.multiply_adds


def _describe(spec: NetworkSpec, tape: Tape, patch_size: Sequence[int]) -> None:
    network = plugins.load("network", spec.architecture)
    describe = getattr(network, "describe", None)
    if describe is None:  # somebody's own network without a description: taken for a plain one of its numbers
        describe = plugins.load("network", "plain_unet").describe
    describe(spec, tape, tuple(patch_size))

"""A network as a list of operations, without its numbers: what it costs in memory, in parameters and in arithmetic.

A network describes itself by calling a tape's methods in the order of its forward pass, as it calls torch's. The tape then
goes through training (or prediction) as torch's autograd does: it knows which tensors each operation saves for the backward
pass, when gradients come into being and when each of them is let go, and keeps the largest sum of what lives at one time.
Nothing is computed and torch is not needed, so that a planner can ask for the cost of hundreds of networks in a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from autoseg.values.json_form import Value

__all__ = ["Backend", "Tape", "Tensor"]

FLOAT_BYTES, HALF_BYTES = 4, 2
#: Per voxel of one sample: what the loss takes for every output, and beside that.
LOSS_BYTES_PER_OUTPUT, LOSS_BYTES = 13, 10
#: Slices of fewer voxels per thread are worked on by all threads at once, each with memory of its own.
SMALL_SLICE = 512


class Backend(Value, frozen=True, kw_only=True):
    """On what kind of device, and in which precision, a network runs.

    Attributes:
        device: cpu, cuda or mps.
        precision: fp32, or bf16 autocast.
        threads: of a CPU.
    """

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 2

    @property
    def element_bytes(self) -> int:
        """Of a feature map."""
        return FLOAT_BYTES if self.precision == "fp32" else HALF_BYTES

    def forward_scratch(self, weights: int, largest: int, batch: int) -> int:
        """Bytes that a convolution needs beside its result: weights in another order, a workspace on a GPU."""
        copies = weights * (FLOAT_BYTES if self.device == "cpu" else 0)
        return copies + (largest // batch if self.device == "cuda" else 0)

    def backward_scratch(self, operation: _Operation, batch: int) -> int:
        """Bytes that the gradient of a convolution's weights needs beside it.

        On the CPU, oneDNN takes kernels of over one slice apart: it unfolds one slice of the input, turns one sample over
        and sums up in copies of the weights; where slices are small, every thread has its own. Other kernels only reorder
        the weights. Read from what it allocated (torch 2.13, AVX2, channels-last). A GPU is granted a workspace of one
        sample's input and output.
        """
        one_sample = operation.inputs[0].bytes // batch
        if self.device == "cuda":
            return one_sample + operation.output.bytes // batch
        if not operation.unfolded:
            return 2 * operation.weights * FLOAT_BYTES
        slices = operation.output.shape[1] * operation.output.shape[2]
        threads = self.threads if slices // self.threads < SMALL_SLICE else 1
        return threads * (4 * operation.weights * FLOAT_BYTES + operation.unfolded * self.element_bytes + one_sample)


class _Storage:
    """Memory of a tensor or a gradient, and by how many it is held."""

    __slots__ = ("bytes", "holders")

    def __init__(self, size: int) -> None:
        self.bytes, self.holders = size, 1


class Tensor:
    """A tensor without numbers: feature maps of all samples of a batch.

    Attributes:
        channels: feature maps.
        shape: voxels per axis.
        bytes: of all samples together.
        storage: its memory, shared by what is computed in place.
        needs_gradient: whether a gradient flows back to it.
        gradient: what has arrived of it.
    """

    __slots__ = ("bytes", "channels", "gradient", "needs_gradient", "shape", "storage")

    def __init__(
        self, channels: int, shape: tuple[int, ...], storage: _Storage, *, needs_gradient: bool = True
    ) -> None:
        self.channels, self.shape, self.storage, self.needs_gradient = channels, shape, storage, needs_gradient
        self.bytes = storage.bytes
        self.gradient: _Storage | None = None


class _Operation:
    """One step of the forward pass, as its backward pass needs it."""

    __slots__ = ("inputs", "output", "passes_on", "saved", "unfolded", "weights")

    def __init__(
        self,
        output: Tensor,
        inputs: tuple[Tensor, ...],
        saved: tuple[_Storage, ...] = (),
        *,
        weights: int = 0,
        passes_on: bool = False,
    ) -> None:
        self.output, self.inputs, self.saved = output, inputs, saved
        self.weights, self.passes_on = weights, passes_on
        self.unfolded = 0  # elements of one slice of the input, each as often as the kernel sees it


class Tape:
    """Runs through a network's description and adds up what it costs.

    Args:
        backend: device and precision.
        batch_size: samples.
        training: keep what the backward pass needs.

    Attributes:
        parameters: trainable numbers.
        largest_weights: those of the largest convolution.
        multiply_adds: of the convolutions in the forward pass.
        live: bytes that live now.
        peak: largest number of bytes that lived at one time, of feature maps, gradients and what convolutions need.
        outputs: logits, in the order they were computed.
    """

    def __init__(self, backend: Backend, batch_size: int, *, training: bool) -> None:
        self.backend, self.batch_size, self.training = backend, batch_size, training
        self._element = backend.element_bytes * batch_size
        self.parameters = self.largest_weights = self.multiply_adds = self.live = self.peak = 0
        self.outputs: list[Tensor] = []
        self._operations: list[_Operation] = []

    def input(self, channels: int, shape: Sequence[int]) -> Tensor:
        """The image in float32, and under autocast its copy in 16 bits, which the first convolution saves."""
        copied = HALF_BYTES if self.backend.precision == "bf16" else 0
        storage = self._allocate(channels * math.prod(shape) * (FLOAT_BYTES + copied) * self.batch_size)
        return Tensor(channels, tuple(shape), storage, needs_gradient=False)

    def convolution(
        self, x: Tensor, channels: int, kernel_size: Sequence[int], stride: Sequence[int], *, bias: bool = True
    ) -> Tensor:
        """A convolution with "same" padding; saves its input."""
        shape = tuple(-(-edge // step) for edge, step in zip(x.shape, stride, strict=True))
        kernel = math.prod(kernel_size)
        weights = kernel * x.channels * channels
        self._count(weights, channels if bias else 0, weights * math.prod(shape))
        out = self._new(channels, shape)
        operation = self._weighted(out, x, weights)
        if kernel_size[0] > 1 and len(shape) == 3:
            operation.unfolded = kernel * x.channels * shape[1] * shape[2]
        return out

    def transposed_convolution(self, x: Tensor, channels: int, stride: Sequence[int]) -> Tensor:
        """A transposed convolution whose kernel is its stride, with bias; saves its input."""
        shape = tuple(edge * step for edge, step in zip(x.shape, stride, strict=True))
        weights = math.prod(stride) * x.channels * channels
        self._count(weights, channels, weights * math.prod(x.shape))
        out = self._new(channels, shape)
        self._weighted(out, x, weights)
        return out

    def norm(self, x: Tensor) -> Tensor:
        """Instance norm with scale and shift; saves its input."""
        self.parameters += 2 * x.channels
        out = self._new(x.channels, x.shape)
        self._record(_Operation(out, (x,), (x.storage,)))
        return out

    def activation(self, x: Tensor) -> Tensor:
        """Leaky ReLU in place: the result takes the place of ``x`` and is saved."""
        out = Tensor(x.channels, x.shape, x.storage)
        self._record(_Operation(out, (x,), (x.storage,)))
        return out

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x += y``: the sum takes the place of ``x``; nothing is saved."""
        out = Tensor(x.channels, x.shape, x.storage)
        self._record(_Operation(out, (x, y), passes_on=True))
        return out

    def mean_pool(self, x: Tensor, stride: Sequence[int]) -> Tensor:
        """Average over blocks; saves its input. A CPU has no 3D one in 16 bits: autocast makes copies in 32."""
        shape = tuple(edge // step for edge, step in zip(x.shape, stride, strict=True))
        if self.backend.device == "cuda" or self.backend.precision == "fp32" or len(shape) == 2:
            return self._elementwise(x, self._new(x.channels, shape), saved=True)
        double = self._element * FLOAT_BYTES // HALF_BYTES
        wide = self._elementwise(x, Tensor(x.channels, x.shape, self._allocate(x.bytes * FLOAT_BYTES // HALF_BYTES)))
        pooled = Tensor(x.channels, shape, self._allocate(x.channels * math.prod(shape) * double))
        self._elementwise(wide, pooled, saved=True)
        out = self._elementwise(pooled, self._new(x.channels, shape))
        self.release(wide, pooled)
        return out

    def concatenate(self, x: Tensor, y: Tensor) -> Tensor:
        """Channels of both; nothing is saved."""
        out = self._new(x.channels + y.channels, x.shape)
        self._record(_Operation(out, (x, y), passes_on=True))
        return out

    def output(self, x: Tensor) -> None:
        """Logits of one resolution, held until the end."""
        self.outputs.append(x)

    def unused_parameters(self, count: int) -> None:
        """Parameters of layers that exist, but are not computed."""
        self.parameters += count

    def release(self, *tensors: Tensor) -> None:
        """The forward pass has no more use for these; what the backward pass saved stays."""
        for tensor in tensors:
            self._drop(tensor.storage)

    def loss(self) -> None:
        """Dice and cross-entropy of all outputs, forward and backward: sample by sample in float32, from saved logits.

        What it takes of a sample is documented in ``autoseg.training.losses.DiceCrossEntropy``.
        """
        for logits in self.outputs:
            logits.gradient = self._allocate(logits.bytes)
            at_work = (LOSS_BYTES_PER_OUTPUT * logits.channels + LOSS_BYTES) * math.prod(logits.shape)
            self.peak = max(self.peak, self.live + at_work)

    def backward(self) -> None:
        """From the gradients of the outputs to those of the weights, in the reverse order of the forward pass."""
        for operation in reversed(self._operations):
            gradient = operation.output.gradient
            if gradient is None:
                continue
            operation.output.gradient = None
            if operation.passes_on:
                for tensor in operation.inputs:
                    gradient.holders += 1
                    self._arrive(tensor, gradient)
            else:
                self._differentiate(operation, gradient)
            self._drop(gradient)
            for storage in operation.saved:
                self._drop(storage)

    def _elementwise(self, x: Tensor, out: Tensor, *, saved: bool = False) -> Tensor:
        self._record(_Operation(out, (x,), (x.storage,) if saved else ()))
        return out

    def _differentiate(self, operation: _Operation, gradient: _Storage) -> None:
        (x,) = operation.inputs
        # what is part of a larger gradient is copied out of it first
        copied = operation.output.bytes if gradient.bytes != operation.output.bytes else 0
        self.live += copied
        arriving = self._allocate(x.bytes) if x.needs_gradient else None
        if operation.weights:
            scratch = self.backend.backward_scratch(operation, self.batch_size)
            self.live += operation.weights * FLOAT_BYTES  # stays until the optimizer has used it
            self.peak = max(self.peak, self.live + scratch)
            if self.backend.precision == "bf16":
                self.live -= operation.weights * HALF_BYTES  # their 16-bit copy
        self.live -= copied
        if arriving is not None:
            self._arrive(x, arriving)

    def _arrive(self, tensor: Tensor, gradient: _Storage) -> None:
        """Adds a gradient to what has arrived: in place, unless that memory is another's, too, or part of a larger one."""
        there = tensor.gradient
        if there is None:
            tensor.gradient = gradient
        elif there.holders == 1 and there.bytes == tensor.bytes:
            self._drop(gradient)
        else:
            tensor.gradient = self._allocate(tensor.bytes)
            self._drop(there)
            self._drop(gradient)

    def _weighted(self, out: Tensor, x: Tensor, weights: int) -> _Operation:
        half = self.backend.precision == "bf16"
        self.live += weights * HALF_BYTES * half  # autocast keeps them until backward, or the end of prediction
        scratch = self.backend.forward_scratch(weights, max(x.bytes, out.bytes), self.batch_size)
        self.peak = max(self.peak, self.live + scratch)
        operation = _Operation(out, (x,), (x.storage,), weights=weights)
        self._record(operation)
        return operation

    def _count(self, weights: int, biases: int, multiply_adds: int) -> None:
        self.parameters += weights + biases
        self.largest_weights = max(self.largest_weights, weights)
        self.multiply_adds += multiply_adds * self.batch_size

    def _record(self, operation: _Operation) -> None:
        if self.training:
            for storage in operation.saved:
                storage.holders += 1
            self._operations.append(operation)

    def _new(self, channels: int, shape: tuple[int, ...]) -> Tensor:
        return Tensor(channels, shape, self._allocate(channels * math.prod(shape) * self._element))

    def _allocate(self, size: int) -> _Storage:
        self.live += size
        if self.live > self.peak:
            self.peak = self.live
        return _Storage(size)

    def _drop(self, storage: _Storage) -> None:
        storage.holders -= 1
        if not storage.holders:
            self.live -= storage.bytes

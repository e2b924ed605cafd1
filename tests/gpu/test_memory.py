"""On a GPU: a real shortage of memory is noticed and healed, and 16-bit training keeps 16-bit activations.

Run with ``python -m pytest -m gpu`` on a machine that has one; elsewhere these tests are skipped.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from autoseg.errors import AutosegError
from autoseg.files import read_document, write_document
from autoseg.inference.predict import Predictor
from autoseg.networks.blocks import InstanceNorm
from autoseg.networks.build import build_network
from autoseg.networks.weights import load_tensors
from autoseg.training.loop import FoldTrainer, train_fold
from autoseg.training.losses import DiceCrossEntropy
from autoseg.values import ExecutionPath, Plan
from autoseg.workspace import FoldFolder
from tests.small_plans import small_configuration, small_network
from tests.training.test_loop import NNUNET, PLAIN, Listening, make_job, make_plan, make_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
PATH = ExecutionPath(device="cuda", precision="bf16")
BATCH, PATCH = 4, (64, 64, 64)


@pytest.fixture(autouse=True)
def _own_memory() -> Iterator[None]:
    """Nothing of another test is in the GPU's memory, and all of it may be used again afterwards."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    torch.cuda.empty_cache()


def allow(gpu_bytes: float) -> None:
    """Lets this process have so much memory of the GPU, as if others had the rest."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(gpu_bytes / torch.cuda.get_device_properties(0).total_memory)


def large_plan(*, batch_dice: bool = True) -> Plan:
    """A network whose activations, not its weights, fill the memory."""
    plan = make_plan(training=msgspec.structs.replace(NNUNET, batch_dice=batch_dice))
    (configuration,) = plan.configurations
    network = small_network(outputs=3, features=(32, 64, 64))
    changed = msgspec.structs.replace(configuration, batch_size=BATCH, patch_size=PATCH, network=network)
    return msgspec.structs.replace(plan, configurations=(changed,))


def folder_with(path: ExecutionPath, parent: Path) -> FoldFolder:
    folder = FoldFolder(parent / "fold")
    write_document(folder.execution, path)
    return folder


def trainer_in(parent: Path, plan: Plan, logger: Listening, path: ExecutionPath = PATH) -> FoldTrainer:
    return FoldTrainer(make_job(plan), plan, make_store(parent), folder_with(path, parent), logger, "cuda")


def step_bytes(trainer: FoldTrainer, parts: int) -> int:
    trainer.step.network.train()
    trainer.step._trial_step(parts)
    peak = torch.cuda.max_memory_allocated()
    trainer.step._recover()
    trainer.step._use_parts(1)
    return peak


def test_the_probe_splits_a_batch_that_does_not_fit_and_says_so(tmp_path: Path) -> None:
    logger = Listening()
    trainer = trainer_in(tmp_path, large_plan(), logger)
    whole, half = step_bytes(trainer, 1), step_bytes(trainer, 2)
    assert half < 0.8 * whole
    allow(1.1 * half)
    before = {name: tensor.clone() for name, tensor in trainer.step.network.state_dict().items()}
    random = torch.cuda.get_rng_state()
    trainer.step.probe_memory()
    parts = trainer.step.execution.parts
    assert parts > 1
    assert read_document(ExecutionPath, trainer.folder.execution).parts == parts
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.step.network.state_dict().items())
    texts = [str(entry["text"]) for entry in logger.all("message")]
    assert any(f"in {parts} parts, with equal results" in text for text in texts)
    assert any("GiB of GPU memory, planned were" in text for text in texts)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_shortage_in_the_middle_of_training_is_healed_to_the_same_model(tmp_path: Path, batch_dice: bool) -> None:
    plan, models = large_plan(batch_dice=batch_dice), []
    exact = ExecutionPath(device="cuda")  # fp32, so that a difference is not lost in rounding
    half = step_bytes(trainer_in(tmp_path / "measured", plan, Listening(), exact), 2)
    for name in ("whole", "short"):
        gc.collect()
        folder, asked = folder_with(exact, tmp_path / name), iter(range(100))

        def stop(asked: Iterator[int] = asked, name: str = name) -> bool:
            if next(asked) == 3 and name == "short":
                allow(1.1 * half)
            return False

        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            store = make_store(tmp_path / name)
            models.append(train_fold(make_job(plan), plan, store, folder, Listening(), device="cuda", stop=stop))
        assert (read_document(ExecutionPath, folder.execution).parts > 1) == (name == "short")
    mine, theirs = (load_tensors(model)[0] for model in models)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-2, atol=1e-4, msg=name)


def test_where_not_even_one_patch_fits_the_error_says_what_to_do(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, large_plan(), Listening())
    allow(step_bytes(trainer, BATCH) / 2)
    with pytest.raises(AutosegError, match="even one patch of 64 x 64 x 64"):
        trainer.step.probe_memory()


def test_prediction_goes_on_with_fewer_tiles() -> None:
    configuration = small_configuration(patch=PATCH, features=(32, 64, 64), batch_size=8)
    image = np.random.default_rng(0).normal(size=(1, 160, 160, 160)).astype(np.float32)

    def predictor() -> Predictor:
        return Predictor([build_network(configuration.network, seed=0)], configuration, ExecutionPath(device="cuda"))

    expected, peak = predictor().logits(image), torch.cuda.max_memory_allocated()
    allow(0.6 * peak)
    short = predictor()
    logits = short.logits(image)
    assert short.at_once < 8
    np.testing.assert_allclose(logits, expected, atol=0.02)


@pytest.mark.parametrize("channels_last", [False, True])
def test_instance_norm_under_autocast_stays_in_16_bits_and_near_float32(channels_last: bool) -> None:
    torch.manual_seed(0)
    norm, x = InstanceNorm(8).cuda(), torch.randn(2, 8, 16, 16, 16, device="cuda") * 3 + 5
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    half = x.bfloat16().requires_grad_()
    exact = half.detach().float().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        y = norm(half)
    assert y.dtype == torch.bfloat16
    expected = norm(exact)
    torch.testing.assert_close(y.float(), expected, rtol=2**-6, atol=2**-5)
    slope = torch.randn_like(expected)
    y.backward(slope.bfloat16())
    gradients = norm.weight.grad.clone(), norm.bias.grad.clone()
    norm.zero_grad()
    expected.backward(slope.bfloat16().float())
    torch.testing.assert_close(half.grad.float(), exact.grad, rtol=2**-4, atol=2**-5)
    for mine, weight in zip(gradients, (norm.weight, norm.bias), strict=True):
        torch.testing.assert_close(mine, weight.grad, rtol=0.02, atol=0.5)


def test_16_bit_training_keeps_16_bit_activations() -> None:
    """Two 16-bit numbers per activation and convolution; float32 copies for the norm would need twice that."""
    network = build_network(small_network(outputs=3, features=(32, 64, 64)), seed=0).cuda()
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cuda", torch.bfloat16):
        network(torch.randn(1, 1, *PATCH, device="cuda"))
    large = [tensor for tensor in kept.values() if tensor.numel() >= 32 * 64**3]
    assert large
    assert all(tensor.dtype == torch.bfloat16 for tensor in large)


def test_the_loss_needs_no_more_than_it_says() -> None:
    loss, outputs, voxels = DiceCrossEntropy(PLAIN, batch_dice=True), PLAIN.output_count, 96**3
    logits = torch.randn(4, outputs, 96, 96, 96, device="cuda").bfloat16().requires_grad_()
    target = torch.randint(0, outputs, (4, 96, 96, 96), device="cuda")
    begin = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss(logits, target).backward()
    at_work = torch.cuda.max_memory_allocated() - begin - logits.nbytes
    assert at_work < (8 * outputs + 20) * voxels

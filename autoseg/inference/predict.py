"""Logits of a preprocessed image: tiles, mirroring and folds in one loop, in float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoseg.errors import AutosegError
from autoseg.inference.disagreement import Disagreement, TileDisagreement
from autoseg.inference.sums import Box, Sums
from autoseg.inference.window import STEP, importance_map, padded_tile, padding_to, tiles
from autoseg.io.chunks import Readable
from autoseg.networks.execution import autocast, memory_format, place, release_memory
from autoseg.values import Configuration, ExecutionPath

__all__ = ["SURELY", "Predictor", "mirrored_mean"]

#: Logit of what is sure without being computed.
SURELY = 10.0
#: Sees the logits of every fold for a batch of tiles.
Look = Callable[[Sequence[torch.Tensor]], "TileDisagreement | None"]


class Predictor:
    """Predicts preprocessed images with one network or the mean of several (the folds).

    Args:
        networks: trained, of one configuration.
        configuration: patch, mirror axes and the labels that are sides of the patient.
        execution: device, precision and layout.
        mirroring: average over all flips of the allowed axes; 8 times the work in 3D, 4 times in 2D.

    Attributes:
        earlier: the predictors of a cascade's stages before, the first stage first, where they predict here, too; or of a
            coarser model that locates.
        only_region: predict only where the last of these found something.
        step: largest distance of tiles, as a share of their edge.
        regions: the outputs are regions, not labels that compete.
        skips_air: do not compute tiles in which every channel has one value: they are background.
        room_for_sums: bytes of memory that the logits of an image may take; None for half of what is free then.
        sums_on_device: whether they are summed up on the device; None to decide it for each image by what is free there.
    """

    earlier: tuple[Predictor, ...] = ()
    step: float = STEP
    skips_air: bool = False
    only_region: bool = False
    regions: bool = False
    room_for_sums: int | None = None
    sums_on_device: bool | None = None

    def __init__(
        self,
        networks: Sequence[nn.Module],
        configuration: Configuration,
        execution: ExecutionPath,
        *,
        mirroring: bool = True,
    ) -> None:
        self.configuration, self.execution = configuration, execution
        self.networks = [place(network, execution, configuration.dimensions).eval() for network in networks]
        for network in self.networks:
            network.deep_supervision = False  # type: ignore[assignment]
        #: Tiles that go through the network together; fewer once memory was short.
        self.at_once = -(-configuration.batch_size // min(execution.parts, configuration.batch_size))
        if execution.device == "cpu":
            self.at_once = self._tiles_on_cpu(configuration.full_patch_size)
        self.mirror_axes = configuration.augmentation.mirror_axes if mirroring else ()

    @torch.inference_mode()
    def logits(
        self,
        image: Readable,
        advance: Callable[[int, int], None] = lambda done, total: None,
        disagreement: Disagreement | None = None,
        scratch: Path | None = None,
    ) -> np.ndarray:
        """Logits ``(outputs, *spatial)`` float32 of an image ``(channels, *spatial)``, averaged over tiles and folds.

        Args:
            image: on the configuration's grid; read tile by tile.
            advance: told how many tiles are done, of how many.
            disagreement: of the folds, to be gathered in the same pass over the tiles.
            scratch: folder for what memory has no room for; the result is then a mapped file without a name.

        Raises:
            InputError: there is no room for the logits, and no folder.
            AutosegError: the output is not finite.
        """
        patch = self.configuration.full_patch_size
        padding = padding_to(image.shape[1:], patch)
        shape = tuple(size + sum(added) for size, added in zip(image.shape[1:], padding, strict=True))
        places, weights = list(tiles(shape, patch, self.step)), importance_map(patch)
        sums = Sums(
            self.configuration.network.output_channels,
            shape,
            weights,
            device=self.execution.device,
            scratch=scratch,
            room=self.room_for_sums,
            on_device=self.sums_on_device,
        )
        if self.skips_air:
            places = self._without_air(image, places, padding, sums)
        if disagreement is not None:
            disagreement.begin(shape)
        done = 0
        while done < len(places):
            group = places[done : done + self.at_once]
            boxes = [_box(first, patch) for first in group]
            look = partial(disagreement.look, weights=weights) if disagreement is not None else None
            batch = np.stack([padded_tile(image, at, patch, padding) for at in group])
            predicted, found = self._within_memory(batch, sums, look)
            for tile, (box, logits) in enumerate(zip(boxes, predicted, strict=False)):
                sums.add(box, logits)
                if disagreement is not None and found is not None:
                    disagreement.add(tile, box, found, weights)
            done += len(predicted)
            advance(done, len(places))
        mean = sums.mean()
        inner = tuple(slice(before, size - after) for (before, after), size in zip(padding, shape, strict=True))
        if disagreement is not None:
            disagreement.end(sums.counts, inner)
        return mean[(slice(None), *inner)]

    def _without_air(
        self,
        image: Readable,
        places: Sequence[tuple[int, int, int]],
        padding: Sequence[tuple[int, int]],
        sums: Sums,
    ) -> list[tuple[int, int, int]]:
        """The tiles in which the image has more than one value; the others are summed up as background."""
        patch, kept = self.configuration.full_patch_size, []
        background = np.full((self.configuration.network.output_channels, 1, 1, 1), -SURELY, np.float32)
        if not self.regions:
            background[0] = SURELY
        for first in places:
            tile = padded_tile(image, first, patch, padding).reshape(image.shape[0], -1)
            if (tile != tile[:, :1]).any():
                kept.append(first)
            else:
                sums.add(_box(first, patch), background)
        return kept

    def _tiles_on_cpu(self, patch: Sequence[int]) -> int:
        """One 3D tile keeps a CPU busy; 2D tiles are gathered to about as many voxels."""
        return max(1, min(self.configuration.batch_size, 2**17 // int(np.prod(patch))))

    def _within_memory(
        self, batch: np.ndarray, sums: Sums, look: Look | None = None
    ) -> tuple[torch.Tensor | np.ndarray, TileDisagreement | None]:
        """As ``_predict``, for the first tiles of a batch: all, or as many as the GPU's memory is found to have room for.

        Where it is short, the sums leave it first; then fewer tiles go through the network at once.
        """
        while True:
            try:
                return self._predict(batch[: self.at_once], look, on_device=sums.on_device)
            except torch.OutOfMemoryError as error:
                if not sums.on_device and min(self.at_once, len(batch)) == 1:
                    raise AutosegError(
                        f"the GPU's memory is too short for even one tile ({str(error).splitlines()[0]}). "
                        "Close other programs that use the GPU, or predict with --device cpu"
                    ) from error
            # not within the clause: the exception holds the failed attempt's tensors
            release_memory(self.execution.device)
            if sums.on_device:
                sums.to_host()
                self.sums_on_device = False  # nor those of the next image
            else:
                self.at_once = min(self.at_once, len(batch)) // 2

    def _predict(
        self, batch: np.ndarray, look: Look | None = None, *, on_device: bool = False
    ) -> tuple[torch.Tensor | np.ndarray, TileDisagreement | None]:
        """Mean over folds and flips for a batch of tiles ``(batch, channels, *patch)`` with three spatial axes.

        ``look`` sees the folds before their mean is made; what it finds is handed back beside that. The mean stays a tensor
        on the device if it is to be summed up there.
        """
        flat, sides = self.configuration.dimensions == 2, self.configuration.augmentation
        layout = memory_format(self.execution, self.configuration.dimensions)
        x = torch.from_numpy(np.ascontiguousarray(batch[:, :, 0] if flat else batch)).to(self.execution.device)
        x = x.contiguous(memory_format=layout)
        with autocast(self.execution):
            outputs = [
                mirrored_mean(
                    *(network, x, self.mirror_axes),
                    swap_axis=sides.swap_axis,
                    swapped_channels=sides.swapped_labels,
                    label_channels=sides.predicted_channels or 0,
                )
                for network in self.networks
            ]
        found = look(outputs) if look is not None else None
        mean = torch.stack(outputs).mean(0)
        mean = mean[:, :, None] if flat else mean
        return mean if on_device else mean.cpu().numpy(), found


def _box(first: Sequence[int], patch: Sequence[int]) -> Box:
    return tuple(slice(start, start + edge) for start, edge in zip(first, patch, strict=True))


def mirrored_mean(
    network: Callable[[torch.Tensor], list[torch.Tensor]],
    x: torch.Tensor,
    axes: Sequence[int],
    *,
    swap_axis: int | None = None,
    swapped_channels: Sequence[tuple[int, int]] = (),
    label_channels: int = 0,
) -> torch.Tensor:
    """Mean of the full-resolution logits over all flips of the given spatial axes, each flipped back; float32.

    Args:
        network: gives a list of logits ``(batch, outputs, *spatial)``, full resolution first.
        x: ``(batch, channels, *spatial)``.
        axes: spatial axes to flip.
        swap_axis: the one along which a flip makes the patient's left side the right one.
        swapped_channels: pairs of outputs that such a flip exchanges, and that are exchanged back.
        label_channels: how many channels at the end of ``x`` are those of labels, from label 1 on: these it exchanges, too.
    """
    first = x.shape[1] - label_channels - 1  # label 1 has the channel after it
    input_pairs = [(first + one, first + other) for one, other in swapped_channels] if label_channels else []
    subsets = [subset for count in range(len(axes) + 1) for subset in itertools.combinations(axes, count)]
    total: torch.Tensor | None = None
    for subset in subsets:
        dimensions = [axis + 2 for axis in subset]
        pairs = input_pairs if swap_axis in subset else []
        logits = torch.flip(network(_mirrored(x, dimensions, pairs))[0].float(), dimensions)
        if swap_axis in subset:
            logits = logits[:, _exchanged(logits.shape[1], swapped_channels)]
        total = logits if total is None else total.add_(logits)  # both are copies, whatever the network gave
        del logits
    assert total is not None
    return total.div_(len(subsets))


def _mirrored(x: torch.Tensor, dimensions: Sequence[int], pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """A copy, flipped, in which the channels of each pair have changed places."""
    flipped = torch.flip(x, list(dimensions))
    return flipped[:, _exchanged(x.shape[1], pairs)] if pairs else flipped


def _exchanged(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Where each of ``count`` channels comes from when those of each pair change places."""
    order = list(range(count))
    for one, other in pairs:
        order[one], order[other] = other, one
    return order

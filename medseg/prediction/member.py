"""The folds of one model on a device: logits of a scan, slab by slab, as the mean over folds and mirrored copies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from medseg.device import Precision, autocast, prediction_precision
from medseg.engines import TORCH, Engine, EngineNetwork, candidates, fastest
from medseg.laterality import mirrored_inputs, mirrored_outputs
from medseg.model import Model, input_channels
from medseg.planning.plan import Configuration
from medseg.preprocessing import PreparedPlanes, target_grid
from medseg.progress import Progress, silent
from medseg.stitching import stitch, window_starts
from medseg.volume import Geometry

# Windows are computed together up to so many voxels, mirrored copies not counted; larger batches are no faster.
BATCH_VOXELS = {"cpu": 300_000, "cuda": 8_000_000, "mps": 2_000_000}

# Choosing an engine takes as long as a few passes, and a second or two to compile a network for it: so many passes, and
# so many voxels in them, repay that where it gains a fifth.
LEAST_PASSES = 40
LEAST_VOXELS = 8_000_000


@dataclass(frozen=True)
class Placement:
    """How windows are computed: so many together, and on which device their logits are summed."""

    together: int
    sums_device: torch.device


class Member:
    """A model on a device, warm for many scans.

    Args:
        precision, engine: names as on the command line.
        share: part of the mean of probabilities that is this model's.

    Attributes:
        candidates: engines of which the fastest is to be used.
        engine: the one in use; of several PyTorch, until :meth:`choose_engine` has found another to be faster.

    Raises:
        UsageError: the machine has no such precision, or the engine does not compute in it.
        ModelError: the weights do not fit the plan.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        precision: str,
        mirror: bool,
        step: float,
        engine: str = "torch",
        share: float = 1.0,
    ) -> None:
        self.model = model
        self.share = share
        self.device = device
        self.step = step
        self.precision: Precision = prediction_precision(precision, device, model.precision)
        self.networks = tuple(network.to(device) for network in model.build_networks())
        self.candidates = candidates(engine, device, self.precision)
        self.engine: Engine = self.candidates[0]
        self._opened: dict[torch.nn.Module, EngineNetwork] = {}
        axes = tuple(2 + axis for axis in model.mirror_axes) if mirror else ()
        # Reversal along this axis makes left of right: in the previous stage's masks, and back in the logits.
        self._swap = None if model.swap_axis is None else 2 + model.swap_axis
        self._input_order = list(
            mirrored_inputs(
                model.plan.labels,
                model.swapped,
                len(model.plan.channels),
                cascade=self.configuration.previous_stage is not None,
            )
        )
        self._output_order = list(mirrored_outputs(model.plan.labels, model.swapped))
        self.flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]

    @property
    def configuration(self) -> Configuration:
        """What the networks were trained for."""
        return self.model.configuration

    @property
    def inputs(self) -> int:
        """Channels that each network sees."""
        return input_channels(self.model.plan, self.configuration)

    @property
    def outputs(self) -> int:
        """Channels of each network's output."""
        return self.model.plan.labels.output_count

    def placement(self) -> Placement:
        """The fastest way to compute windows where memory does not matter."""
        voxels = BATCH_VOXELS.get(self.device.type, BATCH_VOXELS["cpu"])
        return Placement(max(1, voxels // math.prod(self.configuration.patch_size)), self.device)

    def prepared_shape(self, geometry: Geometry) -> tuple[int, int, int]:
        """(Z, Y, X) of a scan on that grid once it is prepared, if nothing of it is cropped away."""
        order = self.model.plan.axis_order
        z, y, x = (geometry.spacing_mm[axis] for axis in order)
        a, b, c = (geometry.shape[axis] for axis in order)
        return target_grid((z, y, x), (a, b, c), self.configuration)[0]

    def windows(self, shape: tuple[int, int, int]) -> int:
        """Windows of a prepared scan of ``shape`` voxels (Z, Y, X)."""
        patch = self.configuration.patch_size
        starts = window_starts(shape[-len(patch) :], patch, self.step)
        return math.prod(map(len, starts)) * (shape[0] if len(patch) == 2 else 1)

    def passes(self, shape: tuple[int, int, int]) -> int:
        """Windows that the networks see of a prepared scan of ``shape`` voxels (Z, Y, X): mirrored, by every fold."""
        return self.windows(shape) * len(self.flips) * len(self.networks)

    @property
    def undecided(self) -> bool:
        """Whether another engine may turn out to be faster than the one in use."""
        return len(self.candidates) > 1

    def choose_engine(self, passes: int) -> None:
        """Measure which engine is the fastest, if so many passes are enough to repay that; once."""
        voxels = math.prod(self.configuration.patch_size)
        if self.undecided and passes >= LEAST_PASSES and passes * voxels >= LEAST_VOXELS:
            network = self.networks[0]
            self.engine, opened = fastest(self.candidates, network, self._window, torch.get_num_threads())
            self.candidates, self._opened = (self.engine,), {network: opened}

    def keep_to_pytorch(self) -> None:
        """Compute with PyTorch from now on."""
        self.engine, self.candidates, self._opened = TORCH, (TORCH,), {}

    def unopened_bytes(self, engine: Engine) -> int:
        """Memory that opening the networks in an engine will take, where that is not done yet."""
        waiting = [network for network in self.networks if engine is not self.engine or network not in self._opened]
        sizes = [sum(p.numel() * p.element_size() for p in network.parameters()) for network in waiting]
        return sum(engine.held_bytes(size) for size in sizes)

    def release(self) -> None:
        """Give back the memory that engines keep between windows."""
        for opened in self._opened.values():
            opened.release()

    @property
    def _window(self) -> tuple[int, ...]:
        return (self.inputs, *self.configuration.patch_size)

    def _in_engine(self, network: torch.nn.Module) -> EngineNetwork:
        if network not in self._opened:
            self._opened[network] = self.engine.open(network, self._window, torch.get_num_threads())
        return self._opened[network]

    def slabs(
        self, scan: PreparedPlanes, placement: Placement, *, apart: bool = False, progress: Progress = silent
    ) -> Iterator[torch.Tensor]:
        """Consecutive slabs of float32 logits, each valid until the next: means (K, n, Y, X), or all folds' one after
        the other (folds x K, n, Y, X) if they are wanted ``apart``."""
        outputs = self.outputs * (len(self.networks) if apart else 1)
        planes = scan.shape[1]
        slabs = stitch(
            scan,
            self.configuration.patch_size,
            self.step,
            outputs,
            self._folds_apart if apart else self.window_logits,
            together=placement.together,
            device=self.device,
            sums_device=placement.sums_device,
        )
        done = 0
        while True:
            with torch.inference_mode():  # entered anew for each slab: a generator would leave it open for its caller
                slab = next(slabs, None)
            if slab is None:
                return
            done += slab.shape[1]
            progress(done, planes, "predicting")
            yield slab

    def window_logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean float32 logits (B, K, ...) of windows (B, C, ...) over folds and mirrored copies."""
        total = self._fold_logits(self.networks[0], batch)
        for network in self.networks[1:]:
            total += self._fold_logits(network, batch)
        return total.div_(len(self.networks))

    def _folds_apart(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._fold_logits(network, batch) for network in self.networks], dim=1)

    def _fold_logits(self, network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        computed = self._in_engine(network)
        with autocast(self.device, self.precision):
            total = self._flipped_logits(computed, batch, self.flips[0])
            for flip in self.flips[1:]:
                total += self._flipped_logits(computed, batch, flip)
        if len(self.networks) > 1:
            computed.release()  # the folds take turns with the memory of one
        return total.div_(len(self.flips))

    def _flipped_logits(self, network: EngineNetwork, batch: torch.Tensor, flip: tuple[int, ...]) -> torch.Tensor:
        """Of windows mirrored along some axes, mirrored back; a side that changed its name gets its own again."""
        if not flip:
            return network(batch).float()
        swaps = self._swap in flip
        seen = batch.flip(flip)
        logits = network(seen[:, self._input_order] if swaps else seen).float().flip(flip)
        return logits[:, self._output_order] if swaps else logits

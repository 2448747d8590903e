"""Optimization of one stage: gradients, clipping, Adam and the moving average, in one process or several."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.batches import MicroBatch
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.objective import Loss, ObjectiveConfig
from ghvae_core.training.stages import StageLoss, TrainingConfig, TrainingStage, trained_parameters
from ghvae_core.training.training_state import OptimizerState

_EMA_WARMUP = 10  # steps with a lower decay, as in TensorFlow's moving average


class Recipe(NamedTuple):
    """Settings that all stages of a run share."""

    training: TrainingConfig
    objective: ObjectiveConfig
    n_context: int


class Engine:
    """Optimizes the parameters of one stage.

    With several processes the gradients of the trained parameters are averaged (DDP); with `training.shard` each
    process holds a part of all weights of the end-to-end stage (FSDP2).
    """

    def __init__(self, model: VideoModel, stage: TrainingStage, recipe: Recipe, group: ProcessGroup) -> None:
        """Freeze all other parameters and start with an empty optimizer state."""
        self._model, self._group, self._n_parts = model, group, recipe.training.accumulation_steps
        self._stage = stage
        self._is_sharded = recipe.training.shard and stage.kind == "end_to_end" and group.size > 1
        trained = _replica(model, group) if self._is_sharded else model
        self._phase = StageLoss(trained, stage, recipe.training, recipe.objective, recipe.n_context)
        self._network: nn.Module = self._phase
        if self._is_sharded:
            _shard(self._phase, trained, group)
        elif group.size > 1:
            self._network = DistributedDataParallel(self._phase, forward_sync_buffers=False)
        self._trained = trained
        self.parameters = trained_parameters(trained, stage)
        self._optimizer = torch.optim.Adam(self.parameters, lr=stage.rate)
        self._ema = Ema(self.parameters, recipe.training.ema_decay)

    def gradients(self, parts: Iterable[MicroBatch], step: int) -> tuple[Loss, Tensor]:
        """Compute the gradients of a step and clip them.

        Returns:
            The mean loss of this process, and the norm of the gradient of all processes before clipping.
        """
        self._optimizer.zero_grad()
        losses = []
        for index, part in enumerate(parts):
            generator = torch.Generator(self._group.device).manual_seed(part.noise_seed)
            with self._alone(is_last=index + 1 == self._n_parts):
                loss: Loss = self._network(part.batch, step, generator)
                (loss.total / self._n_parts).backward()  # type: ignore[no-untyped-call]
            losses.append(torch.stack(loss).detach())
        norm = nn.utils.clip_grad_norm_(self.parameters, self._stage.clip_norm)
        return Loss(*torch.stack(losses).mean(0)), _whole(norm)

    def update(self, rate: float, step: int) -> None:
        """Take an optimizer step."""
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self._ema.update(step)

    def finish(self) -> None:
        """End the stage: write the moving averages, if any, and the trained weights into the model."""
        self._ema.apply()
        self._weights_to_model()
        self._optimizer.zero_grad()  # frees the gradients
        if self._is_sharded:
            self._model.to(self._group.device)

    def state(self) -> OptimizerState:
        """Write the weights into the model and return the optimizer state; all processes must call it."""
        self._weights_to_model()
        state = self._optimizer.state_dict()["state"]
        moments = {f"{index}.{name}": _whole(tensor) for index, each in state.items() for name, tensor in each.items()}
        return OptimizerState(moments, {str(index): _whole(tensor) for index, tensor in enumerate(self._ema.averages)})

    def load(self, kept: OptimizerState, place: str) -> None:
        """Load an optimizer state, written by any number of processes.

        Raises:
            CheckpointError: It does not fit the parameters; `place` is named in the message.
        """
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in kept.moments.items():
            index, name = key.split(".")
            parameter = self._fitting(int(index), tensor if name != "step" else None, place)
            state.setdefault(int(index), {})[name] = tensor if name == "step" else _like(parameter, tensor)
        if len(state) != len(self.parameters):
            raise CheckpointError(f"{place}: expected moments of {len(self.parameters)} parameters, got {len(state)}")
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        if len(kept.averages) != len(self._ema.averages):
            raise CheckpointError(f"{place}: expected {len(self._ema.averages)} averages, got {len(kept.averages)}")
        for key, tensor in kept.averages.items():
            self._ema.averages[int(key)].copy_(_like(self._fitting(int(key), tensor, place), tensor))

    def _fitting(self, index: int, tensor: Tensor | None, place: str) -> Tensor:
        is_there = index < len(self.parameters)
        if not is_there or (tensor is not None and tensor.shape != self.parameters[index].shape):
            raise CheckpointError(f"{place}: number {index} does not fit the parameters of {self._stage.name}")
        return self.parameters[index]

    def _alone(self, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of one backward pass; processes exchange gradients only in the last pass of a step."""
        if isinstance(self._network, DistributedDataParallel) and not is_last:
            context: AbstractContextManager[None] = self._network.no_sync()
            return context
        if isinstance(self._phase, FSDPModule):
            self._phase.set_requires_gradient_sync(is_last)
        return nullcontext()

    @torch.no_grad()
    def _weights_to_model(self) -> None:
        if self._is_sharded:
            state = self._model.state_dict()
            for name, tensor in self._trained.state_dict().items():
                state[name].copy_(_whole(tensor))


class Ema:
    """Exponential moving averages of the weights over one stage."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        """Start at the present parameters; `decay` 0 disables the averages."""
        self._parameters, self._decay = list(parameters), decay
        self.averages = [parameter.detach().clone() for parameter in parameters] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages after a step, counted from 0."""
        decay = min(self._decay, (1 + step) / (_EMA_WARMUP + step))
        for average, parameter in zip(self.averages, self._parameters, strict=False):
            average.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the parameters by the averages."""
        for average, parameter in zip(self.averages, self._parameters, strict=False):
            parameter.copy_(average)


def _replica(model: VideoModel, group: ProcessGroup) -> VideoModel:
    """Return a copy to be sharded; the model itself is moved to main memory until the stage ends."""
    replica = copy.deepcopy(model).to(group.device)
    replica.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 requires it
    model.to("cpu")
    return replica


def _shard(phase: StageLoss, model: VideoModel, group: ProcessGroup) -> None:
    """Shard the weights of each submodule that is called on its own over all processes."""
    mesh = init_device_mesh(torch.device(group.device).type, (group.size,))
    if isinstance(model, Ghvae):
        for k in range(1, model.n_modules + 1):
            module = model.module(k)
            coders = [module.encoder, module.decoder.project, module.decoder, module.pixels, module.masks]
            latent = [each for network in (module.prior, module.posterior) for each in (network.body, network.head)]
            for part in (*coders, *latent):
                if part is not None:
                    fully_shard(part, mesh=mesh)
    fully_shard(phase, mesh=mesh)


def _whole(tensor: Tensor) -> Tensor:
    """Return the full tensor of a possibly sharded one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a full tensor on the device, in the memory layout and with the sharding of a parameter."""
    if not isinstance(parameter, DTensor):
        return torch.empty_like(parameter).copy_(tensor)
    whole = tensor.to(parameter.device)
    return distribute_tensor(
        whole, parameter.device_mesh, parameter.placements, src_data_rank=None
    )  # all processes have it

"""Layers, parameters, FLOP and memory of a model, computed without running it.

The modules are built of tensors without data and taken through the training steps and predictions of a run. FLOP are
counted as in torch: two for a multiplication and an addition; only convolutions and matrix products count.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from configs.loader import Config
from ghvae_core.models.checkpoint import AnyConfig, build
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.video_model import IMAGE_CHANNELS, VideoModel
from ghvae_core.training.objective import Batch, ObjectiveConfig
from ghvae_core.training.stages import StageLoss, TrainingConfig, TrainingStage, stages, trained_parameters

N_CONTEXT, HORIZON = 2, 10  # paper E.1
N_FRAMES = N_CONTEXT + HORIZON  # of a clip
N_CANDIDATES = 200  # per plan; ours


class LayerSummary(Config):
    """One network of one module. Shapes are of one frame: (height, width, channels), or (numbers,)."""

    module: int  # from 1
    network: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    n_parameters: int


class StageCost(Config):
    """One stage of training: FLOP per clip, bytes per batch."""

    stage: str
    n_trained: int  # trained parameters
    forward_flop: int
    backward_flop: int
    weights_bytes: int  # of the whole model
    optimizer_bytes: int  # gradients and the two moments of Adam
    activations_bytes: int  # kept for the backward pass, with the batch and the cached features
    peak_bytes: int  # maximum, with temporary tensors, without workspaces of kernels

    @property
    def kept_bytes(self) -> int:
        """Weights, optimizer and activations together."""
        return self.weights_bytes + self.optimizer_bytes + self.activations_bytes


class ModelCost(Config):
    """Size and cost of a model."""

    kind: str
    n_parameters: int
    n_parameters_at_test: int  # those used in prediction
    layers: tuple[LayerSummary, ...]
    batch_windows: int  # clips per pass
    n_frames: int  # of a clip
    precision: str
    stages: tuple[StageCost, ...]  # every kind of stage, also those without steps
    feature_cache_bytes: int  # per clip: features of all modules except the deepest
    n_candidates: int  # of a plan
    horizon: int
    frame_flop: int  # per predicted frame
    plan_flop: int  # per plan: prediction of all candidates


def model_cost(config: AnyConfig, training: TrainingConfig) -> ModelCost:
    """Return the cost of a model in training with these settings and in planning; takes seconds, on the CPU.

    Features of frozen encoders count as cached, sharding as off.
    """
    training = training.model_copy(update={"shard": False})
    layers: dict[tuple[int, int], LayerSummary] = {}
    with torch.device("meta"):
        model = build(config)
    with FakeTensorMode():  # tensors without data that act as CPU tensors
        _make_fake(model)
        with _recorded(model, layers):
            costs = tuple(_cost(model, stage, training) for stage in _every_stage(model, training))
        frame_flop, plan_flop = _prediction_flop(model)
        return ModelCost(
            kind=config.kind,
            n_parameters=_count(model.parameters()),
            n_parameters_at_test=_count_at_test(model),
            layers=tuple(layers[place] for place in sorted(layers)),
            batch_windows=_n_windows(training),
            n_frames=N_FRAMES,
            precision=training.precision,
            stages=costs,
            feature_cache_bytes=_feature_cache_bytes(model, training),
            n_candidates=N_CANDIDATES,
            horizon=HORIZON,
            frame_flop=frame_flop,
            plan_flop=plan_flop,
        )


def print_cost(cost: ModelCost, console: Console) -> None:
    """Print the layers, the stages of training, and the totals."""
    layers = Table("k", "network", "in", "out", title="Layers: height x width x channels", title_justify="left")
    layers.add_column("parameters", justify="right")
    for layer in cost.layers:
        inputs = " + ".join(map(_text, layer.inputs))
        layers.add_row(str(layer.module), layer.network, inputs, _text(layer.output), f"{layer.n_parameters:,}")
    console.print(layers)
    batch = f"{cost.batch_windows} x {cost.n_frames} frames in {cost.precision}"
    table = Table("stage", title=f"Training: GFLOP per clip, GB for {batch}", title_justify="left")
    for name in ("trained", "forward", "backward", "weights", "optimizer", "activations", "sum", "peak"):
        table.add_column(name, justify="right")
    for stage in cost.stages:
        flop = [f"{value / 1e9:.2f}" for value in (stage.forward_flop, stage.backward_flop)]
        sizes = (
            stage.weights_bytes,
            stage.optimizer_bytes,
            stage.activations_bytes,
            stage.kept_bytes,
            stage.peak_bytes,
        )
        table.add_row(stage.stage, f"{stage.n_trained:,}", *flop, *[f"{value / 1e9:.2f}" for value in sizes])
    console.print(table)
    for line in _totals(cost):
        console.print(line, highlight=False, soft_wrap=True)


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOP and the maximal number of bytes of allocated tensors."""

    def __init__(self, tensors: Sequence[Tensor] = ()) -> None:
        """Start with `tensors` allocated."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop = 0
        self._now_bytes = self.peak_bytes = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flop += formula(*args, **kwargs, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            self._now_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._now_bytes)
            weakref.finalize(storage, self._subtract, storage.nbytes())

    def _subtract(self, n_bytes: int) -> None:
        self._now_bytes -= n_bytes


def _make_fake(model: VideoModel) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape))


def _every_stage(model: VideoModel, training: TrainingConfig) -> list[TrainingStage]:
    """Return one stage of each kind that the model supports."""
    once: dict[str, object] = {
        "module_steps": (1,),
        "end_to_end_steps": 1,
        "prior_finetune_steps": 1,
        "rollout_steps": 1,
    }
    plan = stages(training.model_copy(update=once), model.n_modules)
    if isinstance(model, Ghvae):
        return [stage for stage in plan if stage.kind != "prior_finetune" or model.config.prior == "learned"]
    return [stage for stage in plan if stage.kind == "end_to_end"]


def _cost(model: VideoModel, stage: TrainingStage, training: TrainingConfig) -> StageCost:
    phase, parameters = (
        StageLoss(model, stage, training, ObjectiveConfig(), model.config.n_context),
        trained_parameters(model, stage),
    )
    batch = _batch(model, stage, training)
    moments = [torch.empty_like(parameter) for parameter in (*parameters, *parameters)]
    meter = _Meter([*model.parameters(), *moments, batch.frames, batch.actions, *batch.lower])
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with meter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = phase(batch, 0, torch.Generator())
        forward_flop = meter.flop
        for parameter in model.parameters():
            kept.pop(parameter.untyped_storage()._cdata, None)
        activations_bytes = sum(storage.nbytes() for storage in kept.values())
        kept.clear()
        loss.total.backward()
    model.zero_grad()
    n = _n_windows(training)
    return StageCost(
        stage=stage.name,
        n_trained=_count(parameters),
        forward_flop=forward_flop // n,
        backward_flop=(meter.flop - forward_flop) // n,
        weights_bytes=_bytes(model.parameters()),
        optimizer_bytes=_bytes(parameters) + _bytes(moments),
        activations_bytes=activations_bytes,
        peak_bytes=meter.peak_bytes,
    )


def _batch(model: VideoModel, stage: TrainingStage, training: TrainingConfig) -> Batch:
    """Return a batch as from the loader, with the features of frozen encoders."""
    n = _n_windows(training)
    frames = _frames(model, N_FRAMES * n)
    actions = torch.empty((N_FRAMES - 1) * n, model.config.action_dim)
    lower: tuple[Tensor, ...] = ()
    if isinstance(model, Ghvae) and stage.kind in {"module", "prior_finetune"}:
        lower = _features(model, frames, stage.k - 1, training)
    return Batch(frames, actions, N_FRAMES - 1, lower)


def _features(model: Ghvae, frames: Tensor, depth: int, training: TrainingConfig) -> tuple[Tensor, ...]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bfloat16"):
        return tuple(model.encode(frames, depth))


def _feature_cache_bytes(model: VideoModel, training: TrainingConfig) -> int:
    if not isinstance(model, Ghvae):
        return 0
    return _bytes(_features(model, _frames(model, N_FRAMES), model.n_modules - 1, training))


def _prediction_flop(model: VideoModel) -> tuple[int, int]:
    """Return the FLOP of one predicted frame, the last of a plan, and of a plan."""
    with torch.no_grad(), _Meter() as meter:
        totals = [meter.flop for _ in model.unroll(*_inputs(model, N_CANDIDATES, HORIZON))]
    return (totals[-1] - totals[-2]) // N_CANDIDATES, totals[-1]


def _count_at_test(model: VideoModel) -> int:
    """Return the number of parameters used in prediction: those with a gradient."""
    model.requires_grad_(True)
    frames = torch.stack(list(model.unroll(*_inputs(model, 1, 2))))
    frames.sum().backward()  # type: ignore[no-untyped-call]
    return _count(parameter for parameter in model.parameters() if parameter.grad is not None)


def _inputs(model: VideoModel, n: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Return one context and n action sequences."""
    n_context = model.config.n_context
    return _frames(model, n_context)[None], torch.empty(n, n_context - 1 + horizon, model.config.action_dim)


def _frames(model: VideoModel, n: int) -> Tensor:
    px = model.config.image_px
    return torch.empty(n, IMAGE_CHANNELS, px, px).to(memory_format=torch.channels_last)


def _n_windows(training: TrainingConfig) -> int:
    return training.batch_windows // training.accumulation_steps


@contextmanager
def _recorded(model: VideoModel, layers: dict[tuple[int, int], LayerSummary]) -> Iterator[None]:
    """Record the input and output shapes of each network of each module at its first call."""
    hooks = []
    for k in range(1, model.n_modules + 1):
        for place, (name, network) in enumerate(model.module(k).named_children()):
            hooks.append(network.register_forward_hook(_recorder(layers, (k, place), name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _recorder(
    layers: dict[tuple[int, int], LayerSummary], place: tuple[int, int], name: str
) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
    def record(network: nn.Module, args: tuple[Any, ...], out: object) -> None:
        if place not in layers:
            shapes = [[_shape(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (args, out)]
            n_parameters = _count(network.parameters())
            inputs, output = tuple(shapes[0]), shapes[1][0]
            layers[place] = LayerSummary(
                module=place[0], network=name, inputs=inputs, output=output, n_parameters=n_parameters
            )

    return record


def _totals(cost: ModelCost) -> Iterator[str]:
    yield f"{cost.n_parameters:,} parameters, {cost.n_parameters_at_test:,} of them used in prediction"
    plan = f"{cost.n_candidates} x {cost.horizon} steps: {cost.plan_flop / 1e9:,.0f} GFLOP"
    yield f"predicted frame: {cost.frame_flop / 1e9:.3f} GFLOP; plan of {plan}"
    if cost.feature_cache_bytes:
        yield f"features of frozen encoders: {cost.feature_cache_bytes / 1e6:.2f} MB per clip"


def _shape(tensor: Tensor) -> tuple[int, ...]:
    channels, *sides = tensor.shape[1:]
    return (*sides, channels)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(parameters: Iterator[Tensor] | Sequence[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _bytes(tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

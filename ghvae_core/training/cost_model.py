"""What a model is and costs: its layers, parameters, arithmetic and memory, computed without running it.

Everything is read off the modules themselves: they are built of tensors that have shapes and no numbers, and taken
through the very training steps and plans that a run would take them through. FLOP are counted as torch does, two for a
multiplication and an addition; only convolutions and matrix products count.
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
from ghvae_core.models.checkpoint import build
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig
from ghvae_core.models.svg import SvgConfig
from ghvae_core.models.video_model import IMAGE_CHANNELS, VideoModel
from ghvae_core.training.objective import Batch, ObjectiveConfig
from ghvae_core.training.stages import StageLoss, TrainingConfig, TrainingStage, stages, trained_parameters

N_CONTEXT, HORIZON = 2, 10  # paper E.1
N_FRAMES = N_CONTEXT + HORIZON  # of a clip
N_CANDIDATES = 200  # of a plan; ours


class LayerSummary(Config):
    """One network of one module. Shapes are those of one frame: (height, width, channels), or (numbers,)."""

    module: int  # from 1
    network: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    n_parameters: int


class StageCost(Config):
    """One stage of training: FLOP of one clip, bytes of one batch."""

    stage: str
    n_trained: int  # parameters that it trains
    forward_flop: int
    backward_flop: int
    weights_bytes: int  # of the whole model
    optimizer_bytes: int  # gradients and Adam's two moments of what is trained
    activations_bytes: int  # kept for the backward pass, the batch and the cached features among them
    peak_bytes: int  # the most that is there at once, temporary tensors too; the kernels' own workspaces come on top

    @property
    def kept_bytes(self) -> int:
        """Weights, optimizer and activations together."""
        return self.weights_bytes + self.optimizer_bytes + self.activations_bytes


class ModelCost(Config):
    """What a model is and costs."""

    kind: str
    n_parameters: int
    n_parameters_at_test: int  # those that imagining uses
    layers: tuple[LayerSummary, ...]
    batch_windows: int  # clips that go through at once
    n_frames: int  # of a clip
    precision: str
    stages: tuple[StageCost, ...]  # each kind there is, whether or not the run has steps for it
    feature_cache_bytes: int  # of one clip: the features of all modules but the deepest
    n_candidates: int  # of a plan
    horizon: int
    frame_flop: int  # of one predicted frame
    plan_flop: int  # of imagining all candidates of a plan


def model_cost(config: GhvaeConfig | SvgConfig, training: TrainingConfig) -> ModelCost:
    """Return what a model costs to train with these settings and to plan with; takes seconds and no device.

    The encoders of frozen modules are counted as cached, sharding as off.
    """
    training = training.model_copy(update={"shard": False})
    layers: dict[tuple[int, int], LayerSummary] = {}
    with torch.device("meta"):
        model = build(config)
    with FakeTensorMode():  # tensors without numbers that all networks take for tensors of a CPU
        _make_fake(model)
        with _noted(model, layers):
            costs = tuple(_cost(model, stage, training) for stage in _every_stage(model, training))
        frame_flop, plan_flop = _imagining(model)
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


def print_cost(description: ModelCost, console: Console) -> None:
    """Print a description: the layers, the stages of training, and the totals."""
    layers = Table("k", "network", "in", "out", title="Layers: height x width x channels", title_justify="left")
    layers.add_column("parameters", justify="right")
    for layer in description.layers:
        inputs = " + ".join(map(_text, layer.inputs))
        layers.add_row(str(layer.module), layer.network, inputs, _text(layer.output), f"{layer.n_parameters:,}")
    console.print(layers)
    batch = f"{description.batch_windows} x {description.n_frames} frames in {description.precision}"
    table = Table("stage", title=f"Training: GFLOP a clip, GB for {batch}", title_justify="left")
    for name in ("trained", "forward", "backward", "weights", "optimizer", "activations", "sum", "peak"):
        table.add_column(name, justify="right")
    for cost in description.stages:
        flop = [f"{value / 1e9:.2f}" for value in (cost.forward_flop, cost.backward_flop)]
        sizes = (cost.weights_bytes, cost.optimizer_bytes, cost.activations_bytes, cost.kept_bytes, cost.peak_bytes)
        table.add_row(cost.stage, f"{cost.n_trained:,}", *flop, *[f"{value / 1e9:.2f}" for value in sizes])
    console.print(table)
    for line in _totals(description):
        console.print(line, highlight=False, soft_wrap=True)


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOP, and the bytes of the tensors that are there: the most that ever were at once."""

    def __init__(self, tensors: Sequence[Tensor] = ()) -> None:
        """Start with some tensors."""
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
    """Return a stage of each kind that the model can be trained in."""
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
        StageLoss(model, stage, training, ObjectiveConfig(), N_CONTEXT),
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
    """Return a batch as the loader does: with the features of frozen encoders where a stage has some."""
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


def _imagining(model: VideoModel) -> tuple[int, int]:
    """Return the FLOP of one predicted frame, the last of a plan, and of all candidates of the plan."""
    with torch.no_grad(), _Meter() as meter:
        totals = [meter.flop for _ in model.unroll(*_question(model, N_CANDIDATES, HORIZON))]
    return (totals[-1] - totals[-2]) // N_CANDIDATES, totals[-1]


def _count_at_test(model: VideoModel) -> int:
    """Return how many parameters imagining depends on: those that a gradient reaches."""
    model.requires_grad_(True)
    frames = torch.stack(list(model.unroll(*_question(model, 1, 2))))
    frames.sum().backward()  # type: ignore[no-untyped-call]
    return _count(parameter for parameter in model.parameters() if parameter.grad is not None)


def _question(model: VideoModel, n: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Return one context and n action sequences."""
    return _frames(model, N_CONTEXT)[None], torch.empty(n, N_CONTEXT - 1 + horizon, model.config.action_dim)


def _frames(model: VideoModel, n: int) -> Tensor:
    px = model.config.image_px
    return torch.empty(n, IMAGE_CHANNELS, px, px).to(memory_format=torch.channels_last)


def _n_windows(training: TrainingConfig) -> int:
    return training.batch_windows // training.accumulation_steps


@contextmanager
def _noted(model: VideoModel, layers: dict[tuple[int, int], LayerSummary]) -> Iterator[None]:
    """Note what goes into and comes out of each network of each module when it is first called."""
    hooks = []
    for k in range(1, model.n_modules + 1):
        for place, (name, network) in enumerate(model.module(k).named_children()):
            hooks.append(network.register_forward_hook(_note(layers, (k, place), name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _note(
    layers: dict[tuple[int, int], LayerSummary], place: tuple[int, int], name: str
) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
    def note(network: nn.Module, args: tuple[Any, ...], out: object) -> None:
        if place not in layers:
            shapes = [[_shape(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (args, out)]
            n_parameters = _count(network.parameters())
            inputs, output = tuple(shapes[0]), shapes[1][0]
            layers[place] = LayerSummary(
                module=place[0], network=name, inputs=inputs, output=output, n_parameters=n_parameters
            )

    return note


def _totals(description: ModelCost) -> Iterator[str]:
    yield f"{description.n_parameters:,} parameters, {description.n_parameters_at_test:,} of them used at test"
    plan = f"{description.n_candidates} x {description.horizon} steps: {description.plan_flop / 1e9:,.0f} GFLOP"
    yield f"a predicted frame: {description.frame_flop / 1e9:.3f} GFLOP; a plan of {plan}"
    if description.feature_cache_bytes:
        yield f"features of frozen encoders: {description.feature_cache_bytes / 1e6:.2f} MB a clip"


def _shape(tensor: Tensor) -> tuple[int, ...]:
    channels, *sides = tensor.shape[1:]
    return (*sides, channels)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(parameters: Iterator[Tensor] | Sequence[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _bytes(tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

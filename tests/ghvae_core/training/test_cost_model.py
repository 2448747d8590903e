from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from configs.loader import Config, load
from ghvae_core.models.checkpoint import AnyConfig, build
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.cost_model import (
    HORIZON,
    N_CANDIDATES,
    N_CONTEXT,
    N_FRAMES,
    ModelCost,
    StageCost,
    model_cost,
    print_cost,
)
from ghvae_core.training.objective import Batch, ObjectiveConfig
from ghvae_core.training.stages import StageLoss, TrainingConfig, TrainingStage, stages, trained_parameters
from tests.ghvae_core.small import HIER_VRNN, PX, SVG, small_config, small_model

TRAINING = TrainingConfig(
    module_steps=(1,), end_to_end_steps=1, prior_finetune_steps=1, rollout_steps=1, batch_windows=4
)


class _Settings(Config):
    model: AnyConfig
    training: TrainingConfig


def _described(size: str) -> ModelCost:
    files = {"model": f"models/{size}.yaml", "training": "training/paper.yaml"}
    settings = load(_Settings, files, ["training.batch_windows=32", "training.precision=float32"])
    return model_cost(settings.model, settings.training)


@pytest.fixture(scope="module")
def small() -> ModelCost:
    return model_cost(small_config(), TRAINING)


def _real_step(model: VideoModel, stage: TrainingStage) -> tuple[StageLoss, Batch]:
    frames = torch.rand(N_FRAMES * 4, 3, PX, PX)
    actions = torch.rand((N_FRAMES - 1) * 4, model.config.action_dim)
    return StageLoss(model, stage, TRAINING, ObjectiveConfig(), N_CONTEXT), Batch(frames, actions, N_FRAMES - 1)


def _stage(model: VideoModel, name: str) -> TrainingStage:
    return next(stage for stage in stages(TRAINING, model.n_modules) if stage.name == name)


def _cost(description: ModelCost, name: str) -> StageCost:
    return next(cost for cost in description.stages if cost.stage == name)


def test_layers_and_parameters_are_those_of_the_real_model(small: ModelCost) -> None:
    model = small_model()
    assert small.kind == "ghvae"
    assert small.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(layer.n_parameters for layer in small.layers) == small.n_parameters
    rows = {(layer.module, layer.network): (layer.inputs, layer.output) for layer in small.layers}
    assert rows == {
        (1, "encoder"): (((16, 16, 3),), (8, 8, 8)),
        (1, "decoder"): (((8, 8, 8), (8, 8, 8)), (16, 16, 8)),
        (1, "pixels"): (((16, 16, 8),), (16, 16, 6)),  # colours and masks
        (1, "masks"): (((16, 16, 6), (16, 16, 8), (16, 16, 3), (16, 16, 3)), (16, 16, 6)),
        (1, "prior"): (((8, 8, 8), (8,)), (8, 8, 3)),
        (1, "posterior"): (((8, 8, 8),), (8, 8, 3)),
        (2, "encoder"): (((8, 8, 8),), (4, 4, 12)),
        (2, "decoder"): (((4, 4, 12), (4, 4, 12)), (8, 8, 8)),
        (2, "prior"): (((4, 4, 12), (8,)), (4, 4, 3)),
        (2, "posterior"): (((4, 4, 12),), (4, 4, 3)),
    }
    unused = [model.module(1).prior, model.module(1).posterior, model.module(2).posterior]
    unused.append(model.module(1).decoder.project)
    n_unused = sum(parameter.numel() for part in unused for parameter in part.parameters())
    assert small.n_parameters_at_test == small.n_parameters - n_unused
    assert small.feature_cache_bytes == N_FRAMES * 8 * 8 * 8 * 4


@pytest.mark.parametrize("name", ["module_1", "end_to_end", "rollout"])
def test_costs_are_those_of_a_real_step(small: ModelCost, name: str) -> None:
    model = small_model()
    stage, cost = _stage(model, name), _cost(small, name)
    phase, batch = _real_step(model, stage)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        loss = phase(batch, 0, torch.Generator())
    with FlopCounterMode(display=False) as backward:
        loss.total.backward()
    parameters = trained_parameters(model, stage)
    assert cost.n_trained == sum(parameter.numel() for parameter in parameters)
    assert cost.forward_flop == forward.get_total_flops() // 4
    assert cost.backward_flop == backward.get_total_flops() // 4
    assert cost.weights_bytes == 4 * small.n_parameters
    assert cost.optimizer_bytes == 12 * cost.n_trained
    assert cost.activations_bytes == pytest.approx(sum(kept.values()), rel=0.02)


@pytest.mark.parametrize("name", ["module_1", "end_to_end", "rollout"])
def test_the_peak_equals_that_of_a_real_step(small: ModelCost, name: str) -> None:
    model = small_model()
    stage = _stage(model, name)
    phase, batch = _real_step(model, stage)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        phase(batch, 0, torch.Generator()).total.backward()
    cost = _cost(small, name)
    base = cost.weights_bytes + 8 * cost.n_trained + 4 * (batch.frames.numel() + batch.actions.numel())
    measured = base + _most_allocated(profiler)
    assert cost.peak_bytes == pytest.approx(measured, rel=0.1)


def _most_allocated(profiler: profile) -> int:
    results: Any = profiler.profiler and profiler.profiler.kineto_results
    now = most = 0
    for event in results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_the_cost_of_prediction_is_the_measured_one(small: ModelCost) -> None:
    model = small_model()
    context, actions = torch.rand(1, N_CONTEXT, 3, PX, PX), torch.rand(N_CANDIDATES, N_CONTEXT - 1 + HORIZON, 4)
    with FlopCounterMode(display=False) as counter:
        model.rollout(context, actions)
    assert small.plan_flop == counter.get_total_flops()
    assert small.frame_flop * N_CANDIDATES * HORIZON == pytest.approx(small.plan_flop, rel=0.15)


@pytest.mark.parametrize("config", [SVG, HIER_VRNN, HIER_VRNN.model_copy(update={"n_context": 3})])
def test_baselines_are_described_too(config: AnyConfig) -> None:
    cost = model_cost(config, TRAINING)
    assert [stage.stage for stage in cost.stages] == ["end_to_end"]
    assert cost.n_parameters == sum(parameter.numel() for parameter in build(config).parameters())
    assert sum(layer.n_parameters for layer in cost.layers) == cost.n_parameters
    assert cost.n_parameters_at_test < cost.n_parameters
    assert cost.feature_cache_bytes == 0


def test_an_action_free_model_of_a_uniform_prior_is_described_too() -> None:
    changes: dict[str, Any] = {"action_dim": 0, "action_scale": (), "prior": "uniform"}
    free = model_cost(small_config(1, **changes), TRAINING)
    assert [cost.stage for cost in free.stages] == ["module_1", "end_to_end", "rollout"]


def test_half_precision_and_accumulation_need_less_memory(small: ModelCost) -> None:
    less = model_cost(small_config(), TRAINING.model_copy(update={"precision": "bfloat16", "accumulation_steps": 2}))
    assert (less.precision, less.batch_windows) == ("bfloat16", 2)
    for name in ("module_1", "end_to_end"):
        assert _cost(less, name).activations_bytes < 0.8 * _cost(small, name).activations_bytes / 2
        assert _cost(less, name).forward_flop == _cost(small, name).forward_flop
    assert less.feature_cache_bytes * 2 == small.feature_cache_bytes


@pytest.mark.slow
def test_the_paper_configuration_has_its_size_and_greedy_phases_fit_24_gb() -> None:
    paper = _described("paper")
    assert paper.n_parameters == pytest.approx(603e6, rel=0.02)
    greedy = [cost for cost in paper.stages if cost.stage.startswith("module_")]
    assert len(greedy) == 6
    assert all(cost.kept_bytes < 24e9 and cost.peak_bytes < 24e9 for cost in greedy)
    assert _cost(paper, "end_to_end").peak_bytes > 24e9  # the paper's reason to train greedily


def test_a_description_is_shown_and_is_json(small: ModelCost) -> None:
    console = Console(file=io.StringIO(), width=160)
    print_cost(small, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in (
        "16x16x3",
        "4x4x12 + 4",
        "module_2",
        "end_to_end",
        f"{small.n_parameters:,} parameters",
        "200 x 10 steps",
    ):
        assert part in text
    assert ModelCost.model_validate_json(small.model_dump_json()) == small

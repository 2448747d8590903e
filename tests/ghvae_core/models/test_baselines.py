"""What the baselines SVG' and Hier-VRNN have in common: they learn, and checkpoints hold them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ghvae_core.models.checkpoint import AnyConfig, CheckpointInfo, build, load, save
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.objective import Weights, baseline_loss
from tests.ghvae_core.models.test_svg import CONFIG as SVG
from tests.ghvae_core.small import HIER_VRNN, PX, small_batch, small_windows

BASELINES = pytest.mark.parametrize("config", [SVG, HIER_VRNN], ids=["svg", "hier_vrnn"])


def _built(config: AnyConfig) -> VideoModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(config)


@BASELINES
def test_training_lowers_the_error_and_the_prior_follows_the_actions(config: AnyConfig) -> None:
    model, batch = _built(config), small_batch(len(small_windows().starts))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = baseline_loss(model, batch, Weights(1e-6, 1e-6), None)
    for _ in range(40):
        optimizer.zero_grad()
        baseline_loss(model, batch, Weights(1e-6, 1e-6), generator).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert baseline_loss(model, batch, Weights(1e-6, 1e-6), None).mse < 0.5 * first.mse
    frames, actions = batch.sequences()

    def error(chosen: Tensor) -> float:
        return float(((model.rollout(frames[:, :2], chosen) - frames[:, 2:]) ** 2).mean())

    assert error(actions) < error(actions.roll(len(actions) // 2, 0))


@BASELINES
def test_a_saved_model_is_loaded_unchanged(tmp_path: Path, config: AnyConfig) -> None:
    model, info = _built(config), CheckpointInfo(model=config, modules_trained=1)
    save(tmp_path / "saved", model, info)
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} == {".json", ".safetensors"}
    loaded = load(tmp_path / "saved")
    assert loaded.info.model_copy(update={"self_test_output": None}) == info
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(2, 5, 4)
    assert torch.equal(loaded.model.rollout(context, actions), model.rollout(context, actions))

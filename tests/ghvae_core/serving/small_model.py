"""A checkpoint of a very small GHVAE with random weights, and valid requests."""

from pathlib import Path

import numpy as np
import torch

from ghvae_core.goal_cost import GoalCost
from ghvae_core.models.checkpoint import CheckpointInfo, save
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig, ModuleConfig
from ghvae_core.predictor import Context, PredictionRequest

PX = 16
HORIZON = 4


def small_checkpoint(folder: Path) -> Path:
    """Write the checkpoint to a new folder and return it."""
    sizes = (8, 12)
    modules = tuple(
        ModuleConfig(channels=channels, latent=4, hidden=8, encoder_blocks=1, decoder_blocks=1) for channels in sizes
    )
    config = GhvaeConfig(modules=modules, pixel_channels=8, image_px=PX, action_scale=(0.05, 0.05, 0.05, 1.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Ghvae(config)
    info = CheckpointInfo(model=config, step_limit_m=0.05, step_s=0.5, horizon=HORIZON, modules_trained=len(sizes))
    save(folder, model, info)
    return folder


def small_request(n: int = 7, n_videos: int = 3, final_frames: int = 2) -> PredictionRequest:
    rng = np.random.default_rng(1)
    context = Context(
        rng.integers(0, 256, (2, PX, PX, 3), dtype=np.uint8), rng.uniform(-0.05, 0.05, (1, 4)).astype(np.float32)
    )
    # Far outside the limits, so that the predictions of random weights differ between candidates.
    candidates = rng.uniform(-5, 5, (n, HORIZON, 4)).astype(np.float32)
    goal = rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8)
    return PredictionRequest(context, candidates, goal, n_videos, GoalCost(final_frames=final_frames))

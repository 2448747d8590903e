"""Small models and windows for tests of the evaluation."""

from __future__ import annotations

import numpy as np
import torch

from ghvae_core.evaluation.clips import Clips, EvaluationConfig
from ghvae_core.evaluation.evaluated_model import EvaluatedModel
from ghvae_core.models.checkpoint import Checkpoint, CheckpointInfo
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig, ModuleConfig

PX = 64  # of the images; SSIM and the figures need a minimum
N_CONTEXT, N_PREDICTED = 2, 3


def model(n_modules: int = 1, seed: int = 0, **changes: object) -> Ghvae:
    """Return a model with the same random weights each time."""
    sizes = tuple(
        ModuleConfig(channels=4 + 2 * k, latent=2, hidden=4, encoder_blocks=1, decoder_blocks=1)
        for k in range(n_modules)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Ghvae(GhvaeConfig.model_validate({"modules": sizes, "pixel_channels": 4, **changes})).eval()


def info(of: Ghvae, **changes: object) -> CheckpointInfo:
    """Return the information of a checkpoint of the model."""
    defaults: dict[str, object] = {"step_limit_m": 0.05, "step_s": 0.5, "n_context": N_CONTEXT, "horizon": N_PREDICTED}
    return CheckpointInfo.model_validate(
        {"model": of.config, "modules_trained": of.n_modules, **defaults, **changes}, strict=False
    )


def evaluated_model(label: str = "model", modules_used: int | None = None, **changes: object) -> EvaluatedModel:
    """Return a model with a label and a number of modules to use; `changes` are those of `model`."""
    built = model(**changes).requires_grad_(False)  # type: ignore[arg-type]
    return EvaluatedModel(label, Checkpoint(built, info(built), "0f" * 32), modules_used or built.n_modules)


def clips(n_windows: int = 5, action_dim: int = 4) -> Clips:
    """Return windows of random frames with actions of about 1."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (n_windows, N_CONTEXT + N_PREDICTED, PX, PX, 3), dtype=np.uint8)
    actions = rng.normal(size=(n_windows, N_CONTEXT + N_PREDICTED - 1, action_dim)).astype(np.float32)
    return Clips(frames, actions, [f"e{i // 2} {i}" for i in range(n_windows)], N_CONTEXT)


def protocol(**changes: object) -> EvaluationConfig:
    """Return the default protocol with `changes`."""
    return EvaluationConfig.model_validate(changes)

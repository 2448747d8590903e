"""Models and windows so small that judging the ones on the others takes moments."""

from __future__ import annotations

import numpy as np
import torch

from ghvae_core.evaluation.clips import Clips, EvaluationConfig
from ghvae_core.evaluation.evaluated_model import EvaluatedModel
from ghvae_core.models.checkpoint import Checkpoint, CheckpointInfo
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig, ModuleConfig

PX = 64  # of the images: SSIM and the pictures need some
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
    """Return what a checkpoint of the model says."""
    facts: dict[str, object] = {"step_limit_m": 0.05, "step_s": 0.5, "n_context": N_CONTEXT, "horizon": N_PREDICTED}
    return CheckpointInfo.model_validate(
        {"model": of.config, "modules_trained": of.n_modules, **facts, **changes}, strict=False
    )


def judged(label: str = "model", depth: int | None = None, **changes: object) -> EvaluatedModel:
    """Return a model under a label, used to a depth; `changes` are those of `model`."""
    made = model(**changes).requires_grad_(False)  # type: ignore[arg-type]
    return EvaluatedModel(label, Checkpoint(made, info(made), "0f" * 32), depth or made.n_modules)


def clips(n_windows: int = 5, action_dim: int = 4) -> Clips:
    """Return windows of noise with actions of about 1."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (n_windows, N_CONTEXT + N_PREDICTED, PX, PX, 3), dtype=np.uint8)
    actions = rng.normal(size=(n_windows, N_CONTEXT + N_PREDICTED - 1, action_dim)).astype(np.float32)
    return Clips(frames, actions, [f"e{i // 2} {i}" for i in range(n_windows)], N_CONTEXT)


def protocol(**changes: object) -> EvaluationConfig:
    """Return how windows are judged: the shipped protocol but for `changes`."""
    usual: dict[str, object] = {
        "n_windows": 256,
        "n_context": None,
        "n_predicted": None,
        "first_frame": "random",
        "validation_fraction": 1.0,
        "only_names": None,
        "video_stride": None,
        "batch_windows": 16,
        "n_samples": 1,
        "sensitivity_windows": 64,
        "sensitivity_candidates": "executed",
    }
    return EvaluationConfig.model_validate({**usual, **changes})

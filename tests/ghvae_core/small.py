"""Models and windows small enough for fast tests."""

from __future__ import annotations

import numpy as np
import torch

from ghvae_core.data.windows import Windows
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig, ModuleConfig
from ghvae_core.models.hier_vrnn import HierVrnnConfig
from ghvae_core.models.svg import SvgConfig
from ghvae_core.training.objective import Batch
from ghvae_core.training.validation import to_batch

PX = 16  # of the images
N_FRAMES = 5  # of a window
EPISODE_FRAMES = 8
SVG = SvgConfig(image_px=PX, stage_channels=(8, 8, 8), hidden=8, features=8, latent=2)
HIER_VRNN = HierVrnnConfig(image_px=PX, n_hid=2, latents=(6, 3, 2), encoder_blocks=1)
MODEL = """
kind: ghvae
modules:
  - {channels: 8, latent: 2, hidden: 8, encoder_blocks: 1, decoder_blocks: 1}
  - {channels: 12, latent: 2, hidden: 8, encoder_blocks: 1, decoder_blocks: 1}
pixel_channels: 8
"""


def small_config(n_modules: int = 2, **changes: object) -> GhvaeConfig:
    """Return the configuration of a model of 16x16 images and 8, 12, 16, ... channels."""
    modules = tuple(
        ModuleConfig(channels=8 + 4 * k, latent=3, hidden=8, encoder_blocks=1, decoder_blocks=1)
        for k in range(n_modules)
    )
    return GhvaeConfig(modules=modules, pixel_channels=8, image_px=PX).model_copy(update=changes)


def small_model(n_modules: int = 2, **changes: object) -> Ghvae:
    """Return a model with the same random weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Ghvae(small_config(n_modules, **changes))


def small_windows(n_episodes: int = 6) -> Windows:
    """Return windows of a square that the actions move over a uniform background."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (n_episodes, EPISODE_FRAMES, 4)).astype(np.float32)
    positions_px = 6 + np.cumsum(np.roll(actions[..., :2], 1, axis=1) * 2, axis=1).round().astype(int)
    frames = np.full((n_episodes, EPISODE_FRAMES, PX, PX, 3), 60, np.uint8)
    for episode, path in enumerate(np.clip(positions_px, 0, PX - 4)):
        for t, (x, y) in enumerate(path):
            frames[episode, t, y : y + 4, x : x + 4] = 220
    starts = [e * EPISODE_FRAMES + s for e in range(n_episodes) for s in range(EPISODE_FRAMES - N_FRAMES + 1)]
    return Windows(frames.reshape(-1, PX, PX, 3), actions.reshape(-1, 4), np.array(starts), N_FRAMES)


def small_batch(n_sequences: int = 3) -> Batch:
    """Return the first windows as a batch."""
    return to_batch(small_windows(), np.arange(n_sequences))

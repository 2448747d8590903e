"""Cached outputs of frozen encoders (paper 2): each frame goes through each of them once, not at every step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghvae_core.checkpoint import module_sha256
from ghvae_core.ghvae import Ghvae, GhvaeConfig

_CHUNK = 512  # frames encoded at once


class FeatureCache:
    """h^1 .. h^depth of all frames in memory, in half precision, and the hashes of the encoders that made them."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        """Start empty; `frames` (F, px, px, 3)."""
        self._frames = frames
        self._levels: list[Tensor] = []  # each (F, H, W, C) float16
        self._hashes: list[str] = []

    @property
    def depth(self) -> int:
        """How many levels are held."""
        return len(self._levels)

    def fill(self, model: Ghvae, depth: int) -> None:
        """Hold exactly levels 1 .. depth, computing those that are missing or were made by other weights."""
        hashes = [module_sha256(model.module(k).encoder.state_dict()) for k in range(1, depth + 1)]
        kept = 0
        while kept < min(depth, self.depth) and self._hashes[kept] == hashes[kept]:
            kept += 1
        del self._levels[kept:]
        for k in range(kept + 1, depth + 1):
            self._levels.append(self._encode(model, k))
        self._hashes = hashes

    def gather(self, rows: NDArray[np.int64], device: str) -> list[Tensor]:
        """Return h^1 .. h^depth of frames `rows`, flattened to (N,); each (N, C, H, W) float32, channels last."""
        index = torch.from_numpy(rows.reshape(-1))
        return [level[index].to(device).float().permute(0, 3, 1, 2) for level in self._levels]

    def _encode(self, model: Ghvae, k: int) -> Tensor:
        parts, device = [], model.action_scale.device
        with torch.no_grad():
            for first in range(0, len(self._frames), _CHUNK):
                if k == 1:
                    below = torch.from_numpy(self._frames[first : first + _CHUNK]).to(device).float() / 255
                else:
                    below = self._levels[k - 2][first : first + _CHUNK].to(device).float()
                h = model.module(k).encoder(below.permute(0, 3, 1, 2))
                parts.append(h.permute(0, 2, 3, 1).to("cpu", torch.float16).contiguous())
        return torch.cat(parts)


def size_gb(config: GhvaeConfig, n_frames: int, depth: int) -> float:
    """Return how much memory levels 1 .. depth of so many frames need."""
    per_frame = sum(config.modules[k - 1].channels * config.px(k) ** 2 for k in range(1, depth + 1))
    return 2 * per_frame * n_frames / 1e9

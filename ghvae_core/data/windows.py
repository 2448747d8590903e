"""Windows of context and horizon, cut out of episodes that lie end to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghvae_core.data.frames import FrameArray


@dataclass(frozen=True)
class Windows:
    """Episodes laid end to end, and where the windows start that lie within one episode each."""

    frames: FrameArray  # (F, px, px, 3) RGB
    actions: NDArray[np.float32]  # (F, A) applied, raw; row f leads from frame f to f + 1; an episode's last row is 0
    starts: NDArray[np.int64]  # (W,) first frames, folder by folder
    n_frames: int  # of a window
    folder_sizes: tuple[int, ...] = ()  # windows of each data folder; empty: all are of one
    shares: tuple[float, ...] = ()  # of what is drawn, one a folder

    def batch(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Return windows, time first: frames (n_frames, B, px, px, 3), actions (n_frames - 1, B, A), and their rows."""
        rows = self.starts[indices] + np.arange(self.n_frames)[:, None]  # (n_frames, B)
        return self.frames[rows], self.actions[rows[:-1]], rows

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Return n window numbers (n,), uniform within each folder, the folders by their shares."""
        sizes = np.array(self.folder_sizes or (len(self.starts),))
        weights = np.array(self.shares or (1.0,)) * (sizes > 0)
        firsts = np.cumsum(sizes) - sizes
        folders = rng.choice(len(sizes), n, p=weights / weights.sum()) if len(sizes) > 1 else np.zeros(n, np.int64)
        return np.asarray(firsts[folders] + rng.integers(sizes[folders]), np.int64)

"""Windows of context and horizon in concatenated episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


class Frames:
    """Arrays (F_i, px, px, 3) uint8 concatenated without copying."""

    def __init__(self, parts: Sequence[NDArray[np.uint8]]) -> None:
        """Take at least one part; all parts have the same frame size."""
        self._parts = [part for part in parts if len(part)] or list(parts[:1])
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, px, px, 3)."""
        return (len(self), *self._parts[0].shape[1:])

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy of the frames `rows`, in the shape of `rows`.

        Raises:
            IndexError: A row is out of range; negative rows are refused.
        """
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        flat = index.reshape(-1)
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"expected rows from 0 to {len(self) - 1}, got {flat.min()} to {flat.max()}")
        found = np.empty((len(flat), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(self._ends, flat, side="right")
        for owner in np.unique(owners):
            is_owned, part = owners == owner, self._parts[owner]
            found[is_owned] = part[flat[is_owned] - (self._ends[owner] - len(part))]
        return found.reshape(*index.shape, *self.shape[1:])


FrameArray: TypeAlias = "NDArray[np.uint8] | Frames"  # both have a length, a shape, and rows by slice or index


def end_to_end(parts: Sequence[NDArray[np.uint8]]) -> FrameArray:
    """Return parts as one array; a single non-empty part is returned itself."""
    full = [part for part in parts if len(part)] or list(parts[:1])
    return full[0] if len(full) == 1 else Frames(full)


@dataclass(frozen=True)
class Windows:
    """Concatenated episodes, and the first frames of windows that lie within one episode each."""

    frames: FrameArray  # (F, px, px, 3) RGB
    actions: NDArray[
        np.float32
    ]  # (F, A) applied, raw; row f leads from frame f to f + 1; the last row of an episode is 0
    starts: NDArray[np.int64]  # (W,) first frames, folder by folder
    n_frames: int  # of a window
    folder_sizes: tuple[int, ...] = ()  # windows of each data folder; empty: one folder
    folder_fractions: tuple[float, ...] = ()  # of the drawn windows, one per folder

    def batch(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Return windows, time first: frames (n_frames, B, px, px, 3), actions (n_frames - 1, B, A), and their rows."""
        rows = self.starts[indices] + np.arange(self.n_frames)[:, None]  # (n_frames, B)
        return self.frames[rows], self.actions[rows[:-1]], rows

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Return n window numbers (n,), uniform within each folder, folders by `folder_fractions`."""
        sizes = np.array(self.folder_sizes or (len(self.starts),))
        weights = np.array(self.folder_fractions or (1.0,)) * (sizes > 0)
        firsts = np.cumsum(sizes) - sizes
        folders = rng.choice(len(sizes), n, p=weights / weights.sum()) if len(sizes) > 1 else np.zeros(n, np.int64)
        return np.asarray(firsts[folders] + rng.integers(sizes[folders]), np.int64)

"""Choice of the cached features of frozen encoders by configuration, memory, disk space and measured times."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ghvae_core.models.ghvae import Ghvae
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.feature_cache import FeatureCache, FeatureSource, read_rate
from ghvae_core.training.stages import TrainingConfig, autocast

_DISK_MARGIN = 1.1  # factor of the disk space of the files; ours
_N_TIMED = 2  # runs of an encoder; the first one warms up; ours


@dataclass(frozen=True)
class FeatureCacheChoice:
    """The cached levels, and whether they are in files."""

    levels: range
    in_files: bool


@dataclass(frozen=True)
class FeaturePolicy:
    """Chooses the cached levels of each stage."""

    training: TrainingConfig
    source: FeatureSource
    folder: Path  # of the files
    group: ProcessGroup

    def choose(self, model: Ghvae, depth: int, n_uses: int, cache: FeatureCache) -> FeatureCacheChoice:
        """Return which of the levels 1 .. depth to cache; equal in all processes.

        Args:
            model: Its encoders 1 .. depth are frozen.
            depth: 0 if the stage has no frozen encoder.
            n_uses: Number of frames that this process will look up in this and later stages.
            cache: Levels that it holds cost nothing.
        """
        choice = (
            self._choose(model, depth, n_uses, cache) if self.group.is_first else FeatureCacheChoice(range(0), False)
        )
        levels = choice.levels
        start, stop, in_files = self.group.largest(levels.start, levels.stop, int(choice.in_files))
        return FeatureCacheChoice(range(start, stop), bool(in_files))

    def _choose(self, model: Ghvae, depth: int, n_uses: int, cache: FeatureCache) -> FeatureCacheChoice:
        options = {"off": range(0), "deep": range(2, depth + 1), "all": range(1, depth + 1)}
        policy = self.training.feature_cache
        levels = [options[policy]] if policy != "auto" else [*options.values()]
        choices = [choice for choice in map(self._placed(model), levels) if self._has_space(model, choice)]
        if depth and len(choices) > 1:
            return min(choices, key=self._cost_function(model, depth, n_uses, cache))
        return choices[0] if choices and depth else FeatureCacheChoice(range(0), False)

    def _placed(self, model: Ghvae) -> Callable[[range], FeatureCacheChoice]:
        """Return a function that chooses memory or files; processes share files, but not memory."""

        def place(levels: range) -> FeatureCacheChoice:
            too_large = self.source.size_gb(model, levels) > self.training.feature_cache_limit_gb
            return FeatureCacheChoice(levels, bool(levels) and (too_large or self.group.size > 1))

        return place

    def _has_space(self, model: Ghvae, choice: FeatureCacheChoice) -> bool:
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        needed = _DISK_MARGIN * 1e9 * self.source.size_gb(model, choice.levels)
        own = sum(path.stat().st_size for path in self.folder.glob("*.bin"))  # reused or replaced
        return not choice.in_files or shutil.disk_usage(there).free + own > needed

    def _cost_function(
        self, model: Ghvae, depth: int, n_uses: int, cache: FeatureCache
    ) -> Callable[[FeatureCacheChoice], float]:
        """Return the cost function of a choice, in seconds: to fill, to read, and to compute features not cached."""
        encode_s = {j: self._encode_s(model, j) for j in {1, depth}}
        memory, disk = read_rate(None), read_rate(self.folder.parent)

        def cost_s(choice: FeatureCacheChoice) -> float:
            computed_s = 0.0 if choice.levels.start == 1 else encode_s[1 if choice.levels else depth]
            read_s = self.source.frame_bytes(model, choice.levels) / (disk if choice.in_files else memory)
            filled = len(self.source.frames) / self.group.size if cache.missing(model, choice.levels) else 0.0
            return filled * encode_s[depth] + n_uses * (computed_s + read_s)

        return cost_s

    def _encode_s(self, model: Ghvae, depth: int) -> float:
        """Return the seconds to encode a frame with encoders 1 .. depth."""
        device = model.action_scale.device
        frames = torch.from_numpy(self.source.frames[np.arange(min(self.source.n_chunk, len(self.source.frames)))]).to(
            device
        )
        images = frames.permute(0, 3, 1, 2).float().div_(255)
        started_s = 0.0
        with torch.no_grad(), autocast(model, self.source.is_half):
            for _ in range(_N_TIMED):
                started_s = time.perf_counter()
                model.encode(images, depth)[-1].sum().item()  # waits for the device
        return (time.perf_counter() - started_s) / len(images)

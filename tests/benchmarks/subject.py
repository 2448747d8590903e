"""Subject of the training benchmarks: a model of one size, random clips, and the steps of one stage."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from configs.loader import Config, load
from ghvae_core.data.dataset import Windows
from ghvae_core.models.checkpoint import AnyConfig, build
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.batches import BatchLoader, BatchSource, MicroBatch
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.engine import Engine, Recipe
from ghvae_core.training.feature_cache import FeatureCache, FeatureSource
from ghvae_core.training.objective import ObjectiveConfig
from ghvae_core.training.stages import TrainingConfig, TrainingStage, stages

N_CONTEXT, N_FRAMES = 2, 12  # paper E.1
_EPISODE_FRAMES = 2 * N_FRAMES


class Settings(Config):
    """Model and training settings of a size."""

    model: AnyConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Subject:
    """A model in training."""

    model: VideoModel
    training: TrainingConfig
    windows: Windows
    group: ProcessGroup
    folder: Path  # of the feature cache

    def stages(self, **steps: object) -> list[TrainingStage]:
        """Return the stages; modules have 10 steps, other stages none, unless `steps` is given."""
        plan = {"module_steps": (10,), "prior_finetune_steps": 0, "rollout_steps": 0, **steps}
        return stages(self.training.model_copy(update=plan), self.model.n_modules)

    def engine(self, stage: TrainingStage) -> Engine:
        """Return the engine of a stage."""
        return Engine(self.model, stage, Recipe(self.training, ObjectiveConfig(), N_CONTEXT), self.group)

    def cache(self, levels: range) -> FeatureCache:
        """Return a cache of `levels` in memory."""
        source = FeatureSource(self.windows.frames, "random", self.training.batch_windows * N_FRAMES, is_half=False)
        cache = FeatureCache(source, self.folder, self.group, print)
        if isinstance(self.model, Ghvae):
            cache.fill(self.model, levels, in_files=False)
        return cache

    @contextmanager
    def loader(self, levels: range = range(0)) -> Iterator[BatchLoader]:
        """Load batches as in training, with cached `levels`."""
        loader = BatchLoader(BatchSource(self.windows, None, 0), self.training, self.group, self.cache(levels))
        try:
            yield loader
        finally:
            loader.close()

    def part(self, levels: range = range(0)) -> MicroBatch:
        """Return one batch."""
        with self.loader(levels) as loader:
            return next(loader.parts(0, 0, 1))


@contextmanager
def subject(size: str, batch_windows: int, device: str, n_modules: int | None = None) -> Iterator[Subject]:
    """Build a model of a size, or its first modules, and training clips."""
    files = {"model": f"models/{size}.yaml", "training": "training/tiny.yaml"}
    settings = load(Settings, files, [f"training.batch_windows={batch_windows}"])
    config = settings.model if n_modules is None else settings.model.up_to(n_modules)
    windows = clips(4 * batch_windows, config.image_px, config.action_dim)
    group = ProcessGroup(device)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Subject(build(config).to(device), settings.training, windows, group, Path(folder))


def clips(n_episodes: int, px: int, action_dim: int) -> Windows:
    """Return random frames and actions."""
    rng = np.random.default_rng(0)
    n = n_episodes * _EPISODE_FRAMES
    frames = rng.integers(256, size=(n, px, px, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (n, action_dim)).astype(np.float32)
    starts = np.arange(n_episodes)[:, None] * _EPISODE_FRAMES + np.arange(_EPISODE_FRAMES - N_FRAMES + 1)
    return Windows(frames, actions, starts.reshape(-1), N_FRAMES)


def interleaved(sides: Sequence[Callable[[], None]], n_repeats: int, device: str) -> list[float]:
    """Return the median seconds of each side; sides alternate, so that a busy machine affects all equally."""
    times_s: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()  # warm-up
    for _ in range(n_repeats):
        for side, each in zip(sides, times_s, strict=True):
            started_s = time.perf_counter()
            side()
            if device != "cpu":
                torch.cuda.synchronize()
            each.append(time.perf_counter() - started_s)
    return [median(each) for each in times_s]


def machine(device: str) -> str:
    """Return a description of the machine."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"

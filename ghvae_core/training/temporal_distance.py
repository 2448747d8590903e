"""Teaching how many steps lie between two images, from recorded videos alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from configs.loader import Config
from ghvae_core.data.windows import Windows
from ghvae_core.models.checkpoint import Checkpoint
from ghvae_core.models.temporal_distance import Distance
from ghvae_core.training.trainer import TrainingError
from ghvae_core.training.validation import spread, to_batch

_CHECKED = 256  # validation windows; ours


class DistanceTraining(Config):
    """How it is taught. Numbers: ours."""

    n_steps: int = Field(default=1500, ge=1)
    batch_windows: int = Field(default=16, ge=2)
    pairs: int = Field(default=4, ge=1)  # of each window
    learning_rate: float = Field(default=1e-3, gt=0)
    strangers: float = Field(default=0.15, ge=0, lt=1)  # of the goals: of another episode, so that no way leads there
    imagined: float = Field(
        default=0.5, ge=0, le=1
    )  # of the images that a given model can reach: imagined, as in planning


class Figures(NamedTuple):
    """What it knows of validation pairs of one episode."""

    error: float  # mean distance of the expected from the true number of steps
    constant: float  # the same of whoever always says the median
    order: float  # share of pairs of goals whose order it tells rightly; 0.5 is chance


class Pairs(NamedTuple):
    """Images, goals, and the steps between them."""

    frames: Tensor  # (N, 3, px, px) in [0, 1]
    goals: Tensor  # the same shape
    steps: Tensor  # (N,) int64; `most_steps` + 1 where no way leads there


class Lesson(NamedTuple):
    """What is taught from."""

    windows: Windows
    checkpoint: Checkpoint | None  # its model imagines some of the images; None: all are real


def teach(
    distance: Distance,
    lesson: Lesson,
    config: DistanceTraining,
    rng: np.random.Generator,
    notify: Callable[[int, float], bool],
) -> int:
    """Train in place; return the number of steps done.

    Args:
        distance: Of images of the windows' size; its `most_steps` is below the windows' number of frames.
        lesson: What it is taught from.
        config: How.
        rng: Draws windows, pairs and strangers.
        notify: Told the number of steps done and the loss; when it returns True, training ends there.

    Raises:
        TrainingError: The loss is not finite.
    """
    distance.train()
    optimizer = torch.optim.AdamW(distance.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.n_steps + 1)
    for step in range(1, config.n_steps + 1):
        pairs = draw_pairs(distance, lesson, config, rng)
        loss = functional.cross_entropy(distance(pairs.frames, pairs.goals), pairs.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss of step {step} is {value}; set training.learning_rate lower")
        if notify(step, value):
            return step
    return config.n_steps


def draw_pairs(distance: Distance, lesson: Lesson, config: DistanceTraining, rng: np.random.Generator) -> Pairs:
    """Return pairs of one batch of windows: an image, real or imagined, and a later goal or a stranger.

    Args:
        distance: Whose `most_steps` counts, on whose device the pairs are.
        lesson: What they are drawn from.
        config: How many of which kind.
        rng: Draws them.
    """
    windows, checkpoint = lesson
    batch = to_batch(windows, windows.draw(rng, config.batch_windows), _device(distance))
    real, actions = batch.sequences()  # (B, T, 3, px, px)
    n, n_frames = real.shape[:2]
    rows = np.repeat(np.arange(n), config.pairs)
    at = rng.integers(n_frames, size=len(rows))
    later = rng.integers(at, n_frames)
    steps = np.minimum(later - at, distance.config.most_steps + 1)
    frames = real[rows, at]
    wanted = rng.random(len(rows)) < config.imagined
    if checkpoint is not None and wanted.any():
        first, horizon = checkpoint.info.n_context, min(checkpoint.info.horizon, n_frames - checkpoint.info.n_context)
        imagined = checkpoint.model.rollout(real[:, :first], actions[:, : first - 1 + horizon])
        wanted &= (at >= first) & (at < first + horizon)
        frames[torch.from_numpy(wanted)] = imagined[rows[wanted], at[wanted] - first]
    strangers = rng.random(len(rows)) < config.strangers
    goals = real[np.where(strangers, (rows + n // 2) % n, rows), later]
    steps[strangers] = distance.config.most_steps + 1
    return Pairs(frames, goals, torch.from_numpy(steps).to(frames.device))


@torch.no_grad()
def measure(distance: Distance, windows: Windows, rng: np.random.Generator) -> Figures:
    """Return what it knows of some validation windows: one image of each, and two later goals."""
    distance.eval()
    indices = spread(windows, _CHECKED)
    frames, _ = to_batch(windows, indices, _device(distance)).sequences()
    chosen = np.sort(np.stack([rng.choice(windows.n_frames, 3, replace=False) for _ in indices]), axis=1)
    image, *goals = (frames[torch.arange(len(frames)), torch.from_numpy(at)] for at in chosen.T)
    told = np.stack([distance.steps(image, goal).cpu().numpy() for goal in goals])
    true = (chosen[:, 1:] - chosen[:, :1]).T
    return Figures(
        error=float(np.abs(told - true).mean()),
        constant=float(np.abs(np.median(true) - true).mean()),
        order=float((told[0] < told[1]).mean()),
    )


def _device(distance: Distance) -> str:
    return str(next(distance.parameters()).device)

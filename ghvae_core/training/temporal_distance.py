"""Teaching how many steps lie between two images, from recorded videos alone."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

from configs.loader import Config, load, to_yaml
from data_collection.atomic_io import write_file
from ghvae_core.data.dataset import DataConfig, Dataset
from ghvae_core.data.windows import Windows
from ghvae_core.models import checkpoint
from ghvae_core.models.checkpoint import Checkpoint, CheckpointError
from ghvae_core.models.device import find_device
from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig, save
from ghvae_core.training.distributed import ProcessGroup, noted_signals
from ghvae_core.training.run import read_episodes
from ghvae_core.training.trainer import TrainingError
from ghvae_core.training.validation import spread, to_batch

_CHECKED = 256  # validation windows; ours


class TemporalDistanceTrainingConfig(Config):
    """How it is taught. Numbers: ours."""

    n_steps: int = Field(default=1500, ge=1)
    batch_windows: int = Field(default=16, ge=2)
    pairs: int = Field(default=4, ge=1)  # of each window
    learning_rate: float = Field(default=1e-3, gt=0)
    strangers: float = Field(default=0.15, ge=0, lt=1)  # of the goals: of another episode, so that no way leads there
    imagined: float = Field(
        default=0.5, ge=0, le=1
    )  # of the images that a given model can reach: imagined, as in planning


class DistanceMetrics(NamedTuple):
    """What it knows of validation pairs of one episode."""

    error: float  # mean distance of the expected from the true number of steps
    constant: float  # the same of whoever always says the median
    order: float  # share of pairs of goals whose order it tells rightly; 0.5 is chance


class Pairs(NamedTuple):
    """Images, goals, and the steps between them."""

    frames: Tensor  # (N, 3, px, px) in [0, 1]
    goals: Tensor  # the same shape
    steps: Tensor  # (N,) int64; `max_steps` + 1 where no way leads there


class Lesson(NamedTuple):
    """What is taught from."""

    windows: Windows
    checkpoint: Checkpoint | None  # its model imagines some of the images; None: all are real


def teach(
    distance: TemporalDistance,
    lesson: Lesson,
    config: TemporalDistanceTrainingConfig,
    rng: np.random.Generator,
    notify: Callable[[int, float], bool],
) -> int:
    """Train in place; return the number of steps done.

    Args:
        distance: Of images of the windows' size; its `max_steps` is below the windows' number of frames.
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


def draw_pairs(
    distance: TemporalDistance, lesson: Lesson, config: TemporalDistanceTrainingConfig, rng: np.random.Generator
) -> Pairs:
    """Return pairs of one batch of windows: an image, real or imagined, and a later goal or a stranger.

    Args:
        distance: Whose `max_steps` counts, on whose device the pairs are.
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
    steps = np.minimum(later - at, distance.config.max_steps + 1)
    frames = real[rows, at]
    wanted = rng.random(len(rows)) < config.imagined
    if checkpoint is not None and wanted.any():
        first, horizon = checkpoint.info.n_context, min(checkpoint.info.horizon, n_frames - checkpoint.info.n_context)
        imagined = checkpoint.model.rollout(real[:, :first], actions[:, : first - 1 + horizon])
        wanted &= (at >= first) & (at < first + horizon)
        frames[torch.from_numpy(wanted)] = imagined[rows[wanted], at[wanted] - first]
    strangers = rng.random(len(rows)) < config.strangers
    goals = real[np.where(strangers, (rows + n // 2) % n, rows), later]
    steps[strangers] = distance.config.max_steps + 1
    return Pairs(frames, goals, torch.from_numpy(steps).to(frames.device))


@torch.no_grad()
def measure(distance: TemporalDistance, windows: Windows, rng: np.random.Generator) -> DistanceMetrics:
    """Return what it knows of some validation windows: one image of each, and two later goals."""
    distance.eval()
    indices = spread(windows, _CHECKED)
    frames, _ = to_batch(windows, indices, _device(distance)).sequences()
    chosen = np.sort(np.stack([rng.choice(windows.n_frames, 3, replace=False) for _ in indices]), axis=1)
    image, *goals = (frames[torch.arange(len(frames)), torch.from_numpy(at)] for at in chosen.T)
    told = np.stack([distance.steps(image, goal).cpu().numpy() for goal in goals])
    true = (chosen[:, 1:] - chosen[:, :1]).T
    return DistanceMetrics(
        error=float(np.abs(told - true).mean()),
        constant=float(np.abs(np.median(true) - true).mean()),
        order=float((told[0] < told[1]).mean()),
    )


def _device(distance: TemporalDistance) -> str:
    return str(next(distance.parameters()).device)


_FILES = {
    "distance": "models/distance.yaml",
    "training": "training/distance.yaml",
    "data": "training/distance_data.yaml",
}
_PREPARED = "prepared"  # what is left of a run that was broken off before it began to teach
_STOPPED = 130  # what was learned is kept, and nothing goes on from it
_LINE_INTERVAL_S = 10.0  # between two lines of progress where no terminal shows a bar; ours


class TemporalDistanceRequest(NamedTuple):
    """What was asked for on the command line."""

    data: tuple[Path, ...]
    out: Path
    checkpoint: Path | None
    seed: int
    device: str
    overrides: tuple[str, ...]


class TemporalDistanceRunConfig(Config):
    """All sections that `--set` knows."""

    distance: TemporalDistanceConfig
    training: TemporalDistanceTrainingConfig
    data: DataConfig


def train(request: TemporalDistanceRequest) -> int:
    """Train as asked; return the exit code: 0, or 130 after Ctrl-C or SIGTERM.

    Raises:
        ReportedError: Bad input, before anything was written; or training that cannot go on.
    """
    config = load(TemporalDistanceRunConfig, _FILES, request.overrides)
    if request.out.is_file() or (request.out.is_dir() and {file.name for file in request.out.iterdir()} - {_PREPARED}):
        raise CheckpointError(f"{request.out}: expected a new or empty folder; choose another --out")
    device = find_device(request.device)
    imagines = None if request.checkpoint is None else checkpoint.load(request.checkpoint, device)
    _check(config)
    prepared = request.out / _PREPARED
    dataset = read_episodes(request.data, config.data, config.distance.image_px, prepared, ProcessGroup(device))
    if imagines is not None:
        _check_model(imagines, config, dataset, prepared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        distance = TemporalDistance(config.distance).to(device)
    rng, check_rng = np.random.default_rng(request.seed).spawn(2)
    with _Teller(config.training.n_steps) as teller, noted_signals() as signals:

        def notify(step: int, loss: float) -> bool:
            teller.tell(step, loss)
            return signals.received is not None

        n_done = teach(distance, Lesson(dataset.train, imagines), config.training, rng, notify)
    figures = measure(distance, dataset.validation, check_rng)._asdict()
    facts: dict[str, str | int | float] = {"data_sha256": dataset.sha256, "seed": request.seed, "n_steps": n_done}
    facts["checkpoint"] = imagines.sha256 if imagines else ""
    write_file(request.out / "config.yaml", to_yaml(config))
    save(request.out / "distance", distance, {**facts, **figures})
    told = {"distance": str(request.out / "distance"), "n_steps": n_done, **figures}
    print(json.dumps(told, allow_nan=False), flush=True)
    return _STOPPED if signals.received is not None else 0


class _Teller(Progress):
    """Progress with the time left: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, n_steps: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        super().__init__(TextColumn("{task.description}"), *columns, console=Console(stderr=True))
        self._bar = self.add_task("teaching", total=n_steps)
        self._line_s = time.monotonic()

    def tell(self, step: int, loss: float) -> None:
        """Say how many steps are done."""
        self.update(self._bar, completed=step, description=f"teaching, loss {loss:.2f}")
        if not self.console.is_terminal and time.monotonic() - self._line_s >= _LINE_INTERVAL_S:
            self._line_s = time.monotonic()
            left_s = self.tasks[0].time_remaining
            left = "" if left_s is None else f", about {left_s:.0f} s left"
            self.console.print(f"{step} of {self.tasks[0].total:.0f} steps, loss {loss:.2f}{left}", highlight=False)


def _check(config: TemporalDistanceRunConfig) -> None:
    if config.distance.max_steps >= config.data.n_frames:
        raise CheckpointError(
            f"distance.max_steps: expected fewer than the {config.data.n_frames} frames of a window,"
            f" got {config.distance.max_steps}; set data.horizon higher"
        )


def _check_model(imagines: Checkpoint, config: TemporalDistanceRunConfig, dataset: Dataset, prepared: Path) -> None:
    """Refuse a model that cannot imagine these images from these actions, and take back what reading them wrote."""
    model = imagines.info.model
    pairs = {
        "image_px": (model.image_px, config.distance.image_px),
        "action_dim": (model.action_dim, dataset.train.actions.shape[1]),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            shutil.rmtree(prepared, ignore_errors=True)
            raise CheckpointError(f"--checkpoint: its {name} is {theirs}, that of the data {ours}; take another model")

"""Training of the temporal distance: the number of steps between two images, learned from recorded videos alone."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from configs.command import print_result
from configs.loader import Config, load, to_yaml
from configs.progress import ProgressBar, announce
from data_collection.atomic_io import write_file
from data_collection.folder_lock import check_new, locked_folder
from ghvae_core.data.dataset import DataConfig, Dataset
from ghvae_core.data.windows import Windows
from ghvae_core.models import checkpoint
from ghvae_core.models.checkpoint import Checkpoint, CheckpointError
from ghvae_core.models.device import find_device
from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig, save
from ghvae_core.training.distributed import ProcessGroup, stop_signals
from ghvae_core.training.run import read_episodes
from ghvae_core.training.trainer import TrainingError
from ghvae_core.training.validation import spread, to_batch

_FILES = {
    "distance": "models/distance.yaml",
    "training": "training/distance.yaml",
    "data": "training/distance_data.yaml",
}
_PREPARED = "prepared"  # all that a run leaves that was stopped before training
_STOPPED = 130  # exit code: the network is saved, and training cannot be resumed
_N_VALIDATED = 256  # validation windows; ours


class TemporalDistanceTrainingConfig(Config):
    """Settings of the training. Numbers: ours."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "pairs": "pairs_per_window",
        "strangers": "unrelated_fraction",
        "imagined": "predicted_fraction",
    }

    n_steps: int = Field(default=1500, ge=1)
    batch_windows: int = Field(default=16, ge=2)
    pairs_per_window: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    unrelated_fraction: float = Field(default=0.15, ge=0, lt=1)  # of the goals, taken from another episode: unreachable
    # Of the images within the horizon of the given model, predicted by it, as in planning
    predicted_fraction: float = Field(default=0.5, ge=0, le=1)


class TemporalDistanceRunConfig(Config):
    """All sections that `--set` knows."""

    distance: TemporalDistanceConfig
    training: TemporalDistanceTrainingConfig
    data: DataConfig


class TemporalDistanceRequest(NamedTuple):
    """The options of the command line."""

    data: tuple[Path, ...]
    out: Path
    checkpoint: Path | None
    seed: int
    device: str
    overrides: tuple[str, ...]


class DistanceMetrics(NamedTuple):
    """Metrics on pairs of images of one validation episode each."""

    mean_error_steps: float  # mean absolute difference of the expected and the true number of steps
    median_error_steps: float  # the same of a baseline that always returns the median
    order_accuracy: float  # fraction of pairs of goals in the right order; 0.5 is chance


class ImagePairs(NamedTuple):
    """Images, goals, and the number of steps between them."""

    frames: Tensor  # (N, 3, px, px) in [0, 1]
    goals: Tensor  # the same shape
    steps: Tensor  # (N,) int64; `max_steps` + 1 for an unreachable goal


class PairSource(NamedTuple):
    """The windows that pairs are drawn from."""

    windows: Windows
    checkpoint: Checkpoint | None  # its model predicts some of the images; None: all are real


def train(request: TemporalDistanceRequest) -> int:
    """Train a network and save it; return the exit code: 0, or 130 after Ctrl-C or SIGTERM.

    Raises:
        ReportedError: Invalid input, before anything was written; or training failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM before the first step.
    """
    config = load(TemporalDistanceRunConfig, _FILES, request.overrides)
    check_new(request.out, {_PREPARED})
    device = find_device(request.device)
    predictor = None if request.checkpoint is None else checkpoint.load(request.checkpoint, device)
    _check_steps(config)
    with locked_folder(request.out), stop_signals() as stop:
        check_new(request.out, {_PREPARED})  # again, now that no other run can write
        prepared = request.out / _PREPARED
        dataset = read_episodes(request.data, config.data, config.distance.image_px, prepared, ProcessGroup(device))
        if predictor is not None:
            _check_model(predictor, config, dataset, prepared)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            distance = TemporalDistance(config.distance).to(device)
        rng, validation_rng = np.random.default_rng(request.seed).spawn(2)
        with ProgressBar("steps", config.training.n_steps) as bar:

            def notify(step: int, loss: float) -> bool:
                bar.update(step, f"loss {loss:.2f}")
                return stop.received is not None

            n_done = fit(distance, PairSource(dataset.train, predictor), config.training, rng, notify)
        with announce("measuring on the validation windows"):
            metrics = measure(distance, dataset.validation, validation_rng)._asdict()
        facts: dict[str, str | int | float] = {"data_sha256": dataset.sha256, "seed": request.seed, "n_steps": n_done}
        facts["checkpoint"] = predictor.sha256 if predictor else ""
        write_file(request.out / "config.yaml", to_yaml(config))
        save(request.out / "distance", distance, {**facts, **metrics})
        summary = {"distance": str(request.out / "distance"), "n_steps": n_done, **metrics}
        print_result(summary)
        if stop.take() is None:
            return 0
        print("stopped early: the network is saved, and its training cannot be continued", file=sys.stderr)
        return _STOPPED


def fit(
    distance: TemporalDistance,
    source: PairSource,
    config: TemporalDistanceTrainingConfig,
    rng: np.random.Generator,
    notify: Callable[[int, float], bool],
) -> int:
    """Train in place; return the number of steps done.

    Args:
        distance: For images of the size of the windows; its `max_steps` is below their number of frames.
        source: Training data.
        config: Settings.
        rng: Draws windows and pairs.
        notify: Called after each step with the number of steps and the loss; training ends if it returns True.

    Raises:
        TrainingError: The loss is not finite.
    """
    distance.train()
    optimizer = torch.optim.AdamW(distance.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.n_steps + 1)
    for step in range(1, config.n_steps + 1):
        pairs = draw_pairs(distance, source, config, rng)
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
    distance: TemporalDistance, source: PairSource, config: TemporalDistanceTrainingConfig, rng: np.random.Generator
) -> ImagePairs:
    """Return the pairs of one batch of windows: real or predicted images, and later or unrelated goals.

    Args:
        distance: Gives `max_steps` and the device of the pairs.
        source: The windows.
        config: Number and kinds of pairs.
        rng: Draws them.
    """
    windows, checkpoint = source
    batch = to_batch(windows, windows.draw(rng, config.batch_windows), _device(distance))
    real, actions = batch.sequences()  # (B, T, 3, px, px)
    n, n_frames = real.shape[:2]
    rows = np.repeat(np.arange(n), config.pairs_per_window)
    at = rng.integers(n_frames, size=len(rows))
    later = rng.integers(at, n_frames)
    steps = np.minimum(later - at, distance.config.max_steps + 1)
    frames = real[rows, at]
    is_predicted = rng.random(len(rows)) < config.predicted_fraction
    if checkpoint is not None and is_predicted.any():
        first, horizon = checkpoint.info.n_context, min(checkpoint.info.horizon, n_frames - checkpoint.info.n_context)
        predicted = checkpoint.model.rollout(real[:, :first], actions[:, : first - 1 + horizon])
        is_predicted &= (at >= first) & (at < first + horizon)
        frames[torch.from_numpy(is_predicted)] = predicted[rows[is_predicted], at[is_predicted] - first]
    is_unrelated = rng.random(len(rows)) < config.unrelated_fraction
    goals = real[np.where(is_unrelated, (rows + n // 2) % n, rows), later]
    steps[is_unrelated] = distance.config.max_steps + 1
    return ImagePairs(frames, goals, torch.from_numpy(steps).to(frames.device))


@torch.no_grad()
def measure(distance: TemporalDistance, windows: Windows, rng: np.random.Generator) -> DistanceMetrics:
    """Return the metrics on validation windows, with one image and two later goals of each."""
    distance.eval()
    indices = spread(windows, _N_VALIDATED)
    frames, _ = to_batch(windows, indices, _device(distance)).sequences()
    chosen = np.sort(np.stack([rng.choice(windows.n_frames, 3, replace=False) for _ in indices]), axis=1)
    image, *goals = (frames[torch.arange(len(frames)), torch.from_numpy(at)] for at in chosen.T)
    expected = np.stack([distance.steps(image, goal).cpu().numpy() for goal in goals])
    true = (chosen[:, 1:] - chosen[:, :1]).T
    return DistanceMetrics(
        mean_error_steps=float(np.abs(expected - true).mean()),
        median_error_steps=float(np.abs(np.median(true) - true).mean()),
        order_accuracy=float((expected[0] < expected[1]).mean()),
    )


def _device(distance: TemporalDistance) -> str:
    return str(next(distance.parameters()).device)


def _check_steps(config: TemporalDistanceRunConfig) -> None:
    if config.distance.max_steps >= config.data.n_frames:
        raise CheckpointError(
            f"distance.max_steps: expected fewer than the {config.data.n_frames} frames of a window,"
            f" got {config.distance.max_steps}; set data.horizon higher"
        )


def _check_model(predictor: Checkpoint, config: TemporalDistanceRunConfig, dataset: Dataset, prepared: Path) -> None:
    """Refuse a model for other images or actions, and remove the decoded episodes."""
    model = predictor.info.model
    pairs = {
        "image_px": (model.image_px, config.distance.image_px),
        "action_dim": (model.action_dim, dataset.train.actions.shape[1]),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            shutil.rmtree(prepared, ignore_errors=True)
            raise CheckpointError(
                f"--checkpoint: expected {name} {ours}, as in the data, got {theirs}; use another model"
            )

"""One run of `run_distance`: read the episodes, teach, measure, save."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from configs.loader import Config, load
from configs.loader import save as save_config
from ghvae_core.data.dataset import DataConfig, Dataset
from ghvae_core.models import checkpoint
from ghvae_core.models.checkpoint import Checkpoint, CheckpointError
from ghvae_core.models.device import find_device
from ghvae_core.models.temporal_distance import Distance, DistanceConfig, save
from ghvae_core.training.distributed import Group
from ghvae_core.training.reading import read_episodes
from ghvae_core.training.signals import collected
from ghvae_core.training.temporal_distance import DistanceTraining, Lesson, measure, teach

_FILES = {
    "distance": "models/distance.yaml",
    "training": "training/distance.yaml",
    "data": "training/distance_data.yaml",
}
_PREPARED = "prepared"  # what is left of a run that was broken off before it began to teach
_STOPPED = 130  # what was learned is kept, and nothing goes on from it
_LINE_INTERVAL_S = 10.0  # between two lines of progress where no terminal shows a bar; ours


class Request(NamedTuple):
    """What was asked for on the command line."""

    data: tuple[Path, ...]
    out: Path
    checkpoint: Path | None
    seed: int
    device: str
    overrides: tuple[str, ...]


class DistanceRunConfig(Config):
    """All sections that `--set` knows."""

    distance: DistanceConfig
    training: DistanceTraining
    data: DataConfig


def train(request: Request) -> int:
    """Train as asked; return the exit code: 0, or 130 after Ctrl-C or SIGTERM.

    Raises:
        ReportedError: Bad input, before anything was written; or training that cannot go on.
    """
    config = load(DistanceRunConfig, _FILES, request.overrides)
    if request.out.is_file() or (request.out.is_dir() and {file.name for file in request.out.iterdir()} - {_PREPARED}):
        raise CheckpointError(f"{request.out}: expected a new or empty folder; choose another --out")
    device = find_device(request.device)
    imagines = None if request.checkpoint is None else checkpoint.load(request.checkpoint, device)
    _check(config)
    prepared = request.out / _PREPARED
    dataset = read_episodes(request.data, config.data, config.distance.image_px, prepared, Group(device))
    if imagines is not None:
        _check_model(imagines, config, dataset, prepared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        distance = Distance(config.distance).to(device)
    rng, check_rng = np.random.default_rng(request.seed).spawn(2)
    with _Teller(config.training.n_steps) as teller, collected() as received:

        def notify(step: int, loss: float) -> bool:
            teller.tell(step, loss)
            return bool(received)

        n_done = teach(distance, Lesson(dataset.train, imagines), config.training, rng, notify)
    figures = measure(distance, dataset.validation, check_rng)._asdict()
    facts: dict[str, str | int | float] = {"data_sha256": dataset.sha256, "seed": request.seed, "n_steps": n_done}
    facts["checkpoint"] = imagines.sha256 if imagines else ""
    save_config(config, request.out / "config.yaml")
    save(request.out / "distance", distance, {**facts, **figures})
    told = {"distance": str(request.out / "distance"), "n_steps": n_done, **figures}
    print(json.dumps(told, allow_nan=False), flush=True)
    return _STOPPED if received else 0


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


def _check(config: DistanceRunConfig) -> None:
    if config.distance.most_steps >= config.data.n_frames:
        raise CheckpointError(
            f"distance.most_steps: expected fewer than the {config.data.n_frames} frames of a window,"
            f" got {config.distance.most_steps}; set data.horizon higher"
        )


def _check_model(imagines: Checkpoint, config: DistanceRunConfig, dataset: Dataset, prepared: Path) -> None:
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

"""What a person sees of a training run: progress, curves, and a picture and a checkpoint after each stage."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from data_collection.atomic_io import write_file
from ghvae_core.models.checkpoint import CheckpointInfo, save
from ghvae_core.training.stages import TrainingStage
from ghvae_core.training.trainer import TrainingJob
from ghvae_core.training.validation import ValidationMetrics, picture, spread, val_rmse_p95

_EVERY = 20  # steps between two points of a curve
_PICTURED = 4  # validation windows in a picture
_COMPARED = 128  # and those that tell the usual error
_LINE_INTERVAL_S = 30.0  # between lines of progress where there is no terminal


class NullListener:
    """Listens for all processes but the first, and does nothing: one alone talks and writes."""

    def step(self, stage: TrainingStage, step: int, loss: dict[str, float]) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def stage_end(self, stage: TrainingStage, figures: ValidationMetrics) -> None:
        """Do nothing."""


class TrainingLog:
    """Writes tensorboard curves, `pictures/` and `stages/` in the folder of a run, and progress to stderr."""

    def __init__(self, folder: Path, job: TrainingJob, info: CheckpointInfo) -> None:
        """Prepare, and write nothing yet; `info` describes the model of the last stage."""
        self._folder, self._job, self._info = folder, job, info
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._total = sum(stage.n_steps for stage in job.plan)
        self._bar = self._progress.add_task("starting", total=self._total)
        self._line_s = time.monotonic()

    def __enter__(self) -> TrainingLog:
        """Open the curves and show the progress."""
        self._writer = SummaryWriter(self._folder / "tensorboard")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the curves and leave the terminal as it was."""
        self._progress.stop()
        self._writer.close()

    def step(self, stage: TrainingStage, step: int, loss: dict[str, float]) -> None:
        """Move the bar; add a point to the curves now and then."""
        done = self._before(stage) + step
        text = f"{stage.name}  error {loss['mse']:.5f}  KL {loss['kl']:.1f}"
        self._progress.update(self._bar, completed=done, description=text)
        if not self._console.is_terminal and time.monotonic() - self._line_s >= _LINE_INTERVAL_S:
            self._line_s = time.monotonic()
            remaining_s = self._progress.tasks[0].time_remaining
            left = "" if remaining_s is None else f", about {remaining_s:.0f} s left"
            self.say(f"{done} of {self._total} steps, {text}{left}")
        if step % _EVERY == 0:
            for name, value in loss.items():
                self._writer.add_scalar(f"{stage.name}/{name}", value, step)

    def note(self, text: str) -> None:
        """Print a warning above the bar."""
        self.say(f"warning: {text}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stage_end(self, stage: TrainingStage, figures: ValidationMetrics) -> None:
        """Record the figures, warn of an unhealthy module, draw the picture, save the checkpoint."""
        values = "  ".join(f"{name} {value:.5f}" for name, value in figures._asdict().items() if name != "kl")
        self.say(f"{stage.name}: {values}  kl {figures.kl:.1f}")
        for name, value in figures._asdict().items():
            self._writer.add_scalar(f"validation/{name}", value, self._before(stage) + stage.n_steps)
        job = self._job
        for text in figures.warnings(stage.kind, job.model.config):
            self.note(f"{stage.name}: {text}")
        image = picture(job.model, stage.k, job.validation, spread(job.validation, _PICTURED), job.n_context)
        pictures = self._folder / "pictures"
        pictures.mkdir(exist_ok=True)
        write_file(pictures / f"{stage.name}.png", image)
        save(self._folder / "stages" / stage.name, job.model, self.describe(stage, figures))

    def describe(self, stage: TrainingStage, figures: ValidationMetrics) -> CheckpointInfo:
        """Return what a checkpoint after a stage says of itself."""
        facts = {name: float(np.float32(value)) for name, value in figures._asdict().items()}
        provenance = {**self._info.provenance, "stage": stage.name, **facts}
        job = self._job
        usual = val_rmse_p95(job.model, stage.k, job.validation, spread(job.validation, _COMPARED), job.n_context)
        update = {"modules_trained": stage.k, "val_rmse_p95": usual, "provenance": provenance}
        return self._info.model_copy(update=update)

    def _before(self, stage: TrainingStage) -> int:
        return sum(other.n_steps for other in self._job.plan[: self._job.plan.index(stage)])

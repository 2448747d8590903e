"""Output of a training run: progress on stderr, tensorboard curves, and an image and a checkpoint after each stage."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from configs.progress import ProgressBar
from data_collection.atomic_io import write_file
from ghvae_core.models.checkpoint import CheckpointInfo, save
from ghvae_core.training.stages import TrainingStage
from ghvae_core.training.trainer import TrainingJob
from ghvae_core.training.validation import ValidationMetrics, comparison_png, spread, val_rmse_p95

_CURVE_INTERVAL = 20  # steps between two points of a curve; ours
_N_SHOWN = 4  # validation windows in an image; ours
_ABSENT = {"prior_finetune": "mse", "rollout": "kl"}  # term that the loss of a kind of stage does not have
_N_RMSE = 128  # validation windows for `val_rmse_p95`; ours


class NullListener:
    """Does nothing; for all processes but the first."""

    def step(self, stage: TrainingStage, step: int, loss: dict[str, float]) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def stage_end(self, stage: TrainingStage, metrics: ValidationMetrics) -> None:
        """Do nothing."""


class TrainingLog:
    """Writes tensorboard curves, `images/` and `stages/` in the folder of a run, and progress to stderr."""

    def __init__(self, folder: Path, job: TrainingJob, info: CheckpointInfo) -> None:
        """Write nothing yet; `info` describes the model of the last stage."""
        self._folder, self._job, self._info = folder, job, info
        self._bar = ProgressBar("steps", sum(stage.n_steps for stage in job.plan))

    def __enter__(self) -> TrainingLog:
        """Open the curves and show the progress."""
        self._writer = SummaryWriter(self._folder / "tensorboard")
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the curves and the progress bar."""
        self._bar.__exit__()
        self._writer.close()

    def step(self, stage: TrainingStage, step: int, loss: dict[str, float]) -> None:
        """Update the bar; add a point to the curves every 20 steps."""
        known = {name: value for name, value in loss.items() if name != _ABSENT.get(stage.kind)}
        terms = [f"{name} {known[name]:{form}}" for name, form in (("mse", ".5f"), ("kl", ".1f")) if name in known]
        self._bar.update(self._before(stage) + step, "  ".join([stage.name, *terms]))
        if step % _CURVE_INTERVAL == 0:
            for name, value in known.items():
                self._writer.add_scalar(f"{stage.name}/{name}", value, step)

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self.say(f"warning: {text}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.say(text)

    def stage_end(self, stage: TrainingStage, metrics: ValidationMetrics) -> None:
        """Record the metrics, print warnings, write the image and the checkpoint."""
        values = "  ".join(f"{name} {value:.5f}" for name, value in metrics._asdict().items() if name != "kl")
        self.say(f"{stage.name}: {values}  kl {metrics.kl:.1f}")
        for name, value in metrics._asdict().items():
            self._writer.add_scalar(f"validation/{name}", value, self._before(stage) + stage.n_steps)
        job = self._job
        for text in (*metrics.stage_problems(stage.kind), *metrics.action_problems(job.model.config)):
            self.warn(f"{stage.name}: {text}")
        image = comparison_png(job.model, stage.k, job.validation, spread(job.validation, _N_SHOWN), job.n_context)
        images = self._folder / "images"
        images.mkdir(exist_ok=True)
        write_file(images / f"{stage.name}.png", image)
        save(self._folder / "stages" / stage.name, job.model, self.describe(stage, metrics))

    def describe(self, stage: TrainingStage, metrics: ValidationMetrics) -> CheckpointInfo:
        """Return the configuration of the checkpoint after a stage."""
        facts = {name: float(np.float32(value)) for name, value in metrics._asdict().items()}
        provenance = {**self._info.provenance, "stage": stage.name, **facts}
        job = self._job
        rmse = val_rmse_p95(job.model, stage.k, job.validation, spread(job.validation, _N_RMSE), job.n_context)
        update = {"modules_trained": stage.k, "val_rmse_p95": rmse, "provenance": provenance}
        return self._info.model_copy(update=update)

    def _before(self, stage: TrainingStage) -> int:
        """Return the number of steps of the stages before this one."""
        return sum(other.n_steps for other in self._job.plan[: self._job.plan.index(stage)])

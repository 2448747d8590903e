"""Trainers of a small model on small windows, and a recording listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.batches import Augment
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.engine import Recipe
from ghvae_core.training.objective import ObjectiveConfig
from ghvae_core.training.stages import TrainingConfig, TrainingStage, stages
from ghvae_core.training.trainer import Trainer, TrainingJob
from ghvae_core.training.validation import ValidationMetrics
from tests.ghvae_core.small import small_model, small_windows

CONFIG = TrainingConfig(
    module_steps=(4, 3), prior_finetune_steps=2, rollout_steps=2, batch_windows=3, decoded_steps=2, validation_windows=4
)


class Record:
    """A listener that records all events, and calls a function at each step."""

    def __init__(self, at_step: Callable[[TrainingStage, int], None] = lambda _stage, _step: None) -> None:
        self.losses: list[tuple[str, int, float]] = []
        self.warnings: list[str] = []
        self.ended: list[str] = []
        self._at_step = at_step

    def step(self, stage: TrainingStage, step: int, loss: dict[str, float]) -> None:
        self.losses.append((stage.name, step, loss["total"]))
        self._at_step(stage, step)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def stage_end(self, stage: TrainingStage, metrics: ValidationMetrics) -> None:
        assert metrics.one_step_copy > 0
        self.ended.append(stage.name)


def make_trainer(
    folder: Path,
    config: TrainingConfig = CONFIG,
    *,
    listener: Record | None = None,
    seed: int = 0,
    model: VideoModel | None = None,
    group: ProcessGroup | None = None,
    augment: Augment | None = None,
    checks: Literal["fail", "warn"] = "warn",
) -> tuple[Trainer, VideoModel, Record]:
    """Return a trainer with its state in `folder`/state, its model, and its listener."""
    config = config.model_copy(update={"checks": checks})  # so few steps make no useful model
    model, windows, listener = model or small_model(), small_windows(), listener or Record()
    windows = replace(windows, actions=windows.actions[:, : model.config.action_dim])
    job = TrainingJob(model, windows, windows, 2, stages(config, model.n_modules), seed, f"run {seed}", "data", augment)
    recipe = Recipe(config, ObjectiveConfig(beta=1e-3), 2)
    return Trainer(job, recipe, folder / "state", listener, group or ProcessGroup("cpu")), model, listener


def never() -> bool:
    """Return False, so that training continues."""
    return False


def after(n_steps: int) -> Callable[[], bool]:
    """Return a stop function that returns True from its n-th call on."""
    calls = iter(range(1, 10_000))
    return lambda: next(calls) >= n_steps

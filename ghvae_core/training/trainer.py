"""Trains a model stage by stage (paper 2): one module after another, all lower modules frozen, then refinements."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from configs.command import ReportedError
from configs.progress import announce
from ghvae_core.data.windows import Windows
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.batches import Augment, BatchLoader, BatchSource
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.engine import Engine, Recipe
from ghvae_core.training.feature_cache import FeatureCache, FeatureSource
from ghvae_core.training.feature_cache_policy import FeaturePolicy
from ghvae_core.training.stages import TrainingStage
from ghvae_core.training.training_state import (
    OptimizerState,
    TrainingProgress,
    TrainingState,
    latest_state,
    load_state,
    load_weights,
    save_state,
)
from ghvae_core.training.validation import ValidationMetrics, measure, spread

_GREEDY = ("module", "prior_finetune")  # stages in which all encoders but the deepest are frozen
_BAD_STEPS = 5  # in a row, after which the last saved state is restored with half the learning rate; ours
_MAX_RESTORES = 2  # per stage, then training fails; ours
_MAX_SAVING_FRACTION = 0.05  # of the time is spent on saving, whatever the size of the state; ours


class TrainingError(ReportedError):
    """Training failed. The last valid state is on disk."""

    exit_code: ClassVar[int] = 1


class Interrupted(Exception):
    """Training was stopped on request; its state is on disk."""


class TrainingListener(Protocol):
    """Receives the events of a training run."""

    def step(self, stage: TrainingStage, step: int, loss: dict[str, float]) -> None:
        """Handle the end of a step, counted from 1."""
        ...

    def warn(self, text: str) -> None:
        """Handle a warning."""
        ...

    def stage_end(self, stage: TrainingStage, metrics: ValidationMetrics) -> None:
        """Handle the end of a stage; the model holds its result."""
        ...


@dataclass(frozen=True)
class TrainingJob:
    """The model, the data and the stages of a run."""

    model: VideoModel  # trained in place
    train: Windows
    validation: Windows
    n_context: int
    plan: list[TrainingStage]
    seed: int
    run: str  # sha256 of the settings, data and seed, which must be the same when the run is resumed
    data_sha256: str  # identifies the frames
    augment: Augment | None = None  # applied to every clip; excludes the feature cache


class Trainer:
    """Trains a model stage by stage; can be stopped after any step and resumed with identical results."""

    def __init__(
        self, job: TrainingJob, recipe: Recipe, folder: Path, listener: TrainingListener, group: ProcessGroup
    ) -> None:
        """Prepare; the state is kept in `folder`, cached features in `features` next to it."""
        self._job, self._recipe, self._training = job, recipe, recipe.training
        self._folder, self._listener, self._group = folder, listener, group
        self._progress = TrainingProgress(run=job.run)
        self._restored: TrainingState | None = None
        self._due_s = 0.0  # time of the next save
        n_frames = self._training.batch_windows // self._training.accumulation_steps // group.size
        is_half = self._training.precision == "bfloat16"
        source = FeatureSource(job.train.frames, job.data_sha256, n_frames * job.train.n_frames, is_half)
        features = folder.parent / "features"
        self._features = FeatureCache(source, features, group, listener.warn)
        self._policy = FeaturePolicy(self._training, source, features, group)
        self._loader = BatchLoader(BatchSource(job.train, job.augment, job.seed), self._training, group, self._features)
        self._checked_windows = spread(job.validation, self._training.validation_windows)

    def resume(self) -> bool:
        """Load the latest state; return whether there is one. All processes must call it.

        Raises:
            CheckpointError: The state is damaged, or belongs to another run.
        """
        path = latest_state(self._folder)
        if path is not None:
            self._restored = load_state(path, self._job.run)
            self._progress = self._restored.progress
            load_weights(self._restored, self._job.model)
        self._group.wait()  # a late process must not find the next state of the first one
        return path is not None

    def train(self, stop: Callable[[], bool]) -> dict[str, ValidationMetrics]:
        """Run the remaining stages.

        Args:
            stop: Called at every step; all processes stop if it returns True in one of them.

        Returns:
            The metrics of every stage by its name.

        Raises:
            Interrupted: `stop` returned True; the state is on disk.
            TrainingError: The loss stayed NaN or infinite, or the metrics of a stage are, or the device is out of
                memory. The last good state is on disk, and the message contains the options of a new run that continues
                after the last finished stage. Or the model fails a check (`training.checks`) after a stage.
        """
        if not self._progress.saves:
            self._save(None)  # restored if the first stage fails
        with closing(self._loader):
            while self._progress.stage < len(self._job.plan):
                self._train_stage(self._job.plan[self._progress.stage], stop)
        self._features.discard()
        return {name: ValidationMetrics(**metrics) for name, metrics in self._progress.metrics.items()}

    def _train_stage(self, stage: TrainingStage, stop: Callable[[], bool]) -> None:
        try:
            self._run(stage, stop).finish()
            job = self._job
            with self._announced(f"{stage.name}: measuring on the validation windows"):
                metrics = measure(job.model, stage.k, job.validation, self._checked_windows, job.n_context)
        except torch.OutOfMemoryError:
            half = f"batch_windows={max(1, self._training.batch_windows // 2)}"
            reason = f"{stage.name}: the device is out of memory; halve training.batch_windows"
            raise TrainingError(f"{reason}: {self._retry_options(half)}") from None
        if not all(map(math.isfinite, metrics)):
            raise self._diverged(stage, f"expected finite validation metrics, got {metrics}")
        with self._announced(f"{stage.name}: writing its images and its checkpoint"):
            self._listener.stage_end(stage, metrics)
        self._advance(
            stage=self._progress.stage + 1,
            step=0,
            lr_factor=1.0,
            restores=0,
            metrics={**self._progress.metrics, stage.name: metrics._asdict()},
        )
        self._save(None)
        if self._training.checks == "fail":
            self._check(stage, metrics)

    def _check(self, stage: TrainingStage, metrics: ValidationMetrics) -> None:
        """Refuse a model that ignores its latent, or a finished one that ignores its actions or copies better."""
        failed, is_last = metrics.stage_problems(stage.kind), stage == self._job.plan[-1]
        if is_last:
            failed += metrics.final_problems(self._job.model.config)
        if failed:
            raise TrainingError(
                f"{stage.name}: the model fails {'its checks' if len(failed) > 1 else 'a check'}: {'; '.join(failed)}. "
                f"Its weights are in {self._folder.parent / 'stages' / stage.name}; to use them anyway: the same "
                "command with --resume --set training.checks=warn"
            )

    def _begin(self, stage: TrainingStage) -> Engine:
        """Return the engine of a stage, restored if the stage had begun; fill the feature cache."""
        engine = Engine(self._job.model, stage, self._recipe, self._group)
        if self._progress.step:
            assert self._restored is not None  # noqa: S101 - steps are counted from 0 or from a state on disk
            engine.load(self._restored.moments, str(self._restored.path))
        self._restored = None
        self._loader.forget()
        model = self._job.model
        if isinstance(model, Ghvae) and stage.kind in _GREEDY and self._job.augment is None:
            choice = self._policy.choose(model, stage.k - 1, self._uses(), self._features)
            self._features.fill(model, choice.levels, choice.in_files)
        else:
            self._features.discard()
        self._due_s = time.monotonic() + self._training.save_every_s
        return engine

    def _uses(self) -> int:
        """Return the number of frames that this process will look up in the remaining greedy stages."""
        plan = self._job.plan[self._progress.stage :]
        n_steps = sum(stage.n_steps for stage in plan if stage.kind in _GREEDY) - self._progress.step
        return n_steps * self._training.batch_windows // self._group.size * self._job.train.n_frames

    def _run(self, stage: TrainingStage, stop: Callable[[], bool]) -> Engine:
        with self._announced(f"{stage.name}: preparing, with the features of frozen encoders"):
            engine, bad = self._begin(stage), 0
        while self._progress.step < stage.n_steps:
            step = self._progress.step
            parts = self._loader.parts(self._progress.stage, step, stage.n_steps)
            loss, norm = engine.gradients(parts, step)
            is_bad = not bool(torch.isfinite(loss.total) & torch.isfinite(norm))
            is_due = self._group.is_first and time.monotonic() > self._due_s
            any_bad, any_stop, any_due = self._group.largest(is_bad, bool(stop()), is_due)
            self._advance(step=step + 1)
            if any_bad:
                bad += 1
                self._listener.warn(f"{stage.name} step {step + 1}: the loss is NaN or infinite; step skipped")
            else:
                bad = 0
                rate = stage.rate_at(step, self._training) * self._progress.lr_factor
                engine.update(rate, step)
                values = {name: float(value) for name, value in loss._asdict().items()}
                self._listener.step(stage, step + 1, {**values, "learning_rate": rate})
            if bad == _BAD_STEPS:
                del engine  # frees its memory
                engine, bad = self._restore(stage), 0
            if bad == 0 and (any_stop or any_due):  # otherwise the last valid state is kept
                self._save(engine)
            if any_stop:
                raise Interrupted
        return engine

    def _announced(self, text: str) -> AbstractContextManager[None]:
        return announce(text) if self._group.is_first else nullcontext()

    def _restore(self, stage: TrainingStage) -> Engine:
        """Restore the last saved state with half the learning rate."""
        restores, lr_factor = self._progress.restores + 1, self._progress.lr_factor / 2
        if restores > _MAX_RESTORES:
            step = self._progress.step
            raise self._diverged(
                stage, f"the loss is still NaN or infinite at step {step} after {restores - 1} restores"
            )
        self.resume()
        engine = self._begin(stage)
        self._advance(restores=restores, lr_factor=lr_factor)
        self._listener.warn(
            f"{stage.name}: {_BAD_STEPS} bad steps in a row; restored step {self._progress.step}, "
            f"learning rate halved ({restores} of {_MAX_RESTORES})"
        )
        return engine

    def _diverged(self, stage: TrainingStage, what: str) -> TrainingError:
        options = self._retry_options(f"{stage.rate_key}={stage.rate / 10:g}")
        return TrainingError(f"{stage.name}: {what}; check the data, or lower training.{stage.rate_key}: {options}")

    def _retry_options(self, setting: str) -> str:
        """Return the options of a new run that starts at the present stage with another setting, as text."""
        plan, index = self._job.plan, self._progress.stage
        settings, options = [setting], []
        if index:
            left = {stage.k: stage.n_steps for stage in plan[index:] if stage.kind == "module"}
            steps = [left.get(k, 0) for k in range(1, self._job.model.n_modules + 1)]
            settings.append(f"module_steps={steps}")
            done = {stage.kind for stage in plan[:index]} & {"end_to_end", "prior_finetune"}
            settings += [f"{kind}_steps=0" for kind in sorted(done)]
            options = ["--init", str(self._folder.parent / "stages" / plan[index - 1].name)]
        for each in settings:
            options += ["--set", f"training.{each}"]
        return f"the same command without --resume, with another --out and these options: {shlex.join(options)}"

    def _advance(self, **changes: object) -> None:
        self._progress = self._progress.model_copy(update=changes)

    def _save(self, engine: Engine | None) -> None:
        """Write the state; between two stages there is no engine and no optimizer state."""
        started_s = time.monotonic()
        self._advance(saves=self._progress.saves + 1)
        moments = OptimizerState({}, {}) if engine is None else engine.state()
        if self._group.is_first:
            save_state(self._folder, self._progress, self._job.model.state_dict(), moments)
        self._group.wait()  # no process continues or exits before the state is on disk
        ended_s = time.monotonic()
        self._due_s = ended_s + max(self._training.save_every_s, (ended_s - started_s) / _MAX_SAVING_FRACTION)

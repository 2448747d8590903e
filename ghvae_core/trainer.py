"""Greedy training (paper 2): one module after another, everything below frozen; then, if asked, two refinements."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from configs.command import ReportedError
from configs.loader import Config
from ghvae_core.dataset import Windows
from ghvae_core.features import FeatureCache, size_gb
from ghvae_core.ghvae import Ghvae
from ghvae_core.health import Figures, measure, spread, to_batch
from ghvae_core.objective import Batch, Kind, Loss, ObjectiveConfig, module_loss, prior_loss, rollout_loss
from ghvae_core.training_state import Progress, latest_state, load_optimizer, load_progress, load_weights, save_state

_BAD_STEPS = 5  # in a row, then the last saved state is restored with half the learning rate; ours
_RESTORES = 2  # a stage, then training stops; ours


class TrainingError(ReportedError):
    """Training cannot go on. The last good state is on disk."""

    exit_code: ClassVar[int] = 1


class Interrupted(Exception):
    """Training was asked to stop; its state is on disk."""


class TrainingConfig(Config):
    """How long and how fast."""

    # Of modules 1, 2, ...; the last number holds for those left. 0 leaves a module as `--init` brought it.
    module_steps: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    polish_steps: int = Field(default=0, ge=0)  # the deepest prior alone; same bound, so still the paper's objective
    # Imagined rollouts of all modules, the error flowing back through time; beyond the paper, 0 leaves the greedy model
    rollout_steps: int = Field(default=0, ge=0)
    batch_windows: int = Field(default=16, ge=1)  # the paper has 32; half of it learns more in an hour of a CPU
    learning_rate: float = Field(default=1e-3, gt=0)  # of Adam; FitVid
    rollout_learning_rate: float = Field(default=3e-4, gt=0)  # ours
    clip_norm: float = Field(default=100.0, gt=0)  # of the gradient; FitVid
    rollout_clip_norm: float = Field(default=1.0, gt=0)  # errors through time are longer; ours
    ramp_steps: int = Field(default=50, ge=1)  # of the learning rate from 0 at the start of a stage; ours
    final_rate_share: float = Field(default=0.05, gt=0, le=1)  # of the learning rate where the cosine ends; ours
    validation_windows: int = Field(default=128, ge=2)  # ours
    save_every_s: float = Field(default=120.0, gt=0)  # what a kill -9 may cost; ours
    feature_cache_limit_gb: float = Field(default=8.0, ge=0)  # frozen features kept in memory; above it they are
    # computed anew at every step, which costs about 15 % on a CPU

    @model_validator(mode="after")
    def _check_steps(self) -> TrainingConfig:
        if not any((*self.module_steps, self.polish_steps, self.rollout_steps)):
            raise ValueError("all steps are 0: nothing would be trained")
        return self

    def steps_of(self, k: int) -> int:
        """Return the steps of module k, counted from 1."""
        return self.module_steps[min(k, len(self.module_steps)) - 1]


@dataclass(frozen=True)
class Stage:
    """One stretch of training."""

    name: str
    kind: Kind
    k: int  # the deepest module in use
    n_steps: int


class Listener(Protocol):
    """Who is told how training goes; it draws the progress, the curves and the pictures."""

    def step(self, stage: Stage, step: int, loss: dict[str, float]) -> None:
        """A step ended; `step` counts from 1."""
        ...

    def note(self, text: str) -> None:
        """Something happened that a person should read."""
        ...

    def stage_end(self, stage: Stage, figures: Figures) -> None:
        """A stage ended; the model holds its result."""
        ...


def stages(config: TrainingConfig, n_modules: int) -> list[Stage]:
    """Return the stages of a run; a stage of 0 steps is left out, so a trained model can be refined alone."""
    plan = [Stage(f"module_{k}", "module", k, config.steps_of(k)) for k in range(1, n_modules + 1)]
    plan.append(Stage("polish", "polish", n_modules, config.polish_steps))
    plan.append(Stage("rollout", "rollout", n_modules, config.rollout_steps))
    return [stage for stage in plan if stage.n_steps]


@dataclass(frozen=True)
class Job:
    """What is trained, on what, in which order."""

    model: Ghvae  # trained in place
    train: Windows
    validation: Windows
    n_context: int
    plan: list[Stage]
    seed: int
    run: str  # sha256 of what must not change between start and resume


class Trainer:
    """Trains a model stage by stage; can be stopped after any step and goes on as if it had not been."""

    def __init__(
        self, job: Job, training: TrainingConfig, objective: ObjectiveConfig, folder: Path, listener: Listener
    ) -> None:
        """Prepare; the state of the run is kept in `folder`."""
        self._job, self._training, self._objective = job, training, objective
        self._folder, self._listener = folder, listener
        self._progress = Progress(run=job.run)
        self._features = FeatureCache(job.train.frames)
        self._checked = spread(job.validation, training.validation_windows)
        self._optimizer = torch.optim.Adam(job.model.parameters())

    def resume(self) -> bool:
        """Go back to where the run stood; False where there is nothing to resume.

        Raises:
            CheckpointError: The state is damaged, or belongs to another run.
        """
        path = latest_state(self._folder)
        if path is None:
            return False
        self._progress = load_progress(path, self._job.run)
        load_weights(path, self._job.model)
        return True

    def train(self, stop: Callable[[], bool]) -> dict[str, Figures]:
        """Run all stages that are left.

        Args:
            stop: Asked after every step.

        Returns:
            The figures of every stage by its name.

        Raises:
            Interrupted: `stop` said so; the state is on disk.
            TrainingError: The loss stayed NaN or infinite, or the device's memory is too small; the last good state
                is on disk, and the message holds the options of a run that goes on from the last stage.
        """
        if latest_state(self._folder) is None:
            self._save()  # what the first stage goes back to if it must
        while self._progress.stage < len(self._job.plan):
            stage = self._job.plan[self._progress.stage]
            try:
                self._begin(stage)
                self._run(stage, stop)
                figures = measure(self._job.model, stage.k, self._job.validation, self._checked, self._job.n_context)
            except torch.OutOfMemoryError:
                half = f"batch_windows={max(1, self._training.batch_windows // 2)}"
                reason = f"{stage.name}: the device's memory is too small; halve training.batch_windows"
                raise TrainingError(f"{reason}: {self._way_on(half)}") from None
            self._listener.stage_end(stage, figures)
            self._advance(
                stage=self._progress.stage + 1,
                step=0,
                lr_factor=1.0,
                restores=0,
                figures={**self._progress.figures, stage.name: figures._asdict()},
            )
            self._save()
        return {name: Figures(**figures) for name, figures in self._progress.figures.items()}

    def _begin(self, stage: Stage) -> None:
        """Freeze everything but what the stage trains, and make its optimizer, as it stood if it had begun already."""
        model = self._job.model
        parameters = trained_parameters(model, stage)
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.Adam(parameters, lr=self._training.learning_rate)
        if self._progress.step:
            path = latest_state(self._folder)
            assert path is not None  # noqa: S101 - steps are only ever counted from a state on disk or from 0
            load_optimizer(path, self._optimizer)
        depth = stage.k - 1 if stage.kind != "rollout" else 0
        if size_gb(model.config, len(self._job.train.frames), depth) <= self._training.feature_cache_limit_gb:
            self._features.fill(model, depth)
        else:
            self._features.fill(model, 0)

    def _run(self, stage: Stage, stop: Callable[[], bool]) -> None:
        bad, saved_s = 0, time.monotonic()
        while self._progress.step < stage.n_steps:
            step = self._progress.step
            loss = self._step(stage, step)
            bad = 0 if loss is not None else bad + 1
            self._advance(step=step + 1)
            if loss is not None:
                self._listener.step(stage, step + 1, loss)
            elif bad < _BAD_STEPS:
                self._listener.note(f"{stage.name} step {step + 1}: the loss is NaN or infinite; step skipped")
            else:
                self._restore(stage)
                bad = 0
            if stop():
                if bad == 0:  # else the last good state stays the last
                    self._save()
                raise Interrupted
            if bad == 0 and time.monotonic() - saved_s > self._training.save_every_s:
                self._save()
                saved_s = time.monotonic()

    def _step(self, stage: Stage, step: int) -> dict[str, float] | None:
        """Take one step; return the loss and its parts, or None where they or the gradient are not finite."""
        numbers = np.random.default_rng([self._job.seed, self._progress.stage, step])
        batch = self._batch(stage, numbers)
        generator = torch.Generator(self._job.model.action_scale.device)
        generator.manual_seed(int(numbers.integers(2**63)))
        self._optimizer.zero_grad()
        loss = self._loss(stage, batch, step, generator)
        loss.total.backward()  # type: ignore[no-untyped-call]
        is_rollout = stage.kind == "rollout"
        parameters = self._optimizer.param_groups[0]["params"]
        clip = self._training.rollout_clip_norm if is_rollout else self._training.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        if not (torch.isfinite(loss.total) and torch.isfinite(norm)):
            return None
        rate = self._training.rollout_learning_rate if is_rollout else self._training.learning_rate
        rate *= self._progress.lr_factor * self._schedule(step, stage.n_steps)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        return {**{name: float(value.detach()) for name, value in loss._asdict().items()}, "learning_rate": rate}

    def _batch(self, stage: Stage, numbers: np.random.Generator) -> Batch:
        windows, device = self._job.train, str(self._job.model.action_scale.device)
        indices = numbers.integers(len(windows.starts), size=self._training.batch_windows)
        batch = to_batch(windows, indices, device)
        if stage.kind == "rollout" or self._features.depth != stage.k - 1:
            return batch
        _, _, rows = windows.batch(indices)
        return replace(batch, lower=self._features.gather(rows, device))

    def _loss(self, stage: Stage, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        if stage.kind == "polish":
            return prior_loss(self._job.model, stage.k, batch)
        if stage.kind == "rollout":
            return rollout_loss(self._job.model, stage.k, batch, self._job.n_context)
        warm_up = self._objective.warm_up_share * stage.n_steps
        beta = self._objective.beta * (min(1.0, step / warm_up) if warm_up else 1.0)
        weights = (beta, beta * self._objective.prior_emphasis)
        return module_loss(self._job.model, stage.k, batch, weights, generator)

    def _schedule(self, step: int, n_steps: int) -> float:
        """Return the share of the learning rate: a short ramp, then a cosine down to `final_rate_share`."""
        floor = self._training.final_rate_share
        cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        return min(1.0, (step + 1) / self._training.ramp_steps) * cosine

    def _restore(self, stage: Stage) -> None:
        """Go back to the last saved state with half the learning rate."""
        restores, lr_factor = self._progress.restores + 1, self._progress.lr_factor / 2
        if restores > _RESTORES:
            key = "rollout_learning_rate" if stage.kind == "rollout" else "learning_rate"
            lower = f"{key}={getattr(self._training, key) / 10:g}"
            raise TrainingError(
                f"{stage.name}: the loss stays NaN or infinite at step {self._progress.step} after {restores - 1} "
                f"restores; look at the data, or lower training.{key}: {self._way_on(lower)}"
            )
        self.resume()
        self._begin(stage)
        self._advance(restores=restores, lr_factor=lr_factor)
        self._listener.note(
            f"{stage.name}: {_BAD_STEPS} bad steps in a row; back to step {self._progress.step}, "
            f"learning rate halved ({restores} of {_RESTORES})"
        )

    def _way_on(self, setting: str) -> str:
        """Return, in words, the options of a new run that begins where the present stage did, with another setting."""
        plan, index = self._job.plan, self._progress.stage
        settings, options = [setting], []
        if index:
            left = {stage.k: stage.n_steps for stage in plan[index:] if stage.kind == "module"}
            steps = [left.get(k, 0) for k in range(1, self._job.model.n_modules + 1)]
            settings.append(f"module_steps={steps}")
            if plan[index].kind == "rollout":
                settings.append("polish_steps=0")
            options = ["--init", str(self._folder.parent / "stages" / plan[index - 1].name)]
        for each in settings:
            options += ["--set", f"training.{each}"]
        return f"the same command without --resume, with another --out and, at its end, {shlex.join(options)}"

    def _advance(self, **changes: object) -> None:
        self._progress = self._progress.model_copy(update=changes)

    def _save(self) -> None:
        self._advance(saves=self._progress.saves + 1)
        save_state(self._folder, self._progress, self._job.model, self._optimizer)


def trained_parameters(model: Ghvae, stage: Stage) -> list[Tensor]:
    """Return the parameters that a stage trains; all others are frozen bit for bit."""
    deepest = model.module(stage.k)
    if stage.kind == "module":
        return list(deepest.parameters())
    if stage.kind == "polish":
        return list(deepest.prior.parameters())
    shared: list[nn.Module] = [deepest.prior]
    for k in range(1, stage.k + 1):
        module = model.module(k)
        shared += [module.encoder, module.decoder] + ([module.pixels] if module.pixels is not None else [])
    return [parameter for part in shared for parameter in part.parameters()]

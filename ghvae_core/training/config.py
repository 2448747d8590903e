"""Configuration of a training run, and checks of its consistency with the initial model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from configs.loader import FOLDER, Config, ConfigError, load
from ghvae_core.data.dataset import DataConfig, Dataset
from ghvae_core.models.checkpoint import AnyConfig, Checkpoint
from ghvae_core.models.ghvae import GhvaeConfig
from ghvae_core.training.objective import ObjectiveConfig
from ghvae_core.training.stages import TrainingConfig


class TrainingRunConfig(Config):
    """All sections that `--set` knows."""

    model: AnyConfig
    training: TrainingConfig
    objective: ObjectiveConfig
    data: DataConfig

    @model_validator(mode="after")
    def _check(self) -> TrainingRunConfig:
        # ConfigError, not ValueError: pydantic would print all sections.
        if isinstance(self.model, GhvaeConfig) and self.model.prior == "uniform" and self.training.prior_finetune_steps:
            raise ConfigError("model.prior: uniform cannot be fine-tuned; set training.prior_finetune_steps=0")
        if not isinstance(self.model, GhvaeConfig) and self.objective.prior_emphasis != 1:
            raise ConfigError(
                f"objective.prior_emphasis: expected 1, the only value that models of kind {self.model.kind} support, "
                f"got {self.objective.prior_emphasis:g}"
            )
        return self


class _ModelSection(Config):
    model: AnyConfig


def load_config(model: str, overrides: Sequence[str], n_modules: int | None = None) -> TrainingRunConfig:
    """Return the configuration: the file of the model, the training file of its name, or tiny, and the overrides.

    Args:
        model: A file of configs/models without its suffix, or a path.
        overrides: `section.key=value`; applied last.
        n_modules: Number of modules, from the first; None: all.

    Raises:
        ConfigError: As `configs.loader.load`; or the model has fewer modules.
    """
    name = Path(model)
    model_file = name if name.suffix == ".yaml" else Path("models", f"{model}.yaml")
    training = Path("training", f"{model_file.stem}.yaml")
    if not (FOLDER / training).is_file():
        training = Path("training", "tiny.yaml")
    sections = {
        "model": model_file,
        "training": training,
        "objective": Path("training", "objective.yaml"),
        "data": Path("training", "data.yaml"),
    }
    if n_modules is not None:
        overrides = [_first_modules(model_file, n_modules), *overrides]
    config = load(TrainingRunConfig, {key: str(path) for key, path in sections.items()}, overrides)
    model_config = config.model.model_copy(update={"n_context": config.data.n_context})
    return config.model_copy(update={"model": model_config})


def _first_modules(model_file: Path, n_modules: int) -> str:
    """Return the override that leaves the first modules of a model."""
    model = load(_ModelSection, {"model": str(model_file)}).model
    if not isinstance(model, GhvaeConfig) or not 1 <= n_modules <= model.n_modules:
        raise ConfigError(f"--modules: expected 1 to {model.n_modules} as {model_file.stem} has, got {n_modules}")
    return f"model.modules={json.dumps([each.model_dump() for each in model.modules[:n_modules]])}"


def continued(config: TrainingRunConfig, start: Checkpoint, overrides: Sequence[str]) -> TrainingRunConfig:
    """Return the configuration of a run that starts from a checkpoint, where settings were not set.

    Trained modules get no steps, unless all are trained; the sources of decoder 1 and the inputs of the prior are those
    of the checkpoint.
    """
    theirs = start.model.config
    if isinstance(theirs, GhvaeConfig):
        names = ("copies", "mask_threshold", "prior_frames")
        kept = {name: getattr(theirs, name) for name in names if not _is_set(f"model.{name}", overrides)}
        config = config.model_copy(update={"model": config.model.model_copy(update=kept)})
    n_trained, n_modules = start.model.n_modules, config.model.n_modules
    if _is_set("training.module_steps", overrides) or n_trained >= n_modules:
        return config
    steps = tuple(config.training.steps_of(k) if k > n_trained else 0 for k in range(1, n_modules + 1))
    return config.model_copy(update={"training": config.training.model_copy(update={"module_steps": steps})})


def check_steps(config: TrainingRunConfig, n_trained: int, stage: str) -> None:
    """Refuse steps that would leave a module untrained or outdated, or fine-tune a prior to an outdated posterior.

    Args:
        config: Configuration of the run.
        n_trained: Number of trained modules of the initial model; 0 without one.
        stage: Last stage of the initial model; empty if unknown.

    Raises:
        ConfigError: The message names the steps.
    """
    n_modules = config.model.n_modules
    if config.training.end_to_end_steps > 0 and not any(
        config.training.module_steps
    ):  # all modules are trained at once
        n_trained = n_modules
    for k in range(n_trained + 1, n_modules + 1):
        if not config.training.steps_of(k):
            raise ConfigError(f"training.module_steps: expected steps for module {k}, which is not trained, got 0")
    if stage == "rollout" and config.training.prior_finetune_steps and not config.training.steps_of(n_modules):
        raise ConfigError(
            "--init: expected a checkpoint of a stage before rollout, which does not train the posterior, so that the "
            "prior cannot be fine-tuned; set training.prior_finetune_steps=0, or use the checkpoint of an earlier stage"
        )
    steps = [config.training.steps_of(k) for k in range(1, n_modules + 1)]
    outdated = [k for k in range(2, n_modules + 1) if any(steps[: k - 1]) and not steps[k - 1]]
    if outdated and not config.training.end_to_end_steps and not config.training.rollout_steps:
        raise ConfigError(
            f"training.module_steps: expected steps for module {outdated[0]} too, as it was trained on the present "
            "weights of lower modules, which will change, got 0; give it steps, or train fewer with --modules"
        )


def check_processes(config: TrainingRunConfig, n_processes: int) -> None:
    """Refuse a batch that cannot be divided evenly.

    Raises:
        ConfigError: The message names the divisor.
    """
    n_parts = config.training.accumulation_steps * n_processes
    if config.training.batch_windows % n_parts:
        raise ConfigError(
            f"training.batch_windows: expected a multiple of {n_parts}, that is {config.training.accumulation_steps} "
            f"accumulation_steps in {n_processes} processes, got {config.training.batch_windows}"
        )


def check_unset(overrides: Sequence[str]) -> None:
    """Refuse settings that are derived from the data.

    Raises:
        ConfigError: The message names the key.
    """
    for key in ("model.action_dim", "model.action_scale"):
        if _is_set(key, overrides):
            raise ConfigError(
                f"{key}: is derived from the data; remove it, or ignore all actions with --set data.action_free=true"
            )


def fitted(config: TrainingRunConfig, dataset: Dataset) -> TrainingRunConfig:
    """Return the configuration with the number and the scale of the actions of the data."""
    update = {"action_dim": dataset.train.actions.shape[1], "action_scale": dataset.action_scale}
    return config.model_copy(update={"model": config.model.model_copy(update=update)})


def _is_set(key: str, overrides: Sequence[str]) -> bool:
    return any(item.partition("=")[0].strip() == key for item in overrides)

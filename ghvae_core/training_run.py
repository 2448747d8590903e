"""One run of training from a request to a checkpoint: everything is built here and handed to the trainer."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from pydantic import model_validator
from rich.console import Console
from rich.progress import Progress

from configs.loader import FOLDER, Config, ConfigError, load, save
from ghvae_core import checkpoint
from ghvae_core.checkpoint import CheckpointInfo
from ghvae_core.dataset import DataConfig, Dataset, DatasetError, load_dataset
from ghvae_core.ghvae import Ghvae, GhvaeConfig
from ghvae_core.health import Figures
from ghvae_core.manifest import CheckpointError
from ghvae_core.objective import ObjectiveConfig
from ghvae_core.trainer import Interrupted, Job, Trainer, TrainingConfig, stages
from ghvae_core.training_log import TrainingLog
from ghvae_core.training_state import latest_state
from robot_bridge.camera import MODEL_IMAGE_PX

_OPERATIONAL = {"save_every_s", "feature_cache_limit_gb"}  # of training: may change when a run is resumed


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    data: Path
    out: Path
    model: str  # a file of configs/models without its suffix, or a path
    init: Path | None
    resume: bool
    seed: int
    device: str
    overrides: tuple[str, ...]


class RunConfig(Config):
    """All sections that `--set` knows."""

    model: GhvaeConfig
    training: TrainingConfig
    objective: ObjectiveConfig
    data: DataConfig

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        # Not ValueError: pydantic would give back all sections with it.
        if self.model.image_px != MODEL_IMAGE_PX:
            raise ConfigError(f"model.image_px: expected {MODEL_IMAGE_PX}, got {self.model.image_px}")
        if self.model.prior == "uniform" and self.training.polish_steps:
            raise ConfigError("model.prior: uniform has nothing to polish; set training.polish_steps=0")
        return self


def train(request: Request) -> int:
    """Train as asked; return the exit code: 0, 130 after Ctrl-C, 75 after SIGTERM.

    Raises:
        ReportedError: Bad input, before anything was written; or training that cannot go on.
    """
    config = load_config(request)
    start = None if request.init is None else checkpoint.load(request.init)
    if start is not None:
        config = _continued(config, start, request)
    _check_steps(config, start)
    state = _check_out(request)
    dataset = read_dataset(request, config)
    config = _scaled(config, dataset)
    if start is not None:
        _check_fit(start, config, dataset, request)
    model = _model(request, config, start)
    plan = stages(config.training, model.n_modules)
    job = Job(
        model,
        dataset.train,
        dataset.validation,
        config.data.n_context,
        plan,
        request.seed,
        _name(request, config, dataset, start),
    )
    log = TrainingLog(request.out, job, _describe(request, config, dataset, start))
    trainer = Trainer(job, config.training, config.objective, state, log)
    if request.resume:
        trainer.resume()
    request.out.mkdir(parents=True, exist_ok=True)  # the first write: nothing is refused below
    save(config, request.out / "config.yaml")
    if not request.resume:
        dataset.keep(request.out / "episodes.npz")
    with log, _signals() as received:
        try:
            figures = trainer.train(lambda: bool(received))
        except Interrupted:
            log.note(f"stopped; go on with the same command and --resume --out {request.out}")
            return 130 if received[0] == signal.SIGINT else 75
        final = log.describe(plan[-1], figures[plan[-1].name])
    folder = request.out / "checkpoint"
    checkpoint.save(folder, model, final)
    print(_summary(folder, job, figures), flush=True)
    return 0


def load_config(request: Request) -> RunConfig:
    """Return the configuration: the model's file, the training file of its name (or tiny's), and the overrides."""
    name = Path(request.model)
    model = name if name.suffix == ".yaml" else Path("models", f"{request.model}.yaml")
    training = Path("training", f"{model.stem}.yaml")
    if not (FOLDER / training).is_file():
        training = Path("training", "tiny.yaml")
    sections = {
        "model": model,
        "training": training,
        "objective": Path("training", "objective.yaml"),
        "data": Path("training", "data.yaml"),
    }
    return load(RunConfig, {key: str(path) for key, path in sections.items()}, request.overrides)


def read_dataset(request: Request, config: RunConfig) -> Dataset:
    """Read the episodes under a progress bar, and say what was left out and why."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading episodes", total=None)
        dataset = load_dataset(
            request.data,
            config.data,
            request.out / "episodes.npz",
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    for reason, count in dataset.refused.items():
        console.print(f"warning: left out {count} episodes: {reason}", markup=False, highlight=False, soft_wrap=True)
    counts = f"{len(dataset.train.starts)} windows to train on, {len(dataset.validation.starts)} to validate with"
    console.print(f"{dataset.n_episodes} episodes, {counts}", highlight=False)
    return dataset


def _check_out(request: Request) -> Path:
    state = request.out / "state"
    exists = latest_state(state) is not None
    if exists and not request.resume:
        raise CheckpointError(
            f"{request.out}: holds a run already; add --resume to go on with it, or take another --out"
        )
    if request.resume and not exists:
        raise CheckpointError(f"{request.out}: holds no run to resume; leave out --resume to start one")
    return state


def _scaled(config: RunConfig, dataset: Dataset) -> RunConfig:
    """Return the configuration with the data's action scale: metres by the step limit, the gripper as it is."""
    if config.model.action_dim != dataset.train.actions.shape[1]:
        raise DatasetError(
            f"expected actions of {config.model.action_dim} numbers, as model.action_dim says, "
            f"got {dataset.train.actions.shape[1]}"
        )
    scale = (*[dataset.step_limit_m] * (config.model.action_dim - 1), 1.0)
    return config.model_copy(update={"model": config.model.model_copy(update={"action_scale": scale})})


def _continued(config: RunConfig, start: checkpoint.Checkpoint, request: Request) -> RunConfig:
    """Return the configuration with no steps for trained modules, where others are missing and none were asked for."""
    n_trained, n_modules = start.model.n_modules, len(config.model.modules)
    is_asked = any(item.partition("=")[0].strip() == "training.module_steps" for item in request.overrides)
    if is_asked or n_trained >= n_modules:
        return config
    steps = tuple(config.training.steps_of(k) if k > n_trained else 0 for k in range(1, n_modules + 1))
    return config.model_copy(update={"training": config.training.model_copy(update={"module_steps": steps})})


def _check_steps(config: RunConfig, start: checkpoint.Checkpoint | None) -> None:
    """Refuse to leave a module untrained, and to polish a prior towards a posterior that no longer fits."""
    n_trained, n_modules = start.model.n_modules if start else 0, len(config.model.modules)
    for k in range(n_trained + 1, n_modules + 1):
        if not config.training.steps_of(k):
            raise ConfigError(f"training.module_steps: expected steps for module {k}, which no --init brings, got 0")
    is_stale = start is not None and start.info.provenance.get("stage") == "rollout"
    if is_stale and config.training.polish_steps and not config.training.steps_of(n_modules):
        raise ConfigError(
            "--init: got a checkpoint after its rollout stage, which left the posterior behind, so that there is "
            "nothing to polish towards; set training.polish_steps=0, or take the checkpoint of an earlier stage"
        )


def _check_fit(start: checkpoint.Checkpoint, config: RunConfig, dataset: Dataset, request: Request) -> None:
    info, modules = start.info, config.model.modules[: start.model.n_modules]
    pairs = {
        "model": (start.model.config, config.model.model_copy(update={"modules": modules})),
        "step_limit_m": (info.step_limit_m, dataset.step_limit_m),
        "step_s": (info.step_s, dataset.step_s),
        "n_context": (info.n_context, config.data.n_context),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CheckpointError(f"{request.init}: its {name} is {theirs}, this run has {ours}; make them equal")


def _model(request: Request, config: RunConfig, start: checkpoint.Checkpoint | None) -> Ghvae:
    """Return a model of random weights, but for the modules that `--init` brings, on the device asked for."""
    device = _device(request.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = Ghvae(config.model)
    if start is not None:
        for k in range(1, start.model.n_modules + 1):
            model.module(k).load_state_dict(start.model.module(k).state_dict())
    return model.to(device)


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("--device cuda: this machine has no usable CUDA device; take --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _name(request: Request, config: RunConfig, dataset: Dataset, start: checkpoint.Checkpoint | None) -> str:
    settings = config.model_dump(mode="json", exclude={"training": _OPERATIONAL})
    facts = [settings, dataset.sha256, request.seed, start.sha256 if start else ""]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _describe(
    request: Request, config: RunConfig, dataset: Dataset, start: checkpoint.Checkpoint | None
) -> CheckpointInfo:
    return CheckpointInfo(
        model=config.model,
        step_limit_m=dataset.step_limit_m,
        step_s=dataset.step_s,
        n_context=config.data.n_context,
        horizon=config.data.horizon,
        modules_trained=len(config.model.modules),
        provenance={
            "data_sha256": dataset.sha256,
            "n_episodes": dataset.n_episodes,
            "seed": request.seed,
            "init_sha256": start.sha256 if start else "",
            "batch_windows": config.training.batch_windows,
            "validation_share": config.data.validation_share,
            "camera": config.data.camera,
        },
    )


def _summary(folder: Path, job: Job, figures: dict[str, Figures]) -> str:
    warnings = {stage.name: figures[stage.name].warnings(stage.kind, job.model.config) for stage in job.plan}
    return json.dumps(
        {
            "checkpoint": str(folder),
            "sha256": checkpoint.load(folder).sha256,
            "stages": {name: values._asdict() for name, values in figures.items()},
            "warnings": {name: found for name, found in warnings.items() if found},
        }
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one ends the process as it would have."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the interface of signal
        received.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

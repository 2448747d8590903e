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
from rich.console import Console
from rich.progress import Progress

from configs.loader import FOLDER, Config, load, save
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


def train(request: Request) -> int:
    """Train as asked; return the exit code: 0, 130 after Ctrl-C, 75 after SIGTERM.

    Raises:
        ReportedError: Bad input, before anything was written; or training that cannot go on.
    """
    config = load_config(request)
    start = None if request.init is None else checkpoint.load(request.init)
    state = _check_out(request)
    dataset = read_dataset(request, config)
    config = _scaled(config, dataset)
    if start is not None:
        _check_fit(start, config, dataset, request)
    device = _device(request.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = Ghvae(config.model)
    if start is not None:
        model.load_state_dict(start.model.state_dict())
    model.to(device)
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
    info = _describe(request, config, dataset, start)
    request.out.mkdir(parents=True, exist_ok=True)
    save(config, request.out / "config.yaml")
    if not request.resume:
        dataset.keep(request.out / "episodes.npz")
    with TrainingLog(request.out, job, info) as log, _signals() as received:
        trainer = Trainer(job, config.training, config.objective, state, log)
        if request.resume:
            trainer.resume()
        try:
            figures = trainer.train(lambda: bool(received))
        except Interrupted:
            log.note(f"stopped; go on with the same command and --resume --out {request.out}")
            return 130 if received[0] == signal.SIGINT else 75
        final = log.describe(plan[-1], figures[plan[-1].name])
    folder = request.out / "checkpoint"
    checkpoint.save(folder, model, final)
    print(_summary(folder, figures), flush=True)
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
    with Progress(console=console) as progress:
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


def _check_fit(start: checkpoint.Checkpoint, config: RunConfig, dataset: Dataset, request: Request) -> None:
    info = start.info
    pairs = {
        "modules": (info.modules_trained, len(config.model.modules)),
        "model": (info.model, config.model),
        "step_limit_m": (info.step_limit_m, dataset.step_limit_m),
        "step_s": (info.step_s, dataset.step_s),
        "n_context": (info.n_context, config.data.n_context),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CheckpointError(f"{request.init}: its {name} is {theirs}, this run has {ours}; make them equal")


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("--device cuda: this machine has no usable CUDA device; take --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _name(request: Request, config: RunConfig, dataset: Dataset, start: checkpoint.Checkpoint | None) -> str:
    facts = [config.model_dump(mode="json"), dataset.sha256, request.seed, start.sha256 if start else ""]
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
        },
    )


def _summary(folder: Path, figures: dict[str, Figures]) -> str:
    warnings = {name: found for name, values in figures.items() if (found := values.warnings())}
    return json.dumps(
        {
            "checkpoint": str(folder),
            "sha256": checkpoint.load(folder).sha256,
            "stages": {name: values._asdict() for name, values in figures.items()},
            "warnings": warnings,
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

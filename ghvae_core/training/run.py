"""One run of training from a request to a checkpoint: everything is built here and handed to the trainer."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from configs.loader import former_names, to_yaml
from data_collection.atomic_io import write_file
from ghvae_core.data.augmentation import augment
from ghvae_core.data.dataset import DataConfig, Dataset, load_dataset
from ghvae_core.models import checkpoint
from ghvae_core.models.checkpoint import Checkpoint, CheckpointInfo
from ghvae_core.models.checkpoint_files import CheckpointError, sha256
from ghvae_core.models.device import find_device
from ghvae_core.models.torch_import import load_torch_file
from ghvae_core.models.transfer import TransferReport, adapt, check_sizes
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.config import (
    TrainingRunConfig,
    check_processes,
    check_steps,
    check_unset,
    continued,
    fitted,
    load_config,
)
from ghvae_core.training.distributed import PREEMPTED, ProcessGroup, noted_signals
from ghvae_core.training.engine import Recipe
from ghvae_core.training.logger import NullListener, TrainingLog
from ghvae_core.training.stages import OPERATIONAL, check_plan, stages
from ghvae_core.training.trainer import Interrupted, Trainer, TrainingJob
from ghvae_core.training.training_state import latest_state, rename_former_stages
from ghvae_core.training.validation import ValidationMetrics


def read_episodes(
    folders: Sequence[Path], config: DataConfig, image_px: int, prepared: Path, group: ProcessGroup
) -> Dataset:
    """Read the episodes, the first process before the others, which find them prepared; say what was left out.

    Args:
        folders: Where they are.
        config: What to read of them, and how.
        image_px: Side of the images that are kept.
        prepared: Folder for them.
        group: All processes that need them.
    """
    if not group.is_first:
        group.wait(is_patient=True)
    console = Console(stderr=True, quiet=not group.is_first)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading episodes", total=None)
        dataset = load_dataset(
            folders,
            config,
            image_px,
            prepared,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if group.is_first:
        group.wait(is_patient=True)
    warnings = [f"left out {count} episodes: {reason}" for reason, count in dataset.refused.items()]
    for warning in [*warnings, *dataset.warnings]:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    counts = f"{len(dataset.train.starts)} windows to train on, {len(dataset.validation.starts)} to validate with"
    console.print(f"{dataset.n_episodes} episodes, {counts}", highlight=False)
    return dataset


_FOREIGN = {".pt", ".pth"}  # files of others, as `--init`


@dataclass(frozen=True)
class TrainingRequest:
    """What was asked for on the command line."""

    data: tuple[Path, ...]
    out: Path
    model: str  # a file of configs/models without its suffix, or a path
    init: Path | None  # a checkpoint, or a file of others
    resume: bool
    seed: int
    device: str
    overrides: tuple[str, ...]
    n_modules: int | None = None  # of the model, from the first; None: all


class _Start(NamedTuple):
    """What a run starts with."""

    model: VideoModel
    report: TransferReport  # what became of the weights of `--init`
    is_new: bool  # all weights are random
    sha256: str  # of what `--init` named; empty without one


def train(request: TrainingRequest) -> int:
    """Train as asked; return the exit code: 0, 130 after Ctrl-C, 75 after SIGTERM.

    Raises:
        ReportedError: Bad input, before anything was written; or training that cannot go on.
    """
    check_unset(request.overrides)
    config = load_config(request.model, request.overrides, request.n_modules)
    init = None if request.init is None or _is_foreign(request.init) else checkpoint.load(request.init)
    if init is not None:
        check_sizes(init, config.model)
        config = continued(config, init, request.overrides)
    if request.init is None or init is not None:
        n_trained, stage = (init.model.n_modules, str(init.info.provenance.get("stage", ""))) if init else (0, "")
        check_steps(config, n_trained, stage)
    check_plan(stages(config.training, config.model.n_modules), config.model)
    group = ProcessGroup(find_device(request.device))
    check_processes(config, group.size)
    _check_out(request)
    with group:
        code = _train(request, config, init, group)
        if code == PREEMPTED and group.size > 1:
            # torchrun sends one to whoever leaves after another, and it must not change how that one exits
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return code


def _is_foreign(path: Path) -> bool:
    if path.suffix not in _FOREIGN:
        return False
    if not path.is_file():  # said now, and not when all episodes are read
        raise CheckpointError(f"--init {path}: expected a {path.suffix} file of others, found none")
    return True


def _train(request: TrainingRequest, config: TrainingRunConfig, init: Checkpoint | None, group: ProcessGroup) -> int:
    prepared = request.out / "prepared"
    dataset = read_episodes(request.data, config.data, config.model.image_px, prepared, group)
    config = fitted(config, dataset)
    start = _start(request, config, init)
    notes = _differences(init, config, dataset)
    job = _job(request, config, dataset, start)
    job.model.to(group.device)
    info = _describe(request, config, dataset, start, notes)
    log = TrainingLog(request.out, job, info) if group.is_first else None
    recipe = Recipe(config.training, config.objective, config.data.n_context)
    trainer = Trainer(job, recipe, request.out / "state", log or NullListener(), group)
    if request.resume:
        if group.is_first:
            rename_former_stages(request.out / "stages")
        trainer.resume()
    if group.is_first:  # nothing is refused below
        request.out.mkdir(parents=True, exist_ok=True)
        write_file(request.out / "config.yaml", to_yaml(config))
    with log or nullcontext(), noted_signals() as signals:
        if log is not None and not request.resume:
            for line in [*start.report.lines(), *notes]:
                log.say(f"--init: {line}")
        try:
            figures = trainer.train(lambda: signals.received is not None)
        except Interrupted:
            if log is not None:
                log.say(f"stopped; go on with the same command and --resume --out {request.out}")
            (number,) = group.largest(signals.received or 0)  # of those that any process got
            return 130 if number == signal.SIGINT else PREEMPTED
    if log is not None:
        last = job.plan[-1]
        checkpoint.save(request.out / "checkpoint", job.model, log.describe(last, figures[last.name]))
        print(_summary(request.out / "checkpoint", job, figures), flush=True)
    return 0


def _check_out(request: TrainingRequest) -> None:
    exists = latest_state(request.out / "state") is not None
    if exists and not request.resume:
        raise CheckpointError(
            f"{request.out}: holds a run already; add --resume to go on with it, or take another --out"
        )
    if request.resume and not exists:
        raise CheckpointError(f"{request.out}: holds no run to resume; leave out --resume to start one")


def _start(request: TrainingRequest, config: TrainingRunConfig, init: Checkpoint | None) -> _Start:
    """Return the model that training starts with: of random weights, but for those that `--init` brings."""
    if init is not None:
        model, report = adapt(init, config.model, np.random.default_rng(request.seed))
        return _Start(model, report, is_new=False, sha256=init.sha256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = checkpoint.build(config.model)
    if request.init is None:
        return _Start(model, TransferReport(), is_new=True, sha256="")
    report = load_torch_file(request.init, model)
    check_steps(config, _n_loaded(model, report), "")
    return _Start(model, report, is_new=False, sha256=sha256(request.init.read_bytes()))


def _n_loaded(model: VideoModel, report: TransferReport) -> int:
    """Return how many of the first modules have no weight that is still random."""
    tensors = model.state_dict(keep_vars=True)
    random = {id(tensors[name]) for name in report.new}
    modules = (model.module(k).state_dict(keep_vars=True).values() for k in range(1, model.n_modules + 1))
    whole = [not random & set(map(id, each)) for each in modules]
    return [*whole, False].index(False)


def _differences(init: Checkpoint | None, config: TrainingRunConfig, dataset: Dataset) -> list[str]:
    """Return, in words, what the model to start from was made for and this run is not, beside the model itself."""
    if init is None:
        return []
    pairs = {
        "step_limit_m": (init.info.step_limit_m, dataset.step_limit_m),
        "step_s": (init.info.step_s, dataset.step_s),
        "n_context": (init.info.n_context, config.data.n_context),
    }
    return [f"{name}: was {theirs}, is {ours}" for name, (theirs, ours) in pairs.items() if theirs != ours]


def _job(request: TrainingRequest, config: TrainingRunConfig, dataset: Dataset, start: _Start) -> TrainingJob:
    return TrainingJob(
        model=start.model,
        train=dataset.train,
        validation=dataset.validation,
        n_context=config.data.n_context,
        plan=stages(config.training, start.model.n_modules, from_scratch=start.is_new),
        seed=request.seed,
        run=_name(request, config, dataset, start),
        data_sha256=dataset.sha256,
        augment=(lambda frames, rng: augment(frames, config.data.augmentation, rng)) if config.data.augment else None,
    )


def _name(request: TrainingRequest, config: TrainingRunConfig, dataset: Dataset, start: _Start) -> str:
    settings = former_names(TrainingRunConfig, config.model_dump(mode="json", exclude={"training": OPERATIONAL}))
    settings["data"]["prepared"] = None  # where the decoded episodes are kept does not matter
    facts = [settings, dataset.sha256, request.seed, start.sha256]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _describe(
    request: TrainingRequest, config: TrainingRunConfig, dataset: Dataset, start: _Start, notes: list[str]
) -> CheckpointInfo:
    return CheckpointInfo(
        model=config.model,
        step_limit_m=dataset.step_limit_m,
        step_s=dataset.step_s,
        n_context=config.data.n_context,
        horizon=config.data.horizon,
        workspace_m=dataset.workspace_m,
        camera=dataset.camera,
        modules_trained=config.model.n_modules,
        provenance={
            "data_sha256": dataset.sha256,
            "folder_sha256": " ".join(dataset.folder_sha256),
            "n_episodes": dataset.n_episodes,
            "seed": request.seed,
            "init_sha256": start.sha256,
            "init_differences": "; ".join(notes),
            **start.report.provenance(),
            "batch_windows": config.training.batch_windows,
            "validation_fraction": config.data.validation_fraction,
            "camera": config.data.camera,
            "video_stride": config.data.video_stride,
        },
    )


def _summary(folder: Path, job: TrainingJob, figures: dict[str, ValidationMetrics]) -> str:
    warnings = {stage.name: figures[stage.name].warnings(stage.kind, job.model.config) for stage in job.plan}
    return json.dumps(
        {
            "checkpoint": str(folder),
            "sha256": checkpoint.load(folder).sha256,
            "stages": {name: values._asdict() for name, values in figures.items()},
            "warnings": {name: found for name, found in warnings.items() if found},
        }
    )

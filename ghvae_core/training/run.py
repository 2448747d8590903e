"""One training run, from the request to the checkpoint: builds all parts and passes them to the trainer."""

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

from configs.command import print_result
from configs.interruption import Interruption
from configs.loader import former_names, to_yaml
from configs.progress import ProgressBar, counted, listed
from data_collection.atomic_io import write_file
from data_collection.folder_lock import check_new, locked_folder
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
from ghvae_core.training.distributed import PREEMPTED, ProcessGroup, stop_signals
from ghvae_core.training.engine import Recipe
from ghvae_core.training.logger import NullListener, TrainingLog
from ghvae_core.training.stages import OPERATIONAL, check_plan, stages
from ghvae_core.training.trainer import Interrupted, Trainer, TrainingJob
from ghvae_core.training.training_state import latest_state, rename_former_stages
from ghvae_core.training.validation import ValidationMetrics

_FIRST_FILES = {"prepared", "config.yaml", "config.yaml.part", "tensorboard", "state"}  # before the first state
_TORCH_FILES = {".pt", ".pth"}  # weights of other programs, for `--init`


@dataclass(frozen=True)
class TrainingRequest:
    """The options of the command line."""

    data: tuple[Path, ...]
    out: Path
    model: str  # a file of configs/models without its suffix, or a path
    init: Path | None  # a checkpoint, or a PyTorch file of weights
    resume: bool
    seed: int
    device: str
    overrides: tuple[str, ...]
    n_modules: int | None = None  # the first modules of the model; None: all


class _Start(NamedTuple):
    """The model at the start of a run."""

    model: VideoModel
    report: TransferReport  # of the weights of `--init`
    is_new: bool  # all weights are random
    sha256: str  # of the checkpoint or file of `--init`; empty without one


def train(request: TrainingRequest) -> int:
    """Train a model; return the exit code: 0, 130 after Ctrl-C, 75 after SIGTERM.

    Raises:
        ReportedError: Invalid input, before anything was written; or training failed.
        KeyboardInterrupt: Ctrl-C before the first step. After SIGTERM: SystemExit with 75.
    """
    check_unset(request.overrides)
    config = load_config(request.model, request.overrides, request.n_modules)
    init = None if request.init is None or _is_torch_file(request.init) else checkpoint.load(request.init)
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
    with locked_folder(request.out) if group.is_first else nullcontext(), group:
        if group.is_first:
            _check_out(request)  # again, now that no other run can write
        with stop_signals() as stop:
            code = _train(request, config, init, group, stop)
            stop.take()  # a signal after the last step changes nothing
        if code == PREEMPTED and group.size > 1:
            # torchrun sends SIGTERM to processes that exit after another one; it must not change their exit code
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return code


def read_episodes(
    folders: Sequence[Path], config: DataConfig, image_px: int, prepared: Path, group: ProcessGroup
) -> Dataset:
    """Read the episodes, in the first process before the others, which then find them decoded; print what was refused.

    Args:
        folders: Data folders.
        config: Which episodes are read, and how.
        image_px: Side of the decoded images.
        prepared: Folder for the decoded episodes.
        group: All processes that need them.

    Raises:
        ReportedError: No usable episodes.
        KeyboardInterrupt: A signal is due within `configs.interruption`.
    """
    if not group.is_first:
        group.wait(is_patient=True)
    with ProgressBar("episodes read", None, transient=True, quiet=not group.is_first) as bar:
        dataset = load_dataset(folders, config, image_px, prepared, lambda done, total: bar.update(done, total=total))
    if group.is_first:
        group.wait(is_patient=True)
        for reason, names in dataset.refused.items():
            bar.say(f"warning: refused {counted(len(names), 'episode')}: {reason}: {listed(names)}")
        for warning in dataset.warnings:
            bar.say(f"warning: {warning}")
        n_train, n_validation = len(dataset.train.starts), len(dataset.validation.starts)
        windows = f"{counted(n_train, 'training window')}, {counted(n_validation, 'validation window')}"
        bar.say(f"{counted(dataset.n_episodes, 'episode')}: {windows}")
    return dataset


def _is_torch_file(path: Path) -> bool:
    if path.suffix not in _TORCH_FILES:
        return False
    if not path.is_file():  # refused here, before all episodes are read
        raise CheckpointError(f"--init {path}: expected a {path.suffix} file of weights, found none")
    return True


def _train(
    request: TrainingRequest,
    config: TrainingRunConfig,
    init: Checkpoint | None,
    group: ProcessGroup,
    stop: Interruption,
) -> int:
    try:
        dataset = read_episodes(request.data, config.data, config.model.image_px, request.out / "prepared", group)
    except KeyboardInterrupt:
        if stop.received == signal.SIGTERM:
            raise SystemExit(PREEMPTED) from None
        raise
    config = fitted(config, dataset)
    start = _start(request, config, init)
    differences = _differences(init, config, dataset)
    job = _job(request, config, dataset, start)
    job.model.to(group.device)
    info = _describe(request, config, dataset, start, differences)
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
    with log or nullcontext():
        if log is not None and not request.resume:
            for line in [*start.report.lines(), *differences]:
                log.say(f"--init: {line}")
        try:
            metrics = trainer.train(lambda: stop.received is not None)
        except Interrupted:
            if log is not None:
                log.say(f"stopped; resume with the same command and --resume --out {request.out}")
            (number,) = group.largest(stop.received or 0)  # any process may have received it
            return 130 if number == signal.SIGINT else PREEMPTED
    if log is not None:
        last = job.plan[-1]
        checkpoint.save(request.out / "checkpoint", job.model, log.describe(last, metrics[last.name]))
        print_result(_summary(request.out / "checkpoint", job, metrics))
    return 0


def _check_out(request: TrainingRequest) -> None:
    exists = latest_state(request.out / "state") is not None
    if exists and not request.resume:
        raise CheckpointError(f"{request.out}: contains a run; add --resume to resume it, or choose another --out")
    if request.resume and not exists:
        raise CheckpointError(f"{request.out}: contains no run to resume; leave out --resume to start one")
    if not request.resume:
        check_new(request.out, _FIRST_FILES)


def _start(request: TrainingRequest, config: TrainingRunConfig, init: Checkpoint | None) -> _Start:
    """Return the model at the start of training: random weights, except those of `--init`."""
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
    """Return the number of first modules without random weights."""
    tensors = model.state_dict(keep_vars=True)
    random = {id(tensors[name]) for name in report.new}
    modules = (model.module(k).state_dict(keep_vars=True).values() for k in range(1, model.n_modules + 1))
    whole = [not random & set(map(id, each)) for each in modules]
    return [*whole, False].index(False)


def _differences(init: Checkpoint | None, config: TrainingRunConfig, dataset: Dataset) -> list[str]:
    """Return how the data of this run differ from those of the checkpoint of `--init`, as lines of text."""
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
    if settings["model"]["kind"] == "ghvae":  # settings that earlier versions did not have
        del settings["model"]["n_context"]
        if not settings["model"]["copies"]:
            del settings["model"]["copies"], settings["model"]["mask_threshold"]
        if settings["model"]["prior_frames"] == "all":
            del settings["model"]["prior_frames"]
    if settings["training"]["decoded_steps"] is None:
        del settings["training"]["decoded_steps"]
    if settings["training"]["rollout_modules"] == "all" or not settings["training"]["rollout_steps"]:
        del settings["training"]["rollout_modules"]
    settings["data"]["prepared"] = None  # the folder of the decoded episodes does not matter
    facts = [settings, dataset.sha256, request.seed, start.sha256]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _describe(
    request: TrainingRequest, config: TrainingRunConfig, dataset: Dataset, start: _Start, differences: list[str]
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
            "init_differences": "; ".join(differences),
            **start.report.provenance(),
            "batch_windows": config.training.batch_windows,
            "validation_fraction": config.data.validation_fraction,
            "camera": config.data.camera,
            "video_stride": config.data.video_stride,
        },
    )


def _summary(folder: Path, job: TrainingJob, metrics: dict[str, ValidationMetrics]) -> dict[str, object]:
    warnings = {
        stage.name: [*found.stage_problems(stage.kind), *found.action_problems(job.model.config)]
        for stage in job.plan
        if (found := metrics[stage.name])
    }
    return {
        "checkpoint": str(folder),
        "sha256": checkpoint.load(folder).sha256,
        "stages": {name: values._asdict() for name, values in metrics.items()},
        "warnings": {name: found for name, found in warnings.items() if found},
    }

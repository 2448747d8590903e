"""The folder of a series of trials: what is over stays, what was broken off is done again."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import yaml
from pydantic import ValidationError

from configs.loader import Config, to_yaml
from data_collection.atomic_io import make_folder, write_file
from planner.config import TaskRunConfig
from planner.plan import PlannerError
from planner.trials.trial import Trial, TrialJob
from planner.trials.variant import VariantName

CONFIG = "config.yaml"
_LOCK = ".lock"
_TRIAL = "trial.json"
_FREE_KEYS = ("planner.predict_timeout_s", "planner.keys")  # change no plan, only how one is asked for
_HARMLESS = {_LOCK, f"{CONFIG}.part"}  # what a first start that failed may leave


class TrialsError(PlannerError):
    """The series did not come to its end. Every trial that is over stands."""

    exit_code: ClassVar[int] = 1


class VariantConfig(Config):
    """All that decides what one variant does."""

    predictor: str
    checkpoint: str  # sha256 of its manifest; empty for the simulator
    distance: str  # sha256 of the manifest of the network that tells steps to go; empty: there is none
    tasks: dict[str, TaskRunConfig]


class TrialsConfig(Config):
    """All that decides what the trials of a folder are."""

    variants: dict[VariantName, VariantConfig]


class TrialsFolder:
    """`TASK/VARIANT/seedN` for each trial, with the record of it when it is over, and the report of all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, resume: bool) -> None:
        """Refuse a folder that holds something else than what is asked for: nothing, or trials to go on with.

        Raises:
            PlannerError: It does. Nothing was changed.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise PlannerError(f"{self.path}: expected a folder, got a file")
        names = {item.name for item in self.path.iterdir()} - _HARMLESS
        if names and not resume:
            raise PlannerError(f"{self.path}: expected a new or empty folder; go on in this one with --resume")
        if names and CONFIG not in names:
            raise PlannerError(
                f"{self.path}: expected trials to go on with, got a folder without {CONFIG}; choose another with --out"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep others out of it.

        Raises:
            PlannerError: Another command is at work in it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / _LOCK).open("a")
        except OSError as error:
            raise PlannerError(f"{self.path}: {error.strerror}; choose another folder with --out") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PlannerError(f"{self.path}: another run_trials is at work here; stop it") from None
            yield

    def keep_config(self, config: TrialsConfig) -> None:
        """Write the configuration; where there is one, check that it is the same.

        Raises:
            PlannerError: The trials that are here are of another configuration; the message names what differs.
        """
        kept = self.path / CONFIG
        if not kept.exists():
            write_file(kept, to_yaml(config))
            return
        try:
            before = yaml.safe_load(kept.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise PlannerError(f"{kept}: expected YAML, got: {' '.join(str(error).split())}") from None
        changes = list(_changes(before, config.model_dump(mode="json"), ""))
        if changes:
            raise PlannerError(
                f"{kept}: expected the configuration of the trials that are here, got another "
                f"({'; '.join(changes[:3])}); choose another folder with --out"
            )

    def place(self, task: str, variant: VariantName, seed: int) -> Path:
        """Return the folder of one trial's run."""
        return self.path / task / variant / f"seed{seed:04d}"

    def kept(self, job: TrialJob) -> Trial | None:
        """Return the record of a trial if it is over."""
        path = job.out / _TRIAL
        if not path.exists():
            return None
        try:
            trial = Trial.model_validate_json(path.read_bytes())
        except ValidationError:
            raise PlannerError(f"{path}: expected the record of a trial; remove {job.out} to do it again") from None
        return trial

    def keep(self, trial: Trial) -> None:
        """Record a trial that is over, whole or not at all."""
        path = self.path / trial.folder / _TRIAL
        make_folder(path.parent)
        write_file(path, trial.model_dump_json(indent=1))

    def clear(self, job: TrialJob, *, log: bool = True) -> None:
        """Remove what a trial that was broken off has left; without `log`, not what it printed."""
        if job.out.exists():
            shutil.rmtree(job.out)
        if log:
            job.log.unlink(missing_ok=True)


def _changes(before: object, now: object, name: str) -> Iterator[str]:
    """Yield what differs between two trees of mappings, by dotted keys."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}".strip("."))
    elif before != now and not name.endswith(_FREE_KEYS):
        yield f"'{name}: {_short(before)}' is now '{name}: {_short(now)}'"


def _short(value: object) -> str:
    return "absent" if value is None else "present" if isinstance(value, dict) else str(value)

"""The folder of a series of trials: finished trials are kept, unfinished ones are repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import yaml

from configs.loader import Config, migrate, to_yaml
from data_collection.atomic_io import make_folder, write_file
from data_collection.episode import EpisodeError
from data_collection.folder_lock import LOCK, locked_folder
from planner.config import TaskRunConfig
from planner.plan import PlannerError
from planner.trials.trial import Trial, TrialJob
from planner.trials.variant import VariantName

CONFIG = "config.yaml"
_TRIAL = "trial.json"
_FREE_KEYS = ("planner.predict_timeout_s", "planner.load_timeout_s", "planner.keys")  # do not change any plan
_IGNORED = {LOCK, f"{CONFIG}.part"}  # files that a failed first start may leave


class TrialsError(PlannerError):
    """The series did not finish. All finished trials are kept."""

    exit_code: ClassVar[int] = 1


class VariantConfig(Config):
    """Everything that determines the trials of one variant."""

    predictor: str
    checkpoint: str  # sha256 of its manifest; empty without a checkpoint
    distance: str  # sha256 of the manifest of the temporal distance network; empty without one
    tasks: dict[str, TaskRunConfig]


class TrialsConfig(Config):
    """Everything that determines the trials of a folder."""

    variants: dict[VariantName, VariantConfig]


class TrialsFolder:
    """Holds `TASK/VARIANT/seedN` for each trial, with its record when it is finished, and the report."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, resume: bool) -> None:
        """Refuse a folder that is neither empty nor, with `resume`, one of trials.

        Raises:
            PlannerError: It is refused. Nothing was changed.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise PlannerError(f"{self.path}: expected a folder, got a file")
        names = {item.name for item in self.path.iterdir()} - _IGNORED
        if names and not resume:
            raise PlannerError(f"{self.path}: expected a new or empty folder; resume this one with --resume")
        if names and CONFIG not in names:
            raise PlannerError(
                f"{self.path}: expected trials to resume, got a folder without {CONFIG}; choose another with --out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it against other commands.

        Raises:
            PlannerError: Another command has locked it, or it cannot be written.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(self.path))
            except EpisodeError as error:
                raise PlannerError(str(error)) from None
            yield

    def store_config(self, config: TrialsConfig) -> None:
        """Write the configuration, or check that it equals the stored one.

        Raises:
            PlannerError: The stored trials have another configuration; the message names the differences.
        """
        stored = self.path / CONFIG
        if not stored.exists():
            write_file(stored, to_yaml(config))
            return
        try:
            before = migrate(TrialsConfig, yaml.safe_load(stored.read_text(encoding="utf-8")))
        except (ValueError, yaml.YAMLError) as error:
            raise PlannerError(f"{stored}: expected YAML, got: {' '.join(str(error).split())}") from None
        changes = list(_changes(before, config.model_dump(mode="json"), ""))
        if changes:
            raise PlannerError(
                f"{stored}: expected the configuration of the stored trials, got another "
                f"({'; '.join(changes[:3])}); choose another folder with --out"
            )

    def trial_folder(self, task: str, variant: VariantName, seed: int) -> Path:
        """Return the folder of one trial."""
        return self.path / task / variant / f"seed{seed:04d}"

    def finished(self, job: TrialJob) -> Trial | None:
        """Return the record of a trial; None where it is not finished.

        Raises:
            PlannerError: The record is invalid.
        """
        path = job.out / _TRIAL
        if not path.exists():
            return None
        try:
            return Trial.model_validate_json(json.dumps(migrate(Trial, json.loads(path.read_bytes()))))
        except ValueError:  # not JSON, or not a valid record
            raise PlannerError(f"{path}: expected the record of a trial; remove {job.out} to repeat it") from None

    def store(self, trial: Trial) -> None:
        """Write the record of a finished trial."""
        path = self.path / trial.folder / _TRIAL
        make_folder(path.parent)
        write_file(path, trial.model_dump_json(indent=1))

    def remove(self, job: TrialJob, *, log: bool = True) -> None:
        """Remove the files of an unfinished trial; without `log`, keep its output."""
        if job.out.exists():
            shutil.rmtree(job.out)
        if log:
            job.log.unlink(missing_ok=True)


def _changes(before: object, now: object, name: str) -> Iterator[str]:
    """Yield the differences of two trees of mappings, by dotted keys."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}".strip("."))
    elif before != now and not name.endswith(_FREE_KEYS):
        yield f"'{name}: {_short(before)}' is now '{name}: {_short(now)}'"


def _short(value: object) -> str:
    return "absent" if value is None else "present" if isinstance(value, dict) else str(value)

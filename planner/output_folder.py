"""The folder of one episode: created before anything moves, filled when the episode ends, for whatever reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

from configs.command import ReportedError, print_result
from configs.loader import Config, to_yaml
from configs.progress import announce, say_path
from data_collection.atomic_io import write_file
from data_collection.formats.robonet import write_episode
from planner.plan import PlannerError
from planner.record import EpisodeDescription, EpisodeHistory, summarize
from planner.report import write_report
from planner.verdict import REPORT, RESULT, one_line
from robot_bridge.robot import RobotSpec

_CONFIG = "config.yaml"


class RecordError(PlannerError):
    """A part of the record could not be written. The arm holds; the other parts were written."""

    exit_code: ClassVar[int] = 1


class RunFolder:
    """The output folder of one episode.

    Raises:
        PlannerError: From the constructor, where the folder is not empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._check_empty()

    def create(self, config: Config, *, may_exist: bool) -> None:
        """Create the folder and write the configuration into it.

        Args:
            config: The complete configuration of the run.
            may_exist: Whether an existing empty folder is accepted. A default folder is named after the time, so an
                existing one belongs to another run.

        Raises:
            PlannerError: The folder is used by another run, or cannot be created. Nothing was written.
            RecordError: The configuration could not be written. Nothing moved.
        """
        self._check_empty()
        try:
            self.path.mkdir(parents=True, exist_ok=may_exist)
            (self.path / _CONFIG).touch(exist_ok=False)  # of two runs with one empty folder, only one succeeds
        except OSError as error:
            raise PlannerError(f"{self.path}: {error.strerror}; choose another folder with --out") from None
        try:
            write_file(self.path / _CONFIG, to_yaml(config))
        except OSError as error:
            raise RecordError(f"{self.path / _CONFIG}: {error.strerror}; nothing moved") from None

    def write_record(self, history: EpisodeHistory, description: EpisodeDescription, spec: RobotSpec) -> str:
        """Write result, episode and report, and print the result; a failure of one does not prevent the others.

        Returns:
            One line on the parts that could not be written; empty where all were.
        """
        result = summarize(description, history, str(self.path / REPORT))
        parts: tuple[Callable[[], object], ...] = (
            lambda: write_file(self.path / RESULT, result.to_json() + "\n"),
            lambda: self._write_episode(history, description, spec),
            lambda: write_report(self.path, history, result, (self.path / _CONFIG).read_text(encoding="utf-8")),
        )
        try:
            with announce("writing the report"):
                lost = [reason for part in parts if (reason := _attempt(part))]
        finally:  # also where a second Ctrl-C ends the writing
            say_path(one_line(result), self.path / REPORT)
            print_result(asdict(result))
        return f"not all was recorded: {'; '.join(lost)}" if lost else ""

    def _write_episode(self, history: EpisodeHistory, description: EpisodeDescription, spec: RobotSpec) -> None:
        episode = history.episode(
            {
                "policy_desc": "visual foresight",
                "task": description.task,
                "predictor": description.predictor,
                "seed": description.seed,
                "ended": history.ended,
            }
        )
        if episode:
            write_episode(
                episode, self.path / f"planner_{spec.name}_{description.task}_traj{description.seed}.hdf5", spec
            )

    def _check_empty(self) -> None:
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise PlannerError(f"{self.path}: expected a new or empty folder for the report; choose another with --out")


def _attempt(part: Callable[[], object]) -> str:
    """Write one part of the record; return the reason of a failure, empty without one."""
    try:
        part()
    except OSError as error:
        return f"{error.filename or 'output'}: {error.strerror or error}"
    except ReportedError as error:
        return str(error)
    return ""

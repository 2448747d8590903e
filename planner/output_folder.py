"""The folder of one run: taken before anything moves, filled when the run is over, whatever ended it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from configs.command import ReportedError
from configs.loader import Config, to_yaml
from data_collection.atomic_io import write_file
from data_collection.formats.robonet import write_episode
from planner.plan import PlannerError
from planner.record import EpisodeDescription, EpisodeHistory, summarize
from planner.report import write_report
from robot_bridge.robot import RobotSpec

_CONFIG = "config.yaml"


class RecordError(PlannerError):
    """A part of the record of a run could not be written. The arm holds; the other parts were written."""

    exit_code: ClassVar[int] = 1


class RunFolder:
    """Where one run is recorded.

    Raises:
        PlannerError: From the constructor, when something stands in the folder already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._refuse_taken()

    def make(self, config: Config, *, may_exist: bool) -> None:
        """Make the folder and write the configuration into it.

        Args:
            config: All that the run uses.
            may_exist: Whether an empty folder is taken too. A name that says when the run began is its own alone: the
                folder can only be that of another run.

        Raises:
            PlannerError: By now the folder is taken, or it cannot be made. Nothing was written.
            RecordError: The configuration could not be written. Nothing moved.
        """
        self._refuse_taken()
        try:
            self.path.mkdir(parents=True, exist_ok=may_exist)
            (self.path / _CONFIG).touch(exist_ok=False)  # of two runs that take an empty folder only one succeeds
        except OSError as error:
            raise PlannerError(f"{self.path}: {error.strerror}; choose another folder with --out") from None
        try:
            write_file(self.path / _CONFIG, to_yaml(config))
        except OSError as error:
            raise RecordError(f"{self.path / _CONFIG}: {error.strerror}; nothing moved") from None

    def leave(self, history: EpisodeHistory, description: EpisodeDescription, spec: RobotSpec) -> str:
        """Print the result, then write it, the episode and the report: each of them whatever becomes of the others.

        Returns:
            One line that says what could not be written; empty when all was.
        """
        result = summarize(description, history, str(self.path / "report.html"))
        parts: tuple[Callable[[], object], ...] = (
            lambda: print(result.to_json(), flush=True),
            lambda: write_file(self.path / "result.json", result.to_json() + "\n"),
            lambda: self._write_episode(history, description, spec),
            lambda: write_report(self.path, history, result, (self.path / _CONFIG).read_text(encoding="utf-8")),
        )
        lost = [fault for part in parts if (fault := _fault(part))]
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

    def _refuse_taken(self) -> None:
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise PlannerError(f"{self.path}: expected a new or empty folder for the report; choose another with --out")


def _fault(part: Callable[[], object]) -> str:
    """Write one part of the record; return why that failed, or nothing."""
    try:
        part()
    except (OSError, ReportedError) as error:
        return str(error)
    return ""

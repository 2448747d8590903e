"""Configuration of a collection run: robot, collection, supervision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field, model_validator

from configs.loader import Config, load
from data_collection.collection.collector import CollectionConfig
from data_collection.episode import EpisodeError
from robot_bridge.factory import CONFIG_FILES, RobotConfig, RobotName, resolve_renderer
from robot_bridge.robot import RobotError
from robot_bridge.simulation.config import SimulationConfig


class SupervisionConfig(Config):
    """Supervision of the worker processes. No key changes an episode."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "alert": "notify_command",
        "memory_gib": "max_memory_gib",
        "descriptors": "max_open_files",
        "renew_after_s": "max_age_s",
    }

    hang_s: float = Field(default=120.0, gt=0)  # ours: a process without activity for this long is killed
    restarts_per_hour: int = Field(default=10, ge=0)  # systemd's default of 10: more lost processes stop the run
    losses_per_episode: int = Field(default=3, ge=1)  # ours: an episode is abandoned after this many lost processes
    back_off_s: tuple[float, float] = (5.0, 900.0)  # ours: first and longest pause after an episode without success
    give_up_s: float = Field(default=3600.0, ge=0)  # ours: without a closed episode for this long, the run stops
    stop_s: float = Field(default=10.0, gt=0)  # ours: time for a process to stop its arm and end; then it is killed
    max_memory_gib: float = Field(default=4.0, gt=0)  # ours: a process above this is replaced between two episodes
    max_open_files: int = Field(default=500, ge=50)  # ours: the same for open files
    max_age_s: float = Field(default=21600.0, gt=0)  # ours: the same for the age of a process: 6 h
    notify_command: tuple[str, ...] = ()  # command and arguments, run with one line of text appended
    digest_s: float = Field(default=86400.0, gt=0)  # interval of the periodic summary by the same command: one day

    @model_validator(mode="after")
    def _check_back_off(self) -> SupervisionConfig:
        if not 0 < self.back_off_s[0] <= self.back_off_s[1]:
            raise ValueError("expected two rising numbers above 0")
        return self


class _CollectionSections(Config):
    robot: RobotConfig
    collection: CollectionConfig
    supervision: SupervisionConfig


class CollectionRunConfig(_CollectionSections):
    """The configuration of a collection run."""

    seed: int = Field(ge=0)

    @classmethod
    def load(cls, seed: int, overrides: Sequence[str], robot: RobotName = "simulation") -> CollectionRunConfig:
        """Read the shipped configuration with `overrides`.

        The renderer `auto` is replaced by the one that works on this machine: episodes depend on the renderer.

        Raises:
            EpisodeError: The requested renderer does not work on this machine.
        """
        files = {
            "robot": CONFIG_FILES[robot],
            "collection": "collection/random.yaml",
            "supervision": "collection/supervision.yaml",
        }
        sections = load(_CollectionSections, files, overrides)
        try:
            chosen = resolve_renderer(sections.robot)
        except RobotError as error:
            raise EpisodeError(str(error)) from error
        return cls(seed=seed, robot=chosen, collection=sections.collection, supervision=sections.supervision)

    @property
    def faults_per_hour(self) -> float:
        """Faults of the arm within an hour before an operator is required; infinite in simulation."""
        return math.inf if isinstance(self.robot, SimulationConfig) else self.robot.recovery.per_hour

    def stem(self, robot: str) -> str:
        """Return the first part of the names of all episode files, for a robot of this name."""
        return f"{self.collection.lab}_{robot}_{self.collection.note}"

"""All that decides what a collection contains, and how it is looked after."""

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
    """How the processes that collect are looked after. None of it changes an episode."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "alert": "notify_command",
        "memory_gib": "max_memory_gib",
        "descriptors": "max_open_files",
        "renew_after_s": "max_age_s",
    }

    hang_s: float = Field(default=120.0, gt=0)  # ours: without a sign of life for so long, a process is killed
    restarts_per_hour: int = Field(default=10, ge=0)  # systemd's habit: of processes that died or hung; then a person
    losses_per_episode: int = Field(default=3, ge=1)  # ours: an episode that kills so many processes is given up
    back_off_s: tuple[float, float] = (
        5.0,
        900.0,
    )  # ours: after an episode without success, the first and longest pause
    give_up_s: float = Field(default=3600.0, ge=0)  # ours: nothing closed for so long, and a person must look
    stop_s: float = Field(default=10.0, gt=0)  # ours: in which a process stops its arm and ends; then it is killed
    max_memory_gib: float = Field(default=4.0, gt=0)  # ours: a process that takes more is renewed between two episodes
    max_open_files: int = Field(default=500, ge=50)  # ours: the same for open files
    max_age_s: float = Field(default=21600.0, gt=0)  # ours: the same for its age: 6 h
    notify_command: tuple[str, ...] = ()  # a command and its arguments, run with a line of text after them
    digest_s: float = Field(default=86400.0, gt=0)  # between two summaries to the same command: a day

    @model_validator(mode="after")
    def _check_back_off(self) -> SupervisionConfig:
        if not 0 < self.back_off_s[0] <= self.back_off_s[1]:
            raise ValueError("back_off_s must be two rising numbers above 0")
        return self


class _Sections(Config):
    robot: RobotConfig
    collection: CollectionConfig
    supervision: SupervisionConfig


class CollectionRunConfig(_Sections):
    """The whole configuration of a run."""

    seed: int = Field(ge=0)

    @classmethod
    def load(cls, seed: int, overrides: Sequence[str], robot: RobotName = "simulation") -> CollectionRunConfig:
        """Read the shipped configuration, changed by `overrides` of its sections.

        Of renderers it names the one that works here, never `auto`, for other renderers make other episodes.

        Raises:
            EpisodeError: The renderer asked for does not work here.
        """
        files = {
            "robot": CONFIG_FILES[robot],
            "collection": "collection/random.yaml",
            "supervision": "collection/supervision.yaml",
        }
        sections = load(_Sections, files, overrides)
        try:
            chosen = resolve_renderer(sections.robot)
        except RobotError as error:
            raise EpisodeError(str(error)) from error
        return cls(seed=seed, robot=chosen, collection=sections.collection, supervision=sections.supervision)

    @property
    def faults_per_hour(self) -> float:
        """How often an arm may stop itself before a person must look; a simulated one as often as it likes."""
        return math.inf if isinstance(self.robot, SimulationConfig) else self.robot.recovery.per_hour

    def stem(self, robot: str) -> str:
        """Return what the names of all episode files begin with, for a robot of this name."""
        return f"{self.collection.lab}_{robot}_{self.collection.note}"

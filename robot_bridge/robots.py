"""The arms that there are: by name, by configuration, and opened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robot_bridge.finding import Finding
from robot_bridge.robot import Robot, RobotError
from robot_bridge.ros.configuration import FrankaRosConfig
from robot_bridge.simulation.configuration import SimulationConfig

RobotName = Literal["simulation", "franka_ros"]
RobotConfig = Annotated[SimulationConfig | FrankaRosConfig, Field(discriminator="kind")]

FILES: Final[dict[str, str]] = {"simulation": "robots/simulation.yaml", "franka_ros": "robots/franka_ros.yaml"}


def settled(config: SimulationConfig | FrankaRosConfig) -> SimulationConfig | FrankaRosConfig:
    """Return the configuration with everything named that this machine decides: of renderers, one that works here.

    Raises:
        RobotError: MuJoCo is missing, or the renderer that was asked for does not work here.
    """
    if isinstance(config, FrankaRosConfig):
        return config
    with _installed(config.kind):
        from robot_bridge.simulation import render  # noqa: PLC0415 - MuJoCo, which only this arm needs

    return config.model_copy(update={"renderer": render.choose(config.renderer)})


def examine(config: SimulationConfig | FrankaRosConfig) -> Iterator[Finding]:
    """Yield a finding on each part of an arm, which neither moves nor is commanded; a simulated one has none."""
    if isinstance(config, SimulationConfig):
        return
    try:
        with _installed(config.kind):
            from robot_bridge.ros import doctor  # noqa: PLC0415 - ROS, which only this arm needs
    except RobotError as error:
        yield Finding("ros", False, *str(error).split("; "))
        return
    yield from doctor.examine(config)


@contextmanager
def watch(config: FrankaRosConfig) -> Iterator[Callable[[], NDArray[np.uint8]]]:
    """Provide a function that returns the camera's picture of now, (H, W, 3) uint8 RGB; nothing else is asked.

    Raises:
        RobotError: There is no master. From the function: CameraFault.
    """
    with _installed(config.kind):
        from robot_bridge.ros.images import ImageFeed  # noqa: PLC0415 - ROS, which only this arm needs
        from robot_bridge.ros.master import Master  # noqa: PLC0415
    Master("ghvae_camera", config.connect_timeout_s)
    with closing(ImageFeed(config.images, config.camera)) as images:
        yield lambda: images.newer(time.monotonic())[0]


def open_robot(config: SimulationConfig | FrankaRosConfig) -> Robot:
    """Return the arm that a configuration describes, ready for `reset`.

    Raises:
        RobotError: It cannot be had; the message says what is missing. Nothing has moved but the fingers.
    """
    with _installed(config.kind):
        if isinstance(config, FrankaRosConfig):
            from robot_bridge.ros.franka import FrankaRos  # noqa: PLC0415 - ROS, which only this arm needs

            return FrankaRos(config)
        from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415 - MuJoCo, which only this one needs
        from robot_bridge.simulation.troubled import TroubledFranka  # noqa: PLC0415

        return TroubledFranka(config) if config.troubles.any else SimulatedFranka(config)


@contextmanager
def _installed(kind: RobotName) -> Iterator[None]:
    """Say how to get what an arm needs, where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        how = "./bootstrap.sh ros" if kind == "franka_ros" else "pip install '.[simulation]'"
        raise RobotError(f"--robot {kind}: {error}; run {how}") from error

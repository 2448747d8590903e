"""The arms that there are: by name, by configuration, and opened."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from robot_bridge.robot import Robot, RobotError
from robot_bridge.ros.configuration import FrankaRosConfig
from robot_bridge.simulation.configuration import SimulationConfig

RobotName = Literal["simulation", "franka_ros"]
RobotConfig = Annotated[SimulationConfig | FrankaRosConfig, Field(discriminator="kind")]

FILES: Final[dict[str, str]] = {"simulation": "robots/simulation.yaml", "franka_ros": "robots/franka_ros.yaml"}


def settled(config: SimulationConfig | FrankaRosConfig) -> SimulationConfig | FrankaRosConfig:
    """Return the configuration with everything named that this machine decides: of renderers, one that works here.

    Raises:
        RobotError: The renderer that was asked for does not work here.
    """
    if isinstance(config, FrankaRosConfig):
        return config
    from robot_bridge.simulation import render  # noqa: PLC0415 - MuJoCo, which only this arm needs

    return config.model_copy(update={"renderer": render.choose(config.renderer)})


def open_robot(config: SimulationConfig | FrankaRosConfig) -> Robot:
    """Return the arm that a configuration describes, ready for `reset`.

    Raises:
        RobotError: It cannot be had; the message says what is missing. Nothing has moved but the fingers.
    """
    try:
        if isinstance(config, FrankaRosConfig):
            from robot_bridge.ros.franka import FrankaRos  # noqa: PLC0415 - ROS, which only this arm needs

            return FrankaRos(config)
        from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415 - MuJoCo, which only this one needs

        return SimulatedFranka(config)
    except ModuleNotFoundError as error:
        how = "./bootstrap.sh ros" if isinstance(config, FrankaRosConfig) else "pip install '.[simulation]'"
        raise RobotError(f"--robot {config.kind}: {error}; run {how}") from error

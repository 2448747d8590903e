"""Robots by name and configuration: opening them, their cameras and their readiness checks."""

from __future__ import annotations

import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robot_bridge.franka.checks import CheckResult
from robot_bridge.franka.config import FrankaDirectConfig, FrankaRosConfig
from robot_bridge.robot import Robot, RobotError, RobotSpec
from robot_bridge.simulation.config import SimulationConfig

if TYPE_CHECKING:
    from robot_bridge.libfranka.video_stream import VideoReader
    from robot_bridge.ros.subscribers import RosImageSubscriber

RobotName = Literal["simulation", "franka_ros", "franka_direct"]
RealConfig = FrankaRosConfig | FrankaDirectConfig
AnyConfig = SimulationConfig | RealConfig
RobotConfig = Annotated[AnyConfig, Field(discriminator="kind")]

CONFIG_FILES: Final[dict[str, str]] = {
    "simulation": "robots/simulation.yaml",
    "franka_ros": "robots/franka_ros.yaml",
    "franka_direct": "robots/franka_direct.yaml",
}
_INSTALL: Final[dict[str, str]] = {  # command that installs what a robot needs
    "simulation": "pip install 'ghvae-foresight[simulation]'",
    "franka_direct": "pip install 'ghvae-foresight[franky]'",
}
# The list of bootstrap.sh, which a wheel does not hold.
ROS_PACKAGES: Final = (
    *("python3-rospy", "python3-rosmaster", "python3-actionlib", "python3-genpy", "python3-std-srvs"),
    *("python3-sensor-msgs", "python3-geometry-msgs", "python3-trajectory-msgs"),
)
_SET_UP: Final = Path(__file__).resolve().parents[1] / "bootstrap.sh"


class MissingLibraryError(RobotError):
    """A library that a robot needs is not installed. Nothing moved."""

    exit_code: ClassVar[int] = 2


def resolve_renderer(config: AnyConfig) -> AnyConfig:
    """Return the configuration with the renderer `auto` replaced by one that is available on this machine.

    Raises:
        RobotError: MuJoCo is not installed, or the requested renderer is not available.
    """
    if not isinstance(config, SimulationConfig):
        return config
    with _installed(config.kind):
        from robot_bridge.simulation import renderer  # noqa: PLC0415 - needs MuJoCo

    return config.model_copy(update={"renderer": renderer.choose(config.renderer)})


def spec_of(config: AnyConfig) -> RobotSpec:
    """Return the description of the robot of a configuration, without opening it."""
    return RobotSpec("franka", config.limits, config.camera, config.step_s)


def run_checks(config: AnyConfig) -> Iterator[CheckResult]:
    """Yield the result of each readiness check of a robot; nothing is commanded or moves. A simulation has none."""
    if isinstance(config, SimulationConfig):
        return
    try:
        with _installed(config.kind):
            results = _checks(config)
    except RobotError as error:
        yield CheckResult("ros" if config.kind == "franka_ros" else "franky", False, *str(error).split("; "))
        return
    yield from results


@contextmanager
def open_camera(config: RealConfig) -> Iterator[Callable[[], NDArray[np.uint8]]]:
    """Open the camera of a robot; provide a function that returns a new image, (H, W, 3) uint8 RGB.

    Raises:
        RobotError: The camera could not be opened. The function raises CameraFault.
    """
    with closing(_camera(config)) as images:
        yield lambda: images.newer(time.monotonic())[0]


def open_robot(config: AnyConfig) -> Robot:
    """Return the robot of a configuration, ready for `reset`.

    Raises:
        RobotError: It could not be opened; the message says what is missing. Nothing but the gripper has moved.
    """
    with _installed(config.kind):
        if isinstance(config, FrankaRosConfig):
            from robot_bridge.ros.franka import FrankaRos  # noqa: PLC0415 - needs ROS

            return FrankaRos(config)
        if isinstance(config, FrankaDirectConfig):
            from robot_bridge.libfranka.franka import FrankaDirect  # noqa: PLC0415 - needs franky

            return FrankaDirect(config)
        from robot_bridge.simulation.fault_injection import FaultInjectingFranka  # noqa: PLC0415
        from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415 - needs MuJoCo

        return FaultInjectingFranka(config) if config.fault_injection.any else SimulatedFranka(config)


def _checks(config: RealConfig) -> Iterator[CheckResult]:
    if isinstance(config, FrankaRosConfig):
        from robot_bridge.ros import checks  # noqa: PLC0415 - needs ROS

        return checks.run_checks(config)
    from robot_bridge.libfranka import checks as direct  # noqa: PLC0415 - needs franky

    return direct.run_checks(config)


def _camera(config: RealConfig) -> RosImageSubscriber | VideoReader:
    with _installed(config.kind):
        if isinstance(config, FrankaRosConfig):
            from robot_bridge.ros.driver import Master  # noqa: PLC0415
            from robot_bridge.ros.subscribers import RosImageSubscriber  # noqa: PLC0415 - needs ROS

            Master("ghvae_camera", config.connect_timeout_s)
            return RosImageSubscriber(config.images, config.camera)
        from robot_bridge.libfranka.video_stream import VideoReader  # noqa: PLC0415 - needs OpenCV

        return VideoReader(config.images, config.camera)


@contextmanager
def _installed(kind: RobotName) -> Iterator[None]:
    """Report how to install a missing library."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingLibraryError(f"--robot {kind}: {error}; run: {_installation(kind)}") from error


def _installation(kind: RobotName) -> str:
    """Return the command that installs what a robot needs into this environment."""
    if kind != "franka_ros":
        return _INSTALL[kind]
    if _SET_UP.is_file() and Path(sys.prefix).resolve() == _SET_UP.parent / ".venv":
        return f"{_SET_UP} ros"
    visible = f"echo /usr/lib/python3/dist-packages > {sysconfig.get_path('purelib')}/ros.pth"
    return f"sudo apt-get install {' '.join(ROS_PACKAGES)} && {visible}"

"""The ROS master, and the services of the franka_ros_interface driver: its release, its checks, its settings."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import urllib.parse
import xmlrpc.client
from typing import Any

import rospy

from configs.interruption import wait_for
from robot_bridge.franka.config import ReflexConfig
from robot_bridge.franka.state import ArmState, frame_error, pose_error
from robot_bridge.kinematics import Kinematics
from robot_bridge.robot import RobotError
from robot_bridge.ros import names
from robot_bridge.ros.gripper import ActionClient
from robot_bridge.ros.messages import RELEASES, Generation, Types, generation_of


class MasterError(RobotError):
    """The ROS master does not answer, or was restarted. The arm holds its pose."""


class DriverError(RobotError):
    """The driver is missing, of an unknown release, or not ready. Nothing was commanded."""


class Master:
    """The ROS master that this process is registered at."""

    def __init__(self, node: str, timeout_s: float) -> None:
        """Register an anonymous node, once per process.

        Raises:
            MasterError: No master answers; or it is on another machine, and no network was chosen by ROS_IP.
        """
        self.uri = os.environ.get("ROS_MASTER_URI", "http://localhost:11311")
        self._server = xmlrpc.client.ServerProxy(self.uri, transport=_Transport(timeout_s))
        self._pid = self._get_pid()
        _check_network(self.uri)
        if not rospy.core.is_initialized():
            _init_node(node)

    def check(self) -> None:
        """Check that the master is the one registered at; a restarted one knows none of the nodes.

        Raises:
            MasterError: It does not answer, or was restarted.
        """
        if self._get_pid() != self._pid:
            raise MasterError(f"{self.uri}: the ROS master was restarted; restart the driver, then this command")

    def _get_pid(self) -> int:
        """Return the master's process id."""
        try:
            reply: Any = self._server.getPid("/ghvae")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise MasterError(
                f"{self.uri}: expected a ROS master, got {_reason(error)}; start one, or set ROS_MASTER_URI"
            ) from error
        return int(reply[2])


class Driver:
    """The driver's services and its error recovery action."""

    def __init__(self, types: Types, timeout_s: float) -> None:
        """Connect to the error recovery action.

        Raises:
            RobotError: It is missing.
        """
        self._types, self._timeout_s = types, timeout_s
        self._recovery = ActionClient(names.ERROR_RECOVERY, "franka_msgs/ErrorRecovery", types, timeout_s)

    def check_controllers(self) -> None:
        """Check that the driver can follow joint positions, and that no other program controls the arm.

        Raises:
            DriverError: A controller is missing, or one is running that is neither the default nor the position one.
        """
        listed = self._call(f"{names.CONTROLLER_MANAGER}/list_controllers", "controller_manager_msgs/ListControllers")
        states = {each.name: each.state for each in listed.controller}
        missing = {names.POSITION_CONTROLLER, names.DEFAULT_CONTROLLER} - states.keys()
        if missing:
            raise DriverError(f"expected the controllers {', '.join(missing)}, got {', '.join(states)}; load them")
        allowed = {names.POSITION_CONTROLLER, names.DEFAULT_CONTROLLER, names.STATE_CONTROLLER}
        running = [name for name, state in states.items() if state == "running" and name not in allowed]
        if running:
            raise DriverError(f"expected no other running controller, got {', '.join(running)}; stop it")

    def check_hand(self, state: ArmState, kinematics: Kinematics) -> None:
        """Check that the end effector is the Franka hand, at the pose computed from the joints.

        Raises:
            DriverError: Its frame or its pose differs.
        """
        if wrong := frame_error(state):
            raise DriverError(f"{wrong}; set it in Desk, or through {names.SET_EE_FRAME}")
        if wrong := pose_error(state, kinematics):
            raise DriverError(f"{names.TIP_STATE}: {wrong}; check that the arm is a Panda")

    def set_reflex(self, config: ReflexConfig) -> None:
        """Set the torques and forces above which the arm stops.

        Raises:
            DriverError: The driver refuses them.
        """
        torques, forces = list(config.torques_nm), list(config.forces)
        reply = self._call(
            names.SET_COLLISION_BEHAVIOR,
            "franka_msgs/SetForceTorqueCollisionBehavior",
            lower_torque_thresholds_nominal=torques,
            upper_torque_thresholds_nominal=torques,
            lower_force_thresholds_nominal=forces,
            upper_force_thresholds_nominal=forces,
        )
        if not reply.success:
            raise DriverError(
                f"{names.SET_COLLISION_BEHAVIOR}: expected success, got '{reply.error}'; restart the driver"
            )

    def recover(self, timeout_s: float) -> None:
        """Send one recovery goal.

        Raises:
            RobotFault: The driver refuses it, or does not answer.
        """
        self._recovery.run(timeout_s)

    def _call(self, name: str, type_: str, **request: object) -> Any:
        try:
            rospy.wait_for_service(name, self._timeout_s)
            return rospy.ServiceProxy(name, self._types[type_])(**request)
        except (rospy.ROSException, rospy.ServiceException) as error:
            raise DriverError(f"{name}: expected a reply, got '{error}'; restart the driver") from error


def detect_generation(timeout_s: float) -> Generation:
    """Return the generation of franka_ros that controls the arm, by the md5 of its robot state.

    Raises:
        DriverError: No driver, or an unknown release.
    """
    arrived = threading.Event()
    headers: list[dict[str, str]] = []

    def receive(message: Any) -> None:
        headers.append(message._connection_header)
        arrived.set()

    subscriber = rospy.Subscriber(names.ROBOT_STATE, rospy.AnyMsg, receive, queue_size=1)
    try:
        if not wait_for(arrived.wait, timeout_s):
            raise DriverError(
                f"{names.ROBOT_STATE}: expected a state within {timeout_s:g} s, got none; start franka_ros_interface, "
                "or the simulated driver with python -m robot_bridge.ros.simulator.node"
            )
    finally:
        subscriber.unregister()
    md5 = headers[0]["md5sum"]
    generation = generation_of(md5)
    if generation is None:
        known = " or ".join(RELEASES.values())
        raise DriverError(
            f"{names.ROBOT_STATE}: expected the RobotState of franka_ros {known}, got md5 {md5} of "
            f"{headers[0].get('type', 'an unknown type')}; install one of these releases"
        )
    return generation


class _Transport(xmlrpc.client.Transport):
    """HTTP with a timeout; without it a suspended master would block its callers indefinitely."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = self._timeout_s
        return connection


def _check_network(uri: str) -> None:
    """Restrict ROS, which has no authentication, to the loopback interface unless ROS_IP names a network."""
    if os.environ.get("ROS_IP") or os.environ.get("ROS_HOSTNAME"):
        return
    host = urllib.parse.urlparse(uri).hostname or ""
    if host != "localhost" and not host.startswith("127."):
        raise MasterError(
            f"{uri}: expected ROS_IP for a master on another machine, got none; set it to this machine's address in "
            "the robot's own, isolated network: ROS has no authentication"
        )
    os.environ["ROS_IP"] = "127.0.0.1"


def _init_node(node: str) -> None:
    """Initialise the node, and keep the root logger's handlers, which rospy replaces."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    rospy.init_node(node, anonymous=True, disable_signals=True)
    for handler in handlers:
        handler.setLevel(max(handler.level, level))
        handler.addFilter(lambda record: not record.name.startswith("ros"))  # rospy writes a log file of its own
        root.addHandler(handler)


def _reason(error: Exception) -> str:
    return "no answer" if isinstance(error, socket.timeout) else str(error) or type(error).__name__

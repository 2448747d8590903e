"""The driver on the other side: which release it is, whether it is ready, and what it is told at every start."""

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
    """The ROS master cannot be reached, or is another one than before. The arm holds its pose."""


class Master:
    """The master that this process has joined."""

    def __init__(self, node: str, timeout_s: float) -> None:
        """Join as an anonymous node; in a process that has joined already, nothing is done twice.

        Raises:
            MasterError: No master answers; or it is on another machine, and nobody has said that ROS may listen there.
        """
        self.uri = os.environ.get("ROS_MASTER_URI", "http://localhost:11311")
        self._server = xmlrpc.client.ServerProxy(self.uri, transport=_Transport(timeout_s))
        self._pid = self._ask()
        _check_network(self.uri)
        if not rospy.core.is_initialized():
            _join(node)

    def check(self) -> None:
        """Refuse to go on without the master that was joined: a new one knows none of the nodes.

        Raises:
            MasterError: It is gone, or another has taken its place.
        """
        if self._ask() != self._pid:
            raise MasterError(f"{self.uri}: the ROS master was restarted; restart the driver, then this command")

    def _ask(self) -> int:
        """Return the master's process number."""
        try:
            answer: Any = self._server.getPid("/ghvae")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise MasterError(
                f"{self.uri}: expected a ROS master, got {_reason(error)}; start one, or set ROS_MASTER_URI"
            ) from error
        return int(answer[2])


class _Transport(xmlrpc.client.Transport):
    """HTTP that gives up: a master that was stopped would otherwise hold its callers for ever."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = self._timeout_s
        return connection


def _check_network(uri: str) -> None:
    """Let ROS, which has no keys, listen on this machine alone, unless its user has chosen a network."""
    if os.environ.get("ROS_IP") or os.environ.get("ROS_HOSTNAME"):
        return
    host = urllib.parse.urlparse(uri).hostname or ""
    if host != "localhost" and not host.startswith("127."):
        raise MasterError(
            f"{uri}: expected ROS_IP to say on which network to listen for a master on another machine, got nothing; "
            "set it to this machine's address in the robot's own network, which nobody else is on: ROS has no keys"
        )
    os.environ["ROS_IP"] = "127.0.0.1"


def _join(node: str) -> None:
    """Become a node, and go on telling people what they are told without ROS, which takes the log away."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    rospy.init_node(node, anonymous=True, disable_signals=True)
    for handler in handlers:
        handler.setLevel(max(handler.level, level))
        handler.addFilter(lambda record: not record.name.startswith("ros"))  # which keeps its own file
        root.addHandler(handler)


def _reason(error: Exception) -> str:
    return "no answer" if isinstance(error, socket.timeout) else str(error) or type(error).__name__


class DriverError(RobotError):
    """The driver is missing, of an unknown release, or not as it must be. Nothing was commanded."""


def detect_generation(timeout_s: float) -> Generation:
    """Return which generation of franka_ros serves the arm, by the md5 of what it publishes.

    Raises:
        DriverError: There is none, or one that this bridge does not know.
    """
    came = threading.Event()
    headers: list[dict[str, str]] = []

    def take(message: Any) -> None:
        headers.append(message._connection_header)
        came.set()

    subscriber = rospy.Subscriber(names.ROBOT_STATE, rospy.AnyMsg, take, queue_size=1)
    try:
        if not wait_for(came.wait, timeout_s):
            raise DriverError(
                f"{names.ROBOT_STATE}: expected a state within {timeout_s:g} s, got none; start franka_ros_interface, "
                "or rehearse with python -m robot_bridge.ros.simulator.node"
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


class Driver:
    """The driver's services and its error recovery."""

    def __init__(self, types: Types, timeout_s: float) -> None:
        """Meet the driver.

        Raises:
            RobotError: A part of it is missing.
        """
        self._types, self._timeout_s = types, timeout_s
        self._recovery = ActionClient(names.ERROR_RECOVERY, "franka_msgs/ErrorRecovery", types, timeout_s)

    def check_controllers(self) -> None:
        """Refuse a driver that cannot follow joint positions, or that another program drives.

        Raises:
            DriverError: A controller is missing, or one runs that is neither the default one nor ours.
        """
        listed = self._call(f"{names.CONTROLLER_MANAGER}/list_controllers", "controller_manager_msgs/ListControllers")
        states = {each.name: each.state for each in listed.controller}
        missing = {names.POSITION_CONTROLLER, names.DEFAULT_CONTROLLER} - states.keys()
        if missing:
            raise DriverError(f"expected the controllers {', '.join(missing)}, got {', '.join(states)}; load them")
        ours = {names.POSITION_CONTROLLER, names.DEFAULT_CONTROLLER, names.STATE_CONTROLLER}
        running = [name for name, state in states.items() if state == "running" and name not in ours]
        if running:
            raise DriverError(f"expected an arm that nobody drives, got {', '.join(running)} running; stop it")

    def check_hand(self, state: ArmState, kinematics: Kinematics) -> None:
        """Refuse a driver whose hand is not where this bridge believes it to be.

        Raises:
            DriverError: Its tip has another frame, or its pose disagrees with the joints.
        """
        if wrong := frame_error(state):
            raise DriverError(f"{wrong}; set it in Desk, or through {names.SET_EE_FRAME}")
        if wrong := pose_error(state, kinematics):
            raise DriverError(f"{names.TIP_STATE}: {wrong}; is this another arm than a Panda?")

    def set_reflex(self, config: ReflexConfig) -> None:
        """Tell the driver from which force on it must stop.

        Raises:
            DriverError: It refuses.
        """
        torques, forces = list(config.torques_nm), list(config.forces)
        answer = self._call(
            names.SET_COLLISION_BEHAVIOR,
            "franka_msgs/SetForceTorqueCollisionBehavior",
            lower_torque_thresholds_nominal=torques,
            upper_torque_thresholds_nominal=torques,
            lower_force_thresholds_nominal=forces,
            upper_force_thresholds_nominal=forces,
        )
        if not answer.success:
            raise DriverError(
                f"{names.SET_COLLISION_BEHAVIOR}: expected success, got '{answer.error}'; restart the driver"
            )

    def recover(self, timeout_s: float) -> None:
        """Send one recovery goal.

        Raises:
            RobotFault: The driver refuses, or does not answer.
        """
        self._recovery.run(timeout_s)

    def _call(self, name: str, type_: str, **request: object) -> Any:
        try:
            rospy.wait_for_service(name, self._timeout_s)
            return rospy.ServiceProxy(name, self._types[type_])(**request)
        except (rospy.ROSException, rospy.ServiceException) as error:
            raise DriverError(f"{name}: expected an answer, got '{error}'; start the driver anew") from error

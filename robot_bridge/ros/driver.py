"""The driver on the other side: which release it is, whether it is ready, and what it is told at every start."""

from __future__ import annotations

import threading
from typing import Any

import rospy

from robot_bridge.franka.config import ForceConfig
from robot_bridge.franka.state import ArmState, wrong_frame, wrong_pose
from robot_bridge.kinematics import Kinematics
from robot_bridge.robot import RobotError
from robot_bridge.ros import names
from robot_bridge.ros.action import Action
from robot_bridge.ros.messages import RELEASES, Generation, Types, generation_of


class DriverError(RobotError):
    """The driver is missing, of an unknown release, or not as it must be. Nothing was commanded."""


def recognise(timeout_s: float) -> Generation:
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
        if not came.wait(timeout_s):
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
        self._recovery = Action(names.ERROR_RECOVERY, "franka_msgs/ErrorRecovery", types, timeout_s)

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
        if wrong := wrong_frame(state):
            raise DriverError(f"{wrong}; set it in Desk, or through {names.SET_EE_FRAME}")
        if wrong := wrong_pose(state, kinematics):
            raise DriverError(f"{names.TIP_STATE}: {wrong}; is this another arm than a Panda?")

    def set_reflex(self, config: ForceConfig) -> None:
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

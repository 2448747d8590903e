"""What the simulated driver publishes of the arm and the hand, a hundred times a second."""

from __future__ import annotations

import numpy as np
import rospy
from numpy.typing import NDArray
from sensor_msgs.msg import JointState

from robot_bridge.kinematics import FLANGE_TO_HAND_RAD, FLANGE_TO_TCP_M
from robot_bridge.ros import names
from robot_bridge.ros.messages import Types
from robot_bridge.ros.simulator.arm import SimulatedArm

_FINGERS_EVERY = 3  # ticks: 30 times a second, as the real hand
_EYE = np.eye(4)


class StatePublisher:
    """Publishes the state of one arm."""

    def __init__(self, arm: SimulatedArm, types: Types) -> None:
        """Advertise."""
        self._arm = arm
        self._robot_type, self._tip_type = types["franka_core_msgs/RobotState"], types["franka_core_msgs/EndPointState"]
        self._robot = rospy.Publisher(names.ROBOT_STATE, self._robot_type, queue_size=1, tcp_nodelay=True)
        self._tip = rospy.Publisher(names.TIP_STATE, self._tip_type, queue_size=1, tcp_nodelay=True)
        self._joints = rospy.Publisher(names.JOINT_STATES, JointState, queue_size=1, tcp_nodelay=True)
        self._fingers = rospy.Publisher(names.FINGER_STATES, JointState, queue_size=1, tcp_nodelay=True)
        self._n = 0
        self.is_stale = False  # the arm's topics have fallen silent
        self.is_nan = False  # the measured joints are no numbers
        self.flange_to_tip: list[float] | None = None

    def publish(self) -> None:
        """Say how things are now."""
        stamp = rospy.Time.now()
        self._n += 1
        if not self.is_stale:
            self._publish_joints(stamp)
            self._publish_tip(stamp)
            self._publish_robot(stamp)
        if self._n % _FINGERS_EVERY == 0:
            message = JointState(name=names.FINGERS, position=self._arm.plant.fingers_m.tolist())
            message.velocity, message.effort = [0.0, 0.0], [0.0, 0.0]
            message.header.stamp = stamp
            self._fingers.publish(message)

    def _publish_joints(self, stamp: rospy.Time) -> None:
        plant = self._arm.plant
        joints = np.full(7, np.nan) if self.is_nan else plant.joints_rad
        message = JointState(name=names.JOINTS, position=joints.tolist())
        message.velocity, message.effort = plant.speeds_rad_s.tolist(), plant.torques_nm.tolist()
        message.header.stamp = stamp
        self._joints.publish(message)

    def _publish_tip(self, stamp: rospy.Time) -> None:
        message = self._tip_type(O_T_EE=_columns(self._arm.plant.pose()))
        message.header.stamp = message.O_F_ext_hat_K.header.stamp = stamp
        force, torque = message.O_F_ext_hat_K.wrench.force, message.O_F_ext_hat_K.wrench.torque
        force.x, force.y, force.z, torque.x, torque.y, torque.z = self._arm.wrench.tolist()
        self._tip.publish(message)

    def _publish_robot(self, stamp: rospy.Time) -> None:
        arm, plant = self._arm, self._arm.plant
        message = self._robot_type(
            q_d=arm.desired_rad.tolist(),
            tau_J_d=plant.torques_nm.tolist(),
            tau_ext_hat_filtered=arm.external_nm().tolist(),
            gravity=plant.gravity_nm.tolist(),
            mass_matrix=_columns(plant.mass()),
            O_Jac_EE=_columns(plant.jacobian()),
            O_T_EE_d=_columns(plant.pose()),
            F_T_EE=self.flange_to_tip or _columns(_flange_to_tip()),
            F_T_NE=_columns(_flange_to_tip()),
            NE_T_EE=_columns(_EYE),
            EE_T_K=_columns(_EYE),
            cartesian_contact=(np.abs(arm.wrench) > arm.upper_forces / 2).astype(float).tolist(),
            cartesian_collision=(np.abs(arm.wrench) > arm.upper_forces).astype(float).tolist(),
            time=stamp.to_sec(),
            robot_mode=arm.mode,
        )
        for error in arm.errors:
            setattr(message.current_errors, error, True)
        for error in arm.last_errors:
            setattr(message.last_motion_errors, error, True)
        message.header.stamp = stamp
        self._robot.publish(message)


def _columns(matrix: NDArray[np.float64]) -> list[float]:
    """Return a matrix column by column, as libfranka writes it."""
    numbers: list[float] = matrix.T.ravel().tolist()
    return numbers


def _flange_to_tip() -> NDArray[np.float64]:
    c, s = np.cos(FLANGE_TO_HAND_RAD), np.sin(FLANGE_TO_HAND_RAD)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, FLANGE_TO_TCP_M], [0, 0, 0, 1]])

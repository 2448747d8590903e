"""The ROS interface of the simulated driver: parameters, services, actions and published states of the real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import actionlib
import numpy as np
import rospy
from numpy.typing import NDArray
from sensor_msgs.msg import JointState

from robot_bridge.franka import recovery
from robot_bridge.kinematics import FLANGE_TO_TCP, HOME_RAD, RANGES_RAD, SPEED_LIMITS_RAD_S
from robot_bridge.ros import names
from robot_bridge.ros.messages import Types
from robot_bridge.ros.simulator.arm import SimulatedArm
from robot_bridge.ros.simulator.log import DriverLog

_POLL_S = 0.01
_FINGERS_EVERY = 3  # ticks between finger states: 30 times a second, as the real hand
_EFFORTS_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # Franka data sheet
_ACCELERATIONS = (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)  # rad/s2; Franka data sheet
_TYPES = {  # types of the controllers in the driver's configuration
    names.DEFAULT_CONTROLLER: "position_controllers/JointTrajectoryController",
    names.STATE_CONTROLLER: "franka_interface/CustomFrankaStateController",
    names.POSITION_CONTROLLER: "franka_ros_controllers/PositionJointPositionController",
}
_OTHER = "franka_ros_controllers/Controller"
_IDENTITY: list[float] = np.eye(4).ravel().tolist()


def set_parameters() -> None:
    """Set the parameters that the driver's launch files set."""
    by_joint = [dict(zip(names.JOINTS, values, strict=True)) for values in (
        SPEED_LIMITS_RAD_S.tolist(), [low for low, _ in RANGES_RAD], [high for _, high in RANGES_RAD],
        _EFFORTS_NM, _ACCELERATIONS,
    )]  # fmt: skip
    velocity, low, high, effort, acceleration = by_joint
    rospy.set_param("/robot_config", {
        "robot_ip": "simulated", "arm_id": "panda", "joint_names": list(names.JOINTS),
        "neutral_pose": dict(zip(names.JOINTS, HOME_RAD.tolist(), strict=True)),
        "joint_config": {
            "joint_velocity_limit": velocity, "joint_position_limit": {"lower": low, "upper": high},
            "joint_effort_limit": effort, "joint_acceleration_limit": acceleration,
        },
    })  # fmt: skip
    rospy.set_param("/controllers_config", {
        "position_controller": names.POSITION_CONTROLLER, "velocity_controller": names.OTHER_CONTROLLERS[0],
        "torque_controller": names.OTHER_CONTROLLERS[1], "impedance_controller": names.OTHER_CONTROLLERS[2],
        "trajectory_controller": names.DEFAULT_CONTROLLER, "default_controller": names.DEFAULT_CONTROLLER,
    })  # fmt: skip
    for name in (*_TYPES, *names.OTHER_CONTROLLERS):
        rospy.set_param(f"/{name}/type", _TYPES.get(name, _OTHER))
    rospy.set_param("/franka_gripper/robot_ip", "simulated")
    rospy.set_param("/gripper_config/joint_names", list(names.FINGERS))


class SimulatedServices:
    """Serves the services and arm actions of the driver."""

    def __init__(self, arm: SimulatedArm, types: Types, log: DriverLog) -> None:
        """Advertise the services and actions."""
        self._arm, self._types, self._log = arm, types, log
        self.flange_to_tip: list[float] | None = None  # column-major; None: the Franka hand
        for name, type_, handler in (
            (names.SET_COLLISION_BEHAVIOR, "franka_msgs/SetForceTorqueCollisionBehavior", self._set_reflex),
            (names.SET_FULL_COLLISION_BEHAVIOR, "franka_msgs/SetFullCollisionBehavior", self._set_reflex),
            (names.SET_EE_FRAME, "franka_msgs/SetEEFrame", self._set_frame),
            (names.SET_K_FRAME, "franka_msgs/SetKFrame", self._accept),
            (names.SET_LOAD, "franka_msgs/SetLoad", self._accept),
            (names.SET_JOINT_IMPEDANCE, "franka_msgs/SetJointImpedance", self._accept),
            (names.SET_CARTESIAN_IMPEDANCE, "franka_msgs/SetCartesianImpedance", self._accept),
            (f"{names.CONTROLLER_MANAGER}/list_controllers", "controller_manager_msgs/ListControllers", self._list),
            (f"{names.CONTROLLER_MANAGER}/switch_controller", "controller_manager_msgs/SwitchController", self._switch),
            (f"{names.CONTROLLER_MANAGER}/load_controller", "controller_manager_msgs/LoadController", self._load),
            (f"{names.CONTROLLER_MANAGER}/unload_controller", "controller_manager_msgs/UnloadController", self._load),
            (f"{names.CONTROLLER_MANAGER}/list_controller_types", "controller_manager_msgs/ListControllerTypes",
             self._list_types),
        ):  # fmt: skip
            self._serve(name, type_, handler)
        self._recovery = self._act(names.ERROR_RECOVERY, "franka_msgs/ErrorRecovery", self._recover)
        self._trajectory = self._act(names.TRAJECTORY, "control_msgs/FollowJointTrajectory", self._follow)

    def _serve(self, name: str, type_: str, handler: Callable[[Any, Any], None]) -> None:
        service = self._types[type_]

        def reply(request: Any) -> Any:
            response = service._response_class()
            handler(request, response)
            return response

        rospy.Service(name, service, reply)

    def _act(self, name: str, type_: str, execute: Callable[[Any, Any], None]) -> Any:
        server: Any = None

        def on_goal(goal: Any) -> None:
            execute(server, goal)

        server = actionlib.SimpleActionServer(name, self._types[f"{type_}Action"], on_goal, auto_start=False)
        server.start()
        return server

    def _recover(self, server: Any, _goal: Any) -> None:
        if self._arm.recover(time.monotonic()):
            server.set_succeeded()
        else:
            server.set_aborted(text=f"nothing to recover from in mode {self._arm.mode}")

    def _follow(self, server: Any, goal: Any) -> None:
        result = self._types["control_msgs/FollowJointTrajectoryResult"]()
        points = goal.trajectory.points
        if set(goal.trajectory.joint_names) != set(names.JOINTS) or not points:
            result.error_code = result.INVALID_JOINTS
            server.set_aborted(result)
            return
        order = [list(goal.trajectory.joint_names).index(name) for name in names.JOINTS]
        path = np.array([[point.positions[i] for i in order] for point in points])
        times_s = np.array([point.time_from_start.to_sec() for point in points])
        low, high = np.array(RANGES_RAD).T
        if not (
            np.isfinite(path).all() and (path >= low).all() and (path <= high).all() and (np.diff(times_s) > 0).all()
        ):
            result.error_code = result.INVALID_GOAL
            server.set_aborted(result)
            return
        self._arm.follow(times_s, path, time.monotonic())
        while not self._arm.has_arrived() and self._arm.mode in {recovery.IDLE, recovery.MOVING}:
            if server.is_preempt_requested():
                self._arm.cancel()
                server.set_preempted(result)
                return
            time.sleep(_POLL_S)
        if self._arm.mode in {recovery.IDLE, recovery.MOVING}:
            server.set_succeeded(result)
        else:
            result.error_code = result.PATH_TOLERANCE_VIOLATED
            server.set_aborted(result)

    def _set_reflex(self, request: Any, response: Any) -> None:
        forces = np.array(request.upper_force_thresholds_nominal)
        torques = np.array(request.upper_torque_thresholds_nominal)
        response.success = bool((forces > 0).all() and (torques > 0).all())
        if response.success:
            self._arm.upper_forces, self._arm.upper_torques_nm = forces, torques
            self._log.event("thresholds", forces=forces.tolist(), torques_nm=torques.tolist())
        else:
            response.error = "thresholds must be positive"

    def _set_frame(self, request: Any, response: Any) -> None:
        self.flange_to_tip = list(request.F_T_EE if hasattr(request, "F_T_EE") else request.NE_T_EE)
        response.success = True

    def _accept(self, _request: Any, response: Any) -> None:
        response.success = True

    def _list(self, _request: Any, response: Any) -> None:
        state = self._types["controller_manager_msgs/ControllerState"]
        running = {names.STATE_CONTROLLER, self._arm.controller}
        response.controller = [
            state(name=name, state="running" if name in running else "initialized", type=_TYPES.get(name, _OTHER))
            for name in (*_TYPES, *names.OTHER_CONTROLLERS)
        ]

    def _switch(self, request: Any, response: Any) -> None:
        known = {*_TYPES, *names.OTHER_CONTROLLERS}
        moving = [name for name in request.start_controllers if name != names.STATE_CONTROLLER]
        response.ok = set(request.start_controllers) <= known and len(moving) <= 1
        if response.ok and moving:
            self._arm.switch(moving[0])

    def _load(self, request: Any, response: Any) -> None:
        response.ok = request.name in {*_TYPES, *names.OTHER_CONTROLLERS}

    def _list_types(self, _request: Any, response: Any) -> None:
        response.types = list(dict.fromkeys([*_TYPES.values(), _OTHER]))
        response.base_classes = ["controller_interface::ControllerBase"] * len(response.types)


class StatePublisher:
    """Publishes the state of one arm."""

    def __init__(self, arm: SimulatedArm, types: Types) -> None:
        """Advertise the topics."""
        self._arm = arm
        self._robot_type, self._tip_type = types["franka_core_msgs/RobotState"], types["franka_core_msgs/EndPointState"]
        self._robot = rospy.Publisher(names.ROBOT_STATE, self._robot_type, queue_size=1, tcp_nodelay=True)
        self._tip = rospy.Publisher(names.TIP_STATE, self._tip_type, queue_size=1, tcp_nodelay=True)
        self._joints = rospy.Publisher(names.JOINT_STATES, JointState, queue_size=1, tcp_nodelay=True)
        self._fingers = rospy.Publisher(names.FINGER_STATES, JointState, queue_size=1, tcp_nodelay=True)
        self._n = 0
        self.is_stale = False  # fault: no states of the arm are published
        self.is_nan = False  # fault: the measured joints are NaN
        self.flange_to_tip: list[float] | None = None

    def publish(self) -> None:
        """Publish the present state."""
        stamp = rospy.Time.now()
        self._n += 1
        if not self.is_stale:
            self._publish_joints(stamp)
            self._publish_tip(stamp)
            self._publish_robot(stamp)
        if self._n % _FINGERS_EVERY == 0:
            message = JointState(name=names.FINGERS, position=self._arm.simulation.fingers_m.tolist())
            message.velocity, message.effort = [0.0, 0.0], [0.0, 0.0]
            message.header.stamp = stamp
            self._fingers.publish(message)

    def _publish_joints(self, stamp: rospy.Time) -> None:
        simulation = self._arm.simulation
        joints = np.full(7, np.nan) if self.is_nan else simulation.joints_rad
        message = JointState(name=names.JOINTS, position=joints.tolist())
        message.velocity, message.effort = simulation.speeds_rad_s.tolist(), simulation.torques_nm.tolist()
        message.header.stamp = stamp
        self._joints.publish(message)

    def _publish_tip(self, stamp: rospy.Time) -> None:
        message = self._tip_type(O_T_EE=_columns(self._arm.simulation.pose()))
        message.header.stamp = message.O_F_ext_hat_K.header.stamp = stamp
        force, torque = message.O_F_ext_hat_K.wrench.force, message.O_F_ext_hat_K.wrench.torque
        force.x, force.y, force.z, torque.x, torque.y, torque.z = self._arm.wrench.tolist()
        self._tip.publish(message)

    def _publish_robot(self, stamp: rospy.Time) -> None:
        arm, simulation = self._arm, self._arm.simulation
        message = self._robot_type(
            q_d=arm.desired_rad.tolist(),
            tau_J_d=simulation.torques_nm.tolist(),
            tau_ext_hat_filtered=arm.external_nm().tolist(),
            gravity=simulation.gravity_nm.tolist(),
            mass_matrix=_columns(simulation.mass()),
            O_Jac_EE=_columns(simulation.jacobian()),
            O_T_EE_d=_columns(simulation.pose()),
            F_T_EE=self.flange_to_tip or _columns(FLANGE_TO_TCP),
            F_T_NE=_columns(FLANGE_TO_TCP),
            NE_T_EE=_IDENTITY,
            EE_T_K=_IDENTITY,
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
    """Return a matrix in column-major order, as libfranka does."""
    numbers: list[float] = matrix.T.ravel().tolist()
    return numbers

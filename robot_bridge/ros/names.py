"""Names of the topics, services, actions, controllers and joints of franka_ros_interface."""

from __future__ import annotations

from typing import Final

_ROOT = "/franka_ros_interface"
_STATE = f"{_ROOT}/custom_franka_state_controller"
_CONTROL = f"{_ROOT}/franka_control"
_ARM = f"{_ROOT}/motion_controller/arm"
_GRIPPER = "/franka_gripper"

JOINTS: Final = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGERS: Final = ("panda_finger_joint1", "panda_finger_joint2")

# Topics published by the driver.
ROBOT_STATE: Final = f"{_STATE}/robot_state"  # franka_core_msgs/RobotState
JOINT_STATES: Final = f"{_STATE}/joint_states"  # sensor_msgs/JointState, the 7 arm joints
TIP_STATE: Final = f"{_STATE}/tip_state"  # franka_core_msgs/EndPointState
FINGER_STATES: Final = f"{_GRIPPER}/joint_states"  # sensor_msgs/JointState; the width is the sum of both positions

# Topics subscribed by the driver.
JOINT_COMMANDS: Final = f"{_ARM}/joint_commands"  # franka_core_msgs/JointCommand
COMMAND_TIMEOUT: Final = f"{_ARM}/joint_command_timeout"  # std_msgs/Float64, latched

# Services.
SET_COLLISION_BEHAVIOR: Final = f"{_CONTROL}/set_force_torque_collision_behavior"
SET_FULL_COLLISION_BEHAVIOR: Final = f"{_CONTROL}/set_full_collision_behavior"
SET_EE_FRAME: Final = f"{_CONTROL}/set_EE_frame"
SET_K_FRAME: Final = f"{_CONTROL}/set_K_frame"
SET_LOAD: Final = f"{_CONTROL}/set_load"
SET_JOINT_IMPEDANCE: Final = f"{_CONTROL}/set_joint_impedance"
SET_CARTESIAN_IMPEDANCE: Final = f"{_CONTROL}/set_cartesian_impedance"
CONTROLLER_MANAGER: Final = "/controller_manager"  # list_controllers, switch_controller, ...
FAULT: Final = "/simulated_driver/fault"  # robot_bridge/Fault; of the simulated driver only

# Actions.
ERROR_RECOVERY: Final = f"{_CONTROL}/error_recovery"
TRAJECTORY: Final = "/position_joint_trajectory_controller/follow_joint_trajectory"
HOMING: Final = f"{_GRIPPER}/homing"
GRASP: Final = f"{_GRIPPER}/grasp"
MOVE: Final = f"{_GRIPPER}/move"
STOP: Final = f"{_GRIPPER}/stop"

# Controllers; at most one that moves the arm is running.
DEFAULT_CONTROLLER: Final = "position_joint_trajectory_controller"
STATE_CONTROLLER: Final = "franka_ros_interface/custom_franka_state_controller"
POSITION_CONTROLLER: Final = "franka_ros_interface/position_joint_position_controller"
OTHER_CONTROLLERS: Final = (
    "franka_ros_interface/velocity_joint_velocity_controller",
    "franka_ros_interface/effort_joint_torque_controller",
    "franka_ros_interface/effort_joint_impedance_controller",
    "franka_ros_interface/effort_joint_position_controller",
)

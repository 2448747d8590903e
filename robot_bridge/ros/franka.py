"""The `Robot` protocol over ROS, for a Franka controlled by franka_ros_interface."""

from __future__ import annotations

import time
from contextlib import ExitStack

from robot_bridge.franka.config import FrankaRosConfig
from robot_bridge.franka.gripper import Gripper
from robot_bridge.franka.robot import RealFranka
from robot_bridge.kinematics import Kinematics
from robot_bridge.ros import messages
from robot_bridge.ros.driver import Driver, Master, detect_generation
from robot_bridge.ros.gripper import RosGripper
from robot_bridge.ros.joint_commands import JointCommandPublisher, StreamingExecutor
from robot_bridge.ros.subscribers import RosImageSubscriber, RosStateSubscriber


class FrankaRos(RealFranka):
    """A Franka controlled by a driver on the same ROS master. Motions block until the arm rests."""

    def __init__(self, config: FrankaRosConfig) -> None:
        """Connect to the driver, check it, set its limits, and home the hand.

        Raises:
            RobotError: A part is missing or not ready; the message says what to do. The arm has not moved.
        """
        super().__init__(config, Kinematics(margin_rad=config.motion.joint_margin_rad))
        timeout_s = config.connect_timeout_s
        with ExitStack() as opened:
            self._master = Master("ghvae_bridge", timeout_s)
            types = messages.load(detect_generation(timeout_s))
            self._states = states = RosStateSubscriber(types, config.motion.max_state_age_s)
            opened.callback(states.close)
            self._images = images = RosImageSubscriber(config.images, config.camera)
            opened.callback(images.close)
            self._driver = Driver(types, timeout_s)
            self._driver.check_controllers()
            publisher = JointCommandPublisher(config.motion, config.limits, self._kinematics, types)
            opened.callback(publisher.close)
            publisher.wait_for_driver(timeout_s)
            self._executor = StreamingExecutor(config, self._kinematics, states, publisher, self._check_mode)
            device = RosGripper(config.gripper, types, timeout_s)
            opened.callback(device.close)
            self._gripper = Gripper(config.gripper, device)
            self._driver.check_hand(states.newer(time.monotonic(), timeout_s), self._kinematics)
            self._driver.set_reflex(config.reflex)
            if config.gripper.homes and self._check_mode(states.fresh()):
                self._gripper.home()
            self._opened = opened.pop_all()

    def send_recovery(self) -> None:
        """Send one recovery goal; see `RecoverableArm`."""
        self._driver.recover(self._config.recovery.timeout_s)

    def close(self) -> None:
        """Disconnect from the driver, which holds the arm. Safe to call twice."""
        self._opened.close()

    def _check_connection(self) -> None:
        self._master.check()

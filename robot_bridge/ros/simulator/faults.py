"""Fault injection of the simulated driver, controlled by a service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from robot_bridge.franka import recovery
from robot_bridge.ros.messages import Types
from robot_bridge.ros.simulator.arm import SimulatedArm
from robot_bridge.ros.simulator.camera import RosSimulatedCamera
from robot_bridge.ros.simulator.gripper import SimulatedGripper
from robot_bridge.ros.simulator.interface import StatePublisher
from robot_bridge.ros.simulator.log import DriverLog
from robot_bridge.simulation.fault_injection import ImageFault

Switch = Callable[[bool], None]


class Faults:
    """Switches faults on, and off after their duration."""

    def __init__(
        self,
        arm: SimulatedArm,
        gripper: SimulatedGripper,
        camera: RosSimulatedCamera,
        states: StatePublisher,
        new_scene: Callable[[], None],
    ) -> None:
        """Set the parts of the driver in which faults can be injected."""
        self._arm, self._gripper, self._camera, self._states = arm, gripper, camera, states
        self._lock = threading.Lock()
        self._ends_s: dict[str, float] = {}
        self._lasting: dict[str, Switch] = {
            "camera_frozen": self._image_fault("frozen"),
            "camera_silent": self._image_fault("silent"),
            "camera_dark": self._image_fault("dark"),
            "camera_saturated": self._image_fault("saturated"),
            "joint_state_stale": lambda on: setattr(states, "is_stale", on),
            "nan_state": lambda on: setattr(states, "is_nan", on),
            "reflex_storm": self._storm,
            "user_stop": arm.stop,
            "gripper_misses": lambda on: setattr(gripper, "misses", on),
            "gripper_blocked": lambda on: setattr(gripper, "is_blocked", on),
            "gripper_hangs": lambda on: setattr(gripper, "hangs", on),
        }
        self._once: dict[str, Callable[[], None]] = {
            "reflex": lambda: arm.reflex("cartesian_reflex"),
            "new_scene": new_scene,
            "clear": self.clear,
        }

    def handle(self, request: Any, types: Types, log: DriverLog) -> Any:
        """Inject the fault of a request; a duration of 0 lasts until `clear`."""
        response = types["robot_bridge/Fault"]._response_class()
        known = {*self._lasting, *self._once}
        response.success = request.name in known and bool(np.isfinite(request.duration_s) and request.duration_s >= 0)
        if not response.success:
            response.error = (
                f"expected one of {', '.join(sorted(known))} and a duration of 0 s or more, got {request.name}"
            )
            return response
        log.event("fault", fault=request.name, duration_s=request.duration_s)
        with self._lock:
            if request.name in self._lasting:
                self._lasting[request.name](True)
                self._ends_s[request.name] = time.monotonic() + (request.duration_s or np.inf)
        if request.name in self._once:
            self._once[request.name]()
        return response

    def tick(self, now_s: float) -> None:
        """End the faults whose duration has passed."""
        with self._lock:
            for name in [name for name, end_s in self._ends_s.items() if now_s > end_s]:
                self._end(name)

    def clear(self) -> None:
        """End all faults, including a reflex."""
        with self._lock:
            for name in list(self._ends_s):
                self._end(name)
        if self._arm.mode == recovery.REFLEX:
            self._arm.recover(time.monotonic())

    def _end(self, name: str) -> None:
        del self._ends_s[name]
        self._lasting[name](False)

    def _image_fault(self, fault: ImageFault) -> Switch:
        def switch(on: bool) -> None:
            self._camera.fault = fault if on else ""

        return switch

    def _storm(self, on: bool) -> None:
        self._arm.is_storm = on
        if on:
            self._arm.reflex("cartesian_reflex")

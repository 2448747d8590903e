"""Fault injection: a simulated Franka with random faults for long test runs, and the faults of a camera image."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from robot_bridge.robot import Observation, RobotFault, Step
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.franka import SimulatedFranka

ImageFault = Literal["", "frozen", "silent", "dark", "saturated"]  # "": no fault
IMAGE_FAULTS: Final[tuple[ImageFault, ...]] = ("", "frozen", "silent", "dark", "saturated")

_STEPS = 5  # a fault occurs within this many steps after the reset that drew it; ours


def add_image_fault(image: NDArray[Any], fault: ImageFault) -> NDArray[np.uint8]:
    """Return a camera image as a camera with a fault delivers it.

    Args:
        image: (H, W, 3) RGB, integers wider than 8 bits; values outside 0 to 255 are clipped.
        fault: "dark" and "saturated" change the image, the others do not.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if fault == "dark":
        image = image // 64
    if fault == "saturated":
        image = image + 250
    faulty: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return faulty


class FaultInjectingFranka(SimulatedFranka):
    """Injects reflexes, a frozen camera, process kills and hangs at the rates of `FaultInjectionConfig`."""

    def __init__(self, config: SimulationConfig) -> None:
        super().__init__(config)
        self._rates = config.fault_injection
        self._chance = np.random.default_rng()  # not the collection's: a repeated episode may succeed
        self._due: dict[str, int] = {}  # fault: number of steps until it occurs
        self._frozen: NDArray[np.uint8] | None = None

    def reset(self, rng: np.random.Generator) -> Observation:
        """Reset without a fault, and draw the faults of the next steps; see `Robot.reset`."""
        self._due.clear()
        self._frozen = None
        observation = super().reset(rng)
        rates = {
            "reflex": self._rates.reflexes_per_reset,
            "freeze": self._rates.freezes_per_reset,
            "kill": self._rates.kills_per_reset,
            "hang": self._rates.hangs_per_reset,
        }
        for fault, rate in rates.items():
            if self._chance.random() < rate:
                self._due[fault] = int(self._chance.integers(1, _STEPS + 1))
        return observation

    def step(self, action: NDArray[np.float32]) -> Step:
        """Step, unless a fault is due; see `Robot.step`."""
        inject: dict[str, Callable[[], None]] = {
            "reflex": self._reflex,
            "freeze": self._freeze,
            "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "hang": _hang,
        }
        for fault in list(self._due):
            self._due[fault] -= 1
            if not self._due[fault]:
                del self._due[fault]
                self._log(fault)
                inject[fault]()
        return super().step(action)

    def render(self) -> NDArray[np.uint8]:
        """Return the camera image (H, W, 3) uint8 RGB, or the frozen one."""
        return super().render() if self._frozen is None else self._frozen.copy()

    def _freeze(self) -> None:
        self._frozen = super().render()

    def _reflex(self) -> None:
        self._fault = "the arm stopped (an injected reflex)"
        raise RobotFault(f"{self._fault}; see robot.fault_injection")

    def _log(self, fault: str) -> None:
        if self._rates.log:
            with Path(self._rates.log).open("a", encoding="utf-8") as file:
                file.write(f"{fault}\n")


def _hang() -> None:
    while True:
        time.sleep(60.0)

"""A simulated Franka with trouble: what a real arm does to a collector in a night, for rehearsals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robot_bridge.robot import Observation, RobotFault, Step
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.franka import SimulatedFranka

_STEPS = 5  # within which a trouble happens after the reset that drew it


class FaultInjectingFranka(SimulatedFranka):
    """Injects reflexes, a frozen camera, process kills and hangs at the rates of `FaultInjectionConfig`."""

    def __init__(self, config: SimulationConfig) -> None:
        super().__init__(config)
        self._fault_injection = config.fault_injection
        self._chance = np.random.default_rng()  # not the collection's: an episode that is tried again may succeed
        self._due: dict[str, int] = {}  # trouble to the number of steps until it happens
        self._frozen: NDArray[np.uint8] | None = None

    def reset(self, rng: np.random.Generator) -> Observation:
        """Reset as a robot without trouble does, and draw what will happen to the next steps."""
        self._due.clear()
        self._frozen = None
        seen = super().reset(rng)
        shares = {
            "reflex": self._fault_injection.reflexes_per_reset,
            "freeze": self._fault_injection.freezes_per_reset,
            "death": self._fault_injection.deaths_per_reset,
            "hang": self._fault_injection.hangs_per_reset,
        }
        for trouble, share in shares.items():
            if self._chance.random() < share:
                self._due[trouble] = int(self._chance.integers(1, _STEPS + 1))
        return seen

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move and look, unless something happens; see `Robot.step`."""
        happen: dict[str, Callable[[], None]] = {
            "reflex": self._stop_itself,
            "freeze": self._freeze,
            "death": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "hang": _hang,
        }
        for trouble in list(self._due):
            self._due[trouble] -= 1
            if not self._due[trouble]:
                del self._due[trouble]
                self._tell(trouble)
                happen[trouble]()
        return super().step(action)

    def render(self) -> NDArray[np.uint8]:
        """Return the camera image (H, W, 3) uint8 RGB, or the one at which it froze."""
        return super().render() if self._frozen is None else self._frozen.copy()

    def _freeze(self) -> None:
        self._frozen = super().render()

    def _stop_itself(self) -> None:
        self._fault = "the arm stopped itself (a rehearsed reflex)"
        raise RobotFault(f"{self._fault}; call recover")

    def _tell(self, trouble: str) -> None:
        if self._fault_injection.log:
            with Path(self._fault_injection.log).open("a", encoding="utf-8") as file:
                file.write(f"{trouble}\n")


def _hang() -> None:
    while True:
        time.sleep(60.0)

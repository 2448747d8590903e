"""The simulated arm for tests, in a process of an interpreter with franky-sim."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.loader import Config, load
from robot_bridge.franka.config import FrankaDirectConfig
from tests.patience import patience, relaxed

ROOT = Path(__file__).resolve().parents[3]
INTERPRETER = "FRANKY_SIM_PYTHON"
INSTALL = (
    f"set {INTERPRETER} to an interpreter with franky-sim: python -m venv sim && sim/bin/pip install "
    f"-c constraints.txt '.[simulation]' franky-sim && export {INTERPRETER}=$PWD/sim/bin/python"
)
_START_S = 90.0  # for the arm to start on a busy machine
_STOP_S = 15.0
_QUICK = (
    "robot.enforces_realtime=false",
    "robot.step_s=1.0",
    "robot.motion.speed_fraction=0.4",
    f"robot.recovery.patience_s={relaxed(2.0)}",
    "robot.recovery.back_off_s=0.2",
)


class _Sections(Config):
    robot: FrankaDirectConfig


class Rig:
    """One simulated arm."""

    def __init__(self, folder: Path) -> None:
        """Start the arm, and wait until it is ready."""
        command = [os.environ[INTERPRETER], "-m", "robot_bridge.libfranka.simulator.node"]
        self._errors = folder / "arm.txt"
        with self._errors.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        deadline_s = time.monotonic() + patience(_START_S)
        while "is ready" not in self.errors():
            assert time.monotonic() < deadline_s and self.process.poll() is None, self.errors()
            time.sleep(0.05)
        assert self.process.stdout is not None
        addresses = json.loads(self.process.stdout.readline())
        self._addresses = (f"robot.host={addresses['host']}", f"robot.images.source={addresses['source']}")

    def config(self, overrides: Sequence[str] = ()) -> FrankaDirectConfig:
        """Return the shipped configuration for this arm at high speed, with some keys changed."""
        return load(_Sections, {"robot": "robots/franka_direct.yaml"}, [*_QUICK, *self._addresses, *overrides]).robot

    def fault(self, name: str) -> None:
        """Inject a fault, or end all, and wait until it takes effect."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        time.sleep(0.3)

    def errors(self) -> str:
        """Return the standard error of the arm."""
        return self._errors.read_text(encoding="utf-8")

    def close(self) -> dict[str, Any]:
        """End the arm; return its summary, or nothing if it was killed."""
        self.process.terminate()
        try:
            output, _ = self.process.communicate(timeout=patience(_STOP_S))
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
        summary: dict[str, Any] = json.loads(output.splitlines()[-1]) if output.strip() else {}
        return summary

"""The simulated arm, in a process of its own and an interpreter that has franky-sim, for tests."""

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

ROOT = Path(__file__).resolve().parents[3]
INTERPRETER = "FRANKY_SIM_PYTHON"
HOW = (
    f"{INTERPRETER} names no interpreter with franky-sim; python -m venv sim && sim/bin/pip install -c constraints.txt "
    f"'.[simulation]' franky-sim && export {INTERPRETER}=$PWD/sim/bin/python"
)
_UP_S = 90.0  # to start on a busy machine
_DOWN_S = 15.0
_QUICK = (
    "robot.enforces_realtime=false",
    "robot.step_s=1.0",
    "robot.motion.speed_fraction=0.4",
    "robot.recovery.patience_s=2.0",
    "robot.recovery.back_off_s=0.2",
)


class _Sections(Config):
    robot: FrankaDirectConfig


class Rig:
    """One simulated arm."""

    def __init__(self, folder: Path) -> None:
        """Start it, and wait until it is ready."""
        command = [os.environ[INTERPRETER], "-m", "robot_bridge.libfranka.simulator.node"]
        self._errors = folder / "arm.txt"
        with self._errors.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        deadline_s = time.monotonic() + _UP_S
        while "is ready" not in self.said():
            assert time.monotonic() < deadline_s and self.process.poll() is None, self.said()
            time.sleep(0.05)
        assert self.process.stdout is not None
        places = json.loads(self.process.stdout.readline())
        self._places = (f"robot.host={places['host']}", f"robot.images.source={places['source']}")

    def config(self, overrides: Sequence[str] = ()) -> FrankaDirectConfig:
        """Return the shipped configuration for this arm, as fast as it may be, with some keys changed."""
        return load(_Sections, {"robot": "robots/franka_direct.yaml"}, [*_QUICK, *self._places, *overrides]).robot

    def fault(self, name: str) -> None:
        """Switch a fault on, or all off, and let it come into force."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        time.sleep(0.3)

    def said(self) -> str:
        """Return what the arm has said on standard error."""
        return self._errors.read_text(encoding="utf-8")

    def close(self) -> dict[str, Any]:
        """End it; return its summary, or nothing where it was killed."""
        self.process.terminate()
        try:
            output, _ = self.process.communicate(timeout=_DOWN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
        summary: dict[str, Any] = json.loads(output.splitlines()[-1]) if output.strip() else {}
        return summary

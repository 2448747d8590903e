"""Benchmark of long random motion with the simulated driver: growth of memory, errors and limits."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn

import numpy as np
import psutil
import typer

from configs.command import ReportedError, run
from robot_bridge.factory import open_robot
from robot_bridge.franka.config import FrankaRosConfig
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S
from robot_bridge.robot import CLOSE, OPEN, CameraFault, Robot, RobotFault
from tests.robot_bridge.ros.configurations import shipped
from tests.robot_bridge.ros.rig import Rig, open_rig

_EPISODE = 50  # steps between two resets
_MOST_FAULTS = 20
_REPORT_S = 60.0
_FREE_M = 0.06  # above the floor of the workspace; a higher hand touches no object


class SoakError(ReportedError):
    """A limit was exceeded, or a resource grew."""

    exit_code = 1


@dataclass
class Soak:
    """Records of one run."""

    errors_m: list[float] = field(default_factory=list)  # commanded against measured hand, of motions in free air
    faults: list[str] = field(default_factory=list)
    n_steps: int = 0
    n_contacts: int = 0  # low steps whose motion differs from the command
    samples: list[dict[str, float]] = field(default_factory=list)

    def step(self, robot: Robot, rng: np.random.Generator, hand_m: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        """Execute a random step and record its error."""
        limit_m = robot.spec.limits.step_limit_m
        action = np.append(rng.uniform(-limit_m, limit_m, 3) / 2, rng.choice([OPEN, OPEN, OPEN, CLOSE]))
        step = robot.step(action.astype(np.float32))
        reached_m = step.observation.state[:3]
        error_m = float(np.linalg.norm(reached_m - hand_m - step.applied[:3]))
        hand_m[:] = reached_m
        self.n_steps += 1
        floor_m = robot.spec.limits.workspace_low_m[2] + _FREE_M
        if min(reached_m[2], reached_m[2] - step.applied[2]) > floor_m:
            self.errors_m.append(error_m)
        else:
            self.n_contacts += error_m > 0.005


def soak(robot: Robot, seconds: float, rng: np.random.Generator, records: Soak) -> Iterator[None]:
    """Move at random, in episodes; yield after every step."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        with _recovering(robot, records):
            yield from _episode(robot, end_s, rng, records)


def _episode(robot: Robot, end_s: float, rng: np.random.Generator, records: Soak) -> Iterator[None]:
    hand_m = robot.reset(rng).state[:3].copy()
    for _ in range(_EPISODE):
        records.step(robot, rng, hand_m)
        yield
        if time.monotonic() > end_s:
            return


@contextmanager
def _recovering(robot: Robot, records: Soak) -> Iterator[None]:
    """Record a fault, and recover the arm."""
    try:
        yield
    except (RobotFault, CameraFault) as fault:
        records.faults.append(str(fault))
        print(fault, file=sys.stderr, flush=True)
        if len(records.faults) > _MOST_FAULTS:
            raise SoakError(f"too many faults, the last: {fault}") from fault
        robot.recover()


def _sample(rig: Rig) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for name, process in (("bridge", psutil.Process()), ("driver", psutil.Process(rig.driver.pid))):
        sizes[f"{name}_mib"] = process.memory_info().rss / 2**20
        sizes[f"{name}_fds"] = process.num_fds()
        sizes[f"{name}_threads"] = process.num_threads()
    return sizes


def evaluate(records: Soak, driver: dict[str, Any], robot: FrankaRosConfig) -> dict[str, Any]:
    """Return the results, with a list of violations."""
    motion, limits = robot.motion, robot.limits
    largest = driver["largest"]
    bound_rad = float((motion.speed_fraction * SPEED_LIMITS_RAD_S * motion.tick_s).max())
    low = np.array(limits.workspace_low_m) - motion.workspace_margin_m
    high = np.array(limits.workspace_high_m) + motion.workspace_margin_m
    half = len(records.samples) // 2
    growth = {
        name: max(s[name] for s in records.samples[half:]) / max(s[name] for s in records.samples[1 : half + 1])
        for name in records.samples[0]
    }  # the first sample is taken while starting
    errors_mm = 1000 * np.array(records.errors_m)
    violations = [f"{name} grew by {100 * (g - 1):.1f} %" for name, g in growth.items() if g > 1.05]
    violations += [f"{name}: {driver['events'][name]}" for name in ("refused",) if driver["events"].get(name)]
    if largest["command_rad"] > bound_rad * 1.001:
        violations.append(f"a command of {largest['command_rad']:.5f} rad, bound {bound_rad:.5f}")
    if largest["tracking_rad"] > motion.tracking_limit_rad:
        violations.append(f"{largest['tracking_rad']:.3f} rad between commanded and measured joints")
    if (np.array(driver["hand_low_m"]) < low).any() or (np.array(driver["hand_high_m"]) > high).any():
        violations.append(f"a hand at {driver['hand_low_m']} to {driver['hand_high_m']} m")
    return {
        "steps": records.n_steps,
        "free_steps": len(records.errors_m),
        "error_mm_median": float(np.median(errors_mm)),
        "error_mm_p95": float(np.percentile(errors_mm, 95)),
        "error_mm_max": float(errors_mm.max()),
        "contacts": records.n_contacts,
        "faults": records.faults,
        "growth": {name: round(g, 4) for name, g in growth.items()},
        "first": records.samples[0],
        "last": records.samples[-1],
        "command_fraction": largest["command_rad"] / bound_rad,
        "speed_fraction": largest["speed_fraction"],
        "tracking_rad": largest["tracking_rad"],
        "hand_low_m": driver["hand_low_m"],
        "hand_high_m": driver["hand_high_m"],
        "events": driver["events"],
        "violations": violations,
    }


def ros_soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="Duration.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all motions.")] = 0,
) -> None:
    """Move the simulated Franka over ROS at random, and watch memory, descriptors, threads, errors and limits.

    Prints one line per minute on standard error and, at the end, all results as one JSON object. Exits with 1 if a
    resource grew by more than 5 % from the first half to the second, or if the driver logged a violated limit.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = shipped()
    records = Soak()
    with open_rig() as rig:
        with closing(open_robot(settings)) as robot:
            due_s = began_s = time.monotonic()
            for _ in soak(robot, 60 * minutes, np.random.default_rng(seed), records):
                if time.monotonic() > due_s:
                    due_s += min(_REPORT_S, 6 * minutes)
                    records.samples.append(_sample(rig))
                    left_min = minutes - (time.monotonic() - began_s) / 60
                    print(f"{left_min:.1f} min left, {records.n_steps} steps: {records.samples[-1]}", file=sys.stderr)
        results = evaluate(records, rig.stop_driver(), settings)
        rig.leave()
    print(json.dumps(results))
    if results["violations"]:
        raise SoakError("; ".join(results["violations"]))


def main() -> NoReturn:
    """Run the command."""
    run(ros_soak)


if __name__ == "__main__":
    main()

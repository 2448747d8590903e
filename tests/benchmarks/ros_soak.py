"""Half an hour of random motion against the simulated driver: does anything grow, drift, or exceed a limit?"""

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
from tests.robot_bridge.ros.bridge import shipped
from tests.robot_bridge.ros.rig import Rig, open_rig

_EPISODE = 50  # steps between two resets
_MOST_FAULTS = 20
_REPORT_S = 60.0
_FREE_M = 0.06  # above the floor of the workspace: a hand that stays higher touches nothing


class SoakError(ReportedError):
    """A limit was exceeded, or something grew."""

    exit_code = 1


@dataclass
class Soak:
    """What was seen."""

    errors_m: list[float] = field(default_factory=list)  # commanded against measured hand, of motions in free air
    faults: list[str] = field(default_factory=list)
    n_steps: int = 0
    n_contacts: int = 0  # steps that ended otherwise than commanded, low enough to touch something
    samples: list[dict[str, float]] = field(default_factory=list)

    def step(self, robot: Robot, rng: np.random.Generator, hand_m: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        """Take a random step and compare."""
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


def soak(robot: Robot, seconds: float, rng: np.random.Generator, seen: Soak) -> Iterator[None]:
    """Move at random, in episodes; yield after every step."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        with _noted(robot, seen):
            yield from _episode(robot, end_s, rng, seen)


def _episode(robot: Robot, end_s: float, rng: np.random.Generator, seen: Soak) -> Iterator[None]:
    hand_m = robot.reset(rng).state[:3].copy()
    for _ in range(_EPISODE):
        seen.step(robot, rng, hand_m)
        yield
        if time.monotonic() > end_s:
            return


@contextmanager
def _noted(robot: Robot, seen: Soak) -> Iterator[None]:
    """Note a fault, and free the arm from it."""
    try:
        yield
    except (RobotFault, CameraFault) as fault:
        seen.faults.append(str(fault))
        print(fault, file=sys.stderr, flush=True)
        if len(seen.faults) > _MOST_FAULTS:
            raise SoakError(f"too many faults, the last: {fault}") from fault
        robot.recover()


def _sample(rig: Rig) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for name, process in (("bridge", psutil.Process()), ("driver", psutil.Process(rig.driver.pid))):
        sizes[f"{name}_mib"] = process.memory_info().rss / 2**20
        sizes[f"{name}_fds"] = process.num_fds()
        sizes[f"{name}_threads"] = process.num_threads()
    return sizes


def verdict(seen: Soak, driver: dict[str, Any], robot: FrankaRosConfig) -> dict[str, Any]:
    """Return the figures, and under `wrong` whatever is not as it must be."""
    motion, limits = robot.motion, robot.limits
    largest = driver["largest"]
    bound_rad = float((motion.speed_fraction * SPEED_LIMITS_RAD_S * motion.tick_s).max())
    low = np.array(limits.workspace_low_m) - motion.workspace_margin_m
    high = np.array(limits.workspace_high_m) + motion.workspace_margin_m
    half = len(seen.samples) // 2
    growth = {
        name: max(s[name] for s in seen.samples[half:]) / max(s[name] for s in seen.samples[1 : half + 1])
        for name in seen.samples[0]
    }  # the first sample is of a start
    errors_mm = 1000 * np.array(seen.errors_m)
    wrong = [f"{name} grew by {100 * (g - 1):.1f} %" for name, g in growth.items() if g > 1.05]
    wrong += [f"{name}: {driver['events'][name]}" for name in ("refused",) if driver["events"].get(name)]
    if largest["command_rad"] > bound_rad * 1.001:
        wrong.append(f"a command of {largest['command_rad']:.5f} rad, bound {bound_rad:.5f}")
    if largest["tracking_rad"] > motion.tracking_limit_rad:
        wrong.append(f"{largest['tracking_rad']:.3f} rad between wanted and measured joints")
    if (np.array(driver["hand_low_m"]) < low).any() or (np.array(driver["hand_high_m"]) > high).any():
        wrong.append(f"a hand at {driver['hand_low_m']} to {driver['hand_high_m']} m")
    return {
        "steps": seen.n_steps,
        "free_steps": len(seen.errors_m),
        "error_mm_median": float(np.median(errors_mm)),
        "error_mm_p95": float(np.percentile(errors_mm, 95)),
        "error_mm_max": float(errors_mm.max()),
        "contacts": seen.n_contacts,
        "faults": seen.faults,
        "growth": {name: round(g, 4) for name, g in growth.items()},
        "first": seen.samples[0],
        "last": seen.samples[-1],
        "command_share": largest["command_rad"] / bound_rad,
        "speed_fraction": largest["speed_fraction"],
        "tracking_rad": largest["tracking_rad"],
        "hand_low_m": driver["hand_low_m"],
        "hand_high_m": driver["hand_high_m"],
        "events": driver["events"],
        "wrong": wrong,
    }


def ros_soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all motions.")] = 0,
) -> None:
    """Move the simulated Franka over ROS at random, and watch memory, descriptors, threads, errors and limits.

    Prints a line a minute on standard error and, at the end, all figures as one JSON object. Exits with 1 where
    something grew by more than 5 % from the first half to the second, or a limit was exceeded in the driver's own log.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = shipped()
    seen = Soak()
    with open_rig() as rig:
        with closing(open_robot(settings)) as robot:
            due_s = began_s = time.monotonic()
            for _ in soak(robot, 60 * minutes, np.random.default_rng(seed), seen):
                if time.monotonic() > due_s:
                    due_s += min(_REPORT_S, 6 * minutes)
                    seen.samples.append(_sample(rig))
                    left_min = minutes - (time.monotonic() - began_s) / 60
                    print(f"{left_min:.1f} min left, {seen.n_steps} steps: {seen.samples[-1]}", file=sys.stderr)
        figures = verdict(seen, rig.stop_driver(), settings)
        rig.leave()
    print(json.dumps(figures))
    if figures["wrong"]:
        raise SoakError("; ".join(figures["wrong"]))


def main() -> NoReturn:
    """Run the command."""
    run(ros_soak)


if __name__ == "__main__":
    main()

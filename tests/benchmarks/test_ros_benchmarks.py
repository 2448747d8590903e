"""Evaluation of the ROS benchmarks."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robot_bridge.kinematics import HOME_RAD, SPEED_LIMITS_RAD_S, Kinematics
from tests.benchmarks.ros_faults import FAULTS, Recorder, _pause, _rest, _result, check
from tests.benchmarks.ros_soak import Soak, evaluate
from tests.robot_bridge.ros.configurations import config

BOUND = config().motion.speed_fraction * SPEED_LIMITS_RAD_S * config().motion.tick_s
START = Kinematics().solve(HOME_RAD, np.array([0.5, 0.0, 0.15]))
REFLEX = next(fault for fault in FAULTS if fault.name == "reflex")


@pytest.mark.parametrize(
    ("times_s", "paused_s"), [([], 0.0), ([0.01, 0.02, 0.5, 0.51], 0.02), ([1.0], 0.0), ([0.05, 0.1], 0.1)]
)
def test_pause_is_the_last_command_before_a_gap(times_s: list[float], paused_s: float) -> None:
    assert _pause(times_s) == paused_s


def test_rest_requires_a_duration() -> None:
    speeds = [(0.0, 1.0), (0.1, 0.01), (0.15, 1.0), (0.2, 0.01), (0.25, 0.01), (0.35, 0.01)]
    assert _rest(speeds) == 0.2
    assert _rest(speeds[:4]) is None


def recorder(*commands: tuple[int, float]) -> Recorder:
    """Return a recorder of commands 10 ms apart: (number, distance from the start in units of the limit)."""
    began_s = time.monotonic()
    commanded = [(began_s + 0.01 * (i + 1), number, START + at * BOUND) for i, (number, at) in enumerate(commands)]
    return Recorder(commanded, [(began_s + 0.02 * i, 0.0) for i in range(20)])


def test_steps_are_divided_by_the_numbers_of_commands() -> None:
    began_s = time.monotonic()
    whole = _result(REFLEX, recorder((1, 0.0), (2, 1.0), (4, 3.0)), began_s, 0, "the arm stopped (x)")
    assert whole.largest_step == pytest.approx(1.0)
    assert not list(check(REFLEX, [whole]))
    large = _result(REFLEX, recorder((1, 0.0), (2, 2.0)), began_s, 0, "the arm stopped (x)")
    assert large.largest_step == pytest.approx(2.0)
    assert "a step of 2.000" in next(check(REFLEX, [large]))


def test_unexpected_results_are_reported() -> None:
    result = _result(REFLEX, recorder((1, 0.0)), time.monotonic(), 0, "the arm stopped (x)\nbye\n")
    assert (result.message, result.last_line) == ("the arm stopped (x)", "bye")
    assert list(check(REFLEX, [replace(result, exit_code=1)]))
    assert list(check(REFLEX, [replace(result, message="nothing")]))
    assert list(check(REFLEX, [replace(result, outside_m=0.001)]))


def driver(**changes: Any) -> dict[str, Any]:
    largest = {"speed_fraction": 0.4, "command_rad": float(BOUND.max()), "tracking_rad": 0.02}
    whole = {"events": {}, "largest": largest, "hand_low_m": [0.4, 0.0, 0.02], "hand_high_m": [0.6, 0.1, 0.2]}
    return {**whole, **changes}


def soak(**last: float) -> Soak:
    sample = {"bridge_mib": 100.0, "bridge_fds": 50.0}
    return Soak(errors_m=[0.0001, 0.0003], samples=[sample] * 5 + [{**sample, **last}])


@pytest.mark.parametrize(
    ("records", "summary", "message"),
    [
        (soak(), driver(), None),
        (soak(bridge_fds=60.0), driver(), "bridge_fds grew by 20.0 %"),
        (soak(), driver(events={"refused": 1}), "refused: 1"),
        (soak(), driver(hand_low_m=[0.4, 0.0, -0.05]), "a hand at"),
        (soak(), driver(largest={"speed_fraction": 1, "command_rad": 1.0, "tracking_rad": 0.0}), "a command of"),
        (soak(), driver(largest={"speed_fraction": 1, "command_rad": 0.0, "tracking_rad": 0.3}), "between commanded"),
    ],
)
def test_growth_and_violated_limits_are_reported(records: Soak, summary: dict[str, Any], message: str | None) -> None:
    violations = evaluate(records, summary, config())["violations"]
    assert [message in each for each in violations] == [True] if message else violations == []

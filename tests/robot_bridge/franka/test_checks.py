"""Results of readiness checks: the detail and its fix."""

from __future__ import annotations

import pytest

from robot_bridge.franka.checks import CheckResult, run_check
from robot_bridge.robot import RobotError


def test_passed_check_has_no_fix() -> None:
    assert run_check("camera", lambda: "15 Hz") == CheckResult("camera", True, "15 Hz", "")


@pytest.mark.parametrize(
    ("message", "detail", "fix"),
    [
        ("expected a camera; connect one", "expected a camera", "connect one"),
        ("one; two; do three", "one; two", "do three"),
        ("nothing to do", "nothing to do", ""),
    ],
)
def test_last_part_of_an_error_is_the_fix(message: str, detail: str, fix: str) -> None:
    def fail() -> str:
        raise RobotError(message)

    assert run_check("camera", fail) == CheckResult("camera", False, detail, fix)


def test_unexpected_exception_is_raised() -> None:
    def fail() -> str:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_check("camera", fail)

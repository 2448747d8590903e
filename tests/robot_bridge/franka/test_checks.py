"""Findings: what was seen, and what to do."""

from __future__ import annotations

import pytest

from robot_bridge.franka.checks import Finding, look
from robot_bridge.robot import RobotError


def test_what_is_well_needs_nothing() -> None:
    assert look("camera", lambda: "15 a second") == Finding("camera", True, "15 a second", "")


@pytest.mark.parametrize(
    ("message", "seen", "fix"),
    [
        ("expected a camera; look at it", "expected a camera", "look at it"),
        ("one; two; do three", "one; two", "do three"),
        ("nothing to do", "nothing to do", ""),
    ],
)
def test_an_error_ends_with_what_to_do(message: str, seen: str, fix: str) -> None:
    def fail() -> str:
        raise RobotError(message)

    assert look("camera", fail) == Finding("camera", False, seen, fix)


def test_a_bug_is_no_finding() -> None:
    def fail() -> str:
        raise KeyError("x")

    with pytest.raises(KeyError):
        look("camera", fail)

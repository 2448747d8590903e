"""Readiness checks of a Franka over ROS, run by run_doctor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

from robot_bridge.ros import names
from tests.patience import patience, relaxed
from tests.planner.test_run_doctor import ROOT
from tests.planner.test_run_doctor import run_checks as run_checks_of
from tests.robot_bridge.ros.configurations import QUICK
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

TIMEOUTS = tuple(word for key in QUICK if ".images." in key or ".connect_" in key for word in ("--set", key))
ALL = {"workspace", "master", "camera", "driver", "topics", "state", "clock", "services", "mode", "hand", "frame",
       "gripper", "disk", "checkpoint"}  # fmt: skip
_OTHER_NODE = f"""
import rospy
from std_msgs.msg import String
rospy.init_node("other")
publisher = rospy.Publisher("{names.ROBOT_STATE}", String, queue_size=1, latch=True)
publisher.publish(String("no state"))
print("ready", flush=True)
rospy.spin()
"""


def run_checks(*arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Check the simulated driver; see `tests.planner.test_run_doctor.run_checks`."""
    return run_checks_of("--robot", "franka_ros", *arguments)


@contextmanager
def other_node() -> Iterator[None]:
    """Run a node that publishes another type on the topic of the robot state."""
    process = subprocess.Popen([sys.executable, "-c", _OTHER_NODE], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield
    process.kill()
    process.communicate()


def test_ready_driver_passes_and_is_not_moved(rig: Rig) -> None:
    before = {name: len(rig.events(name)) for name in ("command", "gripper", "thresholds", "recovery", "controller")}
    code, found, _ = run_checks(*TIMEOUTS)
    assert code == 0, found
    assert set(found) == ALL
    assert before == {name: len(rig.events(name)) for name in before}


@pytest.mark.parametrize(
    ("fault", "name", "fix"),
    [
        ("user_stop", "mode", "find out why the user stop was pressed, and release it"),
        (
            "reflex",
            "mode",
            "check what the arm touches, then press and release the user stop; run_collection does without",
        ),
        ("camera_dark", "camera", "check the camera"),
        ("camera_silent", "camera", "check the camera"),
        ("joint_state_stale", "driver", "or the simulated driver with python -m robot_bridge.ros.simulator.node"),
        ("nan_state", "state", "restart the driver"),
    ],
)
def test_fault_is_reported_with_its_fix(rig: Rig, fault: str, name: str, fix: str) -> None:
    rig.fault(fault)
    code, found, _ = run_checks(
        "--set", "robot.images.timeout_s=1", "--set", f"robot.connect_timeout_s={relaxed(2.0, 60.0)}"
    )
    assert code == 1
    assert not found[name]["passed"]
    assert fix in f"{found[name]['detail']}; {found[name]['fix']}"


def test_newer_release_is_detected(master: Rig) -> None:
    master.start_driver("--generation", "0.9", "--encoding", "bgr8")
    code, found, _ = run_checks(*TIMEOUTS)
    master.stop_driver()
    assert code == 0, found
    assert "0.9.0 to 0.10.1" in found["driver"]["detail"]


def test_unknown_release_is_refused_by_its_md5(master: Rig) -> None:
    with other_node():
        code, found, _ = run_checks("--set", "robot.images.timeout_s=0.5")
    assert code == 1
    assert "got md5 992ce8a1687cec8c8bd883ec73ca41d1 of std_msgs/String" in found["driver"]["detail"]
    assert found["driver"]["fix"] == "install one of these releases"
    assert "mode" not in found


def test_missing_driver(master: Rig) -> None:
    code, found, _ = run_checks("--set", "robot.images.timeout_s=0.5", "--set", "robot.connect_timeout_s=1")
    assert code == 1
    assert "expected a state within 1 s, got none" in found["driver"]["detail"]
    assert not found["camera"]["passed"]


def test_simulated_driver_needs_a_master() -> None:
    command = [sys.executable, "-m", "robot_bridge.ros.simulator.node"]
    environment = {"ROS_MASTER_URI": "http://127.0.0.1:1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(  # noqa: PLW1510 - the exit code is tested
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience(60)
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: http://127.0.0.1:1: expected a ROS master") and done.stderr.count("\n") == 1

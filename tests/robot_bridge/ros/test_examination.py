"""The examination of an arm over ROS, in a process of its own as a lab runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

from robot_bridge.ros import names
from tests.planner.test_run_doctor import ROOT, run_checks
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

ALL = {"workspace", "master", "camera", "driver", "topics", "state", "clock", "services", "mode", "hand", "frame",
       "gripper", "disk", "checkpoint"}  # fmt: skip
_STRANGER = f"""
import rospy
from std_msgs.msg import String
rospy.init_node("stranger")
publisher = rospy.Publisher("{names.ROBOT_STATE}", String, queue_size=1, latch=True)
publisher.publish(String("no state"))
print("ready", flush=True)
rospy.spin()
"""


@contextmanager
def stranger() -> Iterator[None]:
    """Run a node that publishes something else where the driver publishes its state."""
    process = subprocess.Popen([sys.executable, "-c", _STRANGER], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield
    process.kill()
    process.communicate()


def test_a_driver_in_good_health_is_ready_and_is_not_moved(rig: Rig) -> None:
    before = {name: len(rig.events(name)) for name in ("command", "gripper", "thresholds", "recovery", "controller")}
    code, found, _ = run_checks()
    assert code == 0, found
    assert set(found) == ALL
    assert before == {name: len(rig.events(name)) for name in before}


@pytest.mark.parametrize(
    ("fault", "name", "fix"),
    [
        ("user_stop", "mode", "release the user stop, and look why it was pressed"),
        ("reflex", "mode", "look at what the arm touches; run_collection and run_task free it at their start"),
        ("camera_dark", "camera", "look at the camera"),
        ("camera_silent", "camera", "look at the camera"),
        ("joint_state_stale", "driver", "or rehearse with python -m robot_bridge.ros.simulator.node"),
        ("nan_state", "state", "restart the driver"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(rig: Rig, fault: str, name: str, fix: str) -> None:
    rig.fault(fault)
    code, found, _ = run_checks("--set", "robot.images.timeout_s=1", "--set", "robot.connect_timeout_s=2")
    assert code == 1
    assert not found[name]["passed"]
    assert fix in f"{found[name]['detail']}; {found[name]['fix']}"


def test_the_newer_release_is_recognised(master: Rig) -> None:
    master.start_driver("--generation", "0.9", "--encoding", "bgr8")
    code, found, _ = run_checks()
    master.stop_driver()
    assert code == 0, found
    assert "0.9.0 to 0.10.1" in found["driver"]["detail"]


def test_a_release_that_is_not_known_is_refused_by_its_md5(master: Rig) -> None:
    with stranger():
        code, found, _ = run_checks("--set", "robot.images.timeout_s=0.5")
    assert code == 1
    assert "got md5 992ce8a1687cec8c8bd883ec73ca41d1 of std_msgs/String" in found["driver"]["detail"]
    assert found["driver"]["fix"] == "install one of these releases"
    assert "mode" not in found


def test_no_driver_at_all(master: Rig) -> None:
    code, found, _ = run_checks("--set", "robot.images.timeout_s=0.5", "--set", "robot.connect_timeout_s=1")
    assert code == 1
    assert "expected a state within 1 s, got none" in found["driver"]["detail"]
    assert not found["camera"]["passed"]


def test_the_driver_needs_a_master() -> None:
    command = [sys.executable, "-m", "robot_bridge.ros.simulator.node"]
    environment = {"ROS_MASTER_URI": "http://127.0.0.1:1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(  # noqa: PLW1510 - its code is what is asked
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: http://127.0.0.1:1: expected a ROS master") and done.stderr.count("\n") == 1

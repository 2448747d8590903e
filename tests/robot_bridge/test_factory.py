"""Robots by name, their imports, and the limits of their configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.loader import FOLDER, Config, ConfigError, load, migrate
from robot_bridge import factory
from robot_bridge.factory import RobotConfig
from robot_bridge.franka.config import FrankaRosConfig
from tests.patience import patience
from tests.robot_bridge.ros.configurations import shipped

ROOT = FOLDER.parent


class _Sections(Config):
    robot: RobotConfig


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module", ["planner.run_task", "planner.run_goal", "planner.run_doctor", "planner.task", "planner.doctor",
               "planner.goal", "data_collection.run_collection", "data_collection.collection.collector",
               "robot_bridge.factory"],
)  # fmt: skip
def test_modules_import_neither_simulator_nor_ros_nor_torch(module: str) -> None:
    done = run(f"import {module}, sys; assert not {{'mujoco', 'rospy', 'torch', 'franky'}} & sys.modules.keys()")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("missing", "robot", "install"),
    [
        ("mujoco", "simulation", "pip install 'ghvae-foresight[simulation]'"),
        ("rospy", "franka_ros", "ros"),
    ],
)
def test_missing_library_is_named_with_its_installation(missing: str, robot: str, install: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(f'raise ModuleNotFoundError("No module named {missing!r}")')
    arguments = ["--episodes", "1", "--robot", robot, "--out", "/nowhere/at/all"]
    done = subprocess.run(
        [sys.executable, "-m", "data_collection.run_collection", *arguments],
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode in {1, 2}
    error = done.stderr.splitlines()[-1]  # what takes long is announced above it
    assert error.startswith("error: ") and install in error and done.stderr.count("error") == 1


def test_missing_franky_is_named_with_its_installation() -> None:
    code = "import sys; sys.modules['franky'] = None\nfrom planner.run_task import main\n"
    code += "sys.argv = ['t', 'pick_wipe', '--robot', 'franka_direct', '--goal', 'configs/goals/pick_wipe.png']\nmain()"
    done = run(code)
    assert done.returncode == 2
    assert "--robot franka_direct" in done.stderr and "pip install 'ghvae-foresight[franky]'" in done.stderr


def test_real_arm_refuses_several_workers() -> None:
    command = "from data_collection.run_collection import main; import sys\n"
    command += "sys.argv = ['c', '--episodes', '1', '--robot', 'franka_ros', '--workers', '2']\nmain()"
    done = run(command)
    assert done.returncode == 2
    assert "--workers: expected 1 for a real robot, got 2" in done.stderr


def test_shipped_limits_are_stricter_than_the_drivers() -> None:
    config = shipped()
    assert config.motion.max_state_age_s <= 0.2 and config.motion.stall_s <= 0.2
    assert max(config.reflex.torques_nm) <= 20 and max(config.reflex.forces[:3]) <= 20
    assert config.motion.contact_limit_n < min(config.reflex.forces[:3])


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("motion", {"contact_limit_n": 20.0}, "below the forces of the reflex"),
        ("images", {"brightness": (200.0, 100.0)}, "two rising numbers"),
        ("motion", {"max_state_age_s": 0.3}, "less than or equal to 0.2"),
        ("motion", {"speed_fraction": 0.6}, "less than or equal to 0.5"),
    ],
)
def test_ineffective_limits_are_refused(section: str, values: dict[str, object], message: str) -> None:
    whole = shipped().model_dump()
    whole[section].update(values)
    with pytest.raises(ValidationError, match=message):
        FrankaRosConfig.model_validate(whole)


@pytest.mark.parametrize(
    ("file", "override", "message"),
    [
        ("simulation", "troubles.hangs_per_reset=0.1", r"'robot\.troubles' is now 'robot\.fault_injection'"),
        ("simulation", "split=unseen", "'unseen' is now 'test'"),
        (
            "franka_ros",
            "motion.speed_share=0.2",
            r"'robot\.motion\.speed_share' is now 'robot\.motion\.speed_fraction'",
        ),
        ("franka_ros", "images.age_s=0.2", r"'robot\.images\.age_s' is now 'robot\.images\.max_age_s'"),
        ("franka_ros", "recovery.alert=[true]", r"is now 'robot\.recovery\.notify_command'"),
        ("franka_direct", "jerk_share=0.2", r"'robot\.jerk_share' is now 'robot\.jerk_fraction'"),
    ],
)
def test_former_keys_are_refused_with_the_present_name(file: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(_Sections, {"robot": f"robots/{file}.yaml"}, [f"robot.{override}"])


def test_stored_configuration_migrates() -> None:
    stored = {"robot": {"kind": "franka_ros", "motion": {"speed_share": 0.2}, "images": {"age_s": 0.2}}}
    present = {"robot": {"kind": "franka_ros", "motion": {"speed_fraction": 0.2}, "images": {"max_age_s": 0.2}}}
    assert migrate(_Sections, stored) == present
    simulated = {"robot": {"kind": "simulation", "split": "unseen", "troubles": {"log": ""}}}
    assert migrate(_Sections, simulated) == {
        "robot": {"kind": "simulation", "split": "test", "fault_injection": {"log": ""}}
    }


def test_ros_is_installed_by_the_set_up_of_a_checkout_or_by_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message() -> str:
        with pytest.raises(factory.MissingLibraryError) as caught, factory._installed("franka_ros"):
            raise ModuleNotFoundError("No module named 'rospy'")
        return str(caught.value)

    monkeypatch.setattr(factory, "_SET_UP", tmp_path / "bootstrap.sh")
    of_wheel = message()
    assert "bootstrap" not in of_wheel and "\n" not in of_wheel
    assert "; run: sudo apt-get install python3-rospy " in of_wheel
    assert of_wheel.endswith(f"> {sysconfig.get_path('purelib')}/ros.pth")
    (tmp_path / "bootstrap.sh").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert message().endswith(f"; run: {tmp_path}/bootstrap.sh ros")


def test_the_packages_of_ros_are_those_of_the_set_up() -> None:
    text = (Path(__file__).resolve().parents[2] / "bootstrap.sh").read_text(encoding="utf-8")
    assert text.partition("ros_packages=(")[2].partition(")")[0].split() == list(factory.ROS_PACKAGES)

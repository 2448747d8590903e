"""End-to-end tests of the commands with a Franka over ROS, and one test of every fault during motion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

from configs.loader import FOLDER
from data_collection.formats.robonet import read_episode
from planner.goal import load_goal
from tests.benchmarks.ros_faults import FAULTS
from tests.patience import patience, relaxed
from tests.planner.doubles import SPEC
from tests.robot_bridge.ros.configurations import QUICK
from tests.robot_bridge.ros.rig import Rig
from tests.terminal import on_terminal

pytestmark = pytest.mark.ros

ROOT = FOLDER.parent
SETTINGS = [
    word
    for setting in (*QUICK, "robot.connect_timeout_s=30", "robot.gripper.homes=false")
    for word in ("--set", setting)
]


def run(module: str, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)


def test_collection(rig: Rig, tmp_path: Path) -> None:
    out = tmp_path / "episodes"
    steps = ("--set", "collection.n_steps=6", "--set", "collection.steps_per_draw=[3,6]")
    done = run("data_collection.run_collection", "--robot", "franka_ros", "--episodes", "2", "--out", str(out),
               *steps, *SETTINGS)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["episodes"] == 2
    files = sorted(out.glob("*.hdf5"))
    assert len(files) == 2
    for file in files:
        episode = read_episode(file)
        assert episode.actions.shape == (6, 4)
        moved = np.diff(episode.states[:, :3], axis=0)
        assert np.linalg.norm(moved - episode.actions[:, :3], axis=1).min() < 0.002
        assert (np.diff(episode.times_s) > 0.3).all()


def test_task_with_the_goal_of_the_simulated_driver(master: Rig, tmp_path: Path) -> None:
    goal, out = tmp_path / "goal.png", tmp_path / "run"
    master.start_driver("--scene", "pick_wipe", "--split", "test", "--seed", "3", "--goal", str(goal))
    arguments = ["pick_wipe", "--robot", "franka_ros", "--goal", str(goal), "--steps", "3", "--out", str(out), "--set",
                 "planner.n_candidates=8", "--set", "planner.predict_timeout_s=60", *SETTINGS]  # fmt: skip
    done = run("planner.run_task", *arguments, seconds=200)
    summary = master.stop_driver()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["robot"] == "franka_ros"
    assert (out / "report.html").exists()
    assert load_goal(out / "goal.png", SPEC.camera).shape == (64, 64, 3)
    assert summary["task_success"] is not None and summary["events"]["command"] > 50


def test_trials_that_a_person_arranges_and_judges(master: Rig, tmp_path: Path) -> None:
    goal, out = tmp_path / "goal.png", tmp_path / "trials"
    master.start_driver("--scene", "pick_wipe", "--split", "test", "--seed", "3", "--goal", str(goal))
    command = [sys.executable, "-m", "planner.run_trials", "pick_wipe", "--robot", "franka_ros", "--goal", str(goal),
               "--trials", "1", "--predictor", "copy", "--set", "task.n_steps=2", "--set", "planner.n_candidates=8",
               "--out", str(out), *SETTINGS]  # fmt: skip
    with on_terminal(command, tmp_path / "out.txt", ROOT, {}) as terminal:
        while terminal.wait_for_one(("press Enter", "u: undo"), 200) == "press Enter":  # again after a fault of the arm
            terminal.type("\n")
        terminal.type("y")
        code = terminal.end()
    summary = master.stop_driver()
    assert code == 0, terminal.shown
    numbers = json.loads((tmp_path / "out.txt").read_text().splitlines()[-1])["pick_wipe"]
    assert (numbers["success_rate"], numbers["judged_by"], numbers["trials"]) == (1.0, "person", 1)
    assert summary["events"]["command"] > 50
    result = json.loads((out / "pick_wipe" / "A" / "seed1000" / "result.json").read_text())
    assert (result["robot"], result["success"], result["judged_by"]) == ("franka_ros", True, "person")


def test_the_simulated_driver_protects_an_existing_goal(tmp_path: Path) -> None:
    goal = tmp_path / "goal.png"
    goal.write_text("mine")
    for options, message in (
        (("--scene", "pick_wipe", "--goal", str(goal)), "expected a new PNG in an existing folder"),
        (("--scene", "bin", "--goal", str(tmp_path / "new.png")), "--goal: no effect with --scene bin"),
        (("--force",), "--force: no effect without --goal"),
    ):
        done = run("robot_bridge.ros.simulator.node", *options)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert goal.read_text() == "mine"


def test_goal_image_from_the_live_camera(rig: Rig, tmp_path: Path) -> None:
    goal = tmp_path / "goal.png"
    done = run("planner.run_goal", str(goal), "--robot", "franka_ros")
    assert done.returncode == 0, done.stderr
    assert "waiting: the scene moves" in done.stderr
    other = ("--start", str(goal), "--patience-s", f"{relaxed(2.0)}")
    again = run("planner.run_goal", str(tmp_path / "other.png"), "--robot", "franka_ros", *other)
    assert again.returncode == 2
    assert "the scene is unchanged from the start" in again.stderr.splitlines()[-1]
    assert not (tmp_path / "other.png").exists()


def test_task_needs_a_goal(tmp_path: Path) -> None:
    done = run("planner.run_task", "pick_wipe", "--robot", "franka_ros", "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "make one by run_goal" in done.stderr


def test_without_a_master_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "episodes"
    command = [sys.executable, "-m", "data_collection.run_collection", "--robot", "franka_ros", "--episodes", "1"]
    environment = {**os.environ, "ROS_MASTER_URI": "http://127.0.0.1:1"}
    done = subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: http://127.0.0.1:1: expected a ROS master") and done.stderr.count("\n") == 1
    assert not out.exists()


def test_driver_ends_with_a_summary(master: Rig) -> None:
    master.start_driver()
    summary = master.stop_driver()
    assert set(summary) == {"events", "largest", "hand_low_m", "hand_high_m", "task_success"}
    master.start_driver()
    master.driver.send_signal(signal.SIGINT)
    master.driver.wait(patience(15))
    assert master.driver.returncode == 130
    time.sleep(0.1)
    assert master.is_down()


# Half a minute each, in real time; the others are marked slow.
_FAST = {"driver killed", "reflex", "user stop", "supervisor killed (kill -9)"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(fault.name, marks=[] if fault.name in _FAST else [pytest.mark.slow]) for fault in FAULTS],
)
def test_fault_during_motion(name: str, tmp_path: Path) -> None:
    out = str(tmp_path / "faults.jsonl")
    done = run("tests.benchmarks.ros_faults", "--times", "1", "--only", name, "--out", out, seconds=200)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout

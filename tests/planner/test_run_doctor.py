"""run_doctor: its checks and their fixes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.loader import FOLDER
from ghvae_core.serving.launch import private_server
from planner.config import load_run
from planner.doctor import CheckSelection, check_system
from planner.options import SHIPPED
from tests.patience import patience

ROOT = FOLDER.parent


def run_checks(*arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Run the command; return its exit code, its findings by subject, and what it said on standard error."""
    command = [sys.executable, "-m", "planner.run_doctor", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(120), check=False)
    found = json.loads(done.stdout) if done.stdout else {"checks": []}
    return done.returncode, {each["name"]: each for each in found["checks"]}, done.stderr


def test_the_simulation_is_the_default_and_ready() -> None:
    code, found, _ = run_checks()
    assert code == 0
    assert set(found) == {"renderer", "disk", "checkpoint"}


def test_without_a_master_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")
    monkeypatch.setenv("ROS_MASTER_URI", "http://127.0.0.1:1")
    code, found, _ = run_checks("--robot", "franka_ros", "--set", "robot.connect_timeout_s=1")
    assert code == 1
    assert "expected a ROS master" in found["master"]["detail"]
    assert found["master"]["fix"] == "start one, or set ROS_MASTER_URI"
    assert "driver" not in found and found["workspace"]["passed"]


def test_a_server_must_fit(tmp_path: Path) -> None:
    overrides = ["robot.renderer=ray"]
    with private_server(SHIPPED) as server:
        selection = CheckSelection(server.address, SHIPPED, tmp_path)
        fits = {f.name: f for f in check_system(selection, load_run("tasks/pick_wipe.yaml", overrides))}
        other = load_run("tasks/pick_wipe.yaml", [*overrides, "robot.limits.step_limit_m=0.1"])
        differs = {f.name: f for f in check_system(selection, other)}
    assert fits["server"].passed
    assert not differs["server"].passed and "step_limit_m" in differs["server"].detail


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    selection = CheckSelection("tcp://127.0.0.1:1", SHIPPED, tmp_path)
    found = {f.name: f for f in check_system(selection, load_run("tasks/pick_wipe.yaml", ["robot.renderer=ray"]))}
    assert "no server at tcp://127.0.0.1:1" in found["server"].detail
    assert found["server"].fix == "start one with: run_server --checkpoint FOLDER"


def test_a_damaged_checkpoint_and_a_folder_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    selection = CheckSelection(None, tmp_path / "model", tmp_path / "not" / "yet" / "there")
    found = {f.name: f for f in check_system(selection, load_run("tasks/pick_wipe.yaml", ["robot.renderer=ray"]))}
    assert not found["checkpoint"].passed
    assert found["disk"].passed and str(tmp_path) in found["disk"].detail


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.doctor.shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**29})())
    selection = CheckSelection(None, SHIPPED, tmp_path)
    found = {f.name: f for f in check_system(selection, load_run("tasks/pick_wipe.yaml", ["robot.renderer=ray"]))}
    assert found["disk"].detail.endswith("expected 2 GiB free, got 0.5")
    assert found["disk"].fix == "free some space, or choose another folder with --out"


@pytest.mark.parametrize(
    "arguments", [("--robot", "franka_ros", "--set", "robot.motion.tick=1"), ("--task", "no_such_task")]
)
def test_bad_input_is_refused_in_one_line(arguments: tuple[str, ...]) -> None:
    code, found, said = run_checks(*arguments)
    assert (code, found) == (2, {})
    assert said.count("\n") == 1 and said.startswith("error: ")

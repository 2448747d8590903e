"""When a goal picture is taken, why not before, and that it is what the model would see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from configs.loader import FOLDER
from planner.capture import Sitting, preview, sit
from planner.goal import GoalError, load_goal
from robot_bridge.camera import Crop, model_image
from robot_bridge.robot import CameraFault
from tests.planner.doubles import SPEC

ROOT = FOLDER.parent
CAMERA = SPEC.camera.model_copy(update={"crop": Crop(top_px=0, left_px=40, height_px=240, width_px=240)})


def scene(seed: int = 0) -> NDArray[np.uint8]:
    """Return coarse coloured squares, which are as different from those of another seed as two scenes."""
    coarse = np.random.default_rng(seed).integers(40, 220, (12, 16, 3)).astype(np.uint8)
    return coarse.repeat(20, axis=0).repeat(20, axis=1)


def noisy(seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    while True:
        yield np.clip(scene() + rng.normal(0, 1.5, (240, 320, 3)), 0, 255).astype(np.uint8)


def seeing(pictures: Iterator[NDArray[np.uint8]]) -> Callable[[], NDArray[np.uint8]]:
    return lambda: next(pictures)


def test_a_scene_that_rests_for_a_second_is_taken() -> None:
    sitting = Sitting(CAMERA, None)
    said = [sitting.judge(next(noisy(i)), 10 + i / 15) for i in range(17)]
    assert all(why == "something moves; take your hands out of the picture" for why in said[:15])
    assert said[15:] == ["", ""]


def test_slow_motion_is_motion() -> None:
    sitting = Sitting(CAMERA, None)
    for i in range(60):
        shifted = np.roll(scene(), i // 4, axis=1)  # a pixel in a quarter of a second
        assert "moves" in sitting.judge(shifted, 10 + i / 15)


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.full((240, 320, 3), 90, np.uint8), "a single colour"),
        (cv2.GaussianBlur(scene(), (0, 0), 15).astype(np.uint8), "blurred"),
    ],
)
def test_what_shows_nothing_is_not_taken(picture: NDArray[np.uint8], told: str) -> None:
    sitting = Sitting(CAMERA, None)
    for i in range(40):
        assert told in sitting.judge(picture, 10 + i / 15)


def test_the_start_is_no_goal() -> None:
    start = model_image(scene(), CAMERA.crop)
    sitting = Sitting(CAMERA, start)
    for i in range(40):
        assert "the scene is still as at the start" in sitting.judge(next(noisy(i)), 10 + i / 15)
    said = [sitting.judge(scene(1), 20 + i / 15) for i in range(20)]
    assert said[-1] == ""


def test_a_camera_that_fails_for_a_while_is_waited_for_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.capture._STILL_S", 0.0)
    calls = chain(repeat(CameraFault("/camera: dark; look at the camera"), 3), repeat(None))
    told: list[str] = []

    def see() -> NDArray[np.uint8]:
        if fault := next(calls):
            raise fault
        return scene()

    np.testing.assert_array_equal(sit(see, Sitting(CAMERA, None), 5.0, told.append), scene())
    assert told == ["/camera: dark; look at the camera"]


def test_patience_ends() -> None:
    pictures = (scene(i) for i in range(10**6))
    with pytest.raises(GoalError, match=r"within 0\.2 s, got none: something moves"):
        sit(seeing(pictures), Sitting(CAMERA, None), 0.2, lambda _: None)


def test_the_preview_shows_the_crop_and_what_the_model_sees() -> None:
    shown = cv2.imdecode(np.frombuffer(preview(scene(), CAMERA), np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape[0] >= 2 * CAMERA.height_px
    assert (shown == [0, 0, 255]).all(axis=2).sum() > 500  # the frame, red


def run_goal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "planner.run_goal", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_simulated_goal_is_the_one_that_run_task_makes(tmp_path: Path) -> None:
    goal = tmp_path / "goal.png"
    simulated = ("--robot", "simulation", "--seed", "3", "--set", "robot.renderer=ray")
    done = run_goal(str(goal), *simulated)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"goal": str(goal), "preview": str(tmp_path / "goal.preview.png")}
    assert load_goal(goal, SPEC.camera).shape == (64, 64, 3)
    task = [sys.executable, "-m", "planner.run_task", "pick_wipe", "--predictor", "copy", "--steps", "1"]
    out = tmp_path / "run"
    small = ["--seed", "3", "--set", "robot.renderer=ray", "--set", "planner.n_candidates=4", "--out", str(out)]
    subprocess.run([*task, *small], cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert (load_goal(out / "goal.png", SPEC.camera) == load_goal(goal, SPEC.camera)).all()
    again = run_goal(str(goal), *simulated)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert run_goal(str(goal), *simulated, "--force").returncode == 0


@pytest.mark.parametrize("name", ["goal.jpg", "not/there/goal.png"])
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    done = run_goal(str(tmp_path / name), "--robot", "simulation")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected a new PNG in a folder that exists" in done.stderr
    assert not list(tmp_path.iterdir())

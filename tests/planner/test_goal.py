"""Reading, checking and capturing goal images."""

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
from planner.goal import GoalCapture, GoalError, capture_goal, check_goal, image_distance, load_goal, preview
from robot_bridge.camera import Crop, model_image
from robot_bridge.robot import CameraFault
from tests.messages import messages
from tests.patience import patience
from tests.planner.doubles import SPEC, camera_view

ROOT = FOLDER.parent
CAMERA = SPEC.camera.model_copy(update={"crop": Crop(top_px=0, left_px=40, height_px=240, width_px=240)})


def scene(seed: int = 0) -> NDArray[np.uint8]:
    """Return coarse coloured squares, as different for each seed as two scenes."""
    coarse = np.random.default_rng(seed).integers(40, 220, (12, 16, 3)).astype(np.uint8)
    return coarse.repeat(20, axis=0).repeat(20, axis=1)


def noisy(seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    while True:
        yield np.clip(scene() + rng.normal(0, 1.5, (240, 320, 3)), 0, 255).astype(np.uint8)


def seeing(images: Iterator[NDArray[np.uint8]]) -> Callable[[], NDArray[np.uint8]]:
    return lambda: next(images)


def test_a_scene_at_rest_for_a_second_is_captured() -> None:
    capture = GoalCapture(CAMERA, None)
    said = [capture.check(next(noisy(i)), 10 + i / 15) for i in range(17)]
    assert all(why == "the scene moves; keep hands out of the image" for why in said[:15])
    assert said[15:] == ["", ""]


def test_slow_motion_is_detected() -> None:
    capture = GoalCapture(CAMERA, None)
    for i in range(60):
        shifted = np.roll(scene(), i // 4, axis=1)  # one pixel every 0.27 s
        assert "moves" in capture.check(shifted, 10 + i / 15)


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        (np.full((240, 320, 3), 90, np.uint8), "a single colour"),
        (cv2.GaussianBlur(scene(), (0, 0), 15).astype(np.uint8), "blurred"),
    ],
)
def test_an_image_without_content_is_not_captured(image: NDArray[np.uint8], reported: str) -> None:
    capture = GoalCapture(CAMERA, None)
    for i in range(40):
        assert reported in capture.check(image, 10 + i / 15)


def test_an_unchanged_scene_is_not_captured() -> None:
    start = model_image(scene(), CAMERA.crop)
    capture = GoalCapture(CAMERA, start)
    for i in range(40):
        assert "the scene is unchanged from the start" in capture.check(next(noisy(i)), 10 + i / 15)
    said = [capture.check(scene(1), 20 + i / 15) for i in range(20)]
    assert said[-1] == ""


def test_a_failing_camera_is_waited_for_and_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.goal._STILL_S", 0.0)
    calls = chain(repeat(CameraFault("/camera: dark; look at the camera"), 3), repeat(None))
    reported: list[str] = []

    def see() -> NDArray[np.uint8]:
        if fault := next(calls):
            raise fault
        return scene()

    np.testing.assert_array_equal(capture_goal(see, GoalCapture(CAMERA, None), 5.0, reported.append), scene())
    assert reported == ["/camera: dark; look at the camera"]


def test_the_wait_is_limited() -> None:
    images = (scene(i) for i in range(10**6))
    with pytest.raises(GoalError, match=r"within 0\.2 s, got none: the scene moves"):
        capture_goal(seeing(images), GoalCapture(CAMERA, None), 0.2, lambda _: None)


def test_the_preview_shows_the_crop_and_the_model_image() -> None:
    shown = cv2.imdecode(np.frombuffer(preview(scene(), CAMERA), np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape[0] >= 2 * CAMERA.height_px
    assert (shown == [0, 0, 255]).all(axis=2).sum() > 500  # the frame, red


def run_goal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "planner.run_goal", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(120), check=False)


def test_the_simulated_goal_equals_that_of_run_task(tmp_path: Path) -> None:
    goal = tmp_path / "goal.png"
    simulated = ("--robot", "simulation", "--seed", "3", "--set", "robot.renderer=ray")
    done = run_goal(str(goal), *simulated)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"goal": str(goal), "preview": str(tmp_path / "goal.preview.png")}
    assert load_goal(goal, SPEC.camera).shape == (64, 64, 3)
    task = [sys.executable, "-m", "planner.run_task", "pick_wipe", "--predictor", "copy", "--steps", "1"]
    out = tmp_path / "run"
    small = ["--seed", "3", "--set", "robot.renderer=ray", "--set", "planner.n_candidates=4", "--out", str(out)]
    subprocess.run([*task, *small], cwd=ROOT, check=True, capture_output=True, timeout=patience(120))
    assert (load_goal(out / "goal.png", SPEC.camera) == load_goal(goal, SPEC.camera)).all()
    again = run_goal(str(goal), *simulated)
    assert (again.returncode, len(messages(again.stderr))) == (2, 1)
    assert run_goal(str(goal), *simulated, "--force").returncode == 0


@pytest.mark.parametrize("name", ["goal.jpg", "not/there/goal.png"])
def test_an_invalid_file_name_is_refused(tmp_path: Path, name: str) -> None:
    done = run_goal(str(tmp_path / name), "--robot", "simulation")
    assert (done.returncode, len(messages(done.stderr))) == (2, 1)
    assert "expected a new PNG in an existing folder" in done.stderr
    assert not list(tmp_path.iterdir())


def _write(path: Path, rgb: NDArray[np.uint8]) -> Path:
    assert cv2.imwrite(str(path), rgb[:, :, ::-1])
    return path


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_an_image_of_model_size_is_read_unchanged(tmp_path: Path) -> None:
    goal = _noise(64, 64)
    np.testing.assert_array_equal(load_goal(_write(tmp_path / "goal.png", goal), SPEC.camera), goal)


def test_an_image_of_camera_size_becomes_a_model_image(tmp_path: Path) -> None:
    image = _noise(240, 320)
    crop = Crop(top_px=10, left_px=40, height_px=200, width_px=200)
    camera = SPEC.camera.model_copy(update={"crop": crop})
    np.testing.assert_array_equal(load_goal(_write(tmp_path / "goal.png", image), camera), model_image(image, crop))


def test_a_jpeg_is_read_in_rgb(tmp_path: Path) -> None:
    red = np.zeros((240, 320, 3), np.uint8)
    red[..., 0] = 200
    goal = load_goal(_write(tmp_path / "goal.jpg", red), SPEC.camera)
    assert goal[..., 0].min() > 190 and goal[..., 2].max() < 10


@pytest.mark.parametrize(("height", "width"), [(64, 65), (65, 64), (320, 240), (480, 640), (128, 128), (32, 32)])
def test_an_image_of_another_size_is_refused(tmp_path: Path, height: int, width: int) -> None:
    path = _write(tmp_path / "goal.png", _noise(height, width))
    with pytest.raises(GoalError, match=rf"goal\.png: expected 64x64 or 240x320 .* got {height}x{width}"):
        load_goal(path, SPEC.camera)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "goal.png"
    path.write_bytes(data)
    with pytest.raises(GoalError, match=r"goal\.png: expected a goal image, PNG or JPEG"):
        load_goal(path, SPEC.camera)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_or_damaged_image_is_named_as_such(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = cv2.imencode(f".{kind.lower()}", _noise(240, 320))[1].tobytes()
    path = tmp_path / f"goal.{kind.lower()}"
    for length in (10, len(whole) // 2, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(GoalError, match=rf"got a truncated or damaged {kind} of {length} bytes"):
            load_goal(path, SPEC.camera)
    assert not capfd.readouterr().err  # one line only: the library prints nothing of its own
    path.write_bytes(whole)
    assert load_goal(path, SPEC.camera).shape == (64, 64, 3)


def test_a_png_with_a_changed_byte_is_named_as_damaged(tmp_path: Path) -> None:
    data = bytearray(cv2.imencode(".png", _noise(64, 64))[1].tobytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "goal.png").write_bytes(data)
    with pytest.raises(GoalError, match="got a truncated or damaged PNG"):
        load_goal(tmp_path / "goal.png", SPEC.camera)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(GoalError, match="expected a goal image"):
            load_goal(path, SPEC.camera)


def test_a_refused_goal_exits_with_2() -> None:
    assert GoalError.exit_code == 2


def test_image_distance_is_the_root_mean_square() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    half = black.copy()
    half[:32] = 10
    assert image_distance(black, half) == pytest.approx(10 / np.sqrt(2))
    assert image_distance(half, black) == image_distance(black, half)  # no wrap-around of unsigned numbers


def test_a_goal_that_shows_the_present_is_refused_despite_camera_noise() -> None:
    present = model_image(camera_view(np.array([0.45, -0.1, 0.15])))
    noise = np.random.default_rng(0).integers(-1, 2, present.shape)
    again = np.clip(present + noise, 0, 255).astype(np.uint8)
    with pytest.raises(GoalError, match="differs from the present scene"):
        check_goal(again, present, 2.0)


def test_a_goal_with_one_moved_object_is_accepted() -> None:
    present = model_image(camera_view(np.array([0.45, -0.1, 0.15])))
    check_goal(model_image(camera_view(np.array([0.5, -0.1, 0.15]))), present, 2.0)


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_goal_of_one_colour_is_refused(value: int) -> None:
    blank = np.full((64, 64, 3), value, np.uint8)
    with pytest.raises(GoalError, match="single colour"):
        check_goal(blank, _noise(64, 64), 2.0)

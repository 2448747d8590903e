"""What a goal picture may be, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from planner.goal import GoalError, check_goal, difference, load_goal
from robot_bridge.camera import Crop, model_image
from tests.planner.doubles import SPEC, picture


def _write(path: Path, rgb: NDArray[np.uint8]) -> Path:
    assert cv2.imwrite(str(path), rgb[:, :, ::-1])
    return path


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_picture_of_model_size_is_kept_bit_for_bit_in_rgb(tmp_path: Path) -> None:
    goal = _noise(64, 64)
    np.testing.assert_array_equal(load_goal(_write(tmp_path / "goal.png", goal), SPEC.camera), goal)


def test_a_camera_picture_becomes_what_the_model_sees_of_it(tmp_path: Path) -> None:
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
def test_another_size_is_refused_and_named(tmp_path: Path, height: int, width: int) -> None:
    path = _write(tmp_path / "goal.png", _noise(height, width))
    with pytest.raises(GoalError, match=rf"goal\.png: expected 64x64 or 240x320 .* got {height}x{width}"):
        load_goal(path, SPEC.camera)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "goal.png"
    path.write_bytes(data)
    with pytest.raises(GoalError, match=r"goal\.png: expected a goal picture, PNG or JPEG"):
        load_goal(path, SPEC.camera)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(GoalError, match="expected a goal picture"):
            load_goal(path, SPEC.camera)


def test_a_refused_goal_exits_with_2() -> None:
    assert GoalError.exit_code == 2


def test_difference_is_the_root_mean_square() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    half = black.copy()
    half[:32] = 10
    assert difference(black, half) == pytest.approx(10 / np.sqrt(2))
    assert difference(half, black) == difference(black, half)  # no wrap-around of unsigned numbers


def test_a_goal_that_shows_the_present_is_refused_despite_camera_noise() -> None:
    present = model_image(picture(np.array([0.45, -0.1, 0.15])))
    noise = np.random.default_rng(0).integers(-1, 2, present.shape)
    again = np.clip(present + noise, 0, 255).astype(np.uint8)
    with pytest.raises(GoalError, match="differs from the present scene"):
        check_goal(again, present, 2.0)


def test_a_goal_with_one_thing_elsewhere_is_taken() -> None:
    present = model_image(picture(np.array([0.45, -0.1, 0.15])))
    check_goal(model_image(picture(np.array([0.5, -0.1, 0.15]))), present, 2.0)


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_goal_of_one_colour_is_refused(value: int) -> None:
    blank = np.full((64, 64, 3), value, np.uint8)
    with pytest.raises(GoalError, match="single colour"):
        check_goal(blank, _noise(64, 64), 2.0)

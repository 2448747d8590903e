"""Warnings on goal images that cannot be meant, and none on goals of the same scene."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from configs.command import ReportedError
from configs.loader import FOLDER
from planner.episode import run_episode
from planner.goal import GoalError, goal_file
from planner.goal_checks import file_warnings, scene_warnings
from tests.benchmarks.goal_warnings import _muted
from tests.planner.test_run_task import SMALL, _last_json, _request
from tests.reference_data import DATA

Image = NDArray[np.uint8]
FLOOR, ARM = (150, 140, 130), (235, 235, 240)
BLUE, RED, GREEN = (60, 70, 170), (170, 60, 60), (70, 150, 80)


def scene(objects: Mapping[tuple[int, int], tuple[int, int, int]], arm_x: int = 20, seed: int = 0) -> Image:
    """Return a floor with noise, square objects of 12 pixels at (x, y), and a white arm from above."""
    image = np.full((64, 64, 3), FLOOR, np.uint8)
    for (x, y), colour in objects.items():
        image[y : y + 12, x : x + 12] = colour
    image[:20, arm_x : arm_x + 10] = ARM
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


PRESENT = scene({(8, 40): BLUE, (30, 30): RED})
MOVED = scene({(40, 44): BLUE, (30, 48): RED}, arm_x=42, seed=1)


@pytest.mark.parametrize("saturation", [1.0, 0.5, 0.2, 0.0], ids=str)
def test_moved_objects_and_a_moved_arm_are_no_reason(saturation: float) -> None:
    assert scene_warnings(_muted(MOVED, saturation), _muted(PRESENT, saturation)) == []


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (_muted(MOVED, 0.0), "the goal image is greyscale, but the camera's images are in colour"),
        (scene({(40, 44): GREEN, (30, 48): RED}), "colours that are nowhere in the present camera image"),
        (scene({(40, 44): BLUE}), "colours that are nowhere in the goal image"),
        (np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1),
         "another place, or to come from another camera"),
    ],
    ids=["greyscale", "another object", "an object gone", "another place"],
)  # fmt: skip
def test_a_goal_that_cannot_be_meant_gives_one_reason(goal: Image, reason: str) -> None:
    (warning,) = scene_warnings(goal, PRESENT)
    assert reason in warning and "\n" not in warning


@pytest.mark.parametrize(("alpha", "n"), [(255, 0), (254, 1), (128, 1), (0, 1)])
def test_a_transparent_png_is_named(tmp_path: Path, alpha: int, n: int) -> None:
    image = np.dstack([MOVED, np.full((64, 64), 255, np.uint8)])
    image[0, 0, 3] = alpha
    file = tmp_path / "goal.png"
    assert cv2.imwrite(str(file), image)
    warnings = file_warnings(file)
    assert len(warnings) == n and all("goal.png is partly transparent" in each for each in warnings)


def test_frames_of_genuine_videos_are_no_reason_and_other_cameras_are() -> None:
    files = sorted((DATA / "robonet" / "official_loader_64").glob("*.npz"))
    if not files:
        pytest.skip("no RoboNet videos in ../shared/data")
    videos = [video for file in files for video in np.load(file)["images"].transpose(1, 0, 2, 3, 4)]
    for index, video in enumerate(videos):
        assert scene_warnings(video[-1], video[0]) == []
        assert scene_warnings(video[-1], videos[index - 1][0])


def test_a_demonstration_names_its_goal() -> None:
    assert goal_file(Path("demo:pick_wipe")) == FOLDER / "goals" / "pick_wipe.png"
    assert goal_file(Path("some/demo:x.png")) == Path("some/demo:x.png")
    with pytest.raises(GoalError, match="demo:pick_sweep: expected the goal of a demonstration: demo:pick_wipe"):
        goal_file(Path("demo:pick_sweep"))


def _run(folder: Path, **changes: object) -> None:
    request = {"task": "pick_wipe", "predictor": "copy", "goal": Path("demo:pick_wipe"), **changes}
    run_episode(_request(folder, **request), [*SMALL, "task.n_steps=1"])


def test_the_goal_of_the_demonstration_fits_its_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path)
    output, errors = capsys.readouterr()
    assert "warning" not in errors and _last_json(output)["goal_warnings"] == []


def test_a_goal_of_another_scene_is_named_on_stderr_in_the_result_and_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, seed=3)
    output, errors = capsys.readouterr()
    (warning,) = _last_json(output)["goal_warnings"]
    assert "seems to show other objects" in warning and f"warning: {warning}\n" in errors
    assert json.loads((tmp_path / "run" / "result.json").read_text())["goal_warnings"] == [warning]
    assert warning in (tmp_path / "run" / "report.html").read_text()


def test_a_strict_goal_is_refused_before_anything_moves(tmp_path: Path) -> None:
    with pytest.raises(ReportedError, match="--strict-goal: the goal image seems to show other objects") as refusal:
        _run(tmp_path, seed=3, strict_goal=True)
    assert refusal.value.exit_code == 2 and not list(tmp_path.iterdir())

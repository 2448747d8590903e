"""Warnings on goal images: false alarms on goals of the same scene, and misses on goals that cannot be meant.

Simulated scenes, as they are and with half and a third of the saturation; frames of genuine RoboNet videos, where other
frames of the same camera are goals of the same scene, and frames of another robot or camera are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import permutations
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from configs.command import print_result, run
from configs.progress import ProgressBar
from planner.goal_checks import scene_warnings
from robot_bridge.camera import model_image
from robot_bridge.robot import RobotError
from tests.benchmarks.pool import Scene

_FRAME_STEP = 4  # between compared frames of a real video

Image = NDArray[np.uint8]


class Pair(NamedTuple):
    """A goal image and the present, model images."""

    goal: Image
    present: Image

    def with_saturation(self, factor: float) -> Pair:
        """Return the pair with less saturated colours."""
        return Pair(*(_muted(image, factor) for image in self))


def goal_warnings(
    seeds: Annotated[int, typer.Option(min=2, help="Scenes of each task.")] = 60,
    first: Annotated[int, typer.Option(min=0, help="First seed; tune below 1000 only.")] = 100,
    robonet: Annotated[
        Path | None, typer.Option(help="Folder of .npz files with RoboNet's `images` (T, cameras, 64, 64, 3).")
    ] = None,
) -> None:
    """Print how many of the goals of each kind give a warning."""
    scenes = {task: list(_pairs(task, range(first, first + seeds))) for task in ("pick_wipe", "pick_sweep")}
    wipe, sweep = scenes["pick_wipe"], scenes["pick_sweep"]
    same = [*wipe, *sweep]
    kinds = {
        "same scene": same,
        "same scene, half the saturation": [pair.with_saturation(0.5) for pair in same],
        "same scene, a third of the saturation": [pair.with_saturation(0.33) for pair in same],
        "another scene of the task": [*_mixed(wipe, wipe), *_mixed(sweep, sweep)],
        "another scene, half the saturation": [p.with_saturation(0.5) for p in (*_mixed(wipe, wipe),)],
        "a scene of the other task": [*_mixed(wipe, sweep), *_mixed(sweep, wipe)],
    }
    if robonet:
        videos = [video for file in sorted(robonet.glob("*.npz")) for video in _videos(file)]
        kinds["RoboNet, another frame of the video"] = [
            Pair(a, b) for video in videos for a, b in permutations(video[::_FRAME_STEP], 2)
        ]
        kinds["RoboNet, another robot or camera"] = [
            Pair(a[-1], b[0]) for a, b in zip(videos, [*videos[1:], videos[0]], strict=True)
        ]
        kinds["RoboNet goal in a simulated scene"] = [
            Pair(video[-1], pair.present) for video, pair in zip(videos, wipe, strict=False)
        ]
    counts = {name: [sum(bool(scene_warnings(*pair)) for pair in pairs), len(pairs)] for name, pairs in kinds.items()}
    print("| goal image | warnings |\n|---|---|")
    for name, (warned, n) in counts.items():
        print(f"| {name} | {warned} of {n} |")
    print_result({"warnings": counts})


def _pairs(task: str, seeds: range) -> Iterator[Pair]:
    """Yield the scripted goal and the start of scenes; a scene without a goal is left out."""
    with ProgressBar(f"scenes of {task}", len(seeds), transient=True) as progress:
        for seed in seeds:
            progress.advance()
            try:
                scene = Scene.open(task, seed)
            except RobotError:
                continue
            with closing(scene.robot):
                yield Pair(scene.state.goal, scene.state.context.frames[-1])


def _mixed(goals: Sequence[Pair], scenes: Sequence[Pair]) -> list[Pair]:
    """Return the goals of one list in the next scene of another."""
    return [Pair(goal.goal, scene.present) for goal, scene in zip(goals, [*scenes[1:], scenes[0]], strict=False)]


def _videos(file: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the video (T, 64, 64, 3) of each camera."""
    with np.load(file, allow_pickle=False) as stored:
        images = stored["images"]
    for camera in range(images.shape[1]):
        yield np.stack([model_image(frame) for frame in images[:, camera]])


def _muted(image: Image, factor: float) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = (hsv[..., 1] * factor).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def main() -> NoReturn:
    """Run the command."""
    run(goal_warnings)


if __name__ == "__main__":
    main()

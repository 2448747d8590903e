"""Images of an episode's report: the large views, the animation of the whole run, and the marked objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_collection.reports.images import resize
from planner.plan import FAMILY_MEANINGS
from planner.record import EpisodeHistory
from planner.start_scene import DetectedObject
from robot_bridge.robot import OPEN

_HEIGHT_PX = 384  # of the large views; ours
_SMALL_WIDTH_PX = 128  # of model images in strips; ours
_FONT_PX, _LINE_PX = 16, 24
_INK, _PAPER, _BAR = (15, 23, 42), (255, 255, 255), (37, 99, 235)
_TOOL, _MOVES, _STAYS = (255, 170, 0), (250, 230, 60), (225, 225, 225)  # readable on dark and on light images
_EXECUTED, _PLANNED = (90, 200, 255), (235, 235, 235)  # parts of the path of the hand
_OUTLINE_PX = 2


def proportions(history: EpisodeHistory) -> float:
    """Return width over height of what the camera sees; model images squeeze it into a square."""
    height, width = _crop(history, history.start.observation.image).shape[:2]
    return float(width / height)


def large_view(history: EpisodeHistory, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a camera image (H, W, 3), or a model image, as a large view (384, width, 3) of what the model sees."""
    seen = image if image.shape == history.goal.shape else _crop(history, image)
    view: NDArray[np.uint8] = resize(seen[None], *_large_size(history))[0]
    return view


def small_views(history: EpisodeHistory, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return model images (T, 64, 64, 3) in the proportions of the camera, 128 pixels wide."""
    return resize(frames, _SMALL_WIDTH_PX, round(_SMALL_WIDTH_PX / proportions(history)))


def whole_run(history: EpisodeHistory) -> NDArray[np.uint8]:
    """Return the frames (T, height, width, 3) of an animation of the whole run: large views, and the count below.

    The goal image of `goal_beside_run` has the same size.
    """
    n = len(history.steps)
    meanings = ["start"] * (n + 1)
    for record, end in history.spans():
        for step in range(record.step, end):
            meanings[step + 1] = f"plan: {FAMILY_MEANINGS.get(record.plan.family, record.plan.family)}"
    views = [large_view(history, each.observation.image) for each in history.observed]
    texts = [(f"action {step} of {n}", meaning) for step, meaning in enumerate(meanings)]
    return np.stack(
        [_captioned(view, text, i / max(n, 1)) for i, (view, text) in enumerate(zip(views, texts, strict=True))]
    )


def goal_beside_run(history: EpisodeHistory) -> NDArray[np.uint8]:
    """Return the goal image in the size and with the caption of the animation of the whole run."""
    return _captioned(large_view(history, history.goal), ("the goal image", "in the resolution of the model"), 0.0)


def hand_path(history: EpisodeHistory, index: int) -> NDArray[np.uint8] | None:
    """Return the view at the start of plan `index` with the path of the hand; None where the camera is not known.

    The path is that of the chosen candidate: blue where it was executed, white where another plan followed. A square
    shows where the gripper closes, a ring where it opens.
    """
    if history.scene is None or history.scene.camera is None:
        return None
    record, end = history.spans()[index]
    now = history.observed[record.step].observation
    points_m = plan_points(history, index)
    pixels = [_to_view(history, pixel) for pixel in history.scene.camera.project(points_m)]
    path = [(int(x), int(y)) for x, y in pixels]
    view, n = large_view(history, now.image), end - record.step
    for width, colors in ((_OUTLINE_PX + 3, (_INK, _INK)), (_OUTLINE_PX, (_EXECUTED, _PLANNED))):
        for i, (a, b) in reversed(list(enumerate(pairwise(path)))):
            cv2.line(view, a, b, colors[i >= n], width, cv2.LINE_AA)
    for i, point in enumerate(path):
        cv2.circle(view, point, 5, _INK, -1, cv2.LINE_AA)
        cv2.circle(view, point, 4, _EXECUTED if i <= n else _PLANNED, -1, cv2.LINE_AA)
    for i, closes in gripper_changes(history, index):
        (x, y), size = path[i], 9
        if closes:
            cv2.rectangle(view, (x - size, y - size), (x + size, y + size), _TOOL, _OUTLINE_PX, cv2.LINE_AA)
        else:
            cv2.circle(view, (x, y), size, _TOOL, _OUTLINE_PX, cv2.LINE_AA)
    return _labelled(view, path[0], "hand", _EXECUTED)


def plan_points(history: EpisodeHistory, index: int) -> NDArray[np.float64]:
    """Return the positions of the hand (T + 1, 3) that the chosen candidate of a plan commands, base frame, metres."""
    record = history.plans[index]
    hand_m = history.observed[record.step].observation.state[:3]
    steps_m = np.cumsum(record.plan.actions[:, :3].astype(np.float64), axis=0)
    return np.concatenate([hand_m[None], hand_m + steps_m])


def gripper_changes(history: EpisodeHistory, index: int) -> list[tuple[int, bool]]:
    """Return where the chosen candidate of a plan closes or opens the gripper: action from 1, and whether it closes."""
    record = history.plans[index]
    before = float(history.steps[record.step - 1].applied[3]) if record.step else OPEN
    commands = [before, *record.plan.actions[:, 3].tolist()]
    return [(i, b > 0) for i, (a, b) in enumerate(pairwise(commands), 1) if (a > 0) != (b > 0)]


def start_with_tool(history: EpisodeHistory) -> NDArray[np.uint8] | None:
    """Return the large view of the start with the tool outlined; None where the tool is not known."""
    scene = history.scene
    if scene is None or scene.tool_pixel is None:
        return None
    view = large_view(history, history.start.observation.image)
    if scene.tool is not None:
        return _marked(history, view, [(scene.tool, _TOOL, "tool")])
    center = tuple(int(value) for value in _to_view(history, scene.tool_pixel))
    cv2.circle(view, center, 36, _TOOL, _OUTLINE_PX, cv2.LINE_AA)
    return _labelled(view, center, "tool", _TOOL)


def start_with_objects(history: EpisodeHistory) -> NDArray[np.uint8] | None:
    """Return the large view of the start with all detected objects, and arrows to their places in the goal image."""
    scene = history.scene
    if scene is None or not scene.objects:
        return None
    marks = [(found, _MOVES if found.moves else _STAYS, "") for found in scene.objects]
    return _marked(history, large_view(history, history.start.observation.image), marks)


def _marked(
    history: EpisodeHistory, view: NDArray[np.uint8], marks: Sequence[tuple[DetectedObject, tuple[int, int, int], str]]
) -> NDArray[np.uint8]:
    """Outline objects in a large view, with an arrow to the place of each in the goal, and a label."""
    for found, color, _ in marks:
        mask = _crop(history, np.repeat(found.mask[..., None], 3, axis=2).astype(np.uint8) * 255)
        large = resize(mask[None], *_large_size(history))[0, ..., 0]
        outlines, _ = cv2.findContours((large > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(view, outlines, -1, _INK, _OUTLINE_PX + 2, cv2.LINE_AA)
        cv2.drawContours(view, outlines, -1, color, _OUTLINE_PX, cv2.LINE_AA)
    for found, color, label in marks:
        here = _to_view(history, found.pixel)
        start = (int(here[0]), int(here[1]))
        if found.goal_pixel is not None and label != "tool":
            there = _to_view(history, found.goal_pixel)
            end = (int(there[0]), int(there[1]))
            cv2.arrowedLine(view, start, end, _INK, _OUTLINE_PX + 2, cv2.LINE_AA, tipLength=0.12)
            cv2.arrowedLine(view, start, end, color, _OUTLINE_PX, cv2.LINE_AA, tipLength=0.12)
        if label:
            view = _labelled(view, start, label, color)
    return view


def _labelled(
    view: NDArray[np.uint8], place: tuple[int, ...], label: str, color: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Write a label on a dark ground above a place of a large view."""
    image = Image.fromarray(view)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((place[0], place[1] - 26), label, font=_font(), anchor="mb")
    moved = max(0, 4 - left) - max(0, right + 4 - view.shape[1])
    draw.rectangle((left + moved - 4, top - 3, right + moved + 4, bottom + 3), fill=_INK)
    draw.text((place[0] + moved, place[1] - 26), label, fill=color, font=_font(), anchor="mb")
    return np.asarray(image, np.uint8).copy()


def _captioned(view: NDArray[np.uint8], text: tuple[str, str], done: float) -> NDArray[np.uint8]:
    """Return a large view with two lines of text below it, and a bar whose length shows a fraction of the run."""
    height, width = view.shape[:2]
    image = Image.new("RGB", (width, height + 2 * _LINE_PX + 10), _PAPER)
    image.paste(Image.fromarray(view), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height + 1, round(width * done), height + 5), fill=_BAR if done else _PAPER)
    for i, line in enumerate(text):
        draw.text((2, height + 8 + i * _LINE_PX), line, fill=_INK, font=_font())
    return np.asarray(image, np.uint8)


def _to_view(history: EpisodeHistory, pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the place in a large view, x then y, of a pixel (2,) of the camera image."""
    crop, (width, height) = history.crop, _large_size(history)
    seen_height, seen_width = _crop(history, history.start.observation.image).shape[:2]
    corner = np.array([0.0, 0.0] if crop is None else [crop.left_px, crop.top_px])
    return np.asarray((pixel - corner) * [width / seen_width, height / seen_height])


def _large_size(history: EpisodeHistory) -> tuple[int, int]:
    """Return width and height of a large view."""
    return round(_HEIGHT_PX * proportions(history)), _HEIGHT_PX


def _crop(history: EpisodeHistory, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if history.crop is None else image[history.crop.rows(), history.crop.columns()]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_FONT_PX)

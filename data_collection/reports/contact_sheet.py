"""Images of one episode: contact sheet, animation, and strips of frames for the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_collection.episode import ROBOT_ACTIONS, Episode, EpisodeError
from data_collection.formats.robonet import ASIDE
from data_collection.formats.robonet_file import read_footage
from data_collection.policies.object_detection import MOVED_M
from data_collection.reports.html import count, data_uri
from data_collection.reports.images import enlarge, filmstrip, gif_bytes, jpeg_bytes, png_bytes, shrink, spread
from data_collection.storage.folder import QUARANTINE_NAME
from data_collection.storage.index import Row
from robot_bridge.robot import ACTION_DIM, STATE_DIM

_N_FRAMES = 8  # of each episode
_TILE_WIDTH_PX = 160  # of a frame
_PER_REASON = 3  # episodes shown per reason in quarantine


class EpisodeStrip(NamedTuple):
    """Frames of one episode in the report."""

    label: str
    words: str
    strip: str  # data URI; empty if the video cannot be read


class QuarantineGroup(NamedTuple):
    """Episodes in quarantine for one reason."""

    reason: str
    n: int
    shown: list[EpisodeStrip]


def sample_episodes(folder: Path, rows: Sequence[Row], n: int, rng: np.random.Generator) -> list[EpisodeStrip]:
    """Return at most `n` episodes drawn by `rng`, by number."""
    return [_shown(folder / rows[i].file, f"episode {rows[i].number}", _words(rows[i])) for i in _draw(rows, n, rng)]


def quarantined_episodes(folder: Path, reasons: Mapping[str, str]) -> list[QuarantineGroup]:
    """Return the episodes in quarantine, by reason.

    Args:
        folder: Of the collection.
        reasons: Path relative to the folder, to the text of the reason.
    """
    found = []
    for kind in sorted(path for path in (folder / QUARANTINE_NAME).glob("*") if path.is_dir()):
        files = sorted(kind.glob(f"*{ASIDE}"))
        shown = [
            _shown(file, file.name.removesuffix(ASIDE), reasons.get(str(file.relative_to(folder)), ""))
            for file in files[:_PER_REASON]
        ]
        if files:
            found.append(QuarantineGroup(kind.name, len(files), shown))
    return found


def _draw(rows: Sequence[Row], n: int, rng: np.random.Generator) -> list[int]:
    return sorted(rng.permutation(len(rows))[:n].tolist())


def _words(row: Row) -> str:
    moved = (
        f"object motion {100 * row.objects_moved_m:.0f} cm" if row.objects_moved_m >= MOVED_M else "no object motion"
    )
    words = [row.families.replace(",", ", "), f"{count(row.objects_seen, 'object')} detected", moved]
    return " · ".join([word for word in words if word] + ["lifted"] * row.lifted)


def _shown(path: Path, label: str, words: str) -> EpisodeStrip:
    try:
        frames = read_footage(path).frames(0)
    except EpisodeError as error:
        unread = str(error).removeprefix(f"{path}: ")
        return EpisodeStrip(label, " · ".join(filter(None, [words, f"cannot be shown: {unread}"])), "")
    strip = filmstrip({"": shrink(frames[spread(len(frames), _N_FRAMES)], _TILE_WIDTH_PX)})
    return EpisodeStrip(label, words, data_uri("jpeg", jpeg_bytes(strip)))


_FRAME_S = 0.2  # duration of each frame of an animation; ours
_WIDTH_PX = 240  # least width of a frame: that of the text below it
_COLUMNS = 4
_GAP_PX = 8
_FONT_PX = 13
_LINE_PX = 17
_PAPER, _INK, _SOFT = (255, 255, 255), (15, 23, 42), (100, 116, 139)
_CLOSED, _OPENED = (37, 99, 235), (245, 158, 11)
_BAR_PX = 5


def contact_sheet(episode: Episode, n_frames: int) -> bytes:
    """Return at most `n_frames` evenly spaced frames of an episode as PNG.

    The text below each frame holds the time, the hand state and the next action. The length of the bar is the gripper
    opening; it is blue where the gripper was commanded to close.

    Raises:
        EpisodeError: `n_frames` is less than 1.
    """
    if n_frames < 1:
        raise EpisodeError(f"expected 1 frame or more to show, got {n_frames}")
    tiles = [_tile(episode, int(t)) for t in spread(len(episode.frames), n_frames)]
    height, width = tiles[0].shape[:2]
    n_columns = min(_COLUMNS, len(tiles))
    n_rows = math.ceil(len(tiles) / n_columns)
    size = (n_columns * (width + _GAP_PX) + _GAP_PX, n_rows * (height + _GAP_PX) + _GAP_PX + _LINE_PX)
    sheet = Image.new("RGB", size, _PAPER)
    ImageDraw.Draw(sheet).text((_GAP_PX, _GAP_PX), _title(episode), fill=_INK, font=_font())
    for i, tile in enumerate(tiles):
        left, top = i % n_columns * (width + _GAP_PX), i // n_columns * (height + _GAP_PX)
        sheet.paste(Image.fromarray(tile), (left + _GAP_PX, top + _GAP_PX + _LINE_PX))
    return png_bytes(np.asarray(sheet, np.uint8))


def animation(episode: Episode) -> bytes:
    """Return all frames of an episode as a looping GIF at 5 frames per second, labelled as on the contact sheet."""
    return gif_bytes(np.stack([_tile(episode, t) for t in range(len(episode.frames))]), _FRAME_S)


def _tile(episode: Episode, t: int) -> NDArray[np.uint8]:
    """Return one frame (H, W, 3) with text below."""
    frame = _sized(episode.frames[t : t + 1])
    height, width = frame.shape[:2]
    lines = _lines(episode, t)
    tile = Image.new("RGB", (width, height + _BAR_PX + _LINE_PX * len(lines) + 2), _PAPER)
    tile.paste(Image.fromarray(frame), (0, 0))
    draw = ImageDraw.Draw(tile)
    if _has_hand(episode):
        closes = t > 0 and _has_command(episode) and episode.actions[t - 1, 3] > 0  # the action that led here
        end = round(float(np.clip(episode.states[t, 4], 0, 1)) * (width - 1))
        draw.rectangle((0, height + 1, end, height + _BAR_PX - 1), fill=_CLOSED if closes else _OPENED)
    for i, line in enumerate(lines):
        place = (2, height + _BAR_PX + _LINE_PX * i)
        draw.text(place, line, fill=_INK if i else _SOFT, font=_font())
    return np.asarray(tile, np.uint8)


def _sized(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the frame (H, W, 3), scaled to the width of the text."""
    large = enlarge(shrink(frames, _WIDTH_PX))
    factor = -(-_WIDTH_PX // large.shape[2])
    sized: NDArray[np.uint8] = large[0].repeat(factor, axis=0).repeat(factor, axis=1)
    return sized


def _lines(episode: Episode, t: int) -> list[str]:
    """Return the text below a frame; all frames of an episode have equally many lines."""
    lines = [f"frame {t} of {len(episode.actions)}, {episode.times_s[t] - episode.times_s[0]:.1f} s"]
    if _has_hand(episode):
        x, y, z, yaw, opening = episode.states[t]
        lines += [f"hand {_cm((x, y, z))}", f"yaw {round(np.degrees(yaw)):+d}°, gripper {100 * opening:.0f} % open"]
    if _has_command(episode):
        lines.append(_action(episode.actions[t]) if t < len(episode.actions) else "the end")
    return lines


def _action(action: NDArray[np.float32]) -> str:
    return f"then {_cm(action[:3])}, {'close' if action[3] > 0 else 'open'}"


def _cm(vector: Iterable[float]) -> str:
    return " ".join(f"{round(100 * float(value), 1) + 0.0:+.1f}" for value in vector) + " cm"  # + 0.0: no -0.0


def _has_hand(episode: Episode) -> bool:
    return episode.action_space == ROBOT_ACTIONS and episode.states.shape[1] == STATE_DIM


def _has_command(episode: Episode) -> bool:
    return episode.action_space == ROBOT_ACTIONS and episode.actions.shape[1] == ACTION_DIM


def _title(episode: Episode) -> str:
    """Return the title of an episode from its metadata."""
    info = episode.info
    families = str(info.get("families", "")).replace(",", ", ")
    words = [f"episode {info['episode']}" if "episode" in info else "", str(info.get("robot", "")), families]
    words += [f"objects moved {100 * float(info['objects_moved_m']):.1f} cm" if "objects_moved_m" in info else ""]
    return "   ".join([word for word in words if word] + ["lifted"] * bool(info.get("lifted")))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_FONT_PX)

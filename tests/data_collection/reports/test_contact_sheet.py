"""Contact sheet and animation of an episode, with captions and gripper bars."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from data_collection.atomic_io import make_folder
from data_collection.episode import EpisodeError, video_episode
from data_collection.reports.contact_sheet import animation, contact_sheet, quarantined_episodes, sample_episodes
from data_collection.storage import index
from data_collection.storage.folder import QUARANTINE_NAME
from tests.data_collection.episodes import RED, make_episode, make_frames
from tests.data_collection.folders import episode_path, make_collection


def _size(uri: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as opened:
        assert opened.format == "JPEG"
        return opened.size


def _quarantine(folder: Path, number: int, kind: str) -> Path:
    to = folder / QUARANTINE_NAME / kind / f"{episode_path(folder, number).name}.aside"
    make_folder(to.parent)
    return episode_path(folder, number).rename(to)


@pytest.mark.parametrize(("n", "n_shown"), [(0, 0), (2, 2), (9, 4)])
def test_the_requested_number_of_episodes_is_drawn_in_order(tmp_path: Path, n: int, n_shown: int) -> None:
    rows = index.read(make_collection(tmp_path, 4))
    shown = sample_episodes(tmp_path, rows, n, np.random.default_rng(1))
    labels = [each.label for each in shown]
    assert len(shown) == n_shown and labels == sorted(set(labels))
    assert shown == sample_episodes(tmp_path, rows, n, np.random.default_rng(1))
    assert all(_size(each.strip) == (8 + 4 * 162, 122) for each in shown)  # all of 4 frames


def test_captions_contain_the_values_of_the_index(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 4))
    first, _, _, last = sample_episodes(tmp_path, rows, 4, np.random.default_rng(0))
    assert first[:2] == ("episode 0", "push · 2 objects detected · no object motion")
    assert last[:2] == ("episode 3", "push, grasp · 5 objects detected · object motion 3 cm · lifted")


def test_an_episode_whose_video_is_damaged_is_reported(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 1))
    path = episode_path(tmp_path, 0)
    path.write_bytes(path.read_bytes().replace(b"mdat", b"mdaT", 1))
    (shown,) = sample_episodes(tmp_path, rows, 1, np.random.default_rng(0))
    assert shown.strip == "" and "cannot be shown: " in shown.words and str(tmp_path) not in shown.words


def test_a_folder_without_quarantine_has_no_quarantined_episodes(tmp_path: Path) -> None:
    assert quarantined_episodes(tmp_path, {}) == []


def test_quarantined_episodes_are_shown_by_kind_with_their_reasons(tmp_path: Path) -> None:
    make_collection(tmp_path, 6)
    files = [_quarantine(tmp_path, number, "bad_light") for number in range(5)]
    (_quarantine(tmp_path, 5, "damaged")).write_bytes(b"nothing")
    (tmp_path / QUARANTINE_NAME / "empty").mkdir()
    dark, damaged = quarantined_episodes(tmp_path, {str(files[1].relative_to(tmp_path)): "too dark"})
    assert (dark.reason, dark.n, damaged.reason, damaged.n) == ("bad_light", 5, "damaged", 1)
    assert [each.words for each in dark.shown] == ["", "too dark", ""] and all(_size(each.strip) for each in dark.shown)
    assert damaged.shown[0].strip == "" and damaged.shown[0].words.startswith("cannot be shown: ")


def _image(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def _blocks(image: NDArray[np.uint8]) -> int:
    """Return the number of red blocks of 48 x 40 pixels in an image."""
    return round(int((image == RED).all(axis=-1).sum()) / (48 * 40))


@pytest.mark.parametrize(("n_frames", "n_shown"), [(1, 1), (3, 3), (5, 5), (7, 7), (100, 7)])
def test_a_contact_sheet_shows_the_requested_number_of_frames(n_frames: int, n_shown: int) -> None:
    assert _blocks(_image(contact_sheet(make_episode(6), n_frames))) == n_shown


@pytest.mark.parametrize("n_frames", [0, -1])
def test_a_contact_sheet_without_frames_is_refused(n_frames: int) -> None:
    with pytest.raises(EpisodeError, match="1 frame or more"):
        contact_sheet(make_episode(), n_frames)


@pytest.mark.parametrize("what", ["states", "actions"])
def test_captions_and_bars_show_the_values(what: str) -> None:
    episode = make_episode(3)
    before = _image(contact_sheet(episode, 4))
    changed = getattr(episode, what).copy()
    changed[1] = [0.41, 0.02, 0.11, *([0.7] if what == "states" else []), 1]
    after = _image(contact_sheet(make_episode(3, **{what: changed}), 4))
    different = (before != after).any(axis=(0, 2))
    assert different.any(), "the caption or bar differs"
    rows = (before != after).any(axis=(1, 2))
    assert not rows[40:240].any(), "the frames are equal"


def test_the_length_of_the_bar_is_the_gripper_opening() -> None:
    episode = make_episode(2)
    episode.states[:, 4] = [1.0, 0.5, 0.0]
    image = _image(contact_sheet(episode, 3))
    coloured = (image == (37, 99, 235)).all(axis=-1) | (image == (245, 158, 11)).all(axis=-1)
    lengths = [int(coloured[:, left : left + 320].sum(axis=1).max()) for left in (8, 336, 664)]
    assert lengths == [320, pytest.approx(160, abs=1), 1]


def test_an_animation_shows_every_frame_with_a_caption() -> None:
    episode = make_episode(5)
    with Image.open(io.BytesIO(animation(episode))) as opened:
        assert opened.info["duration"] == 200 and opened.info["loop"] == 0
        shown = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(opened)]
    assert len(shown) == 6 and {frame.shape for frame in shown} == {(315, 320, 3)}
    columns_px = [np.argwhere((frame[:240, :, 0] > 180) & (frame[:240, :, 1] < 80))[:, 1].min() for frame in shown]
    assert np.diff(columns_px).tolist() == pytest.approx([8] * 5, abs=1)  # in the order of time
    assert all((frame[245:] < 128).any() for frame in shown)


def test_an_episode_with_only_frames_has_no_gripper_bar() -> None:
    episode = video_episode(make_frames(4), {})
    assert _blocks(_image(contact_sheet(episode, 4))) == 4
    assert _image(contact_sheet(episode, 4)).shape[0] < _image(contact_sheet(make_episode(3), 4)).shape[0]
    assert animation(episode).startswith(b"GIF8")


def test_actions_of_another_action_space_have_no_captions() -> None:
    episode = make_episode(3, action_space="delta pose")
    assert _image(contact_sheet(episode, 4)).shape == _image(contact_sheet(video_episode(make_frames(4), {}), 4)).shape


@pytest.mark.parametrize("px", [32, 64, 700])
def test_frames_of_any_size_are_wide_enough_for_captions(px: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, px, px, 3), dtype=np.uint8)
    width = _image(contact_sheet(video_episode(frames, {}), 1)).shape[1]
    assert 240 <= width - 16 <= 480

"""BridgeData: real records become episodes, and invalid ones are refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.formats.bridge import read_bridge
from data_collection.formats.reader import find
from tests.data_collection.records import Values, bridge_features, example, write_records
from tests.reference_data import DATA

REAL_FILES = DATA / "bridge_rlds"


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason=f"no BridgeData in {REAL_FILES}")
def test_real_records_are_episodes_of_three_views() -> None:
    recordings = find(REAL_FILES)
    assert len(recordings) == 20
    for recording in recordings:
        episode = read_bridge(recording.path, recording.index, 2)
        assert episode.frames.shape == (10, 64, 64, 3)
        assert episode.actions.shape == (9, 7) and episode.states.shape == (10, 7)
        assert episode.actions[:, 6].min() >= 0 and episode.actions[:, 6].max() <= 1
    with pytest.raises(EpisodeError, match=r"record 0: .steps/observation/image_3.: .* got one colour"):
        read_bridge(recordings[0].path, 0, 3)
    with pytest.raises(EpisodeError, match="record 0: expected a camera from 0 to 3, got 4"):
        read_bridge(recordings[0].path, 0, 4)


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason=f"no BridgeData in {REAL_FILES}")
def test_motion_of_a_real_arm_follows_its_actions() -> None:
    """Action t leads from state t to state t + 1: shifted by one step the agreement is less."""
    episodes = [read_bridge(each.path, each.index) for each in find(REAL_FILES)]
    moved = np.concatenate([np.diff(episode.states[:, :3], axis=0) for episode in episodes])
    commanded = np.concatenate([episode.actions[:, :3] for episode in episodes])
    aligned, shifted = (np.corrcoef(commanded[s].ravel(), moved[t].ravel())[0, 1] for s, t in (
        (slice(None), slice(None)),
        (slice(1, None), slice(None, -1)),
    ))  # fmt: skip
    assert aligned > 0.5 and aligned > shifted + 0.1


def _write(path: Path, **changes: Values | None) -> Path:
    features: Mapping[str, Values | None] = {**bridge_features(), **{f"steps/{k}": v for k, v in changes.items()}}
    return write_records(path, [example({name: value for name, value in features.items() if value is not None})])


def test_steps_become_frames_and_actions(tmp_path: Path) -> None:
    features = bridge_features()
    episode = read_bridge(_write(tmp_path / "a.tfrecord"), 0)
    assert episode.frames.shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(episode.actions.ravel(), features["steps/action"][:-7])
    np.testing.assert_array_equal(episode.states.ravel(), features["steps/observation/state"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": None}, "'steps/action': expected numbers, got none"),
        ({"action": [b"x"]}, "'steps/action': expected numbers, got bytes"),
        ({"action": np.zeros(41, np.float32)}, "as many numbers at each of 6 steps, got 41"),
        ({"action": np.full(42, np.nan, np.float32)}, "actions: expected finite numbers"),
        ({"observation/image_0": np.zeros(3, np.float32)}, "expected encoded images"),
        ({"observation/image_0": [b"not an image"] * 6}, "expected a JPEG or PNG image, got other bytes$"),
        ({"observation/image_0": []}, "images of one size, got 0"),
        ({"observation/image_0": None, "observation/image_1": None}, "expected features 'steps/observation/image"),
    ],
)
def test_an_invalid_record_is_one_line_of_error(
    tmp_path: Path, changes: dict[str, Values | None], message: str
) -> None:
    path = _write(tmp_path / "a.tfrecord", **changes)
    with pytest.raises(EpisodeError, match=message) as caught:
        read_bridge(path, 0)
    assert str(caught.value).startswith(f"{path}: record 0: ") and "\n" not in str(caught.value)


def test_images_with_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_collection.formats.bridge._MAX_BYTES", 2 * 16 * 16 * 3)
    with pytest.raises(EpisodeError, match="record 0: expected at most 1536 bytes of frames"):
        read_bridge(_write(tmp_path / "a.tfrecord"), 0)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(b"")}
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    with pytest.raises(EpisodeError, match="expected a JPEG or PNG image, got: Image size"):
        read_bridge(_write(tmp_path / "b.tfrecord", **{"observation/image_0": [bomb] * 6}), 0)


def test_a_removed_file_is_one_line_of_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "a.tfrecord")
    path.unlink()
    monkeypatch.setattr("data_collection.formats.bridge.find_records", lambda path: [0])
    with pytest.raises(EpisodeError, match="record 0: could not be read: No such file"):
        read_bridge(path, 0)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="record from 0 to 0, got 1"):
        read_bridge(_write(tmp_path / "a.tfrecord"), 1)


def test_a_flipped_byte_is_detected(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tfrecord")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EpisodeError, match="record 0: the record at byte 0 does not match its CRC-32C"):
        read_bridge(path, 0)

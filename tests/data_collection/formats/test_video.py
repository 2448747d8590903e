"""Frames to H.264 and back: every frame, its colours, and nothing in place of a missing one."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.formats.video import VideoConfig, decode_video, encode_video
from tests.data_collection.episodes import RED, make_frames

SHAPE = (9, 240, 320)


@pytest.fixture(scope="module")
def data() -> bytes:
    return encode_video(make_frames(SHAPE[0]), VideoConfig())


def test_frames_come_back_in_order_and_colour(data: bytes) -> None:
    found = decode_video(data, SHAPE)
    wanted = make_frames(SHAPE[0])
    error = (found.astype(float) - wanted) ** 2
    assert 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3))).min() > 35
    assert np.abs(found[3, 120, 48].astype(int) - RED).max() < 8


def test_equal_frames_give_equal_bytes_in_every_process(data: bytes) -> None:
    code = (
        "import hashlib; from tests.data_collection.episodes import make_frames;"
        "from data_collection.formats.video import VideoConfig, encode_video;"
        f"print(hashlib.sha256(encode_video(make_frames({SHAPE[0]}), VideoConfig())).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_a_lower_rate_factor_keeps_more(data: bytes) -> None:
    assert len(encode_video(make_frames(SHAPE[0]), VideoConfig(crf=40))) < len(data)


@pytest.mark.parametrize("n_frames", [SHAPE[0] - 1, SHAPE[0] + 1, 10 * SHAPE[0]])
def test_another_count_than_promised_is_an_error(data: bytes, n_frames: int) -> None:
    with pytest.raises(EpisodeError, match=f"expected a video of {n_frames} frames, got {SHAPE[0]}"):
        decode_video(data, (n_frames, 240, 320))


def test_another_size_than_promised_is_an_error(data: bytes) -> None:
    with pytest.raises(EpisodeError, match="expected a video of 480x640, got \\(240, 320\\)"):
        decode_video(data, (SHAPE[0], 480, 640))


def test_damage_is_never_filled_in(data: bytes) -> None:
    """A video that is cut anywhere is refused, never shorter or black."""
    rng = np.random.default_rng(0)
    whole = decode_video(data, SHAPE)
    for place in rng.integers(0, len(data) - 100, 40):  # the last box only names the writer
        with pytest.raises(EpisodeError):
            decode_video(data[:place], SHAPE)
    np.testing.assert_array_equal(decode_video(data[:-50], SHAPE), whole)
    for garbage in (b"", b"not a video", rng.bytes(5000)):
        with pytest.raises(EpisodeError):
            decode_video(garbage, SHAPE)


def test_only_frames_that_robonet_can_read_are_encoded() -> None:
    with pytest.raises(EpisodeError, match="multiples of 16, got 250x320"):
        encode_video(np.zeros((2, 250, 320, 3), np.uint8), VideoConfig())
    with pytest.raises(EpisodeError, match="float64"):
        encode_video(np.zeros((2, 240, 320, 3)), VideoConfig())  # type: ignore[arg-type]
    with pytest.raises(EpisodeError, match="expected uint8 frames"):
        encode_video(np.zeros((0, 240, 320, 3), np.uint8), VideoConfig())

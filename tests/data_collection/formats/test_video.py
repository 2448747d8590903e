"""Frames to H.264 and back: every frame with its colours; a missing frame is an error."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.formats import video
from data_collection.formats.video import VideoConfig, VideoReading, decode_video, encode_video, read_video
from tests.data_collection.episodes import RED, make_frames
from tests.patience import patience

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".mov": "libx264", ".avi": "mpeg4", ".webm": "libvpx", ".gif": "gif"}


def video_frames(n_frames: int, height: int = 48, width: int = 96) -> NDArray[np.uint8]:
    """Frames that grow brighter in the middle square; left and right of it they are black."""
    frames = np.zeros((n_frames, height, width, 3), np.uint8)
    side = (width - height) // 2
    for t in range(n_frames):
        frames[t, :, side : width - side] = 40 + 15 * t
    return frames


def write_video(path: Path, frames: NDArray[np.uint8]) -> Path:
    """Write frames in the codec of the file's suffix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", CODECS)
def test_every_file_type_gives_its_frames_in_order_and_square(tmp_path: Path, suffix: str) -> None:
    episode = read_video(write_video(tmp_path / f"a{suffix}", video_frames(8)), VideoReading(side_px=16))
    assert episode.frames.shape == (8, 16, 16, 3)
    assert episode.actions.shape == (7, 0) and episode.states.shape == (8, 0) and not episode.action_space
    levels = episode.frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 40 + 15 * np.arange(8), atol=25 if suffix == ".gif" else 6)
    assert episode.frames[..., 0].std(axis=(1, 2)).max() < 12  # the black sides were cut off


def test_a_stride_keeps_every_nth_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", video_frames(9))
    whole, strided = read_video(path, VideoReading(side_px=16)), read_video(path, VideoReading(4, 16))
    np.testing.assert_array_equal(strided.frames, whole.frames[::4])
    np.testing.assert_allclose(np.diff(strided.times_s), 0.4)


def test_giant_frames_are_refused_before_they_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_PIXELS", 48 * 96 - 1)
    with pytest.raises(EpisodeError, match=r"a\.mp4: expected frames of at most 4607 pixels, got 48x96"):
        read_video(write_video(tmp_path / "a.mp4", video_frames(3)), VideoReading())


def test_a_video_of_one_frame_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", video_frames(1))
    with pytest.raises(EpisodeError, match=r"a\.mp4: expected at least 2 frames, got 1 with a stride of 1"):
        read_video(path, VideoReading())
    with pytest.raises(EpisodeError, match="got 1 with a stride of 9"):
        read_video(write_video(tmp_path / "b.mp4", video_frames(8)), VideoReading(9))


def test_too_many_frames_for_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_BYTES", 5 * 3 * 16**2)
    path = write_video(tmp_path / "a.mp4", video_frames(8))
    with pytest.raises(EpisodeError, match="at most 5 frames, got more; cut the video, or use a larger stride"):
        read_video(path, VideoReading(side_px=16))
    assert len(read_video(path, VideoReading(2, 16)).frames) == 4


def test_an_invalid_video_is_one_line_of_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for data in (b"", b"not a video", write_video(tmp_path / "b.mp4", video_frames(8)).read_bytes()[:400]):
        path.write_bytes(data)
        with pytest.raises(EpisodeError, match="expected an intact video, got") as caught:
            read_video(path, VideoReading())
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    with pytest.raises(EpisodeError, match=r"expected an intact video, got.*No such file"):
        read_video(tmp_path / "none.mp4", VideoReading())


SHAPE = (9, 240, 320)


@pytest.fixture(scope="module")
def data() -> bytes:
    return encode_video(make_frames(SHAPE[0]), VideoConfig())


def test_frames_are_decoded_in_order_and_colour(data: bytes) -> None:
    found = decode_video(data, SHAPE)
    expected = make_frames(SHAPE[0])
    error = (found.astype(float) - expected) ** 2
    assert 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3))).min() > 35
    assert np.abs(found[3, 120, 48].astype(int) - RED).max() < 8


def test_equal_frames_give_equal_bytes_in_every_process(data: bytes) -> None:
    code = (
        "import hashlib; from tests.data_collection.episodes import make_frames;"
        "from data_collection.formats.video import VideoConfig, encode_video;"
        f"print(hashlib.sha256(encode_video(make_frames({SHAPE[0]}), VideoConfig())).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=patience(60)
    )
    assert other.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_a_lower_rate_factor_keeps_more(data: bytes) -> None:
    assert len(encode_video(make_frames(SHAPE[0]), VideoConfig(crf=40))) < len(data)


@pytest.mark.parametrize("n_frames", [SHAPE[0] - 1, SHAPE[0] + 1, 10 * SHAPE[0]])
def test_an_unexpected_frame_count_is_an_error(data: bytes, n_frames: int) -> None:
    with pytest.raises(EpisodeError, match=f"expected a video of {n_frames} frames, got {SHAPE[0]}"):
        decode_video(data, (n_frames, 240, 320))


def test_an_unexpected_frame_size_is_an_error(data: bytes) -> None:
    with pytest.raises(EpisodeError, match="expected a video of 480x640, got \\(240, 320\\)"):
        decode_video(data, (SHAPE[0], 480, 640))


def test_damaged_frames_are_never_replaced(data: bytes) -> None:
    """A truncated video is refused, never shorter or with black frames."""
    rng = np.random.default_rng(0)
    whole = decode_video(data, SHAPE)
    for place in rng.integers(0, len(data) - 100, 40):  # the last box only names the writer
        with pytest.raises(EpisodeError):
            decode_video(data[:place], SHAPE)
    np.testing.assert_array_equal(decode_video(data[:-50], SHAPE), whole)
    for garbage in (b"", b"not a video", rng.bytes(5000)):
        with pytest.raises(EpisodeError):
            decode_video(garbage, SHAPE)


def test_only_frames_in_robonets_format_are_encoded() -> None:
    with pytest.raises(EpisodeError, match="multiples of 16, got 250x320"):
        encode_video(np.zeros((2, 250, 320, 3), np.uint8), VideoConfig())
    with pytest.raises(EpisodeError, match="float64"):
        encode_video(np.zeros((2, 240, 320, 3)), VideoConfig())  # type: ignore[arg-type]
    with pytest.raises(EpisodeError, match="expected uint8 frames"):
        encode_video(np.zeros((0, 240, 320, 3), np.uint8), VideoConfig())

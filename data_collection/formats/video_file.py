"""A video file of anybody's as an episode without actions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from data_collection.episode import Episode, EpisodeError, video_episode
from data_collection.formats.hdf5 import naming
from robot_bridge.camera import MODEL_IMAGE_PX, Crop, crop_and_resize

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif")
MAX_BYTES = 2**32  # of one video's frames as they are kept; more frames need a stride, or cutting
MAX_PIXELS = 2**26  # of one frame as it is filmed; 8K has half as many


class VideoReading(NamedTuple):
    """Which frames of a video are kept, and how large."""

    stride: int = 1  # every n-th frame
    side_px: int = MODEL_IMAGE_PX  # of the square that is kept of each


def read_video(path: Path, reading: VideoReading) -> Episode:
    """Read a video file: the largest centred square of every n-th frame, at the size asked for.

    Frames are made small one by one, so that a long video in high resolution needs no more memory than a short one.

    Raises:
        EpisodeError: Damaged, no video, fewer than two frames, or too many; the message names the file.
    """
    with naming(path):
        try:
            with av.open(str(path), "r") as container:
                if not container.streams.video:
                    raise EpisodeError("expected a video stream, got none")
                stream = container.streams.video[0]
                rate_hz = float(stream.average_rate or 0) or 1.0
                frames = _frames(container, stream, reading)
        except (FFmpegError, ValueError, OSError) as error:
            raise EpisodeError(f"expected a sound video, got: {' '.join(str(error).split())[:200]}") from None
        if len(frames) < 2:
            raise EpisodeError(f"expected at least 2 frames, got {len(frames)} with a stride of {reading.stride}")
        return video_episode(np.stack(frames), {}, reading.stride / rate_hz)


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, reading: VideoReading
) -> list[NDArray[np.uint8]]:
    stream.codec_context.thread_count = 1  # the processes that read are many already
    limit = MAX_BYTES // (3 * reading.side_px**2)
    frames: list[NDArray[np.uint8]] = []
    for number, frame in enumerate(container.decode(stream)):
        if frame.width * frame.height > MAX_PIXELS:
            raise EpisodeError(f"expected frames of at most {MAX_PIXELS} pixels, got {frame.height}x{frame.width}")
        if number % reading.stride == 0:
            frames.append(_square(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), reading.side_px))
        if len(frames) > limit:
            raise EpisodeError(f"expected at most {limit} frames, got more; cut the video, or take a larger stride")
    return frames


def _square(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    side = min(height, width)
    crop = Crop(top_px=(height - side) // 2, left_px=(width - side) // 2, height_px=side, width_px=side)
    return crop_and_resize(image, crop, side_px)

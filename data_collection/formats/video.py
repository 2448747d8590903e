"""Encodes frames as H.264 in memory and decodes them frame by frame; reads video files."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.episode import Episode, EpisodeError, video_episode
from data_collection.formats.hdf5 import naming
from robot_bridge.camera import MODEL_IMAGE_PX, Crop, crop_and_resize

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif")
MAX_BYTES = 2**32  # of one video's frames as they are kept; more frames need a stride, or cutting
MAX_PIXELS = 2**26  # of one recorded frame; 8K has half as many


class VideoReading(NamedTuple):
    """Selection and size of the frames of a video."""

    stride: int = 1  # every n-th frame
    side_px: int = MODEL_IMAGE_PX  # of the square that is kept of each


def read_video(path: Path, reading: VideoReading) -> Episode:
    """Read a video file: the largest centred square of every n-th frame, at the requested size.

    Frames are resized one at a time: the memory is that of the resized frames and of one full frame.

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
            raise EpisodeError(f"expected an intact video, got: {' '.join(str(error).split())[:200]}") from None
        if len(frames) < 2:
            raise EpisodeError(f"expected at least 2 frames, got {len(frames)} with a stride of {reading.stride}")
        return video_episode(np.stack(frames), {}, reading.stride / rate_hz)


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, reading: VideoReading
) -> list[NDArray[np.uint8]]:
    stream.codec_context.thread_count = 1  # many processes read at the same time
    limit = MAX_BYTES // (3 * reading.side_px**2)
    frames: list[NDArray[np.uint8]] = []
    for number, frame in enumerate(container.decode(stream)):
        if frame.width * frame.height > MAX_PIXELS:
            raise EpisodeError(f"expected frames of at most {MAX_PIXELS} pixels, got {frame.height}x{frame.width}")
        if number % reading.stride == 0:
            frames.append(_square(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), reading.side_px))
        if len(frames) > limit:
            raise EpisodeError(f"expected at most {limit} frames, got more; cut the video, or use a larger stride")
    return frames


def _square(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    side = min(height, width)
    crop = Crop(top_px=(height - side) // 2, left_px=(width - side) // 2, height_px=side, width_px=side)
    return crop_and_resize(image, crop, side_px)


class VideoConfig(Config):
    """How a video is encoded."""

    fps: int = Field(default=10, ge=1)  # RoboNet, its writer's default; carries no timing
    crf: int = Field(default=20, ge=0, le=51)  # ours: 39 dB on a RoboNet video; RoboNet's own have about 25
    # Ours: of `medium`'s time a quarter, for 1.4 times the bytes and the same error.
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "superfast"


def encode_video(frames: NDArray[np.uint8], config: VideoConfig) -> bytes:
    """Return frames as one mp4 file (H.264, yuv420p). Equal frames give equal bytes on one machine.

    Args:
        frames: (T, H, W, 3) uint8 RGB; H and W multiples of 16, or RoboNet's reader rescales them.
        config: Rate and quality.

    Raises:
        EpisodeError: The frames are not of that kind.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise EpisodeError(f"expected uint8 frames (T, H, W, 3) to encode, got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 16 or width % 16:
        raise EpisodeError(f"expected a frame height and width that are multiples of 16, got {height}x{width}")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # With mbtree or threads x264's output depends on the CPU and on memory addresses.
        options = {"crf": str(config.crf), "preset": config.preset, "bf": "0", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=config.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for t, image in enumerate(frames):
            # OpenCV's conversion takes a tenth of the time of FFmpeg's, and loses no more.
            frame = av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
            frame.pts, frame.time_base = t, Fraction(1, config.fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_video(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return exactly the frames of a video.

    Args:
        data: A whole mp4 file.
        shape: The promised number of frames, height and width.

    Returns:
        (T, H, W, 3) uint8 in the channel order in which it was encoded.

    Raises:
        EpisodeError: Damaged, or of another count or size than promised; missing frames are never filled in.
    """
    n_frames, height, width = shape
    frames = np.empty((n_frames, height, width, 3), dtype=np.uint8)
    count = 0
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            if len(container.streams.video) != 1:
                raise EpisodeError(f"expected one video stream, got {len(container.streams.video)}")
            stream = container.streams.video[0]
            context: av.VideoCodecContext | None = stream.codec_context  # None where the header names no known codec
            size = None if context is None else (context.height, context.width)
            if context is None or size != (height, width):
                raise EpisodeError(f"expected a video of {height}x{width}, got {size}")
            context.options = {"err_detect": "explode"}  # raise an error on damage instead of concealing it
            context.thread_count = 1
            for frame in container.decode(stream):
                if count < n_frames:
                    frames[count] = frame.to_ndarray(format="rgb24")
                count += 1
    except (FFmpegError, ValueError) as error:  # ValueError: the size changed on the way
        raise EpisodeError(f"expected an intact H.264 video, got: {' '.join(str(error).split())}") from None
    if count != n_frames:
        raise EpisodeError(f"expected a video of {n_frames} frames, got {count}")
    return frames

"""Filmstrips of frames, and images as PNG, JPEG, GIF or WebP bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_READABLE_PX = 128  # frames narrower than this are enlarged by a whole factor; ours
_JPEG_QUALITY = 80  # ours: no visible loss in a thumbnail
_WEBP_QUALITY = 85  # ours: a blurred prediction looks as in the model
_GAP_PX = 2
_FONT_PX = 16
_PAPER = 255
_INK = (0, 0, 0)


def filmstrip(rows: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return videos as one image: one labelled row per video, time to the right.

    Args:
        rows: Label to frames (T, H, W, 3) uint8 RGB; H and W are equal in all rows, T may differ. A short row is
            padded with white.

    Returns:
        (height, width, 3) uint8 RGB. Pixels are repeated, not interpolated.

    Raises:
        ValueError: No rows, a row that is not a video, or rows whose frames differ in size.
    """
    strips = {label: _strip(enlarge(frames)) for label, frames in rows.items()}
    if len({strip.shape[0] for strip in strips.values()}) != 1 or len({f.shape[1:] for f in rows.values()}) != 1:
        raise ValueError(f"expected rows of frames of one size, got {[frames.shape for frames in rows.values()]}")
    font = ImageFont.load_default(size=_FONT_PX)
    margin = _GAP_PX * 4 + max(int(font.getlength(label)) for label in strips)
    height = next(iter(strips.values())).shape[0]
    width = margin + max(strip.shape[1] for strip in strips.values())
    strip_image = np.full((len(strips) * height, width, 3), _PAPER, np.uint8)
    for index, strip in enumerate(strips.values()):
        strip_image[index * height : (index + 1) * height, margin : margin + strip.shape[1]] = strip
    drawn = Image.fromarray(strip_image)
    draw = ImageDraw.Draw(drawn)
    for index, label in enumerate(strips):
        draw.text((_GAP_PX * 2, (index + 0.5) * height), label, fill=_INK, font=font, anchor="lm")
    return np.asarray(drawn, np.uint8)


def enlarge(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frames (T, H, W, 3) enlarged by a whole factor to at least 128 pixels width; pixels are repeated."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"expected frames (T, H, W, 3) uint8 RGB, got {frames.dtype} {frames.shape}")
    factor = -(-_READABLE_PX // frames.shape[2])
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def shrink(frames: NDArray[np.uint8], width_px: int) -> NDArray[np.uint8]:
    """Return frames (T, H, W, 3) reduced by a whole factor to at least `width_px` width, by block means."""
    n, height, width, channels = frames.shape
    factor = max(1, width // width_px)
    rows, columns = height // factor, width // factor
    blocks = frames[:, : rows * factor, : columns * factor].reshape(n, rows, factor, columns, factor, channels)
    smaller: NDArray[np.uint8] = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
    return smaller


def spread(n: int, n_max: int) -> NDArray[np.intp]:
    """Return the indices of at most `n_max` evenly spaced frames out of `n`, first and last included."""
    return np.linspace(0, n - 1, min(n, n_max)).round().astype(np.intp)


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return an image (H, W, 3) uint8 RGB as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def jpeg_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return an image (H, W, 3) uint8 RGB as the bytes of a JPEG file, a sixth of a PNG in size."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def gif_bytes(frames: NDArray[np.uint8], frame_s: float) -> bytes:
    """Return frames (T, H, W, 3) uint8 RGB as the bytes of a looping GIF.

    Args:
        frames: In order of time.
        frame_s: Duration of each frame, rounded to 0.01 s; viewers do not play less than 0.02 s.

    Raises:
        ValueError: Not a video, or a duration that a GIF cannot hold.
    """
    if not 0.02 <= frame_s <= 655.35:
        raise ValueError(f"expected 0.02 to 655.35 seconds a frame, got {frame_s}")
    # One palette for all frames; separate palettes make constant parts flicker.
    first, *others = _quantize(enlarge(frames))
    file = io.BytesIO()
    first.save(
        file,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=round(frame_s * 100) * 10,
        loop=0,
        optimize=False,
    )
    return file.getvalue()


def webp_bytes(frames: NDArray[np.uint8], frame_s: float) -> bytes:
    """Return frames (T, H, W, 3) uint8 RGB as the bytes of a looping WebP animation, a tenth of a GIF in size.

    Args:
        frames: In order of time, at least one; not enlarged.
        frame_s: Duration of each frame, rounded to 0.001 s; the last one is shown three times as long.
    """
    first, *others = [Image.fromarray(frame) for frame in frames]
    shown_ms = [round(1000 * frame_s)] * len(others) + [round(3000 * frame_s)]
    file = io.BytesIO()
    first.save(
        file, format="WEBP", save_all=True, append_images=others, duration=shown_ms, loop=0, quality=_WEBP_QUALITY
    )
    return file.getvalue()


def resize(frames: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Return frames (T, H, W, 3) uint8 RGB scaled to a width and a height, smoothly, without regard to proportions."""
    size = (width_px, height_px)
    scaled = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(image, np.uint8) for image in scaled])


def _strip(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H + gap, T * (W + gap), 3): frames from left to right with a gap below each and to its right."""
    padded = np.pad(frames, ((0, 0), (0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=_PAPER)
    return np.concatenate(list(padded), axis=1)


def _quantize(frames: NDArray[np.uint8]) -> list[Image.Image]:
    every = Image.fromarray(np.concatenate(list(frames), axis=0))
    palette = every.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]

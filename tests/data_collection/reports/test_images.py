from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from data_collection.reports.images import (
    enlarge,
    filmstrip,
    gif_bytes,
    jpeg_bytes,
    png_bytes,
    resize,
    shrink,
    spread,
    webp_bytes,
)

Video = NDArray[np.uint8]


def video(n_frames: int, px: int = 64, seed: int = 0) -> Video:
    return np.random.default_rng(seed).integers(0, 256, (n_frames, px, px, 3), dtype=np.uint8)


def test_enlarging_repeats_pixels() -> None:
    frames = video(3)
    large = enlarge(frames)
    assert large.shape == (3, 128, 128, 3)
    for dy in (0, 1):
        for dx in (0, 1):
            np.testing.assert_array_equal(large[:, dy::2, dx::2], frames)


def test_a_large_frame_is_not_enlarged() -> None:
    frames = video(1, px=128)
    np.testing.assert_array_equal(enlarge(frames), frames)


def test_a_filmstrip_contains_every_frame_at_its_position() -> None:
    rows = {"real": video(3, seed=1), "model": video(2, seed=2)}
    image = filmstrip(rows)
    margin = image.shape[1] - 3 * 130
    assert margin > 0
    assert image.shape[0] == 2 * 130
    for row, frames in enumerate(rows.values()):
        for t, frame in enumerate(enlarge(frames)):
            left = margin + t * 130
            np.testing.assert_array_equal(image[row * 130 : row * 130 + 128, left : left + 128], frame)
    assert (image[130:, margin + 2 * 130 :] == 255).all(), "a short row ends with white pixels"


def test_each_row_is_labelled_and_a_longer_label_has_a_wider_margin() -> None:
    frames = video(1)
    image = filmstrip({"real": frames, "": frames})
    margin = image.shape[1] - 130
    assert (image[:130, :margin] < 128).any(), "text next to the labelled row"
    assert (image[130:, :margin] == 255).all(), "no text next to the row without a label"
    assert filmstrip({"the real frames": frames, "": frames}).shape[1] > image.shape[1]


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"a": np.zeros((2, 64, 64, 3), np.float32)},
        {"a": np.zeros((64, 64, 3), np.uint8)},
        {"a": np.zeros((0, 64, 64, 3), np.uint8)},
        {"a": np.zeros((1, 64, 64, 4), np.uint8)},
        {"a": np.zeros((1, 64, 64, 3), np.uint8), "b": np.zeros((1, 32, 32, 3), np.uint8)},
    ],
    ids=["no row", "float", "one image", "no frame", "four channels", "two sizes"],
)
def test_invalid_frames_of_a_filmstrip_are_refused(rows: dict[str, Video]) -> None:
    with pytest.raises(ValueError, match="expected"):
        filmstrip(rows)


def test_png_is_lossless() -> None:
    image = video(1)[0]
    with Image.open(io.BytesIO(png_bytes(image))) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened), image)


def test_gif_preserves_order_duration_and_number_of_frames() -> None:
    grey = np.array([10, 90, 170, 250], np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (4, 64, 64, 3)).copy()
    with Image.open(io.BytesIO(gif_bytes(frames, frame_s=0.25))) as opened:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]
        assert opened.info["duration"] == 250
        assert opened.info["loop"] == 0
    assert [image.shape for image in shown] == [(128, 128, 3)] * 4
    np.testing.assert_allclose([image.mean() for image in shown], grey, atol=4)


def test_gif_preserves_equal_frames() -> None:
    still = np.repeat(video(1), 3, axis=0)
    with Image.open(io.BytesIO(gif_bytes(still, frame_s=0.1))) as opened:
        total_ms = sum(frame.info["duration"] for frame in ImageSequence.Iterator(opened))
    assert total_ms == 300


@pytest.mark.parametrize("frame_s", [0.0, 0.01, 1000.0, float("nan")])
def test_an_invalid_duration_of_gif_frames_is_refused(frame_s: float) -> None:
    with pytest.raises(ValueError, match="seconds a frame"):
        gif_bytes(video(2), frame_s)


def test_shrinking_averages_complete_blocks() -> None:
    frames = video(2, px=67)
    small = shrink(frames, 30)
    assert small.shape == (2, 33, 33, 3)
    np.testing.assert_allclose(small[1, 4, 7], frames[1, 8:10, 14:16].mean(axis=(0, 1)), atol=0.51)


@pytest.mark.parametrize("width_px", [64, 40, 1000])
def test_a_narrow_frame_is_not_shrunk(width_px: int) -> None:
    np.testing.assert_array_equal(shrink(video(1), width_px), video(1))


def test_frame_numbers_are_spread_from_first_to_last_without_repetition() -> None:
    assert spread(31, 4).tolist() == [0, 10, 20, 30]
    assert spread(3, 8).tolist() == [0, 1, 2] and spread(5, 1).tolist() == [0]


def test_jpeg_is_close_to_the_image_and_smaller_than_png() -> None:
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    image = np.stack([np.tile(ramp, (96, 1)), np.full((96, 128), 40, np.uint8), np.tile(ramp[::-1], (96, 1))], axis=-1)
    with Image.open(io.BytesIO(jpeg_bytes(image))) as opened:
        assert opened.format == "JPEG"
        assert np.abs(np.asarray(opened).astype(int) - image).mean() < 4
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    assert len(jpeg_bytes(noisy)) < len(png_bytes(noisy)) / 3


def test_webp_preserves_order_and_duration_and_is_small() -> None:
    grey = np.array([10, 90, 170, 250], np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (4, 64, 96, 3)).copy()
    with Image.open(io.BytesIO(webp_bytes(frames, frame_s=0.25))) as opened:
        shown = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(opened)]
    assert [image.shape for image, _ in shown] == [(64, 96, 3)] * 4
    np.testing.assert_allclose([image.mean() for image, _ in shown], grey, atol=4)
    assert [duration for _, duration in shown] == [250, 250, 250, 750]
    smooth = np.repeat(shown[1][0][None], 10, axis=0)
    assert len(webp_bytes(smooth, 0.1)) < len(gif_bytes(smooth, 0.1))


def test_frames_are_resized_to_any_proportions() -> None:
    assert resize(video(2), 96, 32).shape == (2, 32, 96, 3)
    assert (resize(np.full((1, 64, 64, 3), 7, np.uint8), 9, 9) == 7).all()

"""PSNR and SSIM of predicted frames, in the one convention of this project.

Conventions differ by more than the margins between papers, so that reports contain `PSNR_CONVENTION` and
`SSIM_CONVENTION` next to the results.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from configs.command import ReportedError
from ghvae_core.models.ssim import ssim_map

PSNR_CAP_DB = 100.0  # for identical frames; above the 89 dB of one 8-bit step in one value of 64x64x3; ours
PSNR_CONVENTION = (
    f"per frame 10 log10(1 / MSE) over all pixels and channels, at most {PSNR_CAP_DB:.0f} dB, then averaged"
)
SSIM_CONVENTION = "Wang et al. 2004: 11x11 Gaussian, sigma 1.5, whole windows only, per RGB channel, then averaged"

_WINDOW_PX = 11  # Wang et al. 2004
_SIGMA_PX = 1.5  # Wang et al. 2004


class MetricError(ReportedError):
    """A measurement that cannot be made. Nothing was written."""


class MetricFailure(MetricError):
    """A measurement that failed although its input is valid. No partial output is left."""

    exit_code: ClassVar[int] = 1


def check_videos(real: Tensor, predicted: Tensor, least_px: int = 1) -> None:
    """Refuse anything but two videos (B, T, 3, H, W) of one shape with sides of at least `least_px`.

    Raises:
        MetricError: With both shapes in its message.
    """
    shapes = f"got {tuple(real.shape)} and {tuple(predicted.shape)}"
    if real.shape != predicted.shape or real.ndim != 5 or real.shape[2] != 3 or 0 in real.shape:
        raise MetricError(f"expected two videos (B, T, 3, H, W) of one shape, {shapes}")
    if min(real.shape[-2:]) < least_px:
        raise MetricError(f"expected frames of at least {least_px}x{least_px} pixels, {shapes}")


def psnr(real: Tensor, predicted: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each frame, in dB.

    Args:
        real: (B, T, 3, H, W) in [0, 1].
        predicted: The same shape and range.

    Returns:
        (B, T) float64 in [0, 100]: identical frames, whose ratio is infinite, count as `PSNR_CAP_DB`. NaN where a frame
        holds one.

    Raises:
        MetricError: The shapes differ or are not those of videos.
    """
    check_videos(real, predicted)
    error = (real.double() - predicted.double()).square().mean(dim=(2, 3, 4))
    return -10 * error.clamp(min=10 ** (-PSNR_CAP_DB / 10)).log10()


def ssim(real: Tensor, predicted: Tensor) -> Tensor:
    """Return the structural similarity of each frame (Wang et al. 2004, eq. 13).

    Population statistics under a Gaussian window; only windows that lie wholly inside the frame count, so the outer
    five pixels are never a window's centre (as in the authors' code, `tf.image.ssim`, and scikit-image with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`).

    Args:
        real: (B, T, 3, H, W) in [0, 1], H and W at least 11.
        predicted: The same shape and range.

    Returns:
        (B, T) float64 in [-1, 1], the mean over channels and windows. NaN where a frame holds one.

    Raises:
        MetricError: The shapes differ, or are not those of videos that hold a whole window.
    """
    check_videos(real, predicted, least_px=_WINDOW_PX)
    return ssim_map(real.double(), predicted.double(), _blur).mean(dim=(2, 3, 4))


def _blur(images: Tensor) -> Tensor:
    """Return the Gaussian means (..., H - 10, W - 10) of images (..., H, W) over whole windows."""
    height, width = images.shape[-2:]
    return _band(height).to(images) @ images @ _band(width).to(images).T


def _band(size_px: int) -> Tensor:
    """Return (size - 10, size): each row holds the Gaussian window, one pixel further than the row above."""
    offset = torch.arange(_WINDOW_PX, dtype=torch.float64) - _WINDOW_PX // 2
    window = torch.softmax(-offset.square() / (2 * _SIGMA_PX**2), dim=0)
    band = torch.zeros(size_px - _WINDOW_PX + 1, size_px, dtype=torch.float64)
    for row, start in zip(band, range(len(band)), strict=True):
        row[start : start + _WINDOW_PX] = window
    return band

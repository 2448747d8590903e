"""The structural similarity index (SSIM), of which the metric and a term of the training losses are means."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

_C1 = 0.01**2  # (K1 L)^2 with L = 1; Wang et al. 2004
_C2 = 0.03**2  # (K2 L)^2 with L = 1; Wang et al. 2004


def ssim_map(x: Tensor, y: Tensor, local_mean: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the structural similarity of each window of two images (Wang et al. 2004, eq. 13).

    Args:
        x: Images (..., H, W) in [0, 1].
        y: The same shape and range.
        local_mean: Returns the mean of each window of images of this shape.

    Returns:
        Values in [-1, 1], in the shape of the means; 1 where the windows are equal.
    """
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (local_mean(moment) for moment in (x, y, x * x, y * y, x * y))
    variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return luminance * structure

"""FVD (Unterthiner et al. 2018): the Frechet distance between what I3D sees of real and of predicted videos."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ghvae_core.evaluation.i3d import LEAST_FRAMES
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.evaluation.statistics import resample

FVD_CONVENTION = (
    "Frechet distance of Gaussians (unbiased covariance) over I3D Kinetics-400 logits, mean over time; frames resized"
    " to 224x224 (bilinear, corners not aligned), [-1, 1]; one set against one set, one prediction a video"
)
N_RESAMPLES = 100  # of the bootstrap; ours: its standard error is then known to about 7 %


def check_length(n_frames: int) -> None:
    """Refuse videos that are too short for I3D, before any is predicted.

    Raises:
        MetricError: They are. Repeating frames to fill them up would make a number that nothing compares with.
    """
    if n_frames < LEAST_FRAMES:
        raise MetricError(
            f"--fvd: expected videos of at least {LEAST_FRAMES} frames, context included, got {n_frames};"
            " raise evaluation.n_predicted, or leave FVD out"
        )


def frechet_distance(real: NDArray[np.floating], fake: NDArray[np.floating]) -> float:
    """Return the squared Frechet distance between Gaussians fitted to two sets of features.

    With covariances A'A and B'B the trace of the square root of their product is the sum of the singular values of
    AB', so no matrix root is taken and fewer videos than dimensions are no special case.

    Args:
        real: (N, D), N at least 2.
        fake: (M, D), M at least 2.

    Returns:
        At least 0; 0 for a set and itself, to rounding.

    Raises:
        MetricError: Too few rows, other dimensions, or NaN.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise MetricError(f"expected features (N, D) of at least 2 videos a set, got {real.shape} and {fake.shape}")
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise MetricError("expected finite features for the Frechet distance, got NaN or infinity")
    (mean_r, root_r), (mean_f, root_f) = _gaussian(real), _gaussian(fake)
    shared = np.linalg.svd(root_r @ root_f.T, compute_uv=False).sum()
    distance = ((mean_r - mean_f) ** 2).sum() + (root_r**2).sum() + (root_f**2).sum() - 2 * shared
    return float(max(distance, 0.0))


def bootstrap_error(
    real: NDArray[np.floating], fake: NDArray[np.floating], groups: NDArray[np.int64], rng: np.random.Generator
) -> float:
    """Return the standard error of the distance: how it varies when episodes, with all their videos, are drawn anew.

    Args:
        real: (N, D).
        fake: (N, D), row i predicted from the context of real video i; both are drawn together.
        groups: (N,) the number of each video's episode.
        rng: Draws the episodes.
    """
    samples = (resample(groups, rng) for _ in range(N_RESAMPLES))
    return float(np.std([frechet_distance(real[rows], fake[rows]) for rows in samples], ddof=1))


def _gaussian(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean (D,) and a root R (at most D rows, D) of the unbiased covariance R'R."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    centered = (features - mean) / (len(features) - 1) ** 0.5
    if len(centered) <= centered.shape[1]:
        return mean, centered
    return mean, np.linalg.qr(centered).R

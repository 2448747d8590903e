"""A question whose answer is stored with a model: whoever loads it can tell whether it computes what it did then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ghvae_core.models.video_model import VideoModel

TOLERANCE = 0.02  # of a mean brightness in [0, 1]; other devices and bfloat16 stay far below it
_N, _SEED = 3, 7


def answer(model: VideoModel, n_context: int, horizon: int, depth: int | None = None) -> tuple[float, ...]:
    """Return what a model imagines from a drawn context, as the mean colours of the quarters of its last images.

    Args:
        model: On any device, with any precision that the caller has set.
        n_context: Frames of context.
        horizon: How many steps to imagine.
        depth: How many of its modules to use; None is all.

    Returns:
        Of 3 candidates, 4 quarters and 3 colours, 36 numbers in [0, 1], or NaN.
    """
    device = model.action_scale.device
    rng = np.random.default_rng(_SEED)
    px, dim = model.config.image_px, model.config.action_dim
    coarse = torch.from_numpy(rng.random((n_context, 3, 4, 4)).astype(np.float32))
    context = torch.nn.functional.interpolate(coarse, (px, px), mode="bilinear")
    actions = torch.from_numpy(rng.uniform(-1, 1, (_N, n_context - 1 + horizon, dim)).astype(np.float32))
    frame: Tensor | None = None
    for imagined in model.imagine(context[None].to(device), actions.to(device) * model.action_scale, depth=depth):
        frame = imagined
    assert frame is not None  # noqa: S101 - the horizon is at least 1
    means = torch.nn.functional.adaptive_avg_pool2d(frame.float(), 2)
    return tuple(round(float(mean), 5) for mean in means.flatten())


def is_same(stored: Sequence[float], computed: Sequence[float]) -> bool:
    """Tell whether an answer is the stored one, as far as rounding goes."""
    apart = np.abs(np.asarray(stored) - np.asarray(computed))
    return len(stored) == len(computed) and bool((apart <= TOLERANCE).all())  # NaN is not
